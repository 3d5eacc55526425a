"""What TF32 and autocast are set to while something is computed, and that they are put back."""

import pytest
import torch

from recount.nn.precision import computing_in, tensor_cores, usable_precision, without_autocast
from recount.settings.recipe import Precision

CPU, CARD = torch.device("cpu"), torch.device("cuda", 0)


def flags() -> tuple[bool, bool]:
    """Return whether matrix products, and convolutions, may be in TF32."""
    return torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32


@pytest.mark.parametrize(
    ("precision", "products", "convolutions"),
    [("fp32", False, False), ("tf32", True, True), ("bf16", False, True), ("fp16", False, True)],
)
def test_tf32_is_used_where_the_precision_says_so_and_nowhere_else(
    precision: Precision, products: bool, convolutions: bool
) -> None:
    before = flags()
    with tensor_cores(precision):
        assert flags() == (products, convolutions)
        with computing_in("fp32", CPU):  # an evaluation during training
            assert flags() == (False, False)
        assert flags() == (products, convolutions)
        with without_autocast(CPU):
            assert flags() == (False, convolutions)
    assert flags() == before


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_forward_passes_are_under_autocast_where_the_precision_is_half(precision: Precision) -> None:
    with computing_in(precision, CPU):
        product = torch.ones(2, 2) @ torch.ones(2, 2)
        with without_autocast(CPU):
            assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32
    assert product.dtype == {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]


@pytest.mark.parametrize(
    ("precision", "device", "capability", "used"),
    [
        ("tf32", CPU, (9, 0), "fp32"),
        ("fp16", CPU, (9, 0), "fp32"),
        ("bf16", CPU, (9, 0), "bf16"),
        ("tf32", CARD, (7, 5), "fp32"),
        ("tf32", CARD, (8, 0), "tf32"),
        ("fp16", CARD, (7, 5), "fp16"),
    ],
)
def test_what_a_device_cannot_do_is_done_in_single_precision(
    precision: Precision, device: torch.device, capability: tuple[int, int], used: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    assert usable_precision(precision, device) == used

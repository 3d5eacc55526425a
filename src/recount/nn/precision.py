"""What numbers are computed with: autocast, TF32, and the parts of a network that need single precision."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor

from recount.settings.recipe import Precision

log = logging.getLogger(__name__)

AUTOCAST: dict[Precision, torch.dtype] = {"bf16": torch.bfloat16, "fp16": torch.float16}
FIRST_WITH_TF32 = (8, 0)  # compute capability: Ampere


def full_precision(tensor: Tensor) -> Tensor:
    """Return a floating tensor in float32, or unchanged if it is float64 (as gradient checks and golden cases are)."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def as_floats(image: Tensor) -> Tensor:
    """Return a picture as float32 in [0, 1]; 8-bit values are divided by 255."""
    return image.float() / 255 if image.dtype == torch.uint8 else image


@contextmanager
def without_autocast(device: torch.device) -> Iterator[None]:
    """Compute in single precision: without autocast on ``device``, and matrix products not in TF32."""
    with (
        torch.autocast(device.type, enabled=False),
        _tf32(products=False, convolutions=torch.backends.cudnn.allow_tf32),
    ):
        yield


def usable_precision(precision: Precision, device: torch.device) -> Precision:
    """Return the precision to compute in: a processor knows neither fp16 nor TF32, cards before Ampere no TF32."""
    if precision == "fp16" and device.type == "cpu":
        log.warning("fp16 needs a GPU; computing in fp32 on the processor")
        return "fp32"
    too_old = torch.cuda.is_available() and torch.cuda.get_device_capability(device) < FIRST_WITH_TF32
    return "fp32" if precision == "tf32" and (device.type == "cpu" or too_old) else precision


@contextmanager
def tensor_cores(precision: Precision) -> Iterator[None]:
    """Let cards compute in TF32 what ``precision`` allows; the settings are those of the whole process."""
    with _tf32(products=precision == "tf32", convolutions=precision != "fp32"):
        yield


@contextmanager
def computing_in(precision: Precision, device: torch.device) -> Iterator[None]:
    """Compute forward passes in ``precision``, which ``device`` can (``usable_precision``)."""
    autocast = torch.autocast(device.type, AUTOCAST[precision]) if precision in AUTOCAST else nullcontext()
    with tensor_cores(precision), autocast:
        yield


@contextmanager
def _tf32(*, products: bool, convolutions: bool) -> Iterator[None]:
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    matmul.allow_tf32, cudnn.allow_tf32 = products, convolutions
    try:
        yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = before

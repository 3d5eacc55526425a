"""DMCount-EBC: golden outputs of the released network, strict import, and what each setting changes."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from golden_tools import assert_matches, golden_case, refilled, tensor
from recount.errors import UserError
from recount.systems.dmcount_ebc import SYSTEM, DmCountEbcSettings
from small_systems import batch_of, loss_of, losses_of_steps, mini
from tiny_pool import TinyPool

CASE = "dmcount_ebc_vgg19_96x64"


tiny = partial(mini, SYSTEM)
CROWD = TinyPool([(240, 260)], [np.random.default_rng(3).uniform(0, 200, (60, 2))])


def loss(network: Any) -> float:
    return loss_of(network, batch_of(network, CROWD)).item()


@torch.no_grad()
def test_network_agrees_with_the_released_code() -> None:
    inputs, want = golden_case("clip_ebc", CASE)
    network = SYSTEM(DmCountEbcSettings()).eval()
    state = refilled(network, inputs["weights"]["then_multiply"])
    assert {key: list(value.shape) for key, value in state.items()} == inputs["tensors"]
    network.load_state_dict(state)
    network.double()
    seen = {}
    network.backbone.features.register_forward_hook(lambda _, __, out: seen.update(features=out))
    features = network.backbone(tensor(inputs["image"]).double())
    logits, density = network.head(features)
    assert_matches(seen["features"], want["features"], 1e-7)
    assert_matches(features, want["backbone"], 1e-7)
    assert_matches(logits, want["logits"], 1e-7)
    assert_matches(density, want["density"], 1e-7)
    assert_matches(density.sum(), want["count"], 1e-7)


@pytest.mark.parametrize(("block", "truncation"), [(8, 4), (16, 8), (32, 19)])
def test_every_block_size_has_a_cell_per_block(block: int, truncation: int) -> None:
    network = tiny(block=block, truncation=truncation)
    assert network.predict(torch.rand(1, 3, 96, 64), [""]).density.shape == (1, 1, 96 // block, 64 // block)


def test_images_are_padded_to_the_stride() -> None:
    assert tiny().prepare_image(torch.rand(3, 100, 161)).shape == (3, 112, 176)


@pytest.mark.parametrize(
    "switch",
    [
        {"truncation": 2},
        {"block": 16, "truncation": 8, "granularity": "dynamic"},
        {"anchors": "middle"},
        {"count_loss": "none"},
        {"count_loss": "mse"},
        {"input_size": 96},
        {"decoder_widths": (32, 8)},
    ],
)
def test_switch_changes_the_loss(switch: dict[str, Any]) -> None:
    assert loss(tiny(**switch)) == loss(tiny(**switch)) != loss(tiny())


def test_training_lowers_the_loss_on_one_picture() -> None:
    network = tiny().train()
    optimiser = torch.optim.Adam(network.parameters(), 1e-3)
    losses = losses_of_steps(network, batch_of(network, CROWD), optimiser, 10)
    assert losses[-1] < 0.8 * losses[0]


def test_backbone_weights_switch_loads_torchvisions_vgg19(tmp_path: Path) -> None:
    from torchvision.models import vgg19

    with torch.device("meta"):
        shapes = {key: value.shape for key, value in vgg19().state_dict().items() if not key.startswith("classifier.")}
    state = {key: torch.randn(shape) for key, shape in shapes.items()} | {"classifier.0.bias": torch.zeros(4)}
    torch.save(state, tmp_path / "vgg19.pth")
    network = SYSTEM(DmCountEbcSettings(backbone_weights=str(tmp_path / "vgg19.pth")))
    assert torch.equal(network.backbone.features[34].weight, state["features.34.weight"])
    del state["features.0.bias"]
    torch.save(state, tmp_path / "vgg19.pth")
    with pytest.raises(UserError, match=r"missing: 0\.bias"):
        SYSTEM(DmCountEbcSettings(backbone_weights=str(tmp_path / "vgg19.pth")))


@pytest.mark.parametrize("layout", ["bare", "ckpt"])
def test_released_files_are_imported_strictly(tmp_path: Path, layout: str) -> None:
    tensors = golden_case("clip_ebc", CASE)[0]["tensors"]
    state = {key: torch.full(shape, 0.01) for key, shape in tensors.items()}
    path = tmp_path / "best_mae_0.pth"
    torch.save(state if layout == "bare" else {"model_state_dict": state, "epoch": 1}, path)
    network = SYSTEM(DmCountEbcSettings())
    network.load_state_dict(SYSTEM.import_checkpoint(path, network.settings))
    assert network.classifier.bias[0].item() == pytest.approx(0.01)
    torch.save({**state, "classifier.weight": torch.zeros(3, 128, 1, 1)}, path)
    with pytest.raises(UserError, match=r"wrong shape: classifier\.weight \[3, 128, 1, 1\] instead of \[5, 128"):
        SYSTEM.import_checkpoint(path, network.settings)

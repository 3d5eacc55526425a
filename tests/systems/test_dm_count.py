"""DM-Count: the golden network, its own augmentation, strict import, and its switches."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from golden_tools import assert_matches, golden_case, refilled, tensor
from recount.systems.base import Batch
from recount.systems.dm_count import DmCount, DmCountSettings
from small_systems import assert_imported, assert_refused, losses_of_steps, mini
from tiny_pool import TinyPool

tiny = partial(mini, DmCount, crop_size=64)


def test_network_gives_the_golden_density() -> None:
    inputs, want = golden_case("crowd_eval", "dm_count_network")
    network = DmCount(DmCountSettings())
    assert {key: list(value.shape) for key, value in network.state_dict().items()} == inputs["tensors"]
    assert sum(parameter.numel() for parameter in network.parameters()) == inputs["parameters"]
    network.load_state_dict(refilled(network, inputs["weights"]["then_multiply"]))
    network.double()
    image = tensor(inputs["image"]).double()
    density = network.density(image)
    assert_matches(network.features(image), want["features"], 1e-7)
    assert_matches(density, want["mu"], 1e-7)
    assert_matches(density / (density.sum() + 1e-6), want["mu_normed"], 1e-7)
    assert_matches(density.sum(), want["count"], 1e-7)


def test_released_state_dict_imports_unchanged_or_every_missing_and_unexpected_key_is_named(tmp_path: Path) -> None:
    source, path = tiny(), tmp_path / "model_qnrf.pth"
    state = source.state_dict()
    assert_imported(DmCount, state, state, source.settings, path)
    state["reg_layer.9.bias"] = state.pop("reg_layer.2.bias")
    assert_refused(
        DmCount, state, source.settings, path, r"missing: reg_layer\.2\.bias; unexpected: reg_layer\.9\.bias"
    )


def test_backbone_weights_switch_loads_torchvisions_vgg(tmp_path: Path) -> None:
    pretrained = {f"features.{key}": value + 1 for key, value in tiny().features.state_dict().items()}
    torch.save({**pretrained, "classifier.0.bias": torch.zeros(1)}, tmp_path / "vgg19.pth")
    network = tiny(backbone_weights=str(tmp_path / "vgg19.pth"))
    assert torch.equal(network.features[0].weight, pretrained["features.0.weight"])


FLIPPED, UPRIGHT = 2, 0  # seeds


def crop_of(points: Any = None, seed: int = 0, size: tuple[int, int] = (64, 64), **changes: Any) -> Any:
    pool = TinyPool([size], points and [points])
    return tiny(**changes).example_maker()(0, pool, np.random.default_rng(seed))[0]


def test_points_on_the_far_edge_of_the_crop_are_kept() -> None:
    example = crop_of([[64.0, 64.0], [64.5, 3.0], [-0.5, 3.0]], UPRIGHT)
    assert example.points.tolist() == [[64.0, 64.0]]
    assert example.maps["blocks"][0, 7, 7] == 1


@pytest.mark.parametrize(("rule", "x"), [("width", 44.0), ("width_minus_one", 43.0)])
def test_flip_rule_switch_moves_the_points(rule: str, x: float) -> None:
    example = crop_of([[20.0, 5.0]], FLIPPED, flip_rule=rule)
    assert example.points.tolist() == [[x, 5.0]]


def test_flip_mirrors_the_block_map_instead_of_making_it_anew() -> None:
    plain, mirrored = crop_of(seed=UPRIGHT), crop_of(seed=FLIPPED)
    assert torch.equal(mirrored.maps["blocks"], plain.maps["blocks"].flip(2))
    assert torch.equal(mirrored.image, plain.image.flip(2))


def test_coincident_points_are_added() -> None:
    example = crop_of([[20.0, 5.0]] * 3)
    assert example.maps["blocks"].sum() == example.count == 3


def test_picture_smaller_than_the_crop_is_enlarged() -> None:
    assert crop_of(size=(40, 50)).image.shape == (3, 64, 64)


def test_output_bias_switch_opens_the_last_layer() -> None:
    images = torch.rand(1, 3, 64, 64)
    assert tiny(output_bias=None).predict(images, [""]).counts() == 0  # a shut ReLU: this seed would never learn
    assert tiny(output_bias=0.2).predict(images, [""]).counts() > 0


def test_whole_pictures_of_any_size_are_counted() -> None:
    density = tiny().eval().predict(torch.rand(1, 3, 72, 104), [""]).density
    assert density.shape == (1, 1, 8, 12)


def test_training_lowers_the_loss_on_one_crop() -> None:
    network = tiny()
    batch = Batch.of([crop_of(np.random.default_rng(1).uniform(0, (96, 80), (30, 2)).tolist(), size=(80, 96))]).to(
        "cpu"
    )
    before = network.losses(batch)["count"].item()
    losses_of_steps(network, batch, torch.optim.Adam(network.parameters(), lr=1e-3), 24)
    assert network.losses(batch)["count"].item() < 0.5 * before

"""DM-Count: the golden network, its own augmentation, strict import, and its switches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from golden_tools import assert_matches, golden, refilled, wave
from recount.data.sample import Sample
from recount.errors import UserError
from recount.systems.base import Batch
from recount.systems.dm_count import DmCount, DmCountSettings

TINY = {**DmCount.mini_settings(), "crop_size": 64}


def tiny(**changes: Any) -> DmCount:
    torch.manual_seed(0)
    return DmCount(DmCountSettings(**{**TINY, **changes}))


class OnePicture:
    def __init__(self, points: list[list[float]] | None = None, size: tuple[int, int] = (96, 80)) -> None:
        rng = np.random.default_rng(1)
        width, height = size
        places = rng.random((30, 2)) * size if points is None else np.array(points)
        self.samples = [Sample("one", "train", None, places.astype(np.float32), len(places), "", width, height)]
        self.picture = torch.from_numpy(rng.integers(0, 256, (3, height, width), dtype=np.uint8))

    def image(self, index: int) -> Tensor:
        return self.picture


def test_network_gives_the_golden_density() -> None:
    case = golden("crowd_eval")["cases"]["dm_count_network"]
    inputs, want = case["inputs"], case["outputs"]
    network = DmCount(DmCountSettings())
    assert {key: list(value.shape) for key, value in network.state_dict().items()} == inputs["tensors"]
    assert sum(parameter.numel() for parameter in network.parameters()) == inputs["parameters"]
    network.load_state_dict(refilled(network, inputs["weights"]["then_multiply"]))
    network.double()
    image = torch.from_numpy(wave(inputs["image"])).double()
    density = network.density(image)
    assert_matches(network.features(image), want["features"], 1e-7)
    assert_matches(density, want["mu"], 1e-7)
    assert_matches(density / (density.sum() + 1e-6), want["mu_normed"], 1e-7)
    assert_matches(density.sum(), want["count"], 1e-7)


def test_released_state_dict_imports_unchanged(tmp_path: Path) -> None:
    source = tiny()
    torch.save(source.state_dict(), tmp_path / "model_qnrf.pth")
    state = DmCount.import_checkpoint(tmp_path / "model_qnrf.pth", source.settings)
    assert all(torch.equal(state[key], value) for key, value in source.state_dict().items())


def test_import_names_every_missing_and_unexpected_key(tmp_path: Path) -> None:
    state = tiny().state_dict()
    state["reg_layer.9.bias"] = state.pop("reg_layer.2.bias")
    torch.save(state, tmp_path / "broken.pth")
    with pytest.raises(UserError, match=r"missing: reg_layer\.2\.bias; unexpected: reg_layer\.9\.bias"):
        DmCount.import_checkpoint(tmp_path / "broken.pth", tiny().settings)


def test_backbone_weights_switch_loads_torchvisions_vgg(tmp_path: Path) -> None:
    pretrained = {f"features.{key}": value + 1 for key, value in tiny().features.state_dict().items()}
    torch.save({**pretrained, "classifier.0.bias": torch.zeros(1)}, tmp_path / "vgg19.pth")
    network = tiny(backbone_weights=str(tmp_path / "vgg19.pth"))
    assert torch.equal(network.features[0].weight, pretrained["features.0.weight"])


FLIPPED, UPRIGHT = 2, 0  # seeds


def crop_of(pool: OnePicture, seed: int = 0, **changes: Any) -> Any:
    return tiny(**changes).example_maker()(0, pool, np.random.default_rng(seed))[0]


def test_points_on_the_far_edge_of_the_crop_are_kept() -> None:
    example = crop_of(OnePicture([[64.0, 64.0], [64.5, 3.0], [-0.5, 3.0]], size=(64, 64)), UPRIGHT)
    assert example.points.tolist() == [[64.0, 64.0]]
    assert example.maps["blocks"][0, 7, 7] == 1


@pytest.mark.parametrize(("rule", "x"), [("width", 44.0), ("width_minus_one", 43.0)])
def test_flip_rule_switch_moves_the_points(rule: str, x: float) -> None:
    example = crop_of(OnePicture([[20.0, 5.0]], size=(64, 64)), FLIPPED, flip_rule=rule)
    assert example.points.tolist() == [[x, 5.0]]


def test_flip_mirrors_the_block_map_instead_of_making_it_anew() -> None:
    plain = crop_of(OnePicture(size=(64, 64)), UPRIGHT)
    mirrored = crop_of(OnePicture(size=(64, 64)), FLIPPED)
    assert torch.equal(mirrored.maps["blocks"], plain.maps["blocks"].flip(2))
    assert torch.equal(mirrored.image, plain.image.flip(2))


def test_coincident_points_are_added() -> None:
    example = crop_of(OnePicture([[20.0, 5.0]] * 3, size=(64, 64)))
    assert example.maps["blocks"].sum() == example.count == 3


def test_picture_smaller_than_the_crop_is_enlarged() -> None:
    example = crop_of(OnePicture(size=(50, 40)))
    assert example.image.shape == (3, 64, 64)


def test_output_bias_switch_opens_the_last_layer() -> None:
    images = torch.rand(1, 3, 64, 64)
    assert tiny(output_bias=None).predict(images, [""]).counts() == 0  # a shut ReLU: this seed would never learn
    assert tiny(output_bias=0.2).predict(images, [""]).counts() > 0


def test_whole_pictures_of_any_size_are_counted() -> None:
    density = tiny().eval().predict(torch.rand(1, 3, 72, 104), [""]).density
    assert density.shape == (1, 1, 8, 12)


def test_training_lowers_the_loss_on_one_crop() -> None:
    network = tiny()
    batch = Batch.of([crop_of(OnePicture())])
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-3)
    losses = []
    for _ in range(25):
        terms = network.losses(batch)
        loss = sum(network.loss_weights[name] * term for name, term in terms.items())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(terms["count"].detach()))
    assert losses[-1] < 0.5 * losses[0]

"""MCNN: both golden networks, the density target, and its switches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from golden_tools import assert_matches, golden, refilled, wave
from recount.data.sample import Sample
from recount.systems.base import Batch
from recount.systems.mcnn import Mcnn, McnnSettings

TINY = {**Mcnn.mini_settings(), "crop_height": 64, "crop_width": 64}


def tiny(**changes: Any) -> Mcnn:
    torch.manual_seed(0)
    return Mcnn(McnnSettings(**{**TINY, **changes}))


class OnePicture:
    def __init__(self, points: list[list[float]], size: tuple[int, int] = (96, 80)) -> None:
        width, height = size
        places = np.array(points, dtype=np.float32).reshape(-1, 2)
        self.samples = [Sample("one", "train", None, places, len(places), "", width, height)]
        rng = np.random.default_rng(1)
        self.picture = torch.from_numpy(rng.integers(0, 256, (3, height, width), dtype=np.uint8))

    def image(self, index: int) -> Tensor:
        return self.picture


@pytest.mark.parametrize(("colour", "dtype", "rtol"), [("rgb", torch.float64, 1e-7), ("grey", torch.float32, 1e-4)])
def test_network_gives_the_golden_map(colour: str, dtype: torch.dtype, rtol: float) -> None:
    case = golden("crowd_eval")["cases"][f"mcnn_{colour}"]
    inputs, want = case["inputs"], case["outputs"]
    network = Mcnn(McnnSettings(colour=colour))  # type: ignore[arg-type]
    assert {key: list(value.shape) for key, value in network.state_dict().items()} == inputs["tensors"]
    assert sum(parameter.numel() for parameter in network.parameters()) == inputs["parameters"]
    network.load_state_dict(refilled(network, inputs["weights"]["then_multiply"]))
    network.to(dtype)
    image = torch.from_numpy(wave(inputs["image"])).to(dtype)
    for branch in [name for name in want if name.startswith("branch")]:
        assert_matches(network.get_submodule(branch)(image), want[branch], rtol)
    output = network.network_output(image)
    assert_matches(output, want["out"], rtol)
    assert_matches(output.sum() / (100 if colour == "rgb" else 1), want.get("count_div_100", want.get("count")), rtol)


def example_of(pool: OnePicture, seed: int = 0, **changes: Any) -> Any:
    return tiny(**changes).example_maker()(0, pool, np.random.default_rng(seed))[0]


def test_target_keeps_the_mass_of_heads_away_from_the_border() -> None:
    example = example_of(OnePicture([[30.0, 30.0], [30.0, 30.0], [40.2, 20.7]], size=(64, 64)))
    assert example.maps["density"].sum().item() == pytest.approx(3, rel=1e-5)


def test_target_has_the_share_of_a_head_just_outside_the_crop() -> None:
    pool = OnePicture([[64.5, 30.0]], size=(80, 64))
    lefts = {float(example_of(pool, seed).maps["density"].sum()) for seed in range(12)}
    assert any(0.05 < mass < 0.95 for mass in lefts)


def test_picture_smaller_than_the_crop_gives_a_smaller_crop() -> None:
    assert example_of(OnePicture([[5.0, 5.0]], size=(60, 50))).image.shape == (3, 48, 48)


def test_crops_switch_gives_so_many_crops() -> None:
    assert len(tiny(crops=9).example_maker()(0, OnePicture([[5.0, 5.0]]), np.random.default_rng(0))) == 9


def test_a_flip_mirrors_picture_and_map() -> None:
    pool = OnePicture([[20.0, 20.0]], size=(64, 64))
    plain, mirrored = example_of(pool, seed=0), example_of(pool, seed=2)
    assert torch.equal(mirrored.image, plain.image.flip(2))
    assert torch.equal(mirrored.maps["density"], plain.maps["density"].flip(2))


@pytest.mark.parametrize(("colour", "shape"), [("rgb", (2, 1, 64, 96)), ("grey", (2, 1, 16, 24))])
def test_colour_switch_changes_the_map(colour: str, shape: tuple[int, ...]) -> None:
    assert tiny(colour=colour).predict(torch.rand(2, 3, 64, 96), ["", ""]).density.shape == shape


def test_density_is_in_objects_whatever_the_scale_that_is_learned() -> None:
    network = tiny()
    image = torch.rand(1, 3, 64, 64)
    raw = network.network_output(network.prepared(image))
    torch.testing.assert_close(network.predict(image, [""]).density * 100, raw)


def test_state_dict_of_the_c3_framework_imports_below_its_prefixes(tmp_path: Path) -> None:
    source = tiny()
    torch.save({f"CCN.module.{key}": value for key, value in source.state_dict().items()}, tmp_path / "best.pth")
    state = Mcnn.import_checkpoint(tmp_path / "best.pth", source.settings)
    assert all(torch.equal(state[key], value) for key, value in source.state_dict().items())


@pytest.mark.parametrize("colour", ["rgb", "grey"])
def test_training_lowers_the_loss_on_one_crop(colour: str) -> None:
    network = tiny(colour=colour)
    batch = Batch.of([example_of(OnePicture([[20.0, 20.0], [40.0, 50.0]], size=(64, 64)), colour=colour)])
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-3)
    losses = []
    for _ in range(40):
        loss = network.losses(batch)["squared_error"]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.9 * losses[0]

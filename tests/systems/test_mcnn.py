"""MCNN: both golden networks, the density target, and its switches."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from golden_tools import assert_matches, golden_case, refilled, tensor
from recount.systems.base import Batch
from recount.systems.mcnn import Mcnn, McnnSettings
from small_systems import assert_imported, losses_of_steps, mini
from tiny_pool import TinyPool

tiny = partial(mini, Mcnn, crop_height=64, crop_width=64)


@pytest.mark.parametrize(("colour", "dtype", "rtol"), [("rgb", torch.float64, 1e-7), ("grey", torch.float32, 1e-4)])
def test_network_gives_the_golden_map(colour: str, dtype: torch.dtype, rtol: float) -> None:
    inputs, want = golden_case("crowd_eval", f"mcnn_{colour}")
    network = Mcnn(McnnSettings(colour=colour))  # type: ignore[arg-type]
    assert {key: list(value.shape) for key, value in network.state_dict().items()} == inputs["tensors"]
    assert sum(parameter.numel() for parameter in network.parameters()) == inputs["parameters"]
    network.load_state_dict(refilled(network, inputs["weights"]["then_multiply"]))
    network.to(dtype)
    image = tensor(inputs["image"]).to(dtype)
    for branch in [name for name in want if name.startswith("branch")]:
        assert_matches(network.get_submodule(branch)(image), want[branch], rtol)
    output = network.network_output(image)
    assert_matches(output, want["out"], rtol)
    assert_matches(output.sum() / (100 if colour == "rgb" else 1), want.get("count_div_100", want.get("count")), rtol)


def examples_of(points: list[list[float]], seed: int = 0, size: tuple[int, int] = (64, 64), **changes: Any) -> Any:
    return tiny(**changes).example_maker()(0, TinyPool([size], [points]), np.random.default_rng(seed))


def test_target_keeps_the_mass_of_heads_away_from_the_border() -> None:
    (example,) = examples_of([[30.0, 30.0], [30.0, 30.0], [40.2, 20.7]])
    assert example.maps["density"].sum().item() == pytest.approx(3, rel=1e-5)


def test_target_has_the_share_of_a_head_just_outside_the_crop() -> None:
    made = [examples_of([[64.5, 30.0]], seed, size=(64, 80))[0] for seed in range(12)]
    lefts = {float(example.maps["density"].sum()) for example in made}
    assert any(0.05 < mass < 0.95 for mass in lefts)


def test_picture_smaller_than_the_crop_gives_a_smaller_crop() -> None:
    assert examples_of([[5.0, 5.0]], size=(50, 60))[0].image.shape == (3, 48, 48)


def test_crops_switch_gives_so_many_crops() -> None:
    assert len(examples_of([[5.0, 5.0]], size=(80, 96), crops=9)) == 9


def test_a_flip_mirrors_picture_and_map() -> None:
    (plain,), (mirrored,) = (examples_of([[20.0, 20.0]], seed) for seed in (0, 2))
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
    released = {f"CCN.module.{key}": value for key, value in source.state_dict().items()}
    assert_imported(Mcnn, released, source.state_dict(), source.settings, tmp_path / "best.pth")


@pytest.mark.parametrize("colour", ["rgb", "grey"])
def test_training_lowers_the_loss_on_one_crop(colour: str) -> None:
    network = tiny(colour=colour)
    batch = Batch.of(examples_of([[20.0, 20.0], [40.0, 50.0]], colour=colour)).to("cpu")
    batch.images.mul_(255 / 200)  # in a darker picture the ReLU of this seed is shut
    losses = losses_of_steps(network, batch, torch.optim.Adam(network.parameters(), lr=1e-3), 40)
    assert losses[-1] < 0.9 * losses[0]


def test_the_grey_network_sees_pictures_at_multiples_of_four_pixels() -> None:
    picture = torch.rand(3, 67, 90)
    assert tiny().prepare_image(picture) is picture
    grey = tiny(colour="grey").prepare_image(picture)
    expected = torch.nn.functional.interpolate(picture[None], (64, 88), mode="bilinear", align_corners=False)[0]
    torch.testing.assert_close(grey, expected)
    assert tiny(colour="grey").prepare_image(expected) is expected

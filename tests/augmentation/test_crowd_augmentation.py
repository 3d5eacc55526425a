"""The crowd augmentation: golden cases, and what each switch changes."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from golden_tools import assert_matches, golden, wave
from recount.augmentation.crowd import (
    CrowdAugmentation,
    augmented_crop,
    blur,
    crop,
    crop_and_resize,
    enlarge_to,
    flip,
    salt_and_pepper,
)

PICTURE = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, 90, 120), dtype=np.uint8))
POINTS = torch.tensor([[10.0, 20.0], [60.5, 45.2], [119.0, 89.0]])
STILL = CrowdAugmentation(crop_scale=(1.0, 1.0), flip=0, jitter=0, blur=0, salt_and_pepper=0)


def crop_of(seed: int = 0, **changes: Any) -> tuple[Tensor, Tensor]:
    torch.manual_seed(seed)
    return augmented_crop(PICTURE, POINTS, 64, replace(STILL, **changes), np.random.default_rng(seed))


def golden_case(name: str) -> tuple[dict, dict, Tensor, Tensor]:
    case = golden("crowd_eval")["cases"][name]
    image = torch.from_numpy(wave(case["inputs"]["image"]))
    return case["inputs"], case["outputs"], image, torch.tensor(case["inputs"]["points_xy"])


@pytest.mark.parametrize("name", ["crop_and_resize_ebc", "crop_and_resize_gigacount"])
def test_crop_and_resize_are_the_golden_ones(name: str) -> None:
    inputs, want, image, points = golden_case(name)
    edge, size = inputs["crop"][0], inputs["out"][0]
    assert_matches(crop(image, points, inputs["top"], inputs["left"], edge, edge)[1], want["points_after_crop"])
    piece, inside = crop_and_resize(
        image, points, inputs["top"], inputs["left"], edge, size, clamp=name.endswith("gigacount")
    )
    assert_matches(piece, want["image"])
    assert_matches(inside, want["points_after_resize"])


def test_picture_smaller_than_the_crop_is_enlarged_as_golden() -> None:
    inputs, want, image, points = golden_case("crop_larger_than_image")
    edge = int(inputs["size"] * inputs["scale"])
    assert [edge, edge] == want["crop"]
    enlarged, moved = enlarge_to(image, points, edge, clamp=False)
    assert list(enlarged.shape[1:]) == want["resized_to"]
    assert_matches(enlarged, want["image"])
    assert_matches(moved, want["points"])


def test_flip_moves_points_as_golden() -> None:
    case = golden("crowd_eval")["cases"]["flip"]
    image = torch.zeros(3, 4, case["inputs"]["width"])
    assert_matches(flip(image, torch.tensor(case["inputs"]["points_xy"]))[1], case["outputs"]["points_xy"])


def test_blur_as_coded_is_vertical_only() -> None:
    case = golden("crowd_eval")["cases"]["gaussian_blur_axes"]
    impulse = torch.zeros(3, 11, 11)
    impulse[:, 5, 5] = 1
    blurred = blur(impulse, *case["inputs"]["sigma"])
    assert_matches(blurred[0, 5], case["outputs"]["row_5"])
    assert_matches(blurred[0, :, 5], case["outputs"]["column_5"])


def test_salt_and_pepper_acts_per_value() -> None:
    noise = torch.full((3, 2, 2), 0.5)
    noise[0, 0, 0], noise[1, 1, 1] = 0.0005, 0.9995
    noisy = salt_and_pepper(torch.full((3, 2, 2), 0.3), noise)
    assert noisy[0, 0, 0] == 1
    assert noisy[1, 1, 1] == 0
    assert (noisy == 0.3).sum() == 10


SWITCHES = {
    "flip": ({}, {"flip": 1.0}),
    "jitter": ({}, {"jitter": 1.0}),
    "hue": ({"jitter": 1.0, "hue": 0.0}, {"jitter": 1.0, "hue": 0.2}),
    "blur": ({}, {"blur": 1.0}),
    "blur_kind": ({"blur": 1.0}, {"blur": 1.0, "blur_kind": "isotropic"}),
    "salt_and_pepper": ({}, {"salt_and_pepper": 1.0}),
    "crop_scale": ({}, {"crop_scale": (1.2, 1.3)}),
    "clamp": ({"crop_scale": (0.8, 0.8)}, {"crop_scale": (0.8, 0.8), "clamp": False}),
}


@pytest.mark.parametrize("switch", SWITCHES)
def test_switch_changes_the_augmented_image(switch: str) -> None:
    without, with_ = SWITCHES[switch]
    assert not torch.equal(crop_of(**without)[0], crop_of(**with_)[0])


def test_without_photometric_keeps_crop_and_flip() -> None:
    plain = CrowdAugmentation().without_photometric()
    assert (plain.jitter, plain.blur, plain.salt_and_pepper) == (0, 0, 0)
    assert (plain.flip, plain.crop_scale) == (0.5, (0.8, 1.0))


@given(seed=st.integers(0, 10_000), zoom=st.sampled_from([(0.8, 1.0), (1.0, 2.0)]))
@settings(max_examples=25)
def test_points_stay_inside_the_crop_and_on_their_pixel_values(seed: int, zoom: tuple[float, float]) -> None:
    piece, points = crop_of(seed, crop_scale=zoom, flip=0.5)
    assert piece.shape == (3, 64, 64)
    assert ((points >= 0) & (points <= 63)).all()


def test_equal_seeds_give_equal_crops() -> None:
    everything = {"crop_scale": (0.8, 1.0), "flip": 0.5, "jitter": 0.5, "blur": 0.5, "salt_and_pepper": 0.5}
    first, second, other = crop_of(4, **everything), crop_of(4, **everything), crop_of(5, **everything)
    assert torch.equal(first[0], second[0])
    assert not torch.equal(first[0], other[0])

"""T2ICount's training pictures against outputs of cha15yq/T2ICount@289d3fb with given draws, and on their own."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from golden_tools import fill
from recount.augmentation import prompted
from recount.errors import UserError
from recount.nn import stable_diffusion as sd
from recount.nn.precision import as_floats
from recount.systems import t2icount as t2i
from t2icount_golden import Pictures, assert_case, case, examples


def picture(spec: dict[str, Any]) -> Tensor:
    shape = tuple(spec["shape_h_w_c"])
    values = np.rint(127.5 + 127.5 * fill().wave(shape, spec["a"], spec["b"])).astype(np.uint8)
    return torch.from_numpy(values).permute(2, 0, 1)


def ready_density(spec: dict[str, Any]) -> Tensor:
    height, width = spec["shape_h_w"]
    index = np.arange(height * width, dtype=np.float64)
    return torch.from_numpy(0.01 * (1 + np.sin(spec["a"] * (index + 1) + spec["b"]))).view(height, width)


def canvas(inputs: dict[str, Any]) -> prompted.Canvas:
    image, density = picture(inputs["image"]), ready_density(inputs["density"])
    own = torch.ones(density.shape)
    corners = inputs.get("img_mask_quadrants_tl_tr_bl_br")
    if corners:
        height, width = density.shape
        rows, columns = torch.arange(height) >= height // 2, torch.arange(width) >= width // 2
        own = torch.tensor(corners, dtype=torch.float32).view(2, 2)[rows.long()][:, columns.long()]
    return prompted.Canvas(image, density, own)


def of_another_class(whole: prompted.Canvas) -> prompted.Canvas:
    return prompted.Canvas(whole.image, torch.zeros_like(whole.density), torch.zeros_like(whole.own))


def transformed(whole: prompted.Canvas, inputs: dict[str, Any]) -> dict[str, Tensor]:
    if inputs["scale"] is not None:
        whole = whole.enlarged(inputs["scale"])
    image, maps = prompted.training_maps(whole.cut(*inputs["crop_top_left"], 384), 8, inputs["mirror"])
    return {"image": as_floats(image) * 2 - 1, "density": maps["density"], "img_mask": maps["own"]}


@pytest.mark.parametrize("name", ["transform_plain", "transform_mirror_mask", "transform_enlarged"])
def test_training_transform_with_given_draws(name: str) -> None:
    expected = case(name)
    assert_case(transformed(canvas(expected["inputs"]), expected["inputs"]), expected)


@pytest.mark.parametrize("name", ["mosaic", "mosaic_enlarged"])
def test_mosaic_with_given_draws(name: str) -> None:
    expected = case(name)
    inputs = expected["inputs"]
    tiles = []
    for entry, corner in zip(inputs["images"], inputs["tile_crop_top_left"], strict=True):
        whole = canvas(entry)
        tiles.append(
            (whole if entry["class"] == inputs["images"][0]["class"] else of_another_class(whole)).cut(*corner, 224)
        )
    made = transformed(prompted.mosaic([tiles[place] for place in inputs["tile_order"]["perm"]]), inputs)
    assert_case(made | {"token_mask": prompt_mask(expected)}, expected)


@pytest.mark.parametrize("name", ["prompt_swap_other_class", "prompt_swap_same_class"])
def test_another_pictures_prompt(name: str) -> None:
    expected = case(name)
    inputs = expected["inputs"]
    own, other = inputs["images"][0], inputs["images"][inputs["random_image"]]
    whole = canvas(own) if own["class"] == other["class"] else of_another_class(canvas(own))
    assert_case(transformed(whole, inputs) | {"token_mask": prompt_mask(expected)}, expected)


def prompt_mask(expected: dict[str, Any]) -> Tensor:
    return sd.token_ids([expected["scalars"]["prompt"]], sd.tokenizer(sd.Backbone()), 77)[1][0]


def test_wrong_prompt_gets_no_positive_pixels_and_no_own_ones() -> None:
    wrong = [e for e in examples(other_prompt=1.0) if e.prompt == "cars" and e.id.startswith(("a", "b"))]
    assert wrong
    for example in wrong:
        assert example.count == 0
        assert not example.maps["own"].any()
        labels = t2i.region_labels(example.maps["density"], torch.ones(1, 24, 24), example.maps["own"], 0.3)
        assert (labels == 0).all()


def test_a_drawn_prompt_whose_truth_is_known_keeps_it() -> None:
    known = [e for e in examples(other_prompt=1.0) if e.id == "a-stars" and e.prompt == "rings"]
    assert known
    assert all(e.maps["own"].all() for e in known)


def test_mosaic_takes_density_only_from_tiles_of_the_prompts_class() -> None:
    made = [e for e in examples(mosaic=1.0) if e.id == "c-cars"]
    assert any(0 < float(e.maps["own"].mean()) < 1 for e in made)
    for example in made:
        near_own = torch.nn.functional.max_pool2d(example.maps["own"][None], 5, stride=1, padding=2)[0]
        assert not example.maps["density"][near_own == 0].any()


def test_a_picture_smaller_than_the_crop_is_refused_by_name() -> None:
    settings = t2i.T2ICountSettings(weights="random")
    maker = t2i.T2ICount.example_maker(SimpleNamespace(settings=settings))  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"the picture is 96x96 pixels, T2ICount cuts squares of 384"):
        maker(0, Pictures(), np.random.default_rng(0))


def test_density_from_points_keeps_every_point_inside_and_no_other() -> None:
    points = np.array([[0, 0], [95.9, 50], [40, 40], [40, 40], [200, 3]], np.float32)
    assert float(prompted.density_from_points(points, 96, 96, "adaptive").sum()) == pytest.approx(4)
    assert not prompted.density_from_points(points[:0], 96, 96, 2.0).any()

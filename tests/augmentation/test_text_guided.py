"""Training crops and evaluation maps of the text-guided systems, against the official codes and what must hold."""

from typing import Any

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor

from golden_tools import assert_matches, golden
from recount import systems
from recount.augmentation.countr_protocol import (
    dot_pixels,
    evaluation_size,
    impulses,
    training_size,
)
from recount.augmentation.text_guided import (
    CLIP_COUNT,
    COUNTX,
    VLCOUNTER,
    CountrAugmentation,
    CountrCrops,
    Dotted,
    affine_matrix,
    dotted,
    resized_crop,
    stitched,
    transformed,
)
from recount.data.pictures import resize_like_pillow
from recount.data.sample import Sample
from recount.nn.precision import as_floats
from tiny_pool import TinyPool


def case(name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    found = golden("countx")["cases"][name]
    return found["inputs"], found["outputs"]


def assert_picture(actual: Tensor, expected: dict[str, Any], atol: float) -> None:
    """The golden tolerance of pictures is absolute."""
    values = actual.double().numpy().ravel()
    at = np.linspace(0, values.size - 1, len(expected["samples"])).astype(int)
    assert list(actual.shape) == expected["shape"]
    np.testing.assert_allclose(values[at], expected["samples"], atol=atol)


def patterned(width: int, *, across: int = 3, down: int = 5, shift: int = 0) -> Tensor:
    channel, y, x = np.mgrid[0:3, 0:384, 0:width]
    return torch.from_numpy(((x * across + y * down + channel * 70 + shift) % 256).astype(np.uint8))


def scattered(number: int, width: int, k: int = 0) -> np.ndarray:
    j = np.arange(number)
    return np.stack([(37 * j + 11 * k) % width + 0.4, (53 * j + 7 * k) % 384 + 0.6], axis=1)


def scaled_density(picture: Dotted) -> np.ndarray:
    return 60 * gaussian_filter(impulses(picture.dots, *picture.size), 1.0)


# ------------------------------------------------------------------------------------------------------------ golden


def test_mosaic_of_one_picture_is_countxs() -> None:
    inputs, want = case("mosaic_self")
    own = dotted(patterned(640), scattered(90, 640), 384)
    side = inputs["tile_side"]
    crops = [own.cut(top, left, side) for left, top in inputs["crop (left, top) of tiles 0..3"]]
    made = stitched(crops, inputs["blend_half_width"])
    assert_matches(made.image, want["image"], 1e-5)
    assert_matches(scaled_density(made), want["density (sigma 1, x60)"], 1e-5)


def test_mosaic_of_several_pictures_is_countxs() -> None:
    inputs, want = case("mosaic_cross")
    pictures = []
    for k in range(4):
        width = 400 + 16 * k
        image = patterned(width, across=3 + k, down=5 + 2 * k, shift=31 * k)
        pictures.append(dotted(image, scattered(20 + 5 * k, width, k), 384))
    order = [1, 3, 0, 2]  # the picture itself is crop 2
    blend = inputs["blend_half_width"]
    crops = []
    for index, (left, top) in zip(order, inputs["crop (left, top) per tile"], strict=True):
        same = inputs["classes"][index] == inputs["classes"][0]
        picture = pictures[index] if same else Dotted(pictures[index].image, pictures[index].dots[:0])
        crop = picture.cut(top, left, inputs["crop side"])
        crops.append(resized_crop(crop, 192 + 2 * blend, antialias=True))  # the golden run's torchvision was newer
    made = stitched(crops, blend)
    assert_picture(made.image, want["image"], 2e-3)
    assert_matches(scaled_density(made), want["density (sigma 1, x60)"], 1e-5)


def test_plain_crop_is_countxs() -> None:
    inputs, want = case("plain_crop")
    picture = dotted(golden_picture_two(), scattered_two(), 384)
    made = picture.cut(0, inputs["crop_left"], 384)
    assert_picture(as_floats(made.image), want["image"], 2e-3)
    assert_matches(scaled_density(made), want["density"], 1e-5)


def golden_picture_two() -> Tensor:
    return patterned(612, across=5, down=9, shift=62)


def scattered_two() -> np.ndarray:
    return scattered(60, 612, 2)


@pytest.mark.parametrize("name", ["width 512", "width 500 (resized to 496)", "height 600, width 800 (VLCounter only)"])
def test_evaluation_map_is_the_released_one(name: str) -> None:
    found = golden("windows")["cases"]["evaluation_map"]
    (width, height), points = found["inputs"][name]["image (W,H)"], np.array(found["inputs"][name]["dots (x,y)"])
    for system, want in found["outputs"][name].items():
        if not isinstance(want, dict):
            continue
        size = evaluation_size(height, width, 384, 682 if system.startswith("clip") else 683)
        map_ = gaussian_filter(impulses(dot_pixels(points, (height, width), size), *size), 1.0)
        assert list(size) == want["image_shape"][1:]
        assert_matches(map_ * (60 if "x60" in system else 1), want["map"], 1e-5)


@pytest.mark.parametrize(("system", "antialias"), [("clip_count", True), ("vlcounter", False), ("countx", False)])
def test_carpk_is_resized_as_each_released_script_does(system: str, antialias: bool) -> None:
    """Without antialiasing a pixel is a mean of the four nearest, weighted by how near they are, and of no others."""
    network = systems.load(system)
    tiny = network(network.Settings.model_validate(network.mini_settings() | {"window": 384}))
    picture = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, 720, 1280), dtype=np.uint8)).float() / 255
    small = tiny.prepare_image(picture)
    row, column = 100, 200
    y, x = (row + 0.5) * 720 / 384 - 0.5, (column + 0.5) * 1280 / small.shape[2] - 0.5
    down, right = y - int(y), x - int(x)
    near = picture[:, int(y) : int(y) + 2, int(x) : int(x) + 2]
    weights = torch.tensor([[(1 - down) * (1 - right), (1 - down) * right], [down * (1 - right), down * right]])
    is_mean_of_four = torch.allclose(small[:, row, column], (near * weights).sum(dim=(1, 2)), atol=1e-3)
    assert is_mean_of_four != antialias


# ------------------------------------------------------------------------------------------------------------ settings


def crop_of(
    augmentation: CountrAugmentation, seed: int = 0, window: int = 96, pool: Any = None
) -> tuple[Tensor, Tensor]:
    torch.manual_seed(seed)
    crops = CountrCrops(window, augmentation)
    image, maps, _ = crops(0, pool or TinyPool([(96, 150)]), np.random.default_rng(seed))
    return as_floats(image), maps["density"]


@pytest.mark.parametrize("augmentation", [COUNTX, CLIP_COUNT, VLCOUNTER], ids=["countx", "clip_count", "vlcounter"])
def test_crops_have_the_windows_size_and_whole_dots(augmentation: CountrAugmentation) -> None:
    pool = TinyPool([(96, 150), (96, 96), (120, 90)])
    for seed in range(12):
        image, target = crop_of(augmentation, seed, pool=pool)
        assert image.shape == (3, 96, 96)
        assert target.shape == (1, 96, 96)
        assert float(image.min()) >= 0
        assert float(image.max()) <= 1
        assert float(target.sum()) == pytest.approx(round(float(target.sum())), abs=1e-3)


def test_no_augmentation_is_a_plain_crop() -> None:
    pool = TinyPool([(96, 150)])
    image, _ = crop_of(CountrAugmentation(mosaic=0, jitter=0), pool=pool)
    whole = as_floats(resize_like_pillow(pool.image(0), (96, 144), "bilinear"))
    lefts = [left for left in range(49) if torch.equal(whole[:, :, left : left + 96], image)]
    assert len(lefts) == 1


def test_crops_of_a_mosaic_are_resized_without_antialiasing_as_released() -> None:
    shrunk = [
        crop_of(CLIP_COUNT.model_copy(update={"mosaic": 1.0, **more}), 3)[0]
        for more in ({}, {"mosaic_antialias": True})
    ]
    assert not torch.equal(*shrunk)
    fine = Dotted(torch.eye(8).expand(3, 8, 8).clone(), np.zeros((0, 2), np.int64))
    assert float(resized_crop(fine, 2, antialias=False).image[0, 0, 0]) == pytest.approx(
        0.5
    )  # of the four nearest alone


def class_pool(prompts: list[str]) -> TinyPool:
    pool = TinyPool([(96, 120)] * len(prompts))
    pool.samples = [
        Sample(s.id, "train", None, s.points, s.count, prompt, s.width, s.height)
        for s, prompt in zip(pool.samples, prompts, strict=True)
    ]
    return pool


def test_pictures_of_other_classes_give_no_dots_to_a_mosaic() -> None:
    always = CountrAugmentation(mosaic=1.0, jitter=0.0)
    totals = []
    for other in ("apples", "eggs"):
        pool = class_pool(["apples", other, other, other])
        totals.append(sum(float(crop_of(always, seed, pool=pool)[1].sum()) for seed in range(10)))
    assert totals[1] < totals[0]


def test_a_picture_with_many_dots_is_its_own_mosaic() -> None:
    pool = class_pool(["apples", "eggs"])
    dark = pool.pictures[1]
    dark.zero_()
    by_count = CountrAugmentation(mosaic=1.0, jitter=0.0, self_from=5)
    for seed in range(6):  # seven dots: no crop comes from the black picture
        image, _ = crop_of(by_count, seed, pool=pool)
        assert float((image.sum(dim=0) == 0).float().mean()) < 0.01


@pytest.mark.parametrize("field", ["colour", "affine_fill", "vertical_flip", "horizontal_flip"])
def test_a_strength_of_the_jitter_changes_the_crop(field: str) -> None:
    base = {"mosaic": 0.0, "jitter": 1.0, "horizontal_flip": 0.0}
    other = {"colour": (0, 0, 0, 0), "affine_fill": "drawn", "vertical_flip": 1.0, "horizontal_flip": 1.0}[field]
    first, second = (
        crop_of(CountrAugmentation.model_validate(settings), 3)[0] for settings in (base, base | {field: other})
    )
    assert not torch.equal(first, second)


def test_dots_move_with_the_picture() -> None:
    image = torch.zeros(3, 64, 80)
    dots = np.array([[20, 30], [50, 25], [40, 40]])
    for x, y in dots:
        image[:, y - 1 : y + 2, x - 1 : x + 2] = 1
    for seed in range(8):
        matrix = affine_matrix((64, 80), np.random.default_rng(seed))
        moved = transformed(Dotted(image, dots), matrix, "constant")
        for x, y in moved.dots:
            assert moved.image[0, y, x] > 0.5


def test_seams_are_soft_and_the_rest_of_a_mosaic_is_untouched() -> None:
    crops = [Dotted(torch.full((3, 60, 60), value), np.zeros((0, 2), np.int64)) for value in (0.0, 0.2, 0.6, 1.0)]
    made = stitched(crops, 6).image
    half = made.shape[1] // 2
    assert made[0, 0, 0] == 0
    assert made[0, -1, -1] == 1.0
    assert 0.0 < made[0, half - 4, 2] < made[0, half + 3, 2] < 0.2


@pytest.mark.parametrize(
    ("size", "expected"), [((384, 650), (384, 640)), ((720, 1280), (384, 672)), ((800, 600), (512, 384))]
)
def test_training_size_keeps_the_shorter_edge_at_the_window(size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert training_size(*size, 384) == expected


def test_dots_outside_the_picture_are_put_at_its_border() -> None:
    assert dot_pixels(np.array([[1888.0, 10.0], [-3.0, 500.0]]), (384, 640), (384, 640)).tolist() == [
        [639, 10],
        [0, 383],
    ]

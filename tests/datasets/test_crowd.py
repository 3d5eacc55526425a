"""The drawn crowds."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recount import datasets
from recount.data.sample import RawSample
from recount.scenes import crowds
from recount.scenes.crowds import draw, plan


@pytest.fixture(scope="module")
def samples() -> list[RawSample]:
    return list(datasets.load("crowd").read(Path("nowhere")))


def counts(samples: list[RawSample], split: str) -> np.ndarray:
    return np.array([sample.count for sample in samples if sample.split == split])


def test_counts_cover_5_to_800_in_train_and_test(samples: list[RawSample]) -> None:
    for split in ("train", "test"):
        of_split = counts(samples, split)
        assert of_split.min() >= 5
        assert of_split.max() <= 800
        assert of_split.min() < 10
        assert of_split.max() > 600


def test_a_constant_is_a_poor_predictor(samples: list[RawSample]) -> None:
    error = np.abs(counts(samples, "test") - counts(samples, "train").mean()).mean()
    assert error > 100


def test_size_says_little_about_the_count(samples: list[RawSample]) -> None:
    of_all = np.array([sample.count for sample in samples])
    sizes = np.array([sample.image.args[0].size for sample in samples])  # type: ignore[union-attr]
    for feature in (sizes[:, 0], sizes[:, 1], sizes.prod(axis=1)):
        assert abs(np.corrcoef(of_all, feature)[0, 1]) < 0.3


def test_brightness_says_little_about_the_count(samples: list[RawSample]) -> None:
    of_test = [sample for sample in samples if sample.split == "test"]
    brightness = [float(np.asarray(sample.image()).mean()) for sample in of_test]  # type: ignore[operator, misc]
    assert abs(np.corrcoef([sample.count for sample in of_test], brightness)[0, 1]) < 0.45


def test_no_two_pictures_are_the_same(samples: list[RawSample]) -> None:
    assert len({sample.points.tobytes() for sample in samples}) == len(samples)


@settings(max_examples=25)
@given(
    st.sampled_from(["street", "stadium"]),
    st.integers(5, 800),
    st.sampled_from([(224, 224), (448, 224), (224, 352), (448, 352)]),
    st.integers(0, 1000),
)
def test_a_scene_has_exactly_its_heads_inside_and_apart(
    kind: str, count: int, size: tuple[int, int], seed: int
) -> None:
    scene = plan(kind, count, size, (seed,))  # type: ignore[arg-type]
    x, y, d = scene.heads.T
    assert len(scene.heads) == count
    assert (x > 0).all()
    assert (x < size[0]).all()
    assert (y > scene.top - 1).all()
    assert (y < size[1]).all()
    distance = np.hypot(x[:, None] - x, y[:, None] - y) + 1e6 * np.eye(count)
    assert (distance > 0.35 * (d[:, None] + d)).all()


@pytest.mark.parametrize("kind", ["street", "stadium"])
def test_far_heads_are_smaller_and_stand_denser(kind: str) -> None:
    scene = plan(kind, 300, (448, 352), (3,))  # type: ignore[arg-type]
    far, near = scene.heads[:100], scene.heads[-100:]
    assert far[:, 2].mean() < near[:, 2].mean()
    assert np.ptp(far[:, 1]) < np.ptp(near[:, 1])


@pytest.mark.parametrize("kind", ["street", "stadium"])
def test_no_head_is_hidden(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw each head in a colour of its own and look how much of it is left."""
    drawn: list[float] = []

    def head(pen: crowds._Pen, x: float, y: float, d: float) -> None:
        drawn.append(np.pi / 4 * 0.86 * (d * crowds._SCALE) ** 2)
        number = len(drawn)
        pen.ellipse(x, y, d * 0.86, d, (number % 256, number // 256, 77))

    scene = plan(kind, 400, (320, 288), (11,))  # type: ignore[arg-type]
    monkeypatch.setattr(crowds, "_draw_head", head)
    monkeypatch.setattr(crowds, "_photographed", lambda image, rng: image)
    monkeypatch.setattr(crowds.Image.Image, "resize", lambda self, *_: self)
    pixels = np.asarray(draw(scene)).astype(int)
    of_heads = pixels[pixels[..., 2] == 77]
    visible = np.bincount(of_heads[:, 0] + 256 * of_heads[:, 1], minlength=401)[1:401] / drawn
    assert (visible > 0.3).all()


def test_the_same_seed_gives_the_same_pixels_and_another_does_not() -> None:
    first, again, other = (np.asarray(draw(plan("street", 60, (224, 224), (seed,)))) for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)

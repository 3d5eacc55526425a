"""Which images are shown follows from numbers alone."""

import io

import numpy as np
import pandas as pd
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from recount.report.gallery import best_median_worst, by_quantiles, overlay_png, scale_of, smoothed


def test_quantiles_take_the_smallest_and_the_largest_count() -> None:
    counts = pd.Series(range(0, 110, 10), index=[f"img_{n}" for n in range(11)])
    assert by_quantiles(counts, (0, 0.5, 1)) == ["img_0", "img_5", "img_10"]


@given(st.lists(st.integers(0, 50), min_size=1, max_size=40))
def test_no_image_is_shown_twice_and_order_of_rows_does_not_matter(counts: list[int]) -> None:
    series = pd.Series(counts, index=[f"img_{n:02}" for n in range(len(counts))])
    chosen = by_quantiles(series)
    assert len(set(chosen)) == len(chosen)
    assert by_quantiles(series.iloc[::-1]) == chosen


def test_best_median_and_worst_are_by_absolute_error() -> None:
    table = pd.DataFrame({"id": list("abcde"), "true_count": 10.0, "predicted_count": [10.0, 4.0, 30.0, 12.0, np.nan]})
    assert best_median_worst(table) == [("best", "a"), ("median", "d"), ("worst", "c")]


def test_predictions_that_are_all_nan_have_no_best_image() -> None:
    assert best_median_worst(pd.DataFrame({"id": ["a"], "true_count": [1.0], "predicted_count": [np.nan]})) == []


def test_overlay_is_transparent_where_nothing_is_and_opaque_at_the_top() -> None:
    png = overlay_png(np.array([[0.0, 2.0], [0.5, 9.0]], dtype=np.float32), top=2.0)
    picture = Image.open(io.BytesIO(png)).convert("RGBA")
    opacity = np.asarray(picture)[..., 3]
    assert picture.size == (2, 2)
    assert opacity[0, 0] == 0
    assert opacity[0, 1] == opacity[1, 1] == 255
    assert 0 < opacity[1, 0] < 255


def test_scale_of_an_image_follows_its_objects_not_its_empty_cells() -> None:
    sparse = np.zeros((50, 50), dtype=np.float32)
    sparse[10, 10] = 5
    assert scale_of([sparse]) > 0.9 * smoothed(sparse).max()


def test_map_of_zeros_or_nan_is_an_empty_overlay() -> None:
    for density in (np.zeros((2, 3)), np.full((2, 3), np.nan)):
        picture = Image.open(io.BytesIO(overlay_png(density, 0.0))).convert("RGBA")
        assert not np.asarray(picture)[..., 3].any()

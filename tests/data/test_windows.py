"""Windows and their stitching, against the official codes and against what any cutting into windows must keep."""

from itertools import pairwise
from typing import get_args

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from golden_tools import assert_matches, fill, golden, wave
from recount.data.windows import (
    Stitch,
    Windows,
    cut,
    fit,
    fitted_size,
    layout,
    stitch,
    stitch_intensities,
    window_starts,
)

STITCHES = get_args(Stitch)
TWO_WAY = ("average", "average_pixels")
WIDTHS = ("384", "385", "400", "500", "512", "513", "600", "640", "683", "768", "1000", "1584")
T2ICOUNT_SIZES = ("384x384", "384x385", "384x512", "384x769", "451x777", "720x1280")


def sliding_case(name: str) -> dict:
    return golden("crowd_eval")["cases"][name]


def toy_density(windows: torch.Tensor) -> torch.Tensor:
    """64 * (8x8 mean of channel 0) * (1 + row/rows + 2*col/cols), as the golden file describes its toy network."""
    mean = 64 * F.avg_pool2d(windows[:, :1], 8)
    rows, columns = mean.shape[-2:]
    return mean * (1 + torch.arange(rows)[:, None] / rows + 2 * torch.arange(columns)[None] / columns)


def golden_windows(inputs: dict) -> Windows:
    window, stride = inputs["window"], inputs["stride"]
    height, width = window if isinstance(window, list) else (window, window)
    return Windows(height, width, tuple(stride) if isinstance(stride, list) else stride)


@pytest.mark.parametrize("name", ["480x544", "stride_112", "rectangular"])
def test_average_is_the_sliding_window_of_clip_ebc(name: str) -> None:
    case = sliding_case(f"sliding_window_{name}")
    windows = golden_windows(case["inputs"])
    image = torch.from_numpy(wave(case["inputs"]["image"]))[0]
    place = layout(*image.shape[1:], windows)
    assert [len(place.rows), len(place.columns)] == case["outputs"]["windows_rows_cols"]
    density = stitch(toy_density(cut(image, windows)), *image.shape[1:], windows)
    assert_matches(density, case["outputs"]["density"], rtol=1e-5)
    assert float(density.double().sum()) == pytest.approx(case["outputs"]["count"], rel=1e-6)


@pytest.mark.parametrize("size", T2ICOUNT_SIZES)
def test_average_pixels_is_how_t2icount_puts_windows_together(size: str) -> None:
    case = golden("t2icount")["cases"][f"tiles_{size}"]
    inputs, outputs, scalars = case["inputs"], case["outputs"], case["scalars"]
    windows = Windows(384, 384, 384, "average_pixels")
    height, width = inputs["image_size_h_w"]
    place = layout(height, width, windows)
    assert (list(place.rows), list(place.columns)) == (scalars["row_starts"], scalars["col_starts"])
    pieces = cut(torch.from_numpy(wave(inputs["image"]["wave"]))[0], windows)
    assert_samples(pieces, outputs["tiles"], case["atol"]["tiles"])
    density = inputs["tile_density"]
    maps = torch.from_numpy(wave(density["wave"]) + np.float32(density["offset"]))
    canvas = stitch(maps, height, width, windows)
    assert_samples(canvas, outputs["canvas"], case["atol"]["canvas"])
    assert float(canvas.double().sum()) / 60 == pytest.approx(scalars["count"], rel=1e-6)


def assert_samples(actual: torch.Tensor, expected: dict, atol: float) -> None:
    """T2ICount's golden tolerance: |sample - golden| <= atol."""
    got = fill().digest(actual)
    assert got["shape"] == expected["shape"]
    np.testing.assert_allclose(got["samples"], expected["samples"], rtol=0, atol=atol)
    assert got["sum"] == pytest.approx(
        expected["sum"], abs=max(1e-5 * expected["abs_sum"], 0.2 * atol * actual.numel())
    )


def window_maps(starts: list[int]) -> torch.Tensor:
    """The output of the window that starts at s in the golden files of the one-row stitchers."""
    maps = [fill().wave((384, 384), 0.0137, 0.4 + 0.01 * start, 1.0) + np.float32(1.5) for start in starts]
    return torch.from_numpy(np.stack(maps))[:, None]


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("rule", ["halving", "sigmoid"])
def test_one_row_rules_are_those_of_countx_vlcounter_and_clip_count(rule: Stitch, width: str) -> None:
    expected = golden("windows")["cases"][f"stitch_{rule}"]["outputs"][width]
    windows = Windows(384, 384, 128, rule)
    starts = list(layout(384, int(width), windows).columns)
    assert starts == expected["starts"]
    stitched = stitch(window_maps(starts), 384, int(width), windows)
    assert_matches(stitched[0, 0], expected["stitched"], rtol=1e-5)
    assert float(stitched.double().sum()) / 60 == pytest.approx(expected["count = sum/60"], rel=1e-5)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("rule", ["halving", "sigmoid"])
def test_column_weights_of_the_one_row_rules(rule: Stitch, width: str) -> None:
    expected = golden("windows")["cases"][f"stitch_{rule}"]["outputs"][width]
    profile = expected["profile"]
    windows = Windows(384, 384, 128, rule)
    for index in range(len(expected["starts"])):
        maps = torch.zeros(len(expected["starts"]), 1, 384, 384)
        maps[index] = 1
        weights = stitch(maps, 384, int(width), windows)[0, 0, 0]
        at_columns = weights[torch.tensor(profile["columns"])]
        np.testing.assert_allclose(at_columns, profile["weights_per_window"][index], rtol=1e-5, atol=1e-6)
        assert float(weights.sum()) == pytest.approx(profile["weight_sums"][index], rel=1e-5)


def test_sigmoid_windows_end_with_black_columns() -> None:
    windows = Windows(384, 384, 128, "sigmoid")
    for width, expected in golden("windows")["cases"]["stitch_sigmoid"]["outputs"].items():
        pieces = cut(torch.ones(3, 384, int(width)), windows)
        assert (pieces == 0).all(dim=(1, 2)).sum(dim=1).tolist() == expected["zero_columns_per_window"]


@pytest.mark.parametrize("mode", ["resize", "zero_pad"])
def test_sizes_of_clip_ebc_s_resize_and_padding_to_multiples(mode: str) -> None:
    outputs = sliding_case("resize_to_multiple_224")["outputs"][mode]
    windows = Windows(224, 224, 224, fit=mode)
    for size, expected in outputs.items():
        height, width = map(int, size.split("x"))
        assert list(fitted_size(height, width, windows)) == expected
    assert fit(torch.ones(3, 480, 544), windows).shape[1:] == torch.Size(outputs["480x544"])


def test_zero_pad_adds_black_at_the_right_and_the_bottom() -> None:
    padded = fit(torch.ones(3, 30, 50), Windows(32, 32, 32, fit="zero_pad"))
    assert padded.shape == (3, 32, 64)
    assert padded[:, :30, :50].min() == 1
    assert padded.sum() == 3 * 30 * 50


def test_averaging_pixels_is_not_averaging_cells() -> None:
    maps = torch.rand(2, 1, 48, 48, generator=torch.Generator().manual_seed(0))
    pixels = stitch(maps, 384, 512, Windows(384, 384, 384, "average_pixels")).sum()
    cells = stitch(maps, 384, 512, Windows(384, 384, 384, "average")).sum()
    assert abs(float(pixels / cells) - 1) > 1e-6


sides = st.integers(min_value=1, max_value=12)


@st.composite
def arrangements(draw: st.DrawFn, rules: tuple[str, ...] = STITCHES) -> tuple[Windows, int, int, int]:
    """Windows, a height, a width and a cell side, such that every window starts at the edge of a cell."""
    cell = draw(st.sampled_from([1, 2, 4]))
    rule = draw(st.sampled_from(rules))
    stride = draw(st.integers(1, 5))
    times = draw(st.integers(1, 3)) if rule == "sigmoid" else 1
    window = stride * times if rule == "sigmoid" else draw(st.integers(stride, stride + 6))
    height = draw(sides) if rule in TWO_WAY else window
    return Windows(window * cell, window * cell, stride * cell, rule), height * cell, draw(sides) * cell, cell


def column_by_column(maps: np.ndarray, width: int, window: int, stride: int, rule: str) -> np.ndarray:
    """Stitch maps [n, h, window] of one row as the specification words it, a column at a time."""
    total = max(window, width + stride - width % stride if rule == "sigmoid" else width)
    starts = [0]
    while starts[-1] + window < total:
        starts.append(min(starts[-1] + stride, total - window))
    canvas, filled = np.zeros((maps.shape[1], total)), 0
    for start, each in zip(starts, maps, strict=True):
        overlap = filled - start
        for column in range(window):
            new = 1.0
            if column < overlap:
                ramp = -3 + 6 * column / (overlap - 1) if overlap > 1 else -3
                new = 1 / (1 + np.exp(-ramp)) if rule == "sigmoid" else 0.5
            canvas[:, start + column] = (1 - new) * canvas[:, start + column] + new * each[:, column]
        filled = start + window
    return canvas[:, :width]


@given(
    st.integers(1, 60), st.integers(1, 6), st.integers(1, 5), st.sampled_from(["halving", "sigmoid"]), st.floats(0.1, 3)
)
def test_one_row_rules_are_what_the_specification_says_column_by_column(
    width: int, stride: int, times: int, rule: Stitch, a: float
) -> None:
    window = stride * times
    windows = Windows(window, window, stride, rule)
    maps = fill().wave((len(layout(window, width, windows).corners), 1, window, window), a, 0.4)
    stitched = stitch(torch.from_numpy(maps), window, width, windows)[0, 0]
    assert_matches(stitched, column_by_column(maps[:, 0], width, window, stride, rule), rtol=1e-5)


@settings(max_examples=40, deadline=None)
@given(arrangements(TWO_WAY), st.floats(0.1, 3))
def test_two_way_rules_are_sums_over_windows_divided_by_their_number(
    arrangement: tuple[Windows, int, int, int], a: float
) -> None:
    windows, height, width, cell = arrangement
    place = layout(height, width, windows)
    side = windows.height if windows.stitch == "average_pixels" else windows.height // cell
    unit = 1 if windows.stitch == "average_pixels" else cell
    maps = fill().wave((len(place.corners), 1, windows.height // cell, windows.height // cell), a, 1.3)
    large = F.interpolate(torch.from_numpy(maps), (side, side), mode="bilinear")[:, 0].numpy() / (cell // unit) ** 2
    total, covering = np.zeros((2, place.canvas_height // unit, place.canvas_width // unit))
    for (top, left), each in zip(place.corners, large, strict=True):
        for y in range(side):
            for x in range(side):
                total[top // unit + y, left // unit + x] += each[y, x]
                covering[top // unit + y, left // unit + x] += 1
    stitched = stitch(torch.from_numpy(maps), height, width, windows)[0, 0]
    assert_matches(stitched, (total / covering)[: height // unit, : width // unit], rtol=1e-5)


@given(arrangements())
def test_a_constant_density_stays_constant(arrangement: tuple[Windows, int, int, int]) -> None:
    windows, height, width, cell = arrangement
    count = len(layout(height, width, windows).corners)
    maps = torch.full((count, 1, windows.height // cell, windows.width // cell), 0.7)
    stitched = stitch(maps, height, width, windows)
    expected = 0.7 / cell**2 if windows.stitch in ("average_pixels", "average_corners") else 0.7
    assert torch.allclose(stitched, torch.full_like(stitched, expected))


@given(arrangements())
def test_a_map_that_is_cut_like_the_image_is_restored(arrangement: tuple[Windows, int, int, int]) -> None:
    windows, height, width, _ = arrangement
    image = torch.rand(1, height, width, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(stitch(cut(image, windows), height, width, windows)[0], image, atol=1e-6)


@given(arrangements(TWO_WAY), st.integers(0, 10**6))
def test_overlaps_are_never_counted_twice(arrangement: tuple[Windows, int, int, int], seed: int) -> None:
    windows, height, width, cell = arrangement
    count = len(layout(height, width, windows).corners)
    shape = (count, 1, windows.height // cell, windows.width // cell)
    maps = torch.rand(shape, generator=torch.Generator().manual_seed(seed))
    assert float(stitch(maps, height, width, windows).sum()) <= float(maps.sum()) * (1 + 1e-5)


@pytest.mark.parametrize("rule", ["average", "average_pixels", "halving"])
def test_a_single_window_keeps_its_sum(rule: Stitch) -> None:
    maps = torch.rand(1, 1, 12, 12, generator=torch.Generator().manual_seed(1))
    stitched = stitch(maps, 96, 96, Windows(96, 96, 48, rule))
    assert float(stitched.sum()) == pytest.approx(float(maps.sum()), rel=1e-6)


@given(length=st.integers(1, 3000), window=st.integers(1, 500), data=st.data())
def test_window_starts_cover_every_pixel_and_stay_inside(length: int, window: int, data: st.DataObject) -> None:
    stride = data.draw(st.integers(1, window))
    starts = window_starts(length, window, stride)
    assert starts[0] == 0
    assert starts[-1] + window == max(length, window)
    assert all(0 < after - before <= stride for before, after in pairwise(starts))


@pytest.mark.parametrize("rule", STITCHES)
def test_an_image_smaller_than_the_window_is_padded_with_black_and_the_padding_cut_off(rule: Stitch) -> None:
    windows = Windows(32, 32, 16, rule)
    pieces = cut(torch.ones(3, 32 if rule not in TWO_WAY else 20, 24), windows)
    assert pieces.shape[1:] == (3, 32, 32)
    assert pieces[0, :, :, 24:].sum() == 0
    height = 32 if rule not in TWO_WAY else 20
    assert stitch(pieces[:, :1], height, 24, windows).shape == (1, 1, height, 24)


def test_windows_that_start_inside_a_cell_are_refused_with_the_size_that_is_wrong() -> None:
    with pytest.raises(ValueError, match=r"width of 61 is not a multiple"):
        stitch(torch.zeros(2, 1, 4, 4), 32, 61, Windows(32, 32, 32))


def test_one_row_rules_refuse_an_image_that_is_higher_than_the_window() -> None:
    with pytest.raises(ValueError, match="works across only"):
        cut(torch.zeros(3, 33, 64), Windows(32, 32, 16, "halving"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"height": 0, "width": 8, "stride": 8}, "at least 1"),
        ({"height": 8, "width": 8, "stride": 9}, "left out"),
        ({"height": 8, "width": 9, "stride": 4, "stitch": "sigmoid"}, "multiple of the stride"),
    ],
)
def test_impossible_windows_are_refused(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Windows(**arguments)


def test_a_wrong_number_of_maps_is_refused() -> None:
    with pytest.raises(ValueError, match="3 maps for 2 windows"):
        stitch(torch.zeros(3, 1, 4, 4), 32, 64, Windows(32, 32, 32))


def test_intensities_are_averaged_without_being_divided() -> None:
    windows = Windows(32, 32, 24, "average_pixels")
    maps = torch.full((len(layout(45, 61, windows).corners), 1, 4, 4), 0.5)
    stitched = stitch_intensities(maps, 45, 61, windows)
    assert stitched.shape == (1, 1, 45, 61)
    assert torch.allclose(stitched, torch.full_like(stitched, 0.5))

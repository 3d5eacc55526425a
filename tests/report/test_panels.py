"""Small multiples lie where their data says, cost few artists, and leave out what is outside them."""

import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt
from matplotlib.collections import LineCollection, PolyCollection

from recount.report import figures
from recount.report.panels import Panels, Scale, row_axes


def test_scale_places_ends_and_middle() -> None:
    assert Scale(10, 30).at([10, 20, 30]).tolist() == [0, 0.5, 1]
    assert Scale(1, 100, log=True).at([1, 10, 100]) == pytest.approx([0, 0.5, 1])
    assert np.isnan(Scale(1, 100, log=True).at([0, -3])).all()


def test_ticks_are_round_and_inside() -> None:
    assert [text for _, text in Scale(0.9, 60, log=True).ticks()] == ["1", "2", "5", "10", "20", "50"]
    places = [place for place, _ in Scale(3, 41).ticks()]
    assert places
    assert all(0 <= place <= 1 for place in places)


def test_second_panel_is_right_of_the_first_and_the_third_below() -> None:
    panels = Panels(["a", "b", "c"], 2, 1.5, above=0.2)
    for panel in range(3):
        panels.dots(panel, [0.5], [0.5], "#1d2026", 3)
    figure = panels.finish("x", "y")
    (dots,) = figure.axes[0].lines
    a, b, c = np.column_stack(dots.get_data())
    assert b[0] > a[0]
    assert b[1] == a[1]
    assert c[0] == a[0]
    assert c[1] == pytest.approx(a[1] - 1.5)
    plt.close(figure)


def test_line_has_gaps_at_nan_and_outside_of_its_panel() -> None:
    panels = Panels(["a"], 1, 1.5, above=0.2)
    panels.line(0, [0, 0.1, 0.2, 0.3, 0.4, 0.5], [0.2, 0.3, np.nan, 0.4, 1.5, 0.6], "#0b6aa2")
    figure = panels.finish("x", "y", frame=False)
    (lines,) = (entry for entry in figure.axes[0].collections if isinstance(entry, LineCollection))
    assert [len(segment) for segment in lines.get_segments()] == [2, 1, 1]
    plt.close(figure)


def test_confusion_matrix_is_as_strong_as_its_shares() -> None:
    table = pd.DataFrame({"true_count": [2, 2, 2, 3], "predicted_count": [2, 2, 3, 3]})
    figure = figures.confusions({"one": table, "nothing": table.iloc[:0]})
    (squares,) = (entry for entry in figure.axes[0].collections if isinstance(entry, PolyCollection))
    drawn = {
        tuple(np.round(path.vertices[0] - squares.get_paths()[0].vertices[0], 3)): face[3]
        for path, face in zip(squares.get_paths(), squares.get_facecolor(), strict=True)
    }
    assert sorted(drawn.values()) == pytest.approx([1 / 3, 2 / 3, 1])
    words = [text.get_text() for text in figure.axes[0].texts]
    assert "3 of 4 right" in words
    assert "no answers" in words
    plt.close(figure)


def test_rows_are_labelled_from_above() -> None:
    figure, (left, right) = row_axes(["first", "second"], 0.3, ratios=(1, 2))
    assert [text.get_text() for text in left.texts] == ["first", "second"]
    assert left.get_ylim() == right.get_ylim() == (1.6, -0.6)
    assert right.get_position().width == pytest.approx(2 * left.get_position().width)
    plt.close(figure)


def test_many_panels_are_one_axes() -> None:
    rng = np.random.default_rng(0)
    counts = pd.DataFrame({"true_count": rng.integers(1, 90, 30), "predicted_count": rng.uniform(0, 99, 30)})
    figure = figures.predicted_against_true({f"system {n}": counts for n in range(40)})
    assert len(figure.axes) == 1
    assert len(figure.findobj()) < 800
    plt.close(figure)

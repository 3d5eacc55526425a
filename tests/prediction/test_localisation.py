"""Tests of where maps lie, on maps whose answer is known."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import Tensor

from recount.data.sample import Sample
from recount.data.windows import Windows
from recount.errors import UserError
from recount.prediction.localisation import auc, in_cells, localisation, over_picture, reached
from recount.prediction.samples import Asking
from recount.settings.base import Strict
from recount.systems.base import Prediction
from small_systems import OnlyPredicts

EDGE, CELL = 32, 8


class Pointing(OnlyPredicts):
    """Looks at what is bright, and at the contrary; its objects are where the samples' points are."""

    text_guided = True
    windows = Windows(EDGE, EDGE, EDGE, stitch="average_pixels")

    def __init__(self) -> None:
        super().__init__(Strict())

    def foreground(self, sample: Sample) -> tuple[Tensor, int] | None:
        cells = torch.zeros(-(-sample.height // CELL), -(-sample.width // CELL), dtype=torch.bool)
        for x, y in (sample.points // CELL).astype(int):
            cells[y, x] = True
        return cells, CELL

    def predict(self, images: Tensor, prompts: Sequence[str]) -> Prediction:
        bright = torch.nn.functional.avg_pool2d(images.mean(dim=1, keepdim=True), CELL)
        return Prediction(density=bright, maps={"attention": bright, "S2": -bright})


class Blunt(Pointing):
    def foreground(self, sample: Sample) -> tuple[Tensor, int] | None:
        return None


def lit(sample: Sample) -> Tensor:
    """Return a picture that is bright around the first point alone."""
    picture = torch.zeros(3, sample.height, sample.width, dtype=torch.uint8)
    x, y = (sample.points[0] // CELL * CELL).astype(int)
    picture[:, y : y + CELL, x : x + CELL] = 255
    return picture


def sample_with(*points: tuple[float, float], height: int = EDGE, width: int = EDGE) -> Sample:
    return Sample("a", "test", Path("a"), np.array(points, np.float32).reshape(-1, 2), 1.0, "x", width, height)


def test_auc_of_a_perfect_an_inverted_and_a_constant_map() -> None:
    positive = np.array([True, False, True, False])
    assert auc(np.array([3.0, 1.0, 2.0, 0.0]), positive) == 1.0
    assert auc(np.array([0.0, 2.0, 1.0, 3.0]), positive) == 0.0
    assert auc(np.zeros(4), positive) == 0.5


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=2, max_size=30))
@example([(0, True), (1, True), (2, True)])
@example([(0, False), (1, False), (2, False)])
def test_auc_is_the_share_of_pairs_in_order_and_needs_both_kinds_of_cells(cells: list[tuple[int, bool]]) -> None:
    values, positive = np.array([value for value, _ in cells], float), np.array([flag for _, flag in cells])
    if positive.all() or not positive.any():
        assert np.isnan(auc(values, positive))
        return
    wins = [(p > o) + 0.5 * (p == o) for p in values[positive] for o in values[~positive]]
    assert auc(values, positive) == pytest.approx(np.mean(wins))


def test_maps_are_averaged_over_square_cells_also_at_a_ragged_border() -> None:
    values = torch.arange(20.0).expand(1, 12, 20)
    cells = in_cells(values, CELL)
    assert cells[0].tolist() == pytest.approx([3.5, 11.5, 17.5])


def test_points_are_reached_where_attention_is_at_least_three_tenths() -> None:
    attention = torch.zeros(1, EDGE, EDGE)
    attention[0, :8, 31] = 0.3
    assert reached(attention, sample_with((31.9, 0.0), (31.9, 31.9), (40.0, 3.0))) == 2  # outside: the border's pixel


def test_a_map_in_cells_of_its_own_is_enlarged_to_the_picture() -> None:
    sample = sample_with((4, 4))
    assert over_picture(torch.ones(1, 4, 4), sample).shape == (1, EDGE, EDGE)
    assert over_picture(torch.ones(1, 40, 48), sample).shape == (1, EDGE, EDGE)


def test_what_looks_at_the_objects_has_auc_one_and_its_contrary_none() -> None:
    found = localisation(Asking(Pointing(), lit), [sample_with((4, 4)), sample_with((20, 12))])
    assert found.auc == {"attention": 1.0, "S2": 0.0}
    assert found.points_reached == 1.0
    assert found.reached_elsewhere < 0.2  # enlarging a map to pixels blurs it into the neighbours


def test_missed_points_count_as_points() -> None:
    found = localisation(Asking(Pointing(), lit), [sample_with((4, 4), (28, 28))])
    assert found.points_reached == 0.5
    assert found.pictures[0].reached == 1


def test_padding_of_a_small_picture_is_not_looked_at() -> None:
    found = localisation(Asking(Pointing(), lit), [sample_with((4, 4), height=16, width=24)])
    assert found.auc["attention"] == 1.0


def test_samples_without_points_are_refused() -> None:
    with pytest.raises(UserError, match="no sample has points"):
        localisation(Asking(Pointing(), lit), [sample_with()])


def test_a_system_that_does_not_say_where_objects_are_is_refused() -> None:
    with pytest.raises(UserError, match="where their training sees"):
        localisation(Asking(Blunt(), lit), [sample_with((4, 4))])

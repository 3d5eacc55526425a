"""Intervals of an RMSE: the method that covers best on such data, and how well it does."""

import numpy as np
import pytest
from simulate_root_intervals import coverages

from recount.metrics import RMSE
from recount.scoring.root_intervals import METHODS, best_method, resampled, upper_spread
from recount.scoring.statistics import bootstrap


def test_the_table_is_what_the_simulation_finds() -> None:
    found = coverages(80, 1.2, sets=150, resamples=200)
    method, coverage = best_method(80, 1.2)
    assert method == max(found, key=found.__getitem__) == "studentised"
    assert found[method] == pytest.approx(coverage, abs=0.11)  # three standard errors of 150 sets


def test_percentile_intervals_cover_far_less_where_tails_are_heavy() -> None:
    found = coverages(180, 1.5, sets=100, resamples=200)
    assert found["percentile"] < 0.7 < best_method(180, 0.3)[1]


def test_mild_errors_are_covered_and_heavy_ones_are_said() -> None:
    rng = np.random.default_rng(1)
    mild = bootstrap(RMSE, np.zeros(1000), rng.uniform(5, 9, 1000))
    heavy = bootstrap(RMSE, np.zeros(40), np.exp(1.8 * rng.standard_normal(40)))
    assert mild.coverage > 0.93
    assert heavy.coverage < 0.8
    assert heavy.method == "studentised"
    assert heavy.low < heavy.value < heavy.high


@pytest.mark.parametrize("name", METHODS)
def test_every_method_holds_the_value_and_knows_an_outlier(name: str) -> None:
    rng = np.random.default_rng(2)
    squares = rng.gamma(2.0, 1.0, 100)
    low, high = METHODS[name](squares, resampled(squares, 500, rng))
    assert 0 <= low < np.sqrt(squares.mean()) < high
    squares[0] = 1e4
    wide = METHODS[name](squares, resampled(squares, 500, rng))
    assert wide[1] - wide[0] > high - low


def test_spread_is_that_of_the_upper_half() -> None:
    rng = np.random.default_rng(3)
    assert upper_spread(np.exp(2 * 0.8 * rng.standard_normal(100_000))) == pytest.approx(0.8, abs=0.01)
    assert upper_spread(rng.standard_normal(100_000) ** 2) == pytest.approx(0.70, abs=0.01)
    assert best_method(50, upper_spread(np.array([0.0, 0.0, 0.0, 1.0])))[1] < 0.8

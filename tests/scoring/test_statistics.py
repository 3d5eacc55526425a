"""Intervals, paired tests and influence: known answers, agreement with scipy, edges."""

import csv
import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from golden_tools import shared
from recount.metrics import ACCURACY, MAE, METRICS, RMSE
from recount.scoring.statistics import (
    PERMUTATIONS,
    best_constant,
    bootstrap,
    bootstrap_over_seeds,
    holm,
    influence,
    interval_of,
    mean_and_sd,
    paired_difference,
    rmse_without_largest,
    wilson,
)


def noisy(seed: int, images: int = 120, error: float = 10.0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    true = rng.integers(1, 300, images).astype(float)
    return true, np.clip(true + rng.normal(0, error, images), 0, None)


# ---------------------------------------------------------------------------------------------------------- intervals


@pytest.mark.parametrize("name", ["mae", "rmse", "nae", "sre"])
def test_the_interval_contains_the_value(name: str) -> None:
    interval = bootstrap(METRICS[name], *noisy(0))
    assert interval.low < interval.value < interval.high


def test_the_interval_of_mae_is_near_the_normal_one() -> None:
    true, predicted = noisy(1, images=400)
    errors = np.abs(predicted - true)
    margin = 1.96 * errors.std(ddof=1) / math.sqrt(len(errors))
    interval = bootstrap(MAE, true, predicted)
    assert interval.low == pytest.approx(errors.mean() - margin, abs=0.1 * margin)
    assert interval.high == pytest.approx(errors.mean() + margin, abs=0.1 * margin)


def test_the_interval_covers_the_true_error_about_95_times_in_100() -> None:
    rng = np.random.default_rng(3)
    truth = 10 * math.sqrt(2 / math.pi)  # mean of |N(0, 10)|
    covered = 0
    for _ in range(100):
        errors = rng.normal(0, 10, 80)
        interval = bootstrap(MAE, np.full(80, 100.0), 100 + errors)
        covered += interval.low <= truth <= interval.high
    assert 88 <= covered <= 100


def test_an_interval_is_the_same_whenever_it_is_computed() -> None:
    assert bootstrap(RMSE, *noisy(2)) == bootstrap(RMSE, *noisy(2))


def test_one_image_has_no_interval() -> None:
    interval = bootstrap(MAE, [5], [7])
    assert interval.value == 2
    assert math.isnan(interval.low) and math.isnan(interval.high)


def test_equal_errors_have_an_interval_of_no_width() -> None:
    interval = bootstrap(RMSE, [5, 6, 7], [7, 8, 9])
    assert (interval.value, interval.low, interval.high) == (2, 2, 2)


def test_a_nan_prediction_gives_nan_and_no_interval() -> None:
    interval = bootstrap(MAE, [1, 2, 3], [1, math.nan, 3])
    assert all(math.isnan(value) for value in (interval.value, interval.low, interval.high))


def test_mean_and_spread_over_seeds() -> None:
    assert mean_and_sd([1, 2, 3]) == (2, 1)
    mean, sd = mean_and_sd([4.0])
    assert mean == 4 and math.isnan(sd)


def test_one_seed_gives_the_interval_over_images() -> None:
    true, predicted = noisy(4, images=300)
    images, seeds = bootstrap(MAE, true, predicted), bootstrap_over_seeds(MAE, true, predicted[None])
    assert seeds.value == pytest.approx(images.value)
    assert seeds.low == pytest.approx(images.low, rel=0.02)
    assert seeds.high == pytest.approx(images.high, rel=0.02)


def test_seeds_that_disagree_widen_the_interval() -> None:
    true, predicted = noisy(5)
    agreeing = bootstrap_over_seeds(MAE, true, np.stack([predicted] * 3))
    disagreeing = bootstrap_over_seeds(MAE, true, np.stack([predicted, predicted + 15, predicted + 40]))
    assert disagreeing.high - disagreeing.low > 2 * (agreeing.high - agreeing.low)


# --------------------------------------------------------------------------------------------------------- comparisons


def test_a_big_effect_is_found() -> None:
    true, good = noisy(6, error=5)
    bad = true + np.random.default_rng(7).normal(0, 25, len(true))
    result = paired_difference(MAE, true, good, bad)
    assert result.high < 0
    assert result.p_value < 0.001
    assert result.value == pytest.approx(MAE(true, good) - MAE(true, bad))


def test_no_p_value_is_smaller_than_one_draw_of_all() -> None:
    true, _ = noisy(6)
    assert paired_difference(MAE, true, true, true + 50).p_value == 1 / (PERMUTATIONS + 1)


def test_equal_systems_do_not_differ() -> None:
    true, predicted = noisy(8)
    result = paired_difference(RMSE, true, predicted, predicted)
    assert (result.value, result.low, result.high, result.p_value) == (0, 0, 0, 1)


@pytest.mark.parametrize("metric", [MAE, RMSE])
def test_the_p_value_is_that_of_scipy_s_permutation_test(metric) -> None:
    true, a = noisy(9, images=14, error=8)
    b = true + np.random.default_rng(10).normal(0, 14, 14)
    ours = paired_difference(metric, true, a, b).p_value
    exact = stats.permutation_test(
        (metric.of_images(true, a), metric.of_images(true, b)),
        lambda x, y: float(metric.of_mean(x.mean()) - metric.of_mean(y.mean())),
        permutation_type="samples",
        n_resamples=np.inf,
    ).pvalue
    assert ours == pytest.approx(exact, abs=0.02)


def test_without_an_effect_one_test_in_twenty_is_below_five_percent() -> None:
    rng = np.random.default_rng(11)
    below = 0
    for _ in range(200):
        true = np.full(40, 50.0)
        a, b = true + rng.normal(0, 8, 40), true + rng.normal(0, 8, 40)
        below += paired_difference(MAE, true, a, b).p_value <= 0.05
    assert below <= 20  # binomial(200, 0.05): more than 20 in 0.1 % of cases


def test_swapping_the_systems_turns_the_difference_around() -> None:
    true, a = noisy(12)
    _, b = noisy(13)
    forth, back = paired_difference(MAE, true, a, b), paired_difference(MAE, true, b, a)
    assert forth.value == pytest.approx(-back.value)
    assert forth.low == pytest.approx(-back.high)
    assert forth.p_value == back.p_value


def test_seeds_are_a_second_level_of_a_comparison() -> None:
    true, a = noisy(14)
    one = paired_difference(MAE, true, a, a + 6)
    spread = np.stack([a, a + 6, a - 6])
    several = paired_difference(MAE, true, spread, spread + 6)
    assert several.high - several.low > one.high - one.low


def test_runs_of_the_same_seed_are_resampled_together() -> None:
    true, a = noisy(14)
    spread = np.stack([a, a + 6, a - 6])
    result = paired_difference(MAE, true, spread, spread)
    assert (result.value, result.low, result.high) == (0, 0, 0)


def test_arms_with_different_numbers_of_seeds_can_be_compared() -> None:
    true, a = noisy(15)
    result = paired_difference(MAE, true, np.stack([a, a + 1]), a + 30)
    assert result.high < 0


def test_one_image_decides_nothing() -> None:
    result = paired_difference(MAE, [5], [5], [9])
    assert result.value == -4
    assert math.isnan(result.p_value) and math.isnan(result.low)


def test_comparisons_need_the_same_images() -> None:
    with pytest.raises(ValueError, match="2 true counts"):
        paired_difference(MAE, [5, 6], [5, 6], [[5], [6]])


def test_accuracy_can_be_compared() -> None:
    true = np.repeat([2.0, 3.0], 50)
    result = paired_difference(ACCURACY, true, true, np.full(100, 2.0))
    assert result.value == 0.5
    assert result.p_value < 0.001


def test_holm_adjusts_step_by_step() -> None:
    np.testing.assert_allclose(holm([0.01, 0.04, 0.03]), [0.03, 0.06, 0.06])
    np.testing.assert_allclose(holm([0.5, 0.9]), [1, 1])


def test_holm_does_not_count_what_was_not_tested() -> None:
    adjusted = holm([0.02, math.nan, 0.04])
    np.testing.assert_allclose(adjusted[[0, 2]], [0.04, 0.04])
    assert math.isnan(adjusted[1])


def test_percentile_intervals_hold_95_per_cent() -> None:
    assert interval_of(np.arange(1001.0)) == pytest.approx((25, 975))
    assert all(map(math.isnan, interval_of(np.array([1.0, math.nan]))))


@pytest.mark.parametrize(("share", "n", "ends"), [(0.9, 40, (0.7695, 0.9604)), (0.0, 10, (0.0, 0.2775))])
def test_the_interval_of_a_share_is_wilsons(share: float, n: int, ends: tuple[float, float]) -> None:
    ours = stats.binomtest(round(share * n), n).proportion_ci(method="wilson")
    assert wilson(share, n) == pytest.approx(ends, abs=1e-4)
    assert wilson(share, n) == pytest.approx((ours.low, ours.high))


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_never_lowers_a_p_value_and_keeps_their_order(p_values: list[float]) -> None:
    adjusted = holm(p_values)
    assert (adjusted >= np.asarray(p_values)).all()
    assert (adjusted <= 1).all()
    assert (np.diff(adjusted[np.argsort(p_values, kind="stable")]) >= 0).all()


# ----------------------------------------------------------------------------------------------------------- influence


def test_influence_finds_the_two_images_that_make_the_rmse_of_fsc147() -> None:
    splits = json.loads(shared("mirror", "fsc147", "data", "Train_Test_Val_FSC_147.json").read_text())
    with shared("mirror", "fsc147", "fsc147_counts.csv").open(newline="") as stream:
        by_image = {row[0]: float(row[1]) for row in list(csv.reader(stream))[1:]}
    images = splits["test"]
    true = np.array([by_image[image] for image in images])
    result = influence(true, np.zeros(len(true)))
    order = np.argsort(result.share_of_squared_error)[::-1]
    assert [images[index] for index in order[:2]] == ["1123.jpg", "7611.jpg"]
    assert result.share_of_squared_error[order[:2]].sum() == pytest.approx(0.656, abs=0.001)
    assert rmse_without_largest(true, np.zeros(len(true)), 2) == pytest.approx(94.48815239362521)


@given(st.lists(st.tuples(st.integers(0, 500), st.integers(0, 500)), min_size=2, max_size=12))
def test_influence_is_what_leaving_an_image_out_does(pairs: list[tuple[int, int]]) -> None:
    true, predicted = (np.array(values, dtype=float) for values in zip(*pairs, strict=True))
    result = influence(true, predicted)
    for index in range(len(true)):
        rest = np.arange(len(true)) != index
        assert result.mae_without[index] == pytest.approx(MAE(true[rest], predicted[rest]), abs=1e-9)
        assert result.rmse_without[index] == pytest.approx(RMSE(true[rest], predicted[rest]), abs=1e-4)
    assert result.share_of_squared_error.sum() == pytest.approx(float((true != predicted).any()))


def test_influence_of_a_single_image_leaves_nothing() -> None:
    result = influence([3], [5])
    assert result.share_of_squared_error.tolist() == [1]
    assert math.isnan(result.rmse_without[0])
    assert math.isnan(rmse_without_largest([3], [5], 1))


def test_influence_refuses_predictions_that_are_not_finite() -> None:
    with pytest.raises(ValueError, match="finite"):
        influence([1, 2], [1, math.nan])


@given(st.lists(st.integers(0, 100), min_size=1, max_size=20), st.floats(0, 100))
def test_no_constant_has_a_smaller_mae_than_the_best_one(true: list[int], other: float) -> None:
    best = best_constant(true)
    assert MAE(true, [best] * len(true)) <= MAE(true, [other] * len(true)) + 1e-9

"""Numbers from predictions: jackknives against textbook variances, scales of seeds, arms on the same images."""

from pathlib import Path

import numpy as np
import pytest

from judging.claims_project import better_than, headline, make_project, noisy, predict
from recount.judging.arms import Arm, _aligned
from recount.judging.estimates import Leveled, jackknife, over_images, scaled
from recount.judging.verdicts import POOLS_ABOVE
from recount.metrics import ACCURACY, MAE

RNG = np.random.default_rng(0)
TRUE = RNG.integers(1, 60, 30).astype(float)
IDS = tuple(f"s{k}" for k in range(30))


def arm(name: str, seeds: int = 2) -> Arm:
    return Arm(name, IDS, TRUE, TRUE + RNG.normal(0, 5, (seeds, 30)), tuple(range(seeds)))


def test_jackknife_of_a_mean_is_the_variance_of_the_mean() -> None:
    values = RNG.normal(size=30)
    without = (values.sum() - values) / 29
    assert jackknife(without) == pytest.approx(values.var(ddof=1) / 30)
    assert np.isnan(jackknife(without[:1])) and np.isnan(jackknife(np.array([1.0, np.nan])))


def test_variance_over_images_is_that_of_the_paired_differences_of_seed_means() -> None:
    one, other = (Leveled.of(MAE, arm(name)) for name in "ab")
    apart = np.abs(one.arm.predicted - TRUE).mean(axis=0) - np.abs(other.arm.predicted - TRUE).mean(axis=0)
    found = over_images(lambda a, b: a - b, one, other)
    third = ((apart - apart.mean()) ** 3).sum() / 30**3
    assert found == pytest.approx((apart.var(ddof=1) / 30, third))


def test_what_a_seed_draws_anew_is_the_scatter_of_images_between_seeds() -> None:
    found = Leveled.of(MAE, arm("a", seeds=3))
    errors = np.abs(found.arm.predicted - TRUE)
    apart = errors - errors.mean(axis=1, keepdims=True)
    assert found.drawn_anew(2.0) == pytest.approx(4 * apart.var(axis=0, ddof=1).sum() / 30 / 29)


def test_derivatives_of_the_scales_on_which_seeds_scatter() -> None:
    """A small step on the scale moves the metric by the derivative."""
    for metric, levels in ((MAE, [4.0, 4.0]), (ACCURACY, [0.7, 0.7])):
        (here, _), slope = scaled(metric, levels, 40)
        (there, _), _ = scaled(metric, [levels[0] + 1e-6] * 2, 40)
        assert 1e-6 / (there - here) == pytest.approx(slope, rel=1e-3)


def test_arms_are_compared_sample_by_sample_whatever_the_order_of_their_files() -> None:
    one, other = arm("a"), arm("b")
    turned = Arm("b", IDS[::-1], TRUE[::-1], other.predicted[:, ::-1], other.seeds)
    first, second = _aligned(one, turned)
    assert first.ids == second.ids == IDS
    np.testing.assert_array_equal(second.predicted, other.predicted)


def test_spread_of_other_variants_joins_that_of_the_claims_own_arms(tmp_path: Path) -> None:
    project = make_project(tmp_path, [better_than()])
    for arm, factor in (("new/full", 1.0), ("old/full", 2.0)):
        predict(project, arm, noisy(factor), seeds=(0, 1, 2))
    own = float(headline(project)["seed_df"])
    assert 2 < own < 4  # Welch's
    predict(project, "new/less", noisy(1.5), seeds=(0, 1, 2))
    row = headline(project)
    assert (float(row["seed_df"]), "new/less" in row["pooled_over"]) == (pytest.approx(own + 2), True)
    assert float(row["f_p"]) > POOLS_ABOVE

"""Decisions: when a part holds, how parts make a claim, what would have decided, and how often chance decides."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import binom

from recount.judging.verdicts import Decision, Finding, combine, decide, decide_all, seeds_needed
from recount.metrics import ACCURACY, MAE, RMSE, Metric
from recount.scoring import statistics
from recount.scoring.statistics import image_error, paired_difference

NAN = math.nan


def finding(low: float, high: float, *seeds: float, p: float = 0.001, n: int = 100) -> Finding:
    return Finding((low + high) / 2, low, high, p_value=p, n=n, seed_effects=seeds)


def verdict(evidence: Finding, p: float = 0.001) -> str:
    return decide(evidence, p, p, 1).verdict


# ------------------------------------------------------------------------------------------------------- one part


def test_without_training_the_interval_decides() -> None:
    assert verdict(finding(1, 3)) == "holds"
    assert verdict(finding(-3, -1)) == "contradicted"
    assert verdict(finding(-1, 3)) == "inconclusive"


def test_p_value_after_correction_can_take_a_verdict_away() -> None:
    decision = decide(finding(1, 3, p=0.01), 0.2, 0.2, 20)
    assert decision.verdict == "inconclusive"
    assert decision.direction == "for"
    assert "after correction for 20 tests" in decision.reason


def test_one_seed_holds_in_direction_only_and_says_so() -> None:
    decision = decide(finding(1, 3, 2.0), 0.001, 0.001, 1)
    assert decision.verdict == "holds in direction"
    assert decision.needed_seeds == 3
    assert "1 seed" in decision.reason


def test_one_seed_against_the_claim_does_not_contradict_it() -> None:
    decision = decide(finding(-3, -1, -2.0), 0.001, 0.001, 1)
    assert decision.verdict == "inconclusive"
    assert decision.direction == "against"


def test_three_seeds_that_agree_decide_both_ways() -> None:
    assert verdict(finding(1, 3, 1.9, 2.0, 2.1)) == "holds"
    assert verdict(finding(-3, -1, -1.9, -2.0, -2.1)) == "contradicted"


def test_three_seeds_that_scatter_hold_in_direction() -> None:
    decision = decide(finding(0.1, 3, 0.2, 2.0, 3.8), 0.001, 0.001, 1)
    assert decision.verdict == "holds in direction"
    assert decision.needed_seeds is not None
    assert decision.needed_seeds > 3


def test_seeds_that_disagree_leave_it_open() -> None:
    assert verdict(finding(0.1, 3, -1.0, 2.0, 3.8)) == "inconclusive"


def test_no_difference_at_all_is_inconclusive_and_no_number_decides() -> None:
    decision = decide(Finding(0, 0, 0, p_value=1, n=50), 1.0, 1.0, 1)
    assert decision.verdict == "inconclusive"
    assert decision.direction == ""
    assert decision.needed.startswith("no number would")


def test_one_image_has_no_interval_and_is_inconclusive() -> None:
    decision = decide(Finding(5, n=1), NAN, NAN, 1)
    assert decision.verdict == "inconclusive"
    assert "one image" in decision.reason


def test_printed_numbers_contradict_or_hold_in_direction() -> None:
    assert verdict(Finding(3, grade="printed"), NAN) == "holds in direction"
    assert verdict(Finding(-3, grade="printed"), NAN) == "contradicted"
    assert verdict(Finding(0, grade="printed"), NAN) == "inconclusive"
    assert verdict(Finding(3, 1, 5, grade="printed")) == "holds in direction"


def test_facts_hold_or_are_contradicted() -> None:
    assert verdict(Finding(0, region=(-math.inf, 0.5), grade="exact"), NAN) == "holds"
    assert verdict(Finding(2, region=(-math.inf, 0.5), grade="exact"), NAN) == "contradicted"


@pytest.mark.parametrize(
    ("effect", "seeds", "expected"),
    [
        (1, (), "holds"),
        (1, (1.0,), "holds in direction"),
        (7, (7.0, 6.0, 8.0), "holds in direction"),
        (20, (20.0, 19.0, 21.0), "contradicted"),
        (20, (20.0,), "inconclusive"),
    ],
)
def test_number_within_tolerance_close_or_beyond(effect: float, seeds: tuple[float, ...], expected: str) -> None:
    evidence = Finding(effect, region=(-5, 5), nearly=(-10, 10), grade="value", seed_effects=seeds)
    assert verdict(evidence, NAN) == expected


def test_cost_ratio_without_interval_is_decided_by_its_runs() -> None:
    region = (-math.inf, 0.67)
    assert verdict(Finding(0.5, region=region, seed_effects=(0.5,)), NAN) == "holds in direction"
    assert verdict(Finding(0.5, region=region, seed_effects=(0.49, 0.5, 0.51)), NAN) == "holds"
    assert verdict(Finding(0.9, region=region, seed_effects=(0.89, 0.9, 0.91)), NAN) == "contradicted"


# ----------------------------------------------------------------------------------------------------- combination


def test_claim_holds_only_if_every_part_does() -> None:
    def together(*names: str) -> str:
        return combine([Decision(name) for name in names]).verdict  # type: ignore[arg-type]

    assert together("holds", "holds") == "holds"
    assert together("holds", "holds in direction") == "holds in direction"
    assert together("holds", "not tested") == "holds in direction"
    assert together("holds", "inconclusive") == "inconclusive"
    assert together("holds", "contradicted", "inconclusive") == "contradicted"
    assert together("not tested", "not tested") == "not tested"


def test_combined_claim_needs_what_its_hardest_part_needs() -> None:
    parts = [Decision("inconclusive", needed_images=200), Decision("inconclusive", needed_images=900, needed_seeds=4)]
    together = combine([*parts, Decision("holds")])
    assert (together.needed, together.needed_images, together.needed_seeds) == ("900 images and 4 seeds", 900, 4)
    hopeless = Decision("inconclusive", needed="no number would: the effect is exactly at the limit")
    assert combine([parts[0], hopeless]).needed.startswith("no number would")


# ---------------------------------------------------------------------------------------------------------- power


def test_number_of_images_needed_decides_four_times_of_five() -> None:
    rng = np.random.default_rng(5)
    small = Finding(1.0, -1.0, 3.0, p_value=0.3, n=25, image_error=5 / math.sqrt(25))
    needed = decide(small, 0.3, 0.3, 1).needed_images
    assert needed is not None
    effects = rng.normal(1.0, 5 / math.sqrt(needed), 4000)
    assert (effects / (5 / math.sqrt(needed)) > 1.96).mean() == pytest.approx(0.8, abs=0.02)


def test_more_tests_need_more_images() -> None:
    evidence = Finding(1.0, -1.0, 3.0, p_value=0.3, n=25)
    alone, among_twenty = (decide(evidence, 0.3, 0.3, family).needed_images for family in (1, 20))
    assert alone is not None
    assert among_twenty is not None
    assert among_twenty > alone


def test_number_of_seeds_needed_brings_the_t_interval_to_one_side() -> None:
    evidence = finding(0, 2, 0.0, 1.0, 2.0)
    seeds = seeds_needed(evidence, 1)
    assert seeds is not None
    assert seeds == 7  # t(6) * 1 / sqrt(7) = 0.925 < 1 <= t(5) * 1 / sqrt(6) = 1.049


# ----------------------------------------------------------------------------------------------------- simulations

PAPERS, CLAIMS, IMAGES = 500, 2, 40


@pytest.fixture
def fewer_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """Use 1,000 resamples and swaps instead of 10,000, so that 500 papers take seconds."""
    monkeypatch.setattr(statistics, "RESAMPLES", 1000)
    monkeypatch.setattr(statistics, "PERMUTATIONS", 1000)


def simulated(
    rng: np.random.Generator, effect: float, seeds: int, seed_spread: float, metric: Metric = MAE
) -> list[Decision]:
    """Judge one paper's claims: two arms whose errors differ by ``effect`` in the mean, as ``claims`` does."""
    findings = []
    for _ in range(CLAIMS):
        true = rng.integers(2, 200, IMAGES).astype(float)
        hardness = rng.gamma(2.0, 5.0, IMAGES)
        arms = []
        for shift in (effect, 0.0):
            level = shift + rng.normal(0, seed_spread, (max(seeds, 1), 1))
            errors = np.abs(hardness + level + rng.normal(0, 3, (max(seeds, 1), IMAGES)))
            arms.append(true + rng.choice([-1, 1], errors.shape) * errors)
        result = paired_difference(metric, true, *arms)
        each = [metric(true, a) - metric(true, b) for a, b in zip(*arms, strict=True)] if seeds else []
        findings.append(
            Finding(
                effect=result.value,
                low=result.low,
                high=result.high,
                p_value=result.p_value,
                n=IMAGES,
                seed_effects=tuple(each),
                image_error=image_error(metric, true, *arms),
            )
        )
    return decide_all(findings)


def share_decided(effect: float, seeds: int, seed_spread: float, *names: str, metric: Metric = MAE) -> tuple[int, int]:
    """Return how many of all simulated claims, and how many papers with any claim, have one of the verdicts."""
    rng = np.random.default_rng(20240301)
    papers = [simulated(rng, effect, seeds, seed_spread, metric) for _ in range(PAPERS)]
    decided = [[decision.verdict in names for decision in paper] for paper in papers]
    return int(np.sum(decided)), int(np.any(decided, axis=1).sum())


def at_most_nominal(hits: int, trials: int) -> bool:
    """Return whether so many hits are within binomial error (99.9 %) of a share of 5 %."""
    return hits <= binom.ppf(0.999, trials, 0.05)


@pytest.mark.usefixtures("fewer_draws")
@pytest.mark.parametrize("metric", [MAE, RMSE], ids=lambda metric: metric.name)
def test_without_an_effect_few_papers_have_a_decided_claim(metric: Metric) -> None:
    """Among the claims of a paper the correction holds the level for the whole paper."""
    claims, papers = share_decided(0.0, 0, 0.0, "holds", "contradicted", metric=metric)
    assert at_most_nominal(papers, PAPERS)
    assert at_most_nominal(claims, PAPERS * CLAIMS)


@pytest.mark.usefixtures("fewer_draws")
def test_seeds_that_scatter_decide_no_more_than_chance_allows() -> None:
    """Images alone would decide many of these: the runs differ, the method does not."""
    claims, papers = share_decided(0.0, 3, 4.0, "holds", "contradicted")
    assert at_most_nominal(papers, PAPERS)
    assert at_most_nominal(claims, PAPERS * CLAIMS)


@pytest.mark.usefixtures("fewer_draws")
def test_one_seed_never_decides() -> None:
    assert share_decided(0.0, 1, 4.0, "holds", "contradicted") == (0, 0)


@pytest.mark.usefixtures("fewer_draws")
@pytest.mark.parametrize("seeds", [0, 3])
def test_big_effect_is_found_in_more_than_95_percent(seeds: int) -> None:
    claims, _ = share_decided(12.0, seeds, 0.5, "holds")
    assert claims > 0.95 * PAPERS * CLAIMS


@pytest.mark.usefixtures("fewer_draws")
def test_big_effect_the_other_way_contradicts_in_more_than_95_percent() -> None:
    claims, _ = share_decided(-8.0, 3, 0.5, "contradicted")
    assert claims > 0.95 * PAPERS * CLAIMS


def test_ties_in_accuracy_decide_nothing() -> None:
    true = np.arange(30.0)
    result = paired_difference(ACCURACY, true, true + 1, true - 1)
    evidence = Finding(result.value, result.low, result.high, p_value=result.p_value, n=30)
    assert decide_all([evidence])[0].verdict == "inconclusive"

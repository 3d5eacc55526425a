"""How often the real ``judge`` decides what is not there, and finds what is: a small part of ``make simulate``.

Bounds are binomial at 99.9 %, so that a test of a rule that keeps its promise fails once in a thousand changes.
"""

from pathlib import Path

import pytest
from levels import smallest_p
from scipy.stats import binom
from simulated import COMPARED, REACHED, World, over_looks, rates, simulated_project

from recount.judging.verdicts import nominal_level

PAPERS = 150
TRIAL = 500  # papers behind each share of the trial with which the rules were designed


def decided(found: dict[str, int]) -> int:
    return found.get("holds", 0) + found.get("does not hold", 0)


def at_most(hits: int, share: float, papers: int = PAPERS) -> bool:
    return hits <= binom.ppf(0.999, papers, share)


def at_least(hits: int, share: float, papers: int = PAPERS) -> bool:
    return hits >= binom.ppf(0.001, papers, share)


@pytest.mark.parametrize(
    "world",
    [
        World(sd=0.1),
        World(sd=0.1, scatter=2, images=334),
        World(sd=0.1, scatter=5),
        World(sd=0.1, pool=False, errors="normal, half in both arms"),
        World(sd=0.1, other=8, errors="all repeats", hardness="alike"),
        World(images=20, errors="seven of ten are 0"),
        World(images=100, errors="normal, half repeats", hardness="Pareto 1.5"),
        World(images=100, errors="constant", hardness="alike", skewed=1.3),
    ],
    ids=str,
)
def test_without_an_effect_at_most_five_per_cent_are_decided(tmp_path: Path, world: World) -> None:
    assert at_most(decided(rates(simulated_project(tmp_path, [COMPARED]), world, 3, PAPERS)), 0.05)


@pytest.mark.parametrize("share", [0.02, 0.5, 0.95])
def test_of_accuracies_without_an_effect_no_more_are_decided(tmp_path: Path, share: float) -> None:
    project = simulated_project(tmp_path, [COMPARED | {"expect": "higher accuracy"}])
    assert at_most(decided(rates(project, World(images=20, sd=0.3, share=share), 3, PAPERS)), 0.05)


def test_three_looks_together_decide_no_more(tmp_path: Path) -> None:
    project = simulated_project(tmp_path, [COMPARED], looks=(3, 5, 8))
    assert at_most(decided(over_looks(project, World(sd=0.1, scatter=2), (3, 5, 8), PAPERS)[-1]), 0.05)


@pytest.mark.parametrize("looks", [2, 3, 5])
@pytest.mark.parametrize(("pool", "scatter"), [(0, 1.0), (12, 1.0), (40, 2.0)])
def test_levels_of_looks_share_the_five_per_cent(looks: int, pool: int, scatter: float) -> None:
    """Where nothing but seeds scatter, the hardest case for looks; over 40,000 draws."""
    found = smallest_p(pool, scatter, 0.0, 40_000)[looks - 1]
    assert (found <= nominal_level(looks)).mean() <= binom.ppf(0.999, 40_000, 0.05) / 40_000


@pytest.mark.parametrize(
    ("world", "seeds", "share"),
    [
        (World(0.2, 334, 0.03), 3, 0.58),
        (World(0.2, 334, 0.03), 5, 0.74),
        (World(0.2, 334, 0.10), 3, 0.33),
        (World(0.2, 334, 0.10), 5, 0.49),
    ],
    ids=str,
)
def test_power_of_one_look_is_that_of_the_trial(tmp_path: Path, world: World, seeds: int, share: float) -> None:
    """Within what both numbers of papers leave open."""
    hits = rates(simulated_project(tmp_path, [COMPARED]), world, seeds, PAPERS).get("holds", 0)
    assert at_least(hits, binom.ppf(0.01, TRIAL, share) / TRIAL)


def test_power_grows_with_seeds(tmp_path: Path) -> None:
    project = simulated_project(tmp_path, [COMPARED])
    found = [rates(project, World(0.2, 334, 0.10), seeds, 100).get("holds", 0) for seeds in (3, 5, 10, 20)]
    assert found == sorted(set(found))


@pytest.mark.parametrize(
    ("worse", "seeds", "verdict", "low", "high"),
    [
        (0.0, 3, "does not hold", 0.0, 0.05),
        (0.2, 5, "holds", 0.0, 0.05),
        (0.5, 5, "does not hold", 0.95, 1.0),
        (-0.2, 5, "does not hold", 0.0, 0.0),
    ],
)
def test_printed_number(tmp_path: Path, worse: float, seeds: int, verdict: str, low: float, high: float) -> None:
    project = simulated_project(tmp_path, [REACHED])
    world = World(-worse, sd=0.03, printed=True, errors="all repeats")
    hits = rates(project, world, seeds, PAPERS).get(verdict, 0)
    assert at_least(hits, low)
    assert at_most(hits, high)


def test_printed_number_is_found_more_often_with_more_seeds(tmp_path: Path) -> None:
    project, world = simulated_project(tmp_path, [REACHED]), World(sd=0.10, printed=True, errors="all repeats")
    found = [rates(project, world, seeds, 100).get("holds", 0) for seeds in (3, 5, 10, 20)]
    assert found == sorted(set(found))


def test_one_seed_never_decides(tmp_path: Path) -> None:
    assert set(rates(simulated_project(tmp_path, [COMPARED]), World(0.5), 1, 50)) <= {"leans for", "undecided"}


def test_one_seed_leans_no_more_than_it_may_without_an_effect(tmp_path: Path) -> None:
    found = rates(simulated_project(tmp_path, [COMPARED]), World(sd=0.1), 1, PAPERS)
    assert at_most(found.get("leans for", 0), 0.05)
    assert at_most(found.get("leans against", 0), 0.05)


@pytest.mark.parametrize("weights", ["last", "best_on_test"])
def test_best_of_ten_epochs_on_test_images_never_holds_without_an_effect(tmp_path: Path, weights: str) -> None:
    """Against a fixed baseline, in the headline: of the last epoch as chance has it, of weights so chosen never."""
    project = simulated_project(tmp_path, [COMPARED | {"weights": weights, "against": "old/fixed"}])
    found = rates(project, World(sd=0.03, images=334, epochs=10), 3, PAPERS)
    assert at_most(found.get("holds", 0), 0.025 if weights == "last" else 0.0)
    assert weights == "last" or found.get("leans for", 0) > 0.1 * PAPERS  # so much does choosing alone gain

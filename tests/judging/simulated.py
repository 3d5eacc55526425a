"""Simulated papers that the real ``judge`` judges: only the files of predictions are replaced, by arrays.

A picture is as hard as a log-normal number says (sd 1.3: some are thirty times as hard as others). The signed error of
run i on picture j is normal, with the picture's hardness times the run's level as its standard deviation; its absolute
value is counted. That is the model with the fewest assumptions: nothing beyond hardness and level makes two runs err
alike. ``ERRORS`` has the family around it: errors of which a share repeats with every run of an arm, or with both arms,
other tails, errors that are mostly 0 or rounded. Levels scatter by ``sd`` times ``scatter`` on the log scale, those of
the pool (one other variant of the same system, 13 seeds) by ``sd``.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
from scipy import special, stats

from projects import experiment, write_project
from recount.judging.judge import Case, cases
from recount.judging.looks import LookBook
from recount.judging.scatter import welch
from recount.judging.verdicts import ALPHA, TWO_SEEDS_DF, Decision, combine
from recount.metrics import Floats
from recount.results.predictions import Predictions
from recount.results.reason import Missing
from recount.scoring.measured import Measurements
from recount.settings.project import Project, load

HARDNESS_SD = 1.3
POOL_SEEDS, MOST_SEEDS = 13, 20
PRINTED = 100.0
BENCHMARK = "shown/test"
COMPARED = {"id": "C", "says": "s", "arm": "new/full", "against": "old/full", "on": BENCHMARK, "expect": "lower mae"}
REACHED: dict[str, Any] = {
    "id": "N",
    "says": "s",
    "arm": "new/full",
    "on": BENCHMARK,
    "test": "value",
    "published": PRINTED,
}
REACHED |= {"expect": "lower mae"}


def simulated_project(root: Path, claims: Sequence[dict[str, Any]], looks: Sequence[int] = (3,)) -> Project:
    """Return a project of a paper with these claims about new/full and old/full, and new/other for the pool."""
    data: dict[str, Any] = {"trained_on": "shown/train", "evaluated_on": [BENCHMARK]}
    rows = ["new/full", "new/other", "old/full", "old/fixed"]
    write_project(
        root,
        experiments={
            "new": experiment("New", {"full": "full", "other": {"label": "other", "settings": {"width": 1}}}, **data),
            "old": experiment(
                "Old", {"full": "full", "fixed": {"label": "fixed", "settings": {"train": False}}}, **data
            ),
        },
        papers={"p": {"tables": {"t": {"title": "T", "on": BENCHMARK, "rows": rows}}, "claims": list(claims)}},
        suite={
            "title": "simulated",
            "comparable": True,
            "benchmarks": {
                "shown/train": {"dataset": "shown", "split": "train"},
                "shown/test": {"dataset": "shown", "split": "test"},
            },
            "systems": {"new": {}, "old": {}},
        },
        config={"suite": "simulated", "seeds": [*range(MOST_SEEDS)], "looks": list(looks)},
    )
    return load(root)


Errors = Callable[[np.random.Generator, int, Floats], Floats]


def signed(repeats: float, both: float = 0.0) -> Errors:
    """Return normal errors [seeds, n]: of their variance a share repeats in every run of an arm, one in both arms."""

    def errors(rng: np.random.Generator, seeds: int, common: Floats) -> Floats:
        n, anew = len(common), math.sqrt(1 - repeats - both)
        of_arm = math.sqrt(repeats) * rng.standard_normal(n) + math.sqrt(both) * common
        found: Floats = np.abs(of_arm + anew * rng.standard_normal((seeds, n)))
        return found

    return errors


def _log_normal(rng: np.random.Generator, seeds: int, common: Floats) -> Floats:
    n = len(common)
    found: Floats = np.exp(0.35 * rng.standard_normal(n) + 0.5 * rng.standard_normal((seeds, n)))
    return found


#: relative errors [seeds, n] by name, from a number for each picture that is common to both arms
ERRORS: Mapping[str, Errors] = {
    "normal": signed(0.0),
    "normal, a quarter repeats": signed(0.25),
    "normal, half repeats": signed(0.5),
    "normal, three quarters repeat": signed(0.75),
    "normal, half in both arms": signed(0.0, 0.5),
    "exponential": lambda rng, seeds, common: rng.standard_exponential((seeds, len(common))),
    "log-normal, partly repeated": _log_normal,
    "all repeats": lambda rng, seeds, common: np.ones((seeds, 1)) * np.abs(rng.standard_normal(len(common))),
    "seven of ten are 0": lambda rng, seeds, common: signed(0.25)(rng, seeds, common) * (rng.random(len(common)) > 0.7),
    "constant": lambda rng, seeds, common: np.ones((seeds, len(common))),
}
#: how hard pictures are
HARDNESS: Mapping[str, Callable[[np.random.Generator, int], Floats]] = {
    "log-normal": lambda rng, n: np.exp(HARDNESS_SD * rng.standard_normal(n)),
    "Pareto 1.5": lambda rng, n: 1 + rng.pareto(1.5, n),
    "alike": lambda rng, n: np.ones(n),
}


@dataclass(frozen=True)
class World:
    """How a simulated paper comes about."""

    effect: float = 0.0  # share by which the first arm is better
    images: int = 100
    sd: float = 0.03
    scatter: float = 1.0
    pool: bool = True
    epochs: int = 1  # of which the best is chosen on the test images, in selection best_on_test
    printed: bool = False  # the claim is about a printed number
    errors: str = "normal"
    hardness: str = "log-normal"
    other: int = 0  # seeds of the second arm; 0: as many as of the first
    unlike: float = 1.0  # how much more the second arm scatters than the first
    skewed: float = 0.0  # sd of the log-normal factors, of mean 1, of the first arm's errors alone
    share: float = 0.0  # the expected accuracy of both arms, where the claim is about that


class Drawn(Measurements):
    """Measurements of a project whose predictions are arrays: by run, then by selection."""

    def __init__(self, project: Project) -> None:
        super().__init__(project)
        self.tables: dict[str, dict[str, Predictions]] = {}

    def predictions(self, run_id: str, benchmark: str) -> dict[str, Predictions]:
        """Return the arrays of a run."""
        if run_id not in self.tables:
            raise Missing("not run", "prediction was not run")
        return self.tables[run_id]

    def put(self, arm: str, errors: Floats, ids: tuple[str, ...], selection: str = "last") -> None:
        """Add predictions of an arm from its errors [seeds, n]."""
        true = np.full(len(ids), 1e6)
        for seed, row in enumerate(errors):
            entry = self.tables.setdefault(f"{arm}/seed{seed}", {})
            entry[selection] = Predictions(ids, ids, true, true + row)


class Draws:
    """What is drawn for one simulated paper; with the same numbers, more seeds have the runs of fewer among theirs."""

    def __init__(self, world: World, *numbers: int) -> None:
        self.world, self.numbers = world, numbers
        rng = self.rng(0)
        self.hardness, self.common = HARDNESS[world.hardness](rng, world.images), rng.standard_normal(world.images)

    def rng(self, what: int) -> np.random.Generator:
        """Return the generator of one thing."""
        return np.random.default_rng([*self.numbers, what])

    def arm(self, what: int, level: float, sd: float, seeds: int) -> Floats:
        """Return the errors [seeds, n] of an arm; of accuracies 1 where a run is wrong."""
        scatter = sd * self.rng(10 * what + 1).standard_normal((seeds, 1))
        if self.world.share:
            return _wrong(self.rng(10 * what), self.world, sd, scatter, self.common)
        errors: Floats = ERRORS[self.world.errors](self.rng(10 * what), seeds, self.common)
        return errors * self.hardness * level * np.exp(scatter)


def papers(project: Project, world: World, seeds: int, number: int, stream: int = 1) -> Iterator[Drawn]:
    """Yield simulated papers; with the same ``stream`` those of more seeds have the runs of fewer among theirs."""
    ids = tuple(f"s{k}" for k in range(world.images))
    for draw in range(number):
        draws, drawn = Draws(world, stream, draw), Drawn(project)
        spread = world.sd * world.scatter
        first = draws.arm(1, 1 - world.effect, spread, seeds + world.printed)
        second = draws.arm(2, 1.0, spread * world.unlike, world.other or seeds)
        if world.skewed:
            first *= np.exp(world.skewed * draws.rng(3).standard_normal(world.images) - world.skewed**2 / 2)
        # the printed number is one more run of the recipe as it was: the first row, whose MAE becomes PRINTED
        scale = PRINTED * (1 - world.effect) / first[0].mean() if world.printed else 1.0
        first = scale * first[world.printed :]
        drawn.put("new/full", first, ids)
        drawn.put("old/full", second, ids)
        if world.pool:
            drawn.put("new/other", draws.arm(4, 1.0, world.sd, POOL_SEEDS), ids)
        if world.epochs > 1:
            drifted = np.exp(0.05 * draws.rng(5).standard_normal((world.epochs, 1, 1)))
            chosen = (first * drifted).mean(axis=2).argmin(axis=0)  # of each seed
            best = np.stack([first[k] * drifted[epoch, 0] for k, epoch in enumerate(chosen)])
            drawn.put("new/full", best, ids, "best_on_test")
            drawn.put("old/fixed", second.mean(axis=0, keepdims=True), ids)
        yield drawn


def _wrong(rng: np.random.Generator, world: World, sd: float, scatter: Floats, common: Floats) -> Floats:
    """Return 1 for each picture that a run has wrong [seeds, n]: where hardness, arm and run together pass a limit."""
    n, seeds = len(common), len(scatter)
    apart = 0.6 * (0.7 * rng.standard_normal(n) + math.sqrt(0.51) * rng.standard_normal((seeds, n)))
    found: Floats = 0.8 * common + apart + scatter
    return (found > NormalDist().inv_cdf(world.share) * math.sqrt(1 + sd**2)).astype(np.float64)


def headline(drawn: Drawn, book: LookBook | None = None) -> tuple[Case, Decision]:
    """Return the headline case of the one claim, as ``judge`` decides it, and its decision."""
    looks = book or LookBook(Path("none"), drawn.project.config.looks)
    (case,) = [case for case in cases(drawn, looks) if case.headline and case.evidence == "trained"]
    return case, combine(case.decisions)


def rates(project: Project, world: World, seeds: int, number: int, stream: int = 1) -> dict[str, int]:
    """Return how many of so many simulated papers get each decision."""
    found: dict[str, int] = {}
    for drawn in papers(project, world, seeds, number, stream):
        decided = headline(drawn)[1].decided
        found[decided] = found.get(decided, 0) + 1
    return found


def of_trial(case: Case) -> str:
    """Return what the rule of the trial says with which the rules were designed, in one look at 5 %.

    One s² for both arms; others join if p > 0.2; no correction for skewness; what runs draw anew counts twice.
    """
    finding = case.parts[0].finding
    assert finding is not None
    assert finding.n is not None
    s2, df, pool = float(finding.own.shared), finding.own.shared_df, finding.pool
    if pool.df and special.fdtrc(df, pool.df, s2 / pool.variance) > 0.2:
        s2, df = (df * s2 + pool.df * pool.variance) / (df + pool.df), df + pool.df
    variance, both = welch(s2 * finding.seed_weight, df, finding.image_variance, finding.n - 1)
    beyond = abs(finding.effect) > stats.t.ppf(1 - ALPHA / 2, both) * np.sqrt(variance)
    if not beyond or finding.fewest_seeds < 2 or (finding.fewest_seeds == 2 and df < TWO_SEEDS_DF):
        return "undecided"
    return "holds" if finding.effect > 0 else "does not hold"


def rates_of_both(project: Project, world: World, seeds: int, number: int) -> tuple[Counter[str], Counter[str]]:
    """Return how many of the same simulated papers get each decision by the rules, and by the rule of the trial."""
    ours, first = Counter[str](), Counter[str]()
    for drawn in papers(project, world, seeds, number):
        case, decision = headline(drawn)
        ours[decision.decided] += 1
        first[of_trial(case)] += 1
    return ours, first


def over_looks(project: Project, world: World, looks: Sequence[int], number: int) -> list[dict[str, int]]:
    """Return how many papers have been decided, and how, by each of the looks, each with more seeds of the same."""
    every = [papers(project, world, seeds, number) for seeds in looks]
    found: list[dict[str, int]] = [{} for _ in looks]
    for same in zip(*every, strict=True):
        book, said = LookBook(Path("none"), looks), "undecided"
        for drawn, counts in zip(same, found, strict=True):
            decided = headline(drawn, book)[1].decided
            said = decided if said == "undecided" and decided in ("holds", "does not hold") else said
            counts[said] = counts.get(said, 0) + 1
    return found

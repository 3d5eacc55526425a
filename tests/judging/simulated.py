"""Simulated papers that the real ``judge`` judges: only the files of predictions are replaced, by arrays.

A picture is as hard as a log-normal number says (sd 1.3: some are thirty times as hard as others). The error of run i
on picture j is the picture's hardness times the run's level times exp(0.35 u_j + 0.5 v_ij), u drawn once for an arm, v
for each run. Both numbers were chosen so that the power is that of the trial with which the rules were designed, whose
error model is not stated. Levels scatter by ``sd`` times ``scatter`` on the log scale, those of the pool (one other
variant of the same system, 13 seeds) by ``sd``.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from projects import experiment, write_project
from recount.judging.judge import Case, cases
from recount.judging.looks import LookBook
from recount.judging.verdicts import Decision, combine
from recount.metrics import Floats
from recount.results.predictions import Predictions
from recount.results.reason import Missing
from recount.scoring.measured import Measurements
from recount.settings.project import Project, load

HARDNESS_SD, REPEATED, ANEW = 1.3, 0.35, 0.5
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
        true = np.full(len(ids), 1000.0)
        for seed, row in enumerate(errors):
            entry = self.tables.setdefault(f"{arm}/seed{seed}", {})
            entry[selection] = Predictions(ids, ids, true, true + row)


def levels(
    rng: np.random.Generator, hardness: Floats, level: float, sd: float, seeds: int, anew: float = ANEW
) -> Floats:
    """Return the errors [seeds, n] of an arm; ``anew``: how much of a picture's error each run draws anew."""
    repeated = REPEATED * rng.standard_normal(len(hardness))
    each = np.exp(repeated + anew * rng.standard_normal((seeds, len(hardness)))) * hardness
    errors: Floats = level * each * np.exp(sd * rng.standard_normal((seeds, 1)))
    return errors


def papers(project: Project, world: World, seeds: int, number: int, stream: int = 1) -> Iterator[Drawn]:
    """Yield simulated papers; with the same ``stream`` those of more seeds have the runs of fewer among theirs."""
    ids = tuple(f"s{k}" for k in range(world.images))
    for draw in range(number):
        rng = np.random.default_rng([stream, draw])
        drawn = Drawn(project)
        hardness = np.exp(HARDNESS_SD * rng.standard_normal(world.images))
        spread = world.sd * world.scatter
        anew = 0.0 if world.printed else ANEW  # runs then scatter by exactly sd
        arms = [levels(rng, hardness, level, spread, MOST_SEEDS + 1, anew) for level in (1 - world.effect, 1.0)]
        # the printed number is one more run of the recipe as it was: the last row, whose MAE becomes PRINTED
        scale = PRINTED * (1 - world.effect) / arms[0][-1].mean() if world.printed else 1.0
        arms = [scale * arm[:seeds] for arm in arms]
        drawn.put("new/full", arms[0], ids)
        drawn.put("old/full", arms[1], ids)
        if world.pool:
            drawn.put("new/other", levels(rng, hardness, 1.0, world.sd, POOL_SEEDS, anew), ids)
        if world.epochs > 1:
            drifted = np.exp(0.05 * rng.standard_normal((world.epochs, 1, 1)))
            chosen = (arms[0] * drifted).mean(axis=2).argmin(axis=0)  # of each seed
            best = np.stack([arms[0][k] * drifted[epoch, 0] for k, epoch in enumerate(chosen)])
            drawn.put("new/full", best, ids, "best_on_test")
            drawn.put("old/fixed", arms[1].mean(axis=0, keepdims=True), ids)
        yield drawn


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


def over_looks(project: Project, world: World, looks: Sequence[int], number: int) -> int:
    """Return how many papers are decided at any of the looks, each with more seeds of the same runs."""
    every = [papers(project, world, seeds, number) for seeds in looks]
    hits = 0
    for same in zip(*every, strict=True):
        book = LookBook(Path("none"), looks)
        hits += any(headline(drawn, book)[1].decided in ("holds", "does not hold") for drawn in same)
    return hits


def without_pool(world: World) -> World:
    """Return the same world without another variant to pool with."""
    return replace(world, pool=False)

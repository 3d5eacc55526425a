"""The arms of a claim: which runs stand for them, and what these predicted on the same images.

An arm is ``system/variant`` of a paper, or one of ``TRIVIAL_ARMS``. Retrained arms (``trained``) and released weights
(``checkpoint``) are separate evidence; a constant belongs to both. Seeds are kept apart, and each arm has all of its
own: run k of one arm and run k of another share nothing but a number.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from typing import Literal, TypeVar

import numpy as np

from recount.metrics import Floats, Metric
from recount.results.predictions import Predictions
from recount.results.reason import Missing
from recount.results.submissions import SUBMITTED
from recount.scoring.measured import Measurements, not_finite_text
from recount.scoring.statistics import best_constant
from recount.settings.paper import TRIVIAL_ARMS, Paper
from recount.settings.project import Run

Evidence = Literal["trained", "checkpoint", "published"]
LAST = "last"
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Arm:
    """An arm's predictions on the samples of a benchmark."""

    name: str  # as the claim has it, or the released variant that stands for it
    ids: tuple[str, ...]
    true: Floats
    predicted: Floats  # [seeds, n]; one row where no training is involved
    seeds: tuple[int, ...] = ()  # of the rows; () where no training is involved
    notes: tuple[str, ...] = ()  # what must be said of these predictions
    own_true: "Floats | None" = None  # of its own preparation, where ``true`` are the counts before any

    def levels(self, metric: Metric) -> Floats:
        """Return a metric of each row of the predictions."""
        return np.array([metric(self.true, row) for row in self.predicted])

    def on(self, ids: Sequence[str]) -> "Arm":
        """Return the arm on some of its samples."""
        if tuple(ids) == self.ids:
            return self
        places = {name: place for place, name in enumerate(self.ids)}
        columns = [places[name] for name in ids]
        own = None if self.own_true is None else self.own_true[columns]
        return replace(
            self, ids=tuple(ids), true=self.true[columns], predicted=self.predicted[:, columns], own_true=own
        )


class Arms:
    """The arms of one paper's claims, from what its runs predicted."""

    def __init__(self, measurements: Measurements, paper: Paper) -> None:
        self.measurements, self.paper = measurements, paper
        self.project = measurements.project
        self.arm = cache(self._arm)

    def _released(self, arm: str) -> str | None:
        system, _, variant = arm.partition("/")
        experiment = self.project.experiments.get(system)
        for name, entry in experiment.variants.items() if experiment else ():
            if entry.checkpoint and variant in (entry.stands_for, name):
                return f"{system}/{name}"
        return None

    def are_released(self, arms: Sequence[str]) -> bool:
        """Return whether released weights stand for some of these arms, and the others look at no picture."""
        looking = [arm for arm in arms if arm not in TRIVIAL_ARMS]
        return bool(looking) and all(self._released(arm) for arm in looking)

    def of_evidence(self, arm: str, evidence: Evidence) -> str:
        """Return the arm that has this evidence; ``Missing`` where none has."""
        system, _, variant = arm.partition("/")
        if system == SUBMITTED:
            return arm
        if arm in self.paper.quoted:
            raise Missing("skipped", f"{arm}: {self.paper.quoted[arm].quoted}")
        checkpoint = self.project.experiments[system].variants[variant].checkpoint
        if evidence == "trained" and not checkpoint:
            return arm
        if evidence == "trained":
            raise Missing("no counterpart", f"{arm} is released weights, not trained here")
        released = self._released(arm)
        if released is None:
            raise Missing("no counterpart", f"no released weights of {arm} are known")
        return released

    def selections(self, arm: str, benchmark: str, evidence: Evidence) -> set[str]:
        """Return the selections that an arm has predictions of."""
        if arm in TRIVIAL_ARMS:
            return set()
        found: set[str] = set()
        with suppress(Missing):
            for run in self.runs(self.of_evidence(arm, evidence)):
                with suppress(Missing):
                    if benchmark in run.benchmarks:
                        found |= set(self.measurements.predictions(run.id, benchmark))
        return found

    def runs(self, arm: str) -> list[Run]:
        """Return an arm's runs, one for each seed; ``Missing`` where this suite has none."""
        system, _, variant = arm.partition("/")
        runs = self.measurements.runs.get((system, variant))
        if not runs:
            raise Missing("skipped", f"{arm}: {self.project.not_run(system, variant)}")
        return runs

    def of_each_seed(self, name: str, read: Callable[[Run], T], runs: Sequence[Run] | None = None) -> dict[int, T]:
        """Return what there is of an arm's runs by seed; the first reason as ``Missing`` where there is nothing."""
        found: dict[int, T] = {}
        absent: list[Missing] = []
        for run in self.runs(name) if runs is None else runs:
            try:
                found[run.seed] = read(run)
            except Missing as missing:
                absent.append(missing)
        if not found:
            raise absent[0].of(name)
        return found

    def _arm(self, arm: str, benchmark: str, selection: str, evidence: Evidence) -> Arm:
        name = self.of_evidence(arm, evidence)
        if name in (submitted := self.measurements.submitted(benchmark)):
            return _joined(name, {0: self.measurements.submission(submitted[name])[1]}, fixed=True, wanted=1)
        runs = self.runs(name)
        if benchmark not in self.project.stand_ins:
            raise Missing("no counterpart", self.project.why_no_data(benchmark))
        if benchmark not in runs[0].benchmarks:
            raise Missing("no counterpart", f"{name} is not evaluated on {benchmark}")
        fixed = is_fixed(runs[0])
        wanted = LAST if fixed else selection

        def table_of(run: Run) -> Predictions:
            table = self.measurements.predictions(run.id, benchmark).get(wanted)
            if table is None:
                raise Missing("undefined", f"no model was chosen by {selection}")
            return table

        return _joined(name, self.of_each_seed(name, table_of, runs[:1] if fixed else runs), fixed, len(runs))

    def _trivial(self, arm: str, beside: Arm, benchmark: str, run: Run | None) -> Arm:
        if arm != "prompt_blind":
            value = best_constant(beside.true) if arm == "best_constant" else self._constant(arm, run)
            return Arm(arm, beside.ids, beside.true, np.full((1, len(beside.ids)), value))
        if run is None:
            raise Missing("no counterpart", f"{arm}: {beside.name} is no run of this suite")
        samples = self.measurements.samples(run.benchmarks[benchmark])
        majorities = {s.id: float(s.attributes["majority_count"]) for s in samples if "majority_count" in s.attributes}
        without = [name for name in beside.ids if name not in majorities]
        if without:
            what = "does not say what the majority of its picture is (attribute majority_count)"
            raise Missing("undefined", f"{without[0]} {what}")
        return Arm(arm, beside.ids, beside.true, np.array([[majorities[name] for name in beside.ids]]))

    def _constant(self, arm: str, run: Run | None) -> float:
        if arm in ("zero", "one"):
            return float(arm == "one")
        if run is None or run.training is None:
            raise Missing(
                "no counterpart",
                f"{arm}: {f'{run.system}/{run.variant}' if run else SUBMITTED} has no training counts here",
            )
        counts = self.training_counts(run)
        return float(np.mean(counts) if arm == "training_mean" else np.median(counts))

    def training_counts(self, run: Run) -> Floats:
        """Return the true counts of what a run is trained on; pairs that do not count have none."""
        if run.training is None:
            raise Missing("no counterpart", f"{run.system}/{run.variant} has no training counts here")
        counts = self.measurements.counts(run.training)
        counts = counts[~np.isnan(counts)]
        if not len(counts):
            raise Missing("undefined", f"{run.system}/{run.variant}: no training sample has a count")
        return counts

    def pair(self, better: str, worse: str, benchmark: str, selection: str, evidence: Evidence) -> tuple[Arm, Arm]:
        """Return two arms on the same samples, with the same true counts.

        Where their preparations drop or merge other points, that are the counts before any preparation.
        ``Missing``: one has no predictions, or they have no sample in common, or are of other data.
        """
        first, second = (
            None if arm in TRIVIAL_ARMS else self.arm(arm, benchmark, selection, evidence) for arm in (better, worse)
        )
        beside = first or second
        if beside is None:
            raise Missing("undefined", "two trivial arms are not compared")
        run, other = (
            self.runs(arm.name)[0] if arm and not arm.name.startswith(f"{SUBMITTED}/") else None
            for arm in (beside, second)
        )
        if first and second and run and other and run.evaluation_id == other.evaluation_id:
            same = f"{first.name} and {second.name} are the same run in suite {self.project.suite.name}"
            raise Missing("no counterpart", same)
        first = first or self._trivial(better, beside, benchmark, run)
        pair = _aligned(first, second or self._trivial(worse, beside, benchmark, run))
        if (pair[0].true == pair[1].true).all():
            return pair
        left, right = (self._unprepared(arm, benchmark) for arm in pair)
        if (left.true != right.true).any():
            place = int((left.true != right.true).argmax())
            said = f"{left.true[place]:g} for {left.name} and {right.true[place]:g} for {right.name}"
            raise Missing("undefined", f"{left.ids[place]}: its true count before preparation is {said}")
        return left, right

    def _unprepared(self, arm: Arm, benchmark: str) -> Arm:
        """Return an arm with the true counts before preparation."""
        if arm.name.startswith(f"{SUBMITTED}/"):
            raise Missing("undefined", f"{arm.name} was asked on pictures that are prepared in another way")
        counts = self.measurements.original_counts(self.runs(arm.name)[0].benchmarks[benchmark])
        if without := [name for name in arm.ids if name not in counts]:
            raise Missing("undefined", f"{arm.name}: {without[0]} is not in the prepared data any more")
        return replace(arm, true=np.array([counts[name] for name in arm.ids]), own_true=arm.true)


def is_fixed(run: Run) -> bool:
    """Return whether a run's predictions do not depend on its seed: nothing is trained in it."""
    return run.checkpoint is not None or run.settings.get("train") is False


def _joined(name: str, tables: dict[int, Predictions], fixed: bool, wanted: int) -> Arm:
    """Return the arm of several seeds' predictions over the samples that all of them have."""
    first = next(iter(tables.values()))
    same = all(table.ids == first.ids for table in tables.values())
    common = set(first.ids).intersection(*(() if same else (table.ids for table in tables.values())))
    ids = [sample for sample in first.ids if sample in common]
    if not ids:
        raise Missing("undefined", f"{name}: its seeds were predicted on different samples")
    for table in tables.values():
        if table.not_finite:
            raise Missing("not finite", f"{name}: {not_finite_text(table)}")
    parts = [Arm(name, table.ids, table.true, table.predicted[None]).on(ids) for table in tables.values()]
    true, predicted = parts[0].true, np.concatenate([part.predicted for part in parts])
    if any((part.true != true).any() for part in parts):
        raise Missing("undefined", f"{name}: its seeds were predicted against different true counts")
    notes = [f"{name}: {len(tables)} of {wanted} seeds"] if not fixed and len(tables) < wanted else []
    negative = int((predicted < 0).sum())
    if negative:
        notes.append(f"{name}: {negative} of {predicted.size} predictions are negative; they count as they are")
    if len(ids) > 1 and (np.ptp(predicted, axis=1) == 0).any():
        notes.append(f"{name} predicts {predicted[np.ptp(predicted, axis=1) == 0][0, 0]:.4g} for every image")
    return Arm(name, tuple(ids), true, predicted, () if fixed else tuple(tables), tuple(notes))


def _aligned(first: Arm, second: Arm) -> tuple[Arm, Arm]:
    common = set(first.ids) & set(second.ids)
    ids = [sample for sample in first.ids if sample in common]
    if not ids:
        raise Missing("undefined", f"{first.name} and {second.name} have no image in common")
    return first.on(ids), second.on(ids)

"""The marks of a table's scale: constant predictors, and what the annotation itself scores in its systems' forms.

Two forms lose something, whatever the network (both as CLIP-EBC and GigaCount make their targets, ``nn.bins``):

* ``dot_map``: points are rounded down to pixels of the prepared picture, those outside move to its border, and points
  of one pixel count once. A density map that spreads each point's mass inside the picture has the same sum.
* ``block_bins``: each block's count of that map (with ``coincident_points: add``, of the points) is replaced by the
  anchor of its bin, as a network that classifies every block without a mistake predicts. All blocks from the truncation
  on get the last anchor.

A network can be better than its own floor only where its mistakes cancel what the form loses. Systems that regress a
number, and those that answer with one of ten captions, have no such floor.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np

from recount.data.sample import Sample
from recount.metrics import METRICS, Floats, Metric
from recount.results.reason import Missing, Reason
from recount.results.scores import Score
from recount.scoring.measured import CONSTANT, Measured, Measurements
from recount.scoring.statistics import Interval, best_constant, bootstrap
from recount.settings.paper import Table
from recount.settings.project import Split

ORACLE = "oracle"  # the "system" of what the annotation itself scores; its cells are marked oracle
BIN_SETTINGS = ("bins_of", "block", "truncation", "granularity", "anchors", "last_anchor", "coincident_points")

Guess = tuple[Sequence[float], str]  # what is answered, each equally often; what must be said of it


class TrivialRows:
    """Rows of trivial predictors of one project; counts of the annotation are computed once."""

    def __init__(self, measurements: Measurements) -> None:
        self.measurements, self.project = measurements, measurements.project
        self._annotated = cache(self._annotated_counts)

    def cells(self, cell: Score, table: Table) -> Iterator[Score]:
        """Yield the constant predictors of a column, and the oracles."""
        if cell.metric not in METRICS or cell.benchmark not in self.project.stand_ins:
            return
        for variant, predictor in self._constants(cell, table).items():
            line = replace(cell, row=f"{CONSTANT}/{variant}", system=CONSTANT, variant=variant)
            try:
                true = self._benchmark_counts(cell.benchmark)
                guesses, note = predictor(true)
                interval = _of_guess(METRICS[cell.metric], true, guesses)
                yield Measured(interval, len(true), Reason("note", note)).fill(line, "trivial")
            except Missing as missing:
                yield replace(line, reason=missing.reason)
        if not self._by_caption(cell.benchmark):
            yield from self._oracles(cell, table)

    def _by_caption(self, benchmark: str) -> bool:
        return self.project.benchmarks[benchmark].kind == "captions"

    def _constants(self, cell: Score, table: Table) -> dict[str, Callable[[Floats], Guess]]:
        if self._by_caption(cell.benchmark):
            return {"uniform_guess": _uniform_guess, "most_frequent": _most_frequent}
        training = self._training_of(cell.benchmark, table)
        return {
            "zero": lambda true: ([0.0], "predicts 0"),
            "one": lambda true: ([1.0], "predicts 1"),
            "training_mean": lambda true: self._of_training(training, np.mean, "mean"),
            "training_median": lambda true: self._of_training(training, np.median, "median"),
            "best_constant": _best_constant,
        }

    def _training_of(self, benchmark: str, table: Table) -> str | None:
        """Return the training split of most runs of the table that are evaluated on the benchmark."""
        runs = [row for row in table.rows if row.run]
        every = [self.project.experiments[row.system].data_of(row.variant) for row in runs]
        splits = Counter(data.trained_on for data in every if benchmark in data.evaluated_on)
        return splits.most_common(1)[0][0] if splits else None

    def _benchmark_counts(self, benchmark: str) -> Floats:
        """Return the true counts of what stands for a benchmark, from any preparation that is there."""
        place = self._place(benchmark)
        runs = [run for runs in self.measurements.runs.values() for run in runs]
        used = [split for run in runs for split in (run.benchmarks.get(benchmark), run.training) if split]
        same = [split for split in used if (split.dataset, split.split) == (place.dataset, place.split)]
        missing: list[Missing] = []
        for split in dict.fromkeys([place, *same]):
            try:
                return self.measurements.counts(split)
            except Missing as reason:
                missing.append(reason)
        raise missing[0]

    def _place(self, benchmark: str) -> Split:
        entry = self.project.stand_ins[benchmark]
        return Split(dataset=str(entry.dataset), split=str(entry.split), preparation=entry.preparation)

    def _of_training(self, benchmark: str | None, statistic: Callable[[Floats], object], name: str) -> Guess:
        if benchmark is None or benchmark not in self.project.stand_ins:
            raise Missing("no counterpart", f"suite {self.project.suite.name} has no training split for this column")
        counts = self._benchmark_counts(benchmark)
        value = float(statistic(counts))  # type: ignore[arg-type]
        return [value], f"predicts {value:.6g}, the {name} of {benchmark} (n = {len(counts)})"

    def _oracles(self, cell: Score, table: Table) -> Iterator[Score]:
        """Yield what the annotation itself scores in the forms in which the table's systems are taught it."""
        place = self._place(cell.benchmark)
        forms = {"dot_map": ""}
        for number, settings in enumerate(self._bins_of(table), start=1):
            forms["block_bins" if number == 1 else f"block_bins_{number}"] = settings
        for variant, settings in forms.items():
            line = replace(cell, row=f"{ORACLE}/{variant}", system=ORACLE, variant=variant)
            try:
                true, predicted = self.measurements.counts(place), self._annotated(place, settings)
                off = int((true != predicted).sum())
                note = f"the annotation itself; {off} of {len(true)} pictures lose or gain something"
                interval = bootstrap(METRICS[cell.metric], true, predicted)
                yield Measured(interval, len(true), Reason("note", note)).fill(line, ORACLE)
            except Missing as missing:
                yield replace(line, reason=missing.reason)
            except ValueError as error:
                yield replace(line, reason=Reason("undefined", str(error)))

    def _bins_of(self, table: Table) -> list[str]:
        found: dict[str, None] = {}
        for row in table.rows:
            for run in self.measurements.runs.get((row.system, row.variant), ())[:1]:
                with suppress(Missing):
                    settings = self.measurements.record(run.id).settings
                    if settings.get("bins_of"):
                        found[json.dumps({name: settings.get(name) for name in BIN_SETTINGS}, sort_keys=True)] = None
        return list(found)

    def _annotated_counts(self, place: Split, settings: str) -> Floats:
        samples = self.measurements.samples(place)
        if bare := [sample.id for sample in samples if sample.count and not len(sample.points)]:
            raise Missing("undefined", f"only counts are known, not points, for instance of {bare[0]}")
        return block_bins_counts(samples, json.loads(settings)) if settings else dot_map_counts(samples)


def _of_guess(metric: Metric, true: Floats, guesses: Sequence[float]) -> Interval:
    """Return the metric of answering each image with one of ``guesses`` at random (one guess: a constant)."""
    if len(guesses) == 1:
        return bootstrap(metric, true, np.full(len(true), guesses[0]))
    every = metric.of_images(true[:, None], np.asarray(guesses)[None])
    return Interval(float(metric.of_mean(every.mean())))


def _best_constant(true: Floats) -> Guess:
    value = best_constant(true)
    return [value], f"predicts {value:.6g}, the median of the true counts themselves: an oracle"


def _most_frequent(true: Floats) -> Guess:
    values, times = np.unique(true, return_counts=True)
    value = float(values[times.argmax()])
    return [value], f"predicts {value:.6g}, the most frequent true count: an oracle"


def _uniform_guess(true: Floats) -> Guess:
    values = np.unique(true)
    return values.tolist(), f"expected of guessing one of {len(values)} numbers"


def dot_map_counts(samples: Sequence[Sample]) -> Floats:
    """Return the sum of each picture's dot map."""
    return np.array([float(len(np.unique(_pixels(sample), axis=0))) for sample in samples])


def block_bins_counts(samples: Sequence[Sample], settings: Mapping[str, Any]) -> Floats:
    """Return what a system predicts that classifies blocks into bins without mistakes; ValueError: no such bins."""
    from recount.nn.bins import published_bins

    names = ("block", "truncation", "granularity", "anchors")
    bins = published_bins(settings["bins_of"], **{name: settings[name] for name in names})
    if settings.get("last_anchor") is not None:
        bins = bins.with_last_anchor(settings["last_anchor"])
    lows, anchors = np.array([low for low, _ in bins.intervals]), np.array(bins.anchors)
    result = []
    for sample in samples:
        pixels = _pixels(sample)
        if settings["coincident_points"] != "add":
            pixels = np.unique(pixels, axis=0)
        _, counts = np.unique(pixels // settings["block"], axis=0, return_counts=True)
        classes = np.searchsorted(lows, counts, side="right") - 1
        empty = -(-sample.height // settings["block"]) * -(-sample.width // settings["block"]) - len(counts)
        result.append(float(anchors[classes].sum() + anchors[0] * empty))
    return np.array(result)


def _pixels(sample: Sample) -> np.ndarray:
    """Return the pixel of each point, int64 [n, 2]."""
    return np.clip(np.trunc(sample.points).astype(np.int64), 0, (sample.width - 1, sample.height - 1))

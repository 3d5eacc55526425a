"""What runs left: predictions, metrics of these, costs, and the true counts of splits; or why there is nothing."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TypeVar

import numpy as np

from recount.chain import Chain, Unfit
from recount.data.dataset import DataError
from recount.data.index import read_index
from recount.data.sample import Sample
from recount.metrics import METRICS, RMSE, Floats, Metric
from recount.results.attempts import failed, log_tail
from recount.results.files import ResultsError, is_there
from recount.results.predictions import Predictions, Timing
from recount.results.prompt_tests import PromptTests
from recount.results.reason import NOTHING, Missing, Reason, joined
from recount.results.run_record import RUN, RunRecord
from recount.results.scores import Score
from recount.results.submissions import Submission, submissions
from recount.scoring.statistics import Interval, bootstrap
from recount.settings.project import Project, Run, Split

T = TypeVar("T")
CONSTANT = "constant"  # the system of constant predictors; its cells are marked trivial
SHOWN_IDS = 5
ENOUGH = 0.9  # coverage of a 95 % interval below which it is said
DOMINANT_SHARE = 0.5  # of the squared error, carried by one image: said beside the RMSE


@dataclass(frozen=True, slots=True)
class Measured:
    """A metric of one run with one selection; ``reason`` says why there is none, or what goes with it."""

    interval: Interval
    n: int | None
    reason: Reason = NOTHING

    def fill(self, cell: Score, status: str) -> Score:
        """Return a cell with this number and status, or with the reason why there is none."""
        if not self.reason.is_note:
            return replace(cell, n=self.n, reason=self.reason)
        return replace(cell, **self.interval.columns(), n=self.n, status=status, reason=self.reason)


def read_or_say(read: Callable[[], T], absent: Callable[[], Missing]) -> T:
    """Return what ``read`` does; ``Missing`` where there is no such file, or it is not to be used."""
    try:
        return read()
    except FileNotFoundError:
        raise absent() from None
    except Unfit as unfit:
        raise Missing("damaged" if unfit.kind == "missing" else unfit.kind, str(unfit)) from None
    except (DataError, ResultsError, PermissionError) as error:
        raise Missing("damaged", str(error)) from None


class Measurements:
    """What there is of one project; what several tables and claims share is read and computed once."""

    def __init__(self, project: Project) -> None:
        self.project = project
        self.runs: dict[tuple[str, str], list[Run]] = {}
        for run in project.runs:
            self.runs.setdefault((run.system, run.variant), []).append(run)
        self._by_id = {run.id: run for run in project.runs}
        self.chain = Chain(project)
        self.predicted = cache(self._predicted)
        self.measured = cache(self._measured)
        self.record = cache(self._record)
        self.samples = cache(self._samples)
        self.submission = cache(self._submission)

    def predictions(self, run_id: str, benchmark: str) -> dict[str, Predictions]:
        """Return what a run predicted on a benchmark, by selection; ``Missing`` says why there is nothing."""
        return self.predicted(run_id, benchmark)[0]

    def _predicted(self, run_id: str, benchmark: str) -> tuple[dict[str, Predictions], Timing]:
        run = self._by_id[run_id]
        return read_or_say(lambda: self.chain.predictions(run, benchmark), lambda: self._why_missing(run, benchmark))

    def submitted(self, benchmark: str) -> dict[str, Path]:
        """Return the submitted counters of a benchmark's split: the record of each, by ``submitted/<counter>``."""
        place = self.project.place(benchmark)
        found = submissions(self.project, place) if place else ()
        return {f"{path.parents[2].name}/{path.parents[1].name}": path for path in found}

    def _submission(self, path: Path) -> tuple[Submission, Predictions]:
        return read_or_say(lambda: self.chain.submission(path), lambda: Missing("not run", f"{path}: no such file"))

    def _record(self, run_id: str) -> RunRecord:
        run = self._by_id[run_id]
        return read_or_say(lambda: self.chain.run(run), lambda: self._why_missing(run, None))

    def prompt_tests(self, run: Run, benchmark: str, why: Missing) -> PromptTests:
        """Return a run's prompt tests on a benchmark; ``why`` there are none, where that is so."""
        return read_or_say(lambda: self.chain.prompt_tests(run, benchmark), lambda: why)

    def _samples(self, place: Split) -> list[Sample]:
        path = self.project.root / self.project.index(place)

        def read() -> list[Sample]:
            if not is_there(path):
                raise self._no_data(place)
            return read_index(path, place.split)

        return read_or_say(read, lambda: self._no_data(place))

    def counts(self, place: Split) -> Floats:
        """Return the true counts of a split; ``Missing`` as ``samples`` raises."""
        return np.array([sample.count for sample in self.samples(place)])

    def original_counts(self, place: Split) -> dict[str, float]:
        """Return by id the counts before preparation, on which systems of unlike preparation are compared."""
        return {sample.id: sample.original_count for sample in self.samples(place)}

    def _measured(self, run_id: str, benchmark: str, metric: str) -> dict[str, Measured]:
        if metric in METRICS:
            by_selection = self.predictions(run_id, benchmark)
            older = Reason("note", self.chain.older(self._by_id[run_id]))
            measured = {name: measure(METRICS[metric], predictions) for name, predictions in by_selection.items()}
            return {name: replace(one, reason=joined([one.reason, older])) for name, one in measured.items()}
        if metric == "inference_seconds_per_image":
            return self._seconds_per_image(run_id, benchmark)
        if metric == "train_hours_100_epochs":
            return self._training_hours(run_id)
        raise Missing("undefined", f"recount does not measure {metric}")

    def _seconds_per_image(self, run_id: str, benchmark: str) -> dict[str, Measured]:
        timing = self.predicted(run_id, benchmark)[1]
        note = Reason("note", f"on {timing.device}, {timing.precision}")
        return {
            name: Measured(Interval(entry.seconds / entry.images), entry.images, note)
            for name, entry in timing.selections.items()
            if entry.images
        }

    def _training_hours(self, run_id: str) -> dict[str, Measured]:
        record = self.record(run_id)
        last, cost = record.selections.get("last"), record.cost
        if last is None or not last.epoch or cost.steps is None or cost.seconds_per_step is None:
            raise Missing("undefined", f"{RUN} does not say how long training took")
        hours = cost.steps * cost.seconds_per_step / last.epoch * 100 / 3600
        note = Reason("note", f"from {last.epoch} epochs on {record.provenance.device}")
        return {"last": Measured(Interval(hours), None, note)}

    def _why_missing(self, run: Run, benchmark: str | None) -> Missing:
        """Return why a run has no predictions on a benchmark, or no run.json: data, a failure, or it was not run."""
        wanted = [run.benchmarks[benchmark]] if benchmark is not None else []
        for split in (*wanted, *run.learnt_from):
            if not is_there(self.project.root / self.project.index(split)):
                return self._no_data(split)
        trained = is_there(self.project.root / self.project.run_folder(run) / RUN)
        step, what = ("predict", "prediction") if trained else ("train", "training")
        parts = (run.evaluation_id if trained else run.training_id).split("/")
        for place in (*((split.dataset, split.split) for split in wanted), ()):  # of its own job, or one with others
            path = self.project.log(step, *parts, *place)
            if tail := log_tail(self.project.root / path):
                return Missing("failed", f"{what} failed or is not finished; its log is {path}", tail)
        return Missing("not run", f"{what} was not run")

    def _no_data(self, split: Split) -> Missing:
        absent = f"{split.dataset} is not prepared ({split.preparation})"
        for name, job in (("prepare", f"{split.dataset}/{split.preparation}"), ("fetch", split.dataset)):
            if why := failed(self.project, name, job):
                return Missing("failed", f"data absent: {absent}: {why}")
        for step in (("prepare", split.dataset, split.preparation), ("fetch", split.dataset)):
            path = self.project.log(*step)
            if tail := log_tail(self.project.root / path):
                return Missing("absent data", f"data absent: {absent}; see {path}", tail)
        return Missing("absent data", f"data absent: {absent}")


def not_finite_text(predictions: Predictions) -> str:
    """Return which predictions are NaN or infinite, in words."""
    broken = predictions.not_finite
    shown = ", ".join(broken[:SHOWN_IDS]) + (", …" if len(broken) > SHOWN_IDS else "")
    return f"{len(broken)} of {len(predictions.ids)} predictions are not finite: {shown}"


def dominant(metric: Metric, ids: Sequence[str], true: Floats, predicted: Floats) -> str:
    """Say which image carries more than half of the squared error of [n] or [seeds, n] predictions, "" if none does."""
    squared = np.atleast_2d(metric.of_images(np.broadcast_to(true, predicted.shape), predicted)).mean(axis=0)
    if len(ids) < 2 or squared.max() <= DOMINANT_SHARE * squared.sum():
        return ""
    share = squared.max() / squared.sum()
    return f"{ids[int(squared.argmax())]} alone carries {share:.0%} of the squared error"


def measure(metric: Metric, predictions: Predictions) -> Measured:
    """Return a metric of predictions with its interval, or why there is none, and what must be said of it."""
    n = len(predictions.ids)
    if predictions.not_finite:
        return Measured(Interval(math.nan), n, Reason("not finite", not_finite_text(predictions)))
    true, predicted = predictions.true, predictions.predicted
    heavy = dominant(metric, predictions.ids, true, predicted) if metric is RMSE else ""
    interval = bootstrap(metric, true, predicted)
    said = [heavy] if heavy else []
    if interval.coverage < ENOUGH:
        said.append(f"interval covers {interval.coverage:.0%} ({interval.method})")
    return Measured(interval, n, Reason("dominated" if heavy else "note", "; ".join(said)) if said else NOTHING)

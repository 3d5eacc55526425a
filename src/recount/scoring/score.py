"""Every cell of the papers' tables: what was measured, what is trivial, what is only quoted, what is missing and why.

Reads the predictions CSVs that exist, the index files (for constant predictors) and the papers' published.csv; writes,
below ``results/<suite>/``:

* ``scores.csv``: a row per cell, seed and selection; seed "all" is the mean over seeds, with its standard deviation and
  an interval that resamples seeds and images. A missing seed is never averaged as zero: it is left out, and said.
* ``strata.csv``: MAE and RMSE of each run by bins and terciles of the true count.
* ``influence.csv``: the images that move each run's MAE and RMSE most.
"""

from __future__ import annotations

import csv
import json
import logging
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from recount.data.dataset import DataError
from recount.data.index import read_index
from recount.data.sample import Sample
from recount.metrics import MAE, METRICS, RMSE, Floats, Metric
from recount.results.files import write_rows
from recount.scoring.groups import count_bins, terciles
from recount.scoring.oracles import BIN_SETTINGS, block_bins_counts, dot_map_counts
from recount.scoring.statistics import (
    Interval,
    best_constant,
    bootstrap,
    bootstrap_over_seeds,
    influence,
    mean_and_sd,
    rmse_without_largest,
)
from recount.settings.paper import Paper, Row, Table
from recount.settings.project import Project, Run, Split

log = logging.getLogger(__name__)

CONSTANT = "constant"  # the system of constant predictors; its cells are marked trivial
ORACLE = "oracle"  # the "system" of what the annotation itself scores; its cells are marked oracle
LISTED_STATISTICS = {"mean": "training_mean", "median": "training_median", "zero": "zero"}
ERROR_METRICS = ("mae", "rmse", "nae", "sre")
CAPTION_METRICS = ("accuracy", "mean_absolute_deviation")
LOG_LINES = 5
LINE_LENGTH = 300
INFLUENTIAL_IMAGES = 10
DOMINANT_SHARE = 0.5  # of the squared error, carried by one image: said beside the RMSE
DOMINATED = "alone carries"  # how a cell's reason says so
SHOWN_IDS = 5


@dataclass(frozen=True, slots=True)
class Score:
    """A row of scores.csv; numbers are NaN where there is none, and then empty in the file."""

    paper: str
    table: str
    row: str
    system: str
    variant: str
    seed: str
    benchmark: str
    dataset: str
    selection: str
    metric: str
    value: float = math.nan
    ci_low: float = math.nan
    ci_high: float = math.nan
    sd: float = math.nan
    n: int | None = None
    status: str = "missing"
    reason: str = ""


COLUMNS = tuple(item.name for item in fields(Score))


@dataclass(frozen=True, slots=True)
class Predictions:
    """Predictions of one run with one selection on one benchmark, in the order of the CSV."""

    ids: tuple[str, ...]
    images: tuple[str, ...]
    true: Floats
    predicted: Floats

    @property
    def not_finite(self) -> list[str]:
        """Return the ids of predictions that are NaN or infinite."""
        return [name for name, count in zip(self.ids, self.predicted, strict=True) if not math.isfinite(count)]


@dataclass(frozen=True, slots=True)
class Measured:
    """A metric of one run with one selection, or why there is none (``missing``)."""

    interval: Interval
    n: int | None
    note: str = ""
    missing: str = ""


class Missing(Exception):
    """A cell has no value; the message is its reason."""


NOT_MEASURED = Interval(math.nan, math.nan, math.nan)


def score(project: Project) -> Path:
    """Score all predictions that exist; return the path of scores.csv. What cannot be scored is a missing cell."""
    scorer = Scorer(project)
    results = project.root / project.results
    here = f"{project.root}/"  # a folder that is moved or shared names no place of the machine it comes from
    scores = [
        replace(line, reason=line.reason.replace(here, ""))
        for name, paper in project.papers.items()
        for line in scorer.paper(name, paper)
    ]
    write_rows(results / "strata.csv", *_table(scorer.strata(), STRATA))
    write_rows(results / "influence.csv", *_table(scorer.influences(), INFLUENCES))
    write_rows(
        results / "scores.csv", COLUMNS, [as_texts([getattr(line, name) for name in COLUMNS]) for line in scores]
    )
    counted = Counter(line.status for line in scores)
    log.info("scores: %s", ", ".join(f"{number} {status}" for status, number in sorted(counted.items())) or "none")
    return results / "scores.csv"


def _table(rows: Iterable[Mapping[str, Any]], columns: Sequence[str]) -> tuple[Sequence[str], list[list[str]]]:
    return columns, [as_texts([row[name] for name in columns]) for row in rows]


def as_texts(values: Iterable[Any]) -> list[str]:
    """Return the cells of a CSV row: numbers that read back exactly, nothing for NaN and None."""
    return [_text(value) for value in values]


def _text(value: Any) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return repr(float(value)) if isinstance(value, float) else str(value)


# --------------------------------------------------------------------------------------------------------- what exists


def read_predictions(path: Path) -> dict[str, Predictions]:
    """Return the predictions in a CSV by selection.

    Raises:
        Missing: the file is damaged, or a sample is in it twice.
    """
    by_selection: dict[str, list[dict[str, str]]] = {}
    try:
        with path.open(encoding="utf-8", newline="") as stream:
            for row in csv.DictReader(stream, strict=True):
                by_selection.setdefault(row["selection"], []).append(row)
        return {name: _predictions(rows, path) for name, rows in by_selection.items()}
    except (csv.Error, KeyError, TypeError, ValueError, UnicodeDecodeError) as error:
        raise Missing(f"{path.name} is damaged ({error!r}): delete it and run again") from None


def _predictions(rows: list[dict[str, str]], path: Path) -> Predictions:
    ids = tuple(row["id"] for row in rows)
    twice = [name for name, times in Counter(ids).items() if times > 1]
    if twice:
        raise Missing(f"{path.name} has {twice[0]} twice: delete it and run again")
    return Predictions(
        ids=ids,
        images=tuple(row["image"] for row in rows),
        true=np.array([float(row["true_count"]) for row in rows]),
        predicted=np.array([float(row["predicted_count"]) for row in rows]),
    )


def log_tail(path: Path) -> str:
    """Return the last lines of a log in one line, or "" if there is none."""
    if not path.is_file():
        return ""
    lines = [line.strip() for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return " | ".join(line[:LINE_LENGTH] for line in lines[-LOG_LINES:])


def why_missing(project: Project, run: Run, benchmark: str) -> str:
    """Return why a run has no predictions: data absent, failed (with the last lines of its log) or not run."""
    for split in (run.benchmarks[benchmark], run.training):
        if split is not None and not (project.root / project.index(split)).is_file():
            return _why_no_data(project, split)
    if not (project.root / project.run_folder(run) / "run.json").is_file():
        return _why_no_output(project, "training", project.log("train", run.system, run.variant, f"seed{run.seed}"))
    return _why_no_output(project, "prediction", project.log("predict", run.system, run.variant, f"seed{run.seed}"))


def _why_no_data(project: Project, split: Split) -> str:
    absent = f"data absent: {split.dataset} is not prepared ({split.preparation})"
    for path in (project.log("prepare", split.dataset, split.preparation), project.log("fetch", split.dataset)):
        tail = log_tail(project.root / path)
        if tail:
            return f"{absent}; {path} ends: {tail}"
    return absent


def _why_no_output(project: Project, what: str, path: Path) -> str:
    tail = log_tail(project.root / path)
    return f"{what} failed or is not finished; {path} ends: {tail}" if tail else f"{what} was not run"


# ------------------------------------------------------------------------------------------------------ measured cells


class Scorer:
    """Scores one project; what several tables share is computed once."""

    def __init__(self, project: Project) -> None:
        self.project = project
        self.runs: dict[tuple[str, str], list[Run]] = {}
        for run in project.runs:
            self.runs.setdefault((run.system, run.variant), []).append(run)
        self.predictions = cache(self._predictions)
        self.measured = cache(self._measured)
        self.counts = cache(self._counts)
        self.dot_map_counts = cache(lambda *place: dot_map_counts(self._pointed(*place)))
        self.block_bins_counts = cache(
            lambda *place: block_bins_counts(self._pointed(*place[:3]), json.loads(place[3]))
        )

    def _run(self, run_id: str) -> Run:
        system, variant, seed = run_id.split("/")
        return next(run for run in self.runs[system, variant] if f"seed{run.seed}" == seed)

    def _predictions(self, run_id: str, benchmark: str) -> dict[str, Predictions]:
        run = self._run(run_id)
        path = self.project.root / self.project.predictions(run, benchmark)
        if not path.is_file():
            raise Missing(why_missing(self.project, run, benchmark))
        return read_predictions(path)

    def _measured(self, run_id: str, benchmark: str, metric: str) -> dict[str, Measured]:
        """Return a metric of a run by selection.

        Raises:
            Missing: with the reason.
        """
        if metric in METRICS:
            by_selection = self.predictions(run_id, benchmark)
            return {name: _measure(METRICS[metric], predictions) for name, predictions in by_selection.items()}
        if metric == "inference_seconds_per_image":
            return self._seconds_per_image(run_id, benchmark)
        if metric == "train_hours_100_epochs":
            return self._training_hours(run_id, benchmark)
        raise Missing(f"recount does not measure {metric}")

    def _seconds_per_image(self, run_id: str, benchmark: str) -> dict[str, Measured]:
        self.predictions(run_id, benchmark)
        path = self.project.root / self.project.predictions(self._run(run_id), benchmark).with_suffix(".timing.json")
        try:
            timing = json.loads(path.read_text(encoding="utf-8"))
            return {
                name: Measured(
                    Interval(entry["seconds"] / entry["images"], math.nan, math.nan),
                    entry["images"],
                    f"on {timing['device']}, {timing['precision']}",
                )
                for name, entry in timing["selections"].items()
            }
        except (OSError, json.JSONDecodeError, KeyError) as error:
            raise Missing(f"{path.name} is absent or damaged ({error!r})") from None

    def _training_hours(self, run_id: str, benchmark: str) -> dict[str, Measured]:
        run = self._run(run_id)
        path = self.project.root / self.project.run_folder(run) / "run.json"
        if not path.is_file():
            raise Missing(why_missing(self.project, run, benchmark))
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            cost, epochs = record["cost"], record["selections"]["last"]["epoch"]
            hours = cost["steps"] * cost["seconds_per_step"] / epochs * 100 / 3600
            note = f"from {epochs} epochs on {record['provenance']['device']}"
        except (json.JSONDecodeError, KeyError, ZeroDivisionError) as error:
            raise Missing(f"{path.name} does not say how long training took ({error!r})") from None
        return {"last": Measured(Interval(hours, math.nan, math.nan), None, note)}

    def _counts(self, dataset: str, split: str, preparation: str) -> Floats:
        path = self.project.root / self.project.index(Split(dataset=dataset, split=split, preparation=preparation))
        if not path.is_file():
            raise Missing(_why_no_data(self.project, Split(dataset=dataset, split=split, preparation=preparation)))
        try:
            return np.array([sample.count for sample in read_index(path, split)])
        except DataError as error:
            raise Missing(str(error)) from None

    # ------------------------------------------------------------------------------------------------------ one paper

    def paper(self, name: str, paper: Paper) -> Iterator[Score]:
        """Yield every cell of a paper's tables."""
        published = _published(self.project.root / "papers" / name / "published.csv")
        for key, table in paper.tables.items():
            for benchmark in table.benchmarks:
                for metric in _scored_metrics(table):
                    for row in table.rows:
                        cell = self._empty(name, key, row, benchmark, metric)
                        if paper.systems[row.system].quoted_because:
                            yield from _quoted(cell, row, published, paper.systems[row.system].quoted_because)
                        else:
                            yield from self._cell(cell, paper, row)
                    yield from self._trivial(self._empty(name, key, None, benchmark, metric), paper, table)
                    yield from self._oracles(self._empty(name, key, None, benchmark, metric), table)

    def _empty(self, paper: str, table: str, row: Row | None, benchmark: str, metric: str) -> Score:
        entry = self.project.suite.benchmarks.get(benchmark)
        system, variant = (row.system, row.variant or "") if row else (CONSTANT, "")
        return Score(
            paper=paper,
            table=table,
            row=f"{system}/{variant}" if variant else system,
            system=system,
            variant=variant,
            seed="all",
            benchmark=benchmark,
            dataset=f"{entry.dataset}/{entry.split}" if entry else "",
            selection="",
            metric=metric,
        )

    def _cell(self, cell: Score, paper: Paper, row: Row) -> Iterator[Score]:
        """Yield a runnable cell: a row per seed and selection, the mean over seeds, and what is missing."""
        why = self._why_not_run(cell, paper, row)
        if why:
            yield replace(cell, reason=why)
            return
        runs = self.runs[row.system, row.variant or ""]
        done: dict[str, dict[str, Measured]] = {}
        absent: dict[str, str] = {}
        for run in runs:
            try:
                done[run.id] = self.measured(run.id, cell.benchmark, cell.metric)
            except Missing as reason:
                absent[run.id] = str(reason)
        status = "trivial" if row.system == CONSTANT else "checkpoint" if runs[0].checkpoint else "trained"
        if not done:
            yield replace(cell, reason=" · ".join(dict.fromkeys(absent.values())))
            return
        for run in runs:
            if run.id in absent:
                yield replace(cell, seed=str(run.seed), reason=absent[run.id])
            for selection, measured in done.get(run.id, {}).items():
                yield _filled(replace(cell, seed=str(run.seed), selection=selection), measured, status)
        for selection in dict.fromkeys(name for by_selection in done.values() for name in by_selection):
            yield self._over_seeds(replace(cell, selection=selection), done, len(runs), status)

    def _why_not_run(self, cell: Score, paper: Paper, row: Row) -> str:
        suite = self.project.suite.name
        if cell.benchmark not in self.project.suite.benchmarks:
            return f"suite {suite} has nothing that stands for {cell.benchmark}"
        described = paper.systems[row.system]
        if row.variant not in described.variants:
            return "papers/" + f"{paper.name}/paper.yaml names no variant for this row"
        why = self.project.not_run(row.system, row.variant, described)
        if why:
            return why
        runs = self.runs.get((row.system, row.variant or ""))
        if not runs:
            return "config.yaml leaves this system out (systems)"
        if cell.benchmark not in runs[0].benchmarks:
            return f"{row.system} is not evaluated on {cell.benchmark}"
        return ""

    def _over_seeds(self, cell: Score, done: Mapping[str, Mapping[str, Measured]], wanted: int, status: str) -> Score:
        """Return the mean over the seeds that have the cell's selection."""
        there = {run: by[cell.selection] for run, by in done.items() if cell.selection in by}
        finite = {run: measured for run, measured in there.items() if not measured.missing}
        if not finite:
            return replace(cell, reason=" · ".join(dict.fromkeys(m.missing for m in there.values())))
        said = [f"{len(finite)} of {wanted} seeds"] if len(finite) < wanted else []
        said += dict.fromkeys(measured.note for measured in finite.values() if measured.note)
        first = next(iter(finite.values()))
        if len(finite) == 1:
            return _filled(cell, replace(first, note=" · ".join(said)), status)
        mean, sd = mean_and_sd([measured.interval.value for measured in finite.values()])
        interval = Interval(mean, math.nan, math.nan)
        if cell.metric in METRICS:
            try:
                interval = self._interval_over_seeds(cell, list(finite))
            except Missing as reason:
                said.append(str(reason))
        return _filled(replace(cell, sd=sd), Measured(interval, first.n, " · ".join(said)), status)

    def _interval_over_seeds(self, cell: Score, runs: Sequence[str]) -> Interval:
        tables = [self.predictions(run, cell.benchmark)[cell.selection] for run in runs]
        if any(table.ids != tables[0].ids or (table.true != tables[0].true).any() for table in tables):
            raise Missing("no interval: the seeds were predicted on different samples")
        predicted = np.stack([table.predicted for table in tables])
        return bootstrap_over_seeds(METRICS[cell.metric], tables[0].true, predicted)

    # -------------------------------------------------------------------------------------------- constant predictors

    def _trivial(self, cell: Score, paper: Paper, table: Table) -> Iterator[Score]:
        """Yield the constant predictors of a column that the table does not list itself."""
        if cell.metric not in METRICS or cell.benchmark not in self.project.suite.benchmarks:
            return
        for variant, predictor in self._constants(cell, paper, table).items():
            line = replace(cell, row=f"{CONSTANT}/{variant}", variant=variant)
            try:
                true = self._benchmark_counts(cell.benchmark)
                predicted, note = predictor(true)
                interval = _of_guess(METRICS[cell.metric], true, predicted)
                yield _filled(line, Measured(interval, len(true), note), "trivial")
            except Missing as reason:
                yield replace(line, reason=str(reason))

    def _constants(self, cell: Score, paper: Paper, table: Table) -> dict[str, Any]:
        """Return the constant predictors of a column: variant -> function of the true counts."""
        if "accuracy" in table.metrics:
            return {"uniform_guess": _uniform_guess, "most_frequent": _most_frequent}
        listed = {
            LISTED_STATISTICS.get(str(paper.systems[row.system].variants[row.variant].settings.get("statistic")), "")
            for row in table.rows
            if row.system == CONSTANT and row.variant in paper.systems[row.system].variants
        }
        training = self._training_of(cell.benchmark, paper, table)
        every = {
            "zero": lambda true: ([0.0], "predicts 0"),
            "one": lambda true: ([1.0], "predicts 1"),
            "training_mean": lambda true: self._of_training(training, np.mean, "mean"),
            "training_median": lambda true: self._of_training(training, np.median, "median"),
            "best_constant": _best_constant,
        }
        return {name: predictor for name, predictor in every.items() if name not in listed}

    def _oracles(self, cell: Score, table: Table) -> Iterator[Score]:
        """Yield what the annotation itself scores in the forms in which the table's systems are taught it."""
        entry = self.project.suite.benchmarks.get(cell.benchmark)
        if cell.metric not in METRICS or "accuracy" in table.metrics or entry is None:
            return
        place = (entry.dataset, entry.split, entry.preparation)
        forms: dict[str, Callable[[], Floats]] = {"dot_map": lambda: self.dot_map_counts(*place)}
        for number, settings in enumerate(self._bins_of(table)):
            name = "block_bins" if number == 0 else f"block_bins_{number + 1}"
            forms[name] = lambda settings=settings: self.block_bins_counts(*place, settings)  # type: ignore[misc]
        for variant, counts in forms.items():
            line = replace(cell, row=f"{ORACLE}/{variant}", system=ORACLE, variant=variant)
            try:
                true, predicted = self.counts(*place), counts()
                off = int((true != predicted).sum())
                note = f"the annotation itself; {off} of {len(true)} pictures lose or gain something"
                yield _filled(line, Measured(bootstrap(METRICS[cell.metric], true, predicted), len(true), note), ORACLE)
            except (Missing, ValueError) as reason:
                yield replace(line, reason=str(reason))

    def _bins_of(self, table: Table) -> list[str]:
        """Return the settings of the bins (as JSON) of the table's systems that classify blocks, each once."""
        found: dict[str, None] = {}
        for row in table.rows:
            for run in self.runs.get((row.system, row.variant or ""), ())[:1]:
                try:
                    path = self.project.root / self.project.run_folder(run) / "run.json"
                    settings = json.loads(path.read_text(encoding="utf-8"))["settings"]
                except (OSError, ValueError, KeyError):
                    continue
                if settings.get("bins_of"):
                    found[json.dumps({name: settings.get(name) for name in BIN_SETTINGS}, sort_keys=True)] = None
        return list(found)

    def _pointed(self, dataset: str, split: str, preparation: str) -> list[Sample]:
        """Return the samples of a split.

        Raises:
            Missing: they are not prepared, or only their counts are known.
        """
        place = Split(dataset=dataset, split=split, preparation=preparation)
        self.counts(dataset, split, preparation)
        samples = read_index(self.project.root / self.project.index(place), split)
        bare = [sample.id for sample in samples if sample.count and not len(sample.points)]
        if bare:
            raise Missing(f"only counts are known, not points, for instance of {bare[0]}")
        return samples

    def _training_of(self, benchmark: str, paper: Paper, table: Table) -> str | None:
        """Return the training split of most systems of the table that are evaluated on the benchmark."""
        systems = {row.system: paper.systems[row.system] for row in table.rows}
        splits = Counter(
            system.trained_on for system in systems.values() if system.trained_on and benchmark in system.evaluated_on
        )
        return splits.most_common(1)[0][0] if splits else None

    def _benchmark_counts(self, benchmark: str) -> Floats:
        """Return the true counts of what stands for a benchmark, from any preparation that is there."""
        entry = self.project.suite.benchmarks[benchmark]
        preparations = [entry.preparation]
        for runs in self.runs.values():
            preparations += [run.benchmarks[benchmark].preparation for run in runs if benchmark in run.benchmarks]
            preparations += [
                run.training.preparation
                for run in runs
                if run.training and (run.training.dataset, run.training.split) == (entry.dataset, entry.split)
            ]
        reasons = []
        for preparation in dict.fromkeys(preparations):
            try:
                return self.counts(entry.dataset, entry.split, preparation)
            except Missing as reason:
                reasons.append(str(reason))
        raise Missing(reasons[0])

    def _of_training(self, benchmark: str | None, statistic: Any, name: str) -> tuple[list[float], str]:
        if benchmark is None or benchmark not in self.project.suite.benchmarks:
            raise Missing(f"suite {self.project.suite.name} has no training split for this column")
        counts = self._benchmark_counts(benchmark)
        value = float(statistic(counts))
        return [value], f"predicts {value:.6g}, the {name} of {benchmark} (n = {len(counts)})"

    # ------------------------------------------------------------------------------------------------ strata, influence

    def _finished(self) -> Iterator[tuple[dict[str, Any], Predictions]]:
        """Yield (columns that say which, predictions) of all predictions that exist and are finite."""
        for runs in self.runs.values():
            for run in runs:
                for benchmark, split in run.benchmarks.items():
                    try:
                        by_selection = self.predictions(run.id, benchmark)
                    except Missing:
                        continue
                    for selection, predictions in by_selection.items():
                        which = {
                            "system": run.system,
                            "variant": run.variant,
                            "seed": run.seed,
                            "benchmark": benchmark,
                            "dataset": f"{split.dataset}/{split.split}",
                            "selection": selection,
                        }
                        if not predictions.not_finite:
                            yield which, predictions

    def strata(self) -> Iterator[dict[str, Any]]:
        """Yield MAE and RMSE by bin and by tercile of the true count."""
        for which, predictions in self._finished():
            for kind, names in (("bin", count_bins(predictions.true)), ("tercile", terciles(predictions.true))):
                for name in dict.fromkeys(name for _, name in sorted(zip(predictions.true, names, strict=True))):
                    inside = np.array([other == name for other in names])
                    for metric in (MAE, RMSE):
                        interval = bootstrap(metric, predictions.true[inside], predictions.predicted[inside])
                        yield which | {
                            "kind": kind,
                            "stratum": name,
                            "metric": metric.name,
                            "value": interval.value,
                            "ci_low": interval.low,
                            "ci_high": interval.high,
                            "n": int(inside.sum()),
                        }

    def influences(self) -> Iterator[dict[str, Any]]:
        """Yield the images with the largest share of a run's squared error, largest first."""
        for which, predictions in self._finished():
            result = influence(predictions.true, predictions.predicted)
            order = np.argsort(-result.share_of_squared_error, kind="stable")[:INFLUENTIAL_IMAGES]
            for rank, index in enumerate(order, start=1):
                yield which | {
                    "rank": rank,
                    "id": predictions.ids[index],
                    "image": predictions.images[index],
                    "true_count": float(predictions.true[index]),
                    "predicted_count": float(predictions.predicted[index]),
                    "share_of_squared_error": float(result.share_of_squared_error[index]),
                    "mae_effect": float(result.mae_effect[index]),
                    "rmse_effect": float(result.rmse_effect[index]),
                    "mae_without": float(result.mae_without[index]),
                    "rmse_without": float(result.rmse_without[index]),
                    "rmse_without_this_and_larger": rmse_without_largest(predictions.true, predictions.predicted, rank),
                }


_WHICH = ("system", "variant", "seed", "benchmark", "dataset", "selection")
STRATA = (*_WHICH, "kind", "stratum", "metric", "value", "ci_low", "ci_high", "n")
INFLUENCES = (
    *_WHICH,
    "rank",
    "id",
    "image",
    "true_count",
    "predicted_count",
    "share_of_squared_error",
    "mae_effect",
    "rmse_effect",
    "mae_without",
    "rmse_without",
    "rmse_without_this_and_larger",
)


def _scored_metrics(table: Table) -> list[str]:
    """Return a table's own metrics and the others of their kind, so that NAE and SRE stand beside each MAE."""
    metrics = list(table.metrics)
    for family in (ERROR_METRICS, CAPTION_METRICS):
        if family[0] in metrics:
            metrics += family
    return list(dict.fromkeys(metrics))


def not_finite_text(predictions: Predictions) -> str:
    """Return which predictions are NaN or infinite, in words."""
    broken = predictions.not_finite
    shown = ", ".join(broken[:SHOWN_IDS]) + (", …" if len(broken) > SHOWN_IDS else "")
    return f"{len(broken)} of {len(predictions.ids)} predictions are not finite: {shown}"


def _measure(metric: Metric, predictions: Predictions) -> Measured:
    n = len(predictions.ids)
    if predictions.not_finite:
        return Measured(NOT_MEASURED, n, missing=not_finite_text(predictions))
    note = ""
    if metric is RMSE and n > 1:
        share = influence(predictions.true, predictions.predicted).share_of_squared_error
        if share.max() > DOMINANT_SHARE:
            note = f"{predictions.ids[int(share.argmax())]} {DOMINATED} {share.max():.0%} of the squared error"
    return Measured(bootstrap(metric, predictions.true, predictions.predicted), n, note)


def _filled(cell: Score, measured: Measured, status: str) -> Score:
    if measured.missing:
        return replace(cell, n=measured.n, reason=measured.missing)
    interval = measured.interval
    return replace(
        cell,
        value=interval.value,
        ci_low=interval.low,
        ci_high=interval.high,
        n=measured.n,
        status=status,
        reason=measured.note,
    )


def _of_guess(metric: Metric, true: Floats, guesses: Sequence[float]) -> Interval:
    """Return the metric of answering each image with one of ``guesses`` at random (one guess: a constant)."""
    if len(guesses) == 1:
        return bootstrap(metric, true, np.full(len(true), guesses[0]))
    every = metric.of_images(true[:, None], np.asarray(guesses)[None])
    return Interval(float(metric.of_mean(every.mean())), math.nan, math.nan)


def _best_constant(true: Floats) -> tuple[list[float], str]:
    value = best_constant(true)
    return [value], f"predicts {value:.6g}, the median of the true counts themselves: an oracle"


def _most_frequent(true: Floats) -> tuple[list[float], str]:
    values, times = np.unique(true, return_counts=True)
    value = float(values[times.argmax()])
    return [value], f"predicts {value:.6g}, the most frequent true count: an oracle"


def _uniform_guess(true: Floats) -> tuple[list[float], str]:
    values = np.unique(true)
    return values.tolist(), f"expected of guessing one of {len(values)} numbers"


# -------------------------------------------------------------------------------------------------------- quoted cells


def _published(path: Path) -> list[dict[str, str]]:
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def _quoted(cell: Score, row: Row, published: Sequence[Mapping[str, str]], because: str) -> Iterator[Score]:
    """Yield the published value of a system that recount does not run."""
    key = row.published or cell.row
    for line in published:
        wanted = (cell.table, key, cell.benchmark, cell.metric)
        if (line["table"], line["row"], line["benchmark"], line["metric"]) == wanted:
            yield replace(cell, row=key, value=float(line["value"]), status="quoted", reason=because)
            return
    yield replace(cell, row=key, reason=f"not published; {because}")

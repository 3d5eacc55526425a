"""Every cell of the papers' tables: what was measured, what is trivial, what is only quoted, what is missing and why.

Reads the predictions that exist, the index files (for constant predictors) and the papers' published.csv; writes, below
``results/<suite>/``:

* ``scores.csv``: a row per cell, seed and selection; seed "all" is the mean over seeds, with its standard deviation and
  an interval that resamples seeds and images. A missing seed is never averaged as zero: it is left out, and said.
* ``strata.csv``: MAE and RMSE of each run by bins and terciles of the true count.
* ``influence.csv``: the images that move each run's MAE and RMSE most.
"""

import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from recount.chain import MADE, TABLES
from recount.metrics import MAE, METRICS, RMSE
from recount.provenance import step_digest
from recount.results.files import Made, note_tables
from recount.results.predictions import Predictions
from recount.results.published import PublishedRow, read_published
from recount.results.reason import NOTHING, Missing, Reason, joined
from recount.results.scores import ALL_SEEDS, INFLUENCE, SCORES, STRATA, InfluentialImage, Score, Stratum
from recount.results.submissions import SELECTION, SUBMITTED
from recount.scoring import statistics
from recount.scoring.groups import count_bins, terciles
from recount.scoring.measured import Measured, Measurements, measure
from recount.scoring.trivial import TrivialRows
from recount.settings.paper import Row, Table
from recount.settings.project import Project

log = logging.getLogger(__name__)

ERROR_METRICS = ("mae", "rmse", "nae", "sre")
CAPTION_METRICS = ("accuracy", "mean_absolute_deviation")
INFLUENTIAL_IMAGES = 10


def score(project: Project) -> Path:
    """Score all predictions that exist; return the path of scores.csv. What cannot be scored is a missing cell."""
    measurements = Measurements(project)
    chain = measurements.chain
    behind = chain.digests("predictions", "submitted")
    made = Made(results=behind, data=chain.data_now(), code=step_digest("score"))
    results = project.root / project.tables
    scores = [without_folder(line, project.root) for line in _cells(measurements)]
    STRATA.write(results / "strata.csv", _strata(measurements))
    INFLUENCE.write(results / "influence.csv", _influences(measurements))
    SCORES.write(results / "scores.csv", scores)
    note_tables(results / MADE["score"], TABLES["score"], made)
    counted = Counter(line.status for line in scores)
    log.info("scores: %s", ", ".join(f"{number} {status}" for status, number in sorted(counted.items())) or "none")
    return results / "scores.csv"


def without_folder(row: Any, root: Path) -> Any:
    """Return a row whose reason names no place of this machine: results are moved and shared."""
    here = f"{root}/"
    reason = replace(row.reason, text=row.reason.text.replace(here, ""), log=row.reason.log.replace(here, ""))
    return replace(row, reason=reason)


def _cells(measurements: Measurements) -> Iterator[Score]:
    project = measurements.project
    trivial = TrivialRows(measurements)
    for name, paper in project.papers.items():
        published = read_published(paper.folder)
        for key, table in paper.tables.items():
            for benchmark in table.on:
                for metric in _scored_metrics(table):
                    place = project.place(benchmark)
                    bare = Score(name, key, "", "", "", ALL_SEEDS, benchmark, place, "", metric)
                    for row in table.rows:
                        yield from _row_cells(measurements, bare, row, published)
                    yield from _submitted_cells(measurements, bare)
                    if table.floor == "constants":
                        yield from trivial.cells(bare, table)


def _scored_metrics(table: Table) -> list[str]:
    """Return a table's own metrics and the others of their kind, so that NAE and SRE stand beside each MAE."""
    metrics = list(table.metrics)
    for family in (ERROR_METRICS, CAPTION_METRICS):
        if family[0] in metrics:
            metrics += family
    return list(dict.fromkeys(metrics))


def _row_cells(measurements: Measurements, bare: Score, row: Row, published: Sequence[PublishedRow]) -> Iterator[Score]:
    cell = replace(bare, row=row.run or row.key, system=row.system, variant=row.variant)
    why = NOTHING if row.quoted else _why_not_run(measurements, cell)
    if row.quoted:
        yield _quoted(cell, published, row.quoted)
    elif why:
        yield replace(cell, reason=why)
    else:
        yield from _measured_cells(measurements, cell)


def _why_not_run(measurements: Measurements, cell: Score) -> Reason:
    project = measurements.project
    if absent := project.why_no_data(cell.benchmark):
        return Reason("no counterpart", absent)
    if skipped := project.not_run(cell.system, cell.variant):
        return Reason("skipped", skipped)
    if cell.benchmark not in measurements.runs[cell.system, cell.variant][0].benchmarks:
        return Reason("no counterpart", f"{cell.system}/{cell.variant} is not evaluated on {cell.benchmark}")
    return NOTHING


def _measured_cells(measurements: Measurements, cell: Score) -> Iterator[Score]:
    runs = measurements.runs[cell.system, cell.variant]
    done: dict[str, dict[str, Measured]] = {}
    absent: dict[str, Reason] = {}
    for run in runs:
        try:
            done[run.id] = measurements.measured(run.id, cell.benchmark, cell.metric)
        except Missing as missing:
            absent[run.id] = missing.reason
    if not done:
        yield replace(cell, reason=joined(absent.values()))
        return
    status = "checkpoint" if runs[0].checkpoint else "trained"
    for run in runs:
        mine = replace(cell, seed=str(run.seed))
        if run.id in absent:
            yield replace(mine, reason=absent[run.id])
        for selection, measured in done.get(run.id, {}).items():
            yield measured.fill(replace(mine, selection=selection), status)
    for selection in dict.fromkeys(name for by_selection in done.values() for name in by_selection):
        chosen = {run: by[selection] for run, by in done.items() if selection in by}
        yield _over_seeds(measurements, replace(cell, selection=selection), chosen, len(runs), status)


def _submitted_cells(measurements: Measurements, bare: Score) -> Iterator[Score]:
    for counter, path in measurements.submitted(bare.benchmark).items() if bare.metric in METRICS else ():
        cell = replace(bare, row=counter, system=SUBMITTED, variant=counter.partition("/")[2])
        try:
            predictions = measurements.submission(path)[1]
            yield measure(METRICS[bare.metric], predictions).fill(replace(cell, selection=SELECTION), SUBMITTED)
        except Missing as missing:
            yield replace(cell, reason=missing.reason)


def _over_seeds(
    measurements: Measurements, cell: Score, of_runs: Mapping[str, Measured], wanted: int, status: str
) -> Score:
    if not (finite := {run: measured for run, measured in of_runs.items() if measured.reason.is_note}):
        return replace(cell, reason=joined(measured.reason for measured in of_runs.values()))
    said = [Reason("note", f"{len(finite)} of {wanted} seeds")] if len(finite) < wanted else []
    said += [measured.reason for measured in finite.values()]
    first = next(iter(finite.values()))
    if len(finite) == 1:
        return replace(first, reason=joined(said)).fill(cell, status)
    mean, sd = statistics.mean_and_sd([measured.interval.value for measured in finite.values()])
    interval = statistics.Interval(mean)
    if cell.metric in METRICS:
        tables = [measurements.predictions(run, cell.benchmark)[cell.selection] for run in finite]
        if any(table.ids != tables[0].ids or (table.true != tables[0].true).any() for table in tables):
            said.append(Reason("note", "no interval: the seeds were predicted on different samples"))
        else:
            predicted = np.stack([table.predicted for table in tables])
            interval = statistics.bootstrap_over_seeds(METRICS[cell.metric], tables[0].true, predicted)
    return Measured(interval, first.n, joined(said)).fill(replace(cell, sd=sd), status)


def _quoted(cell: Score, published: Sequence[PublishedRow], because: str) -> Score:
    wanted = (cell.table, cell.row, cell.benchmark, cell.metric)
    for line in published:
        if (line.table, line.row, line.benchmark, line.metric) == wanted:
            return replace(cell, value=float(line.value), status="quoted", reason=Reason("note", because))
    return replace(cell, reason=Reason("no counterpart", f"not published; {because}"))


def _finished(measurements: Measurements) -> Iterator[tuple[dict[str, Any], Predictions]]:
    """Yield all predictions that exist and are finite, with the columns that say whose they are."""
    for run in (run for runs in measurements.runs.values() for run in runs):
        for benchmark, split in run.benchmarks.items():
            try:
                by_selection = measurements.predictions(run.id, benchmark)
            except Missing:
                continue
            for selection, predictions in by_selection.items():
                if not predictions.not_finite:
                    which = {"system": run.system, "variant": run.variant, "seed": run.seed, "benchmark": benchmark}
                    yield which | {"dataset": f"{split.dataset}/{split.split}", "selection": selection}, predictions


def _strata(measurements: Measurements) -> Iterator[Stratum]:
    for which, predictions in _finished(measurements):
        true = predictions.true
        for kind, names in (("bin", count_bins(true)), ("tercile", terciles(true))):
            for name in dict.fromkeys(name for _, name in sorted(zip(true, names, strict=True))):
                inside = np.array([other == name for other in names])
                group = which | {"kind": kind, "stratum": name, "n": int(inside.sum())}
                for metric in (MAE, RMSE):
                    found = statistics.bootstrap(metric, true[inside], predictions.predicted[inside])
                    yield Stratum(**group, metric=metric.name, **found.columns())


def _influences(measurements: Measurements) -> Iterator[InfluentialImage]:
    """Yield the images with the largest share of a run's squared error, largest first."""
    for which, predictions in _finished(measurements):
        true, predicted = predictions.true, predictions.predicted
        of_images = asdict(statistics.influence(true, predicted))
        order = np.argsort(-of_images["share_of_squared_error"], kind="stable")[:INFLUENTIAL_IMAGES]
        for rank, index in enumerate(order, start=1):
            effects: dict[str, Any] = {name: float(values[index]) for name, values in of_images.items()}
            yield InfluentialImage(
                **which,
                rank=rank,
                id=predictions.ids[index],
                image=predictions.images[index],
                true_count=float(true[index]),
                predicted_count=float(predicted[index]),
                rmse_without_this_and_larger=statistics.rmse_without_largest(true, predicted, rank),
                **effects,
            )

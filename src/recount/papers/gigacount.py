"""What GigaCount's published log shows, computed from ``papers/gigacount/evidence/evallog.csv`` and ``published.csv``.

The log is ``eval_log.txt`` of AdamHermes/GigaCount@d57191e, parsed line by line. Every number of this section is found
in or computed from the two files; only the names of four runs are given here, so that they can be spoken about.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from recount.judging.published_log import (
    LATE_SHARE,
    Found,
    Late,
    LoggedRun,
    Start,
    best_run,
    find_pair,
    late_evaluations,
    logged_runs,
    occurs,
    rate_changes,
    read_log,
    restarts,
    schedule_starts,
    stated_epochs,
)
from recount.report.sources import row_key
from recount.settings.paper import Paper, Table

RUN_NAMES = {26: "N", 218: "A", 778: "S", 1141: "B"}  # first line in the log -> name in the notes of published.csv


@dataclass(frozen=True)
class LoggedRow:
    """A row of a printed table and where its numbers stand in the log (``found`` is None: nowhere)."""

    table: str
    label: str
    mae: float
    rmse: float
    found: Found | None
    run: str

    @property
    def selection_gain(self) -> float | None:
        """Return by how much the printed MAE is below the one at the stated number of epochs."""
        if self.found is None or self.found.at_horizon is None:
            return None
        return self.found.at_horizon[0] - self.mae


@dataclass(frozen=True)
class AblationPair:
    """Two rows of a table at one horizon: the printed difference and the one without selection on the test images.

    ``peaks`` and ``starts`` are the highest learning rate and the number of warm-ups begun up to that horizon.
    """

    horizon: int
    labels: tuple[str, str]
    runs: tuple[str, str]
    printed: float
    at_horizon: float | None
    peaks: tuple[float, float]
    starts: tuple[int, int]


@dataclass(frozen=True)
class RunSummary:
    """A named run: where it stands, how long it was, and what its learning rate did."""

    name: str
    run: LoggedRun
    starts: list[Start]
    restarts: list[int]
    best: tuple[int, float, float]

    def peak(self, horizon: int | None = None) -> float:
        """Return the highest learning rate printed up to an epoch."""
        rates = self.run.rates
        return float((rates if horizon is None else rates[rates["epoch"] <= horizon])["rate"].max())

    def warm_ups(self, horizon: int | None = None) -> int:
        """Return how many warm-ups begin up to an epoch."""
        return sum(horizon is None or start.epoch <= horizon for start in self.starts)

    @property
    def rate_changes(self) -> int:
        """Return after how many epochs the printed learning rate differs from the one before."""
        return rate_changes(self.run)


@dataclass(frozen=True)
class Conflict:
    """One quantity that was printed with different values."""

    system: str
    variant: str
    benchmark: str
    metric: str
    values: tuple[tuple[str, str, str], ...]
    same: tuple[str, ...]


@dataclass(frozen=True)
class LogEvidence:
    """Everything the section says.

    Attributes:
        rows: table rows whose label states a number of epochs, with their place in the log.
        headline: the row whose numbers the log does not hold.
        headline_occurs: whether its MAE, its RMSE occur anywhere in the log.
        best, last, late: of the run with the lowest MAE: (line, epoch, MAE, RMSE) twice, and statistics.
        runs: the named runs.
        number_of_runs, evaluations: of the whole log.
        pairs: ablations with their printed difference.
        shared: run -> labels of the rows that were read off it, where there are several groups.
        at_short_horizon: (horizon, name and best MAE up to it) for the named runs.
        conflicts: quantities printed with different values.
    """

    rows: list[LoggedRow]
    headline: LoggedRow | None
    headline_occurs: tuple[bool, bool]
    best: tuple[int, int, float, float]
    last: tuple[int, int, float, float]
    late: Late
    runs: list[RunSummary]
    number_of_runs: int
    evaluations: int
    pairs: list[AblationPair]
    shared: dict[str, list[str]]
    at_short_horizon: tuple[int, list[tuple[str, float]]]
    conflicts: list[Conflict]


def log_evidence(path: Path, paper: Paper, published: pd.DataFrame) -> LogEvidence:
    """Compute what the log shows.

    Args:
        path: the log's table.
        paper: GigaCount; rows whose label says "(N epochs)" are looked up with that horizon.
        published: published.csv, values as text.

    Raises:
        LogError: the log has not the expected columns.
    """
    runs = logged_runs(read_log(path))
    rows = [row for key, table in paper.tables.items() for row in _logged_rows(key, table, published, runs)]
    ablation = [row for row in rows if row.found is not None and row.found.horizon is not None]
    longest = best_run(runs)
    best, last = longest.best(), longest.evaluations.iloc[-1]
    assert best is not None
    headline = next((row for row in rows if row.found is None), None)
    named = [_summary(run) for run in runs if run.lines[0] in RUN_NAMES]
    return LogEvidence(
        rows=ablation,
        headline=headline,
        headline_occurs=(
            headline is not None and occurs(runs, "mae", headline.mae),
            headline is not None and occurs(runs, "rmse", headline.rmse),
        ),
        best=_evaluation(best),
        last=_evaluation(last),
        late=late_evaluations(longest, int(longest.epochs * LATE_SHARE)),
        runs=named,
        number_of_runs=len(runs),
        evaluations=sum(len(run.evaluations) for run in runs),
        pairs=_pairs(ablation, named),
        shared=_shared(ablation),
        at_short_horizon=_short_horizon(ablation, named),
        conflicts=published_conflicts(published),
    )


def _evaluation(row: pd.Series) -> tuple[int, int, float, float]:
    return int(row["line"]), int(row["epoch"]), float(row["mae"]), float(row["rmse"])


def _logged_rows(key: str, table: Table, published: pd.DataFrame, runs: Sequence[LoggedRun]) -> list[LoggedRow]:
    """Return the rows of GigaCount itself in a table that prints MAE and RMSE."""
    result = []
    for row in table.rows:
        values = published[(published["table"] == key) & (published["row"] == row_key(row))]
        printed = dict(zip(values["metric"], values["value"], strict=True))
        if not row.system.startswith("gigacount") or not {"mae", "rmse"} <= printed.keys():
            continue
        mae, rmse = float(printed["mae"]), float(printed["rmse"])
        found = find_pair(runs, mae, rmse, stated_epochs(row.label))
        result.append(LoggedRow(key, row.label, mae, rmse, found, run_name(found.run) if found else ""))
    return result


def run_name(run: LoggedRun) -> str:
    """Return the name of a run, or its number in the log where it has none."""
    return RUN_NAMES.get(run.lines[0], f"no. {run.number}")


def _summary(run: LoggedRun) -> RunSummary:
    best = run.best()
    assert best is not None
    _, epoch, mae, rmse = _evaluation(best)
    return RunSummary(run_name(run), run, schedule_starts(run), restarts(run), (epoch, mae, rmse))


def _pairs(rows: Sequence[LoggedRow], runs: Sequence[RunSummary]) -> list[AblationPair]:
    summaries = {run.name: run for run in runs}
    pairs = []
    for table, horizon in dict.fromkeys((row.table, row.found.horizon) for row in rows if row.found is not None):
        members = [row for row in rows if row.table == table and row.found and row.found.horizon == horizon]
        if len(members) != 2:
            continue
        first, second = members
        ends = [row.found.at_horizon for row in members if row.found is not None]
        at_horizon = ends[0][0] - ends[1][0] if ends[0] is not None and ends[1] is not None else None
        pairs.append(
            AblationPair(
                horizon=horizon or 0,
                labels=(first.label, second.label),
                runs=(first.run, second.run),
                printed=first.mae - second.mae,
                at_horizon=at_horizon,
                peaks=(summaries[first.run].peak(horizon), summaries[second.run].peak(horizon)),
                starts=(summaries[first.run].warm_ups(horizon), summaries[second.run].warm_ups(horizon)),
            )
        )
    return pairs


def _shared(rows: Sequence[LoggedRow]) -> dict[str, list[str]]:
    by_run: dict[str, list[str]] = {}
    for row in rows:
        by_run.setdefault(row.run, []).append(row.label)
    return {run: labels for run, labels in by_run.items() if len(labels) > 1}


def _short_horizon(rows: Sequence[LoggedRow], runs: Sequence[RunSummary]) -> tuple[int, list[tuple[str, float]]]:
    horizon = min((row.found.horizon for row in rows if row.found and row.found.horizon), default=0)
    bests = [(run.name, run.run.best(horizon)) for run in runs]
    return horizon, [(name, float(best["mae"])) for name, best in bests if best is not None]


def published_conflicts(published: pd.DataFrame) -> list[Conflict]:
    """Find experiments that two sources print with one metric equal and another different.

    The equal metric is what says that both mean the same experiment.
    """
    numbers = published.assign(number=pd.to_numeric(published["value"], errors="coerce")).dropna(subset="number")
    experiments = [
        (keys, _by_metric(part))
        for keys, part in numbers.groupby(["system", "benchmark", "table", "row", "source", "note"], sort=False)
    ]
    conflicts = []
    for place, (one_keys, one) in enumerate(experiments):
        for other_keys, other in experiments[place + 1 :]:
            if one_keys[:2] != other_keys[:2] or one_keys[2] == other_keys[2]:
                continue
            common = [name for name in one if name in other]
            same = tuple(name for name in common if one[name].number == other[name].number)
            if same:
                conflicts += [_conflict(one[name], other[name], same) for name in common if name not in same]
    return conflicts


def _by_metric(rows: pd.DataFrame) -> dict[str, Any]:
    return {str(row.metric): row for row in rows.itertuples(index=False)}


def _conflict(one: Any, other: Any, same: tuple[str, ...]) -> Conflict:
    values = tuple((entry.table, entry.value, entry.source) for entry in (one, other))
    return Conflict(one.system, one.variant, one.benchmark, one.metric, values, same)

"""What T2ICount's public evidence shows without a GPU: real annotations, real class names, the authors' training log.

Every number is computed from ``papers/t2icount/evidence/*.csv`` and the published cells; how those files were made
stands in ``recount.papers.trivial_on_real_annotation`` and ``recount.papers.unread_prompts``, and the log is
``logs/train.log`` of cha15yq/T2ICount@289d3fb, one row per epoch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from recount.report.sources import row_key
from recount.settings.paper import Paper

TRIVIAL = "trivial_on_real_annotation"
UNREAD = "clip_count_unread_prompts"
LOG = "trainlog"
METRICS = ("mae", "rmse")
BLIND = "prompt_blind"
#: Annotations with no column in the paper's tables: the dominant pictures left out.
WITHOUT_DOMINANT = "fsc147/test_without_1123_7611"
#: table of the paper -> real benchmarks, in the order of their columns
REAL_TABLES: Mapping[str, tuple[str, ...]] = {
    "table1": ("fsc147/test", WITHOUT_DOMINANT, "fsc147/val"),
    "table2": ("fsc147s/v1", "fsc147s/v2"),
    "table3": ("carpk/test",),
}


class EvidenceError(ValueError):
    """A file of evidence is not of the expected form."""


# ------------------------------------------------------------------------------------------------- real annotations


@dataclass(frozen=True)
class RealCell:
    """A number on a real benchmark: printed, or computed from its annotation with a 95 % interval over pictures.

    ``source`` says where it is printed, or which constant it is; ``text`` is the number as printed.
    """

    value: float
    low: float = float("nan")
    high: float = float("nan")
    source: str = ""
    text: str = ""


@dataclass(frozen=True)
class RealRow:
    """A published system or a predictor that looks at no picture.

    Attributes:
        name: in published.csv or in the evidence.
        label: for people.
        kind: "published", "constant" or "oracle" (uses the answers that it is tested on).
        cells: (benchmark, metric) -> number.
    """

    name: str
    label: str
    kind: str
    cells: dict[tuple[str, str], RealCell]


@dataclass(frozen=True)
class RealTable:
    """A table of the paper on its real benchmarks: published rows among the trivial ones, lowest error first.

    Attributes:
        name, title: of the paper's table.
        columns: (benchmark, metric).
        pictures: benchmark -> number of samples.
        rows: by the first column in which they have a number.
        beaten: (benchmark, the best constant's label and cell, how many published systems are below it, all of them as
            label and cell, lowest first).
    """

    name: str
    title: str
    columns: tuple[tuple[str, str], ...]
    pictures: dict[str, int]
    rows: list[RealRow]
    beaten: list[tuple[str, str, RealCell, int, list[tuple[str, RealCell]]]]


def real_tables(path: Path, paper: Paper, published: pd.DataFrame) -> list[RealTable]:
    """Return the paper's tables with trivial predictors on the real annotation beside the published rows.

    Args:
        path: ``evidence/trivial_on_real_annotation.csv``.
        paper: whose tables 1 to 3 are meant.
        published: published.csv, values as text.

    Raises:
        EvidenceError: the file has not the expected columns.
    """
    trivial = _read(path, ("dataset", "split", "predictor", "label", "oracle", "metric", "value", "ci_low", "ci_high"))
    trivial = trivial.assign(benchmark=trivial["dataset"] + "/" + trivial["split"])
    return [
        _real_table(name, paper, benchmarks, trivial, published)
        for name, benchmarks in REAL_TABLES.items()
        if name in paper.tables
    ]


def _read(path: Path, columns: Sequence[str]) -> pd.DataFrame:
    try:
        table = pd.read_csv(path)
    except (OSError, ValueError) as error:
        raise EvidenceError(f"not a readable CSV: {error}") from None
    absent = [column for column in columns if column not in table.columns]
    if absent:
        raise EvidenceError(f"no column {', '.join(absent)}")
    return table


def _real_table(
    name: str, paper: Paper, benchmarks: tuple[str, ...], trivial: pd.DataFrame, published: pd.DataFrame
) -> RealTable:
    table = paper.tables[name]
    here = trivial[trivial["benchmark"].isin(benchmarks) & trivial["metric"].isin(METRICS)]
    columns = tuple((benchmark, metric) for benchmark in benchmarks for metric in METRICS)
    labels = dict.fromkeys((row_key(row), row.label) for row in table.rows)
    printed = [_printed(key, label, published[published["table"] == name]) for key, label in labels]
    rows = [*(row for row in _once(printed) if row.cells), *_trivial_rows(here)]
    return RealTable(
        name=name,
        title=table.title,
        columns=columns,
        pictures={str(k): int(v) for k, v in here.groupby("benchmark", sort=False)["n"].first().items()},
        rows=sorted(rows, key=lambda row: [row.cells[c].value if c in row.cells else float("inf") for c in columns]),
        beaten=[found for benchmark in benchmarks for found in _beaten(benchmark, rows)],
    )


def _once(rows: Sequence[RealRow]) -> list[RealRow]:
    """Return each published number once: released weights and trained ones share a printed row."""
    seen: dict[str, RealRow] = {}
    for row in rows:
        seen.setdefault(repr(sorted((place, cell.value) for place, cell in row.cells.items())), row)
    return list(seen.values())


def _printed(key: str, label: str, published: pd.DataFrame) -> RealRow:
    mine = published[published["row"] == key]
    values = pd.to_numeric(mine["value"], errors="coerce")
    cells = {
        (str(row.benchmark), str(row.metric)): RealCell(float(value), source=str(row.source), text=str(row.value))
        for row, value in zip(mine.itertuples(index=False), values, strict=True)
        if pd.notna(value)
    }
    return RealRow(key, label, "published", cells)


def _trivial_rows(rows: pd.DataFrame) -> list[RealRow]:
    """Return a row per predictor; the number in a constant's label stays only if it is the same on every benchmark."""
    found = []
    for name, mine in rows.groupby("predictor", sort=False):
        labels = mine["label"].unique().tolist()
        cells = {
            (row["benchmark"], row["metric"]): RealCell(row["value"], row["ci_low"], row["ci_high"], row["label"])
            for row in mine.to_dict("records")
        }
        label = labels[0] if len(labels) == 1 else labels[0].split(" (")[0]
        found.append(RealRow(str(name), label, "oracle" if mine["oracle"].iloc[0] else "constant", cells))
    return found


def _beaten(
    benchmark: str, rows: Sequence[RealRow]
) -> list[tuple[str, str, RealCell, int, list[tuple[str, RealCell]]]]:
    """Return the best constant of a benchmark and which published systems have a lower MAE; [] if none is known."""
    place = (benchmark, "mae")
    printed = _published(benchmark, rows)
    constants = [row for row in rows if row.kind == "constant" and place in row.cells]
    if not printed or not constants:
        return []
    best = min(constants, key=lambda row: row.cells[place].value)
    cell = best.cells[place]
    return [(benchmark, best.label, cell, sum(other.value < cell.value for _, other in printed), printed)]


def _published(benchmark: str, rows: Sequence[RealRow]) -> list[tuple[str, RealCell]]:
    """Return the published MAEs on a benchmark, lowest first."""
    place = (benchmark, "mae")
    found = [(row.label, row.cells[place]) for row in rows if row.kind == "published" and place in row.cells]
    return sorted(found, key=lambda entry: entry[1].value)


@dataclass(frozen=True)
class Blind:
    """A perfect counter that ignores the prompt, and the published systems that are no better, on one version."""

    benchmark: str
    cell: RealCell
    within: list[tuple[str, RealCell]]
    below: list[tuple[str, RealCell]]


def prompt_blind(tables: Sequence[RealTable]) -> list[Blind]:
    """Return, for each version of FSC-147-S, the prompt-blind perfect counter beside the published systems.

    ``within``: published MAEs at or above the lower end of its interval; ``below``: those under it.
    """
    found = []
    for table in tables:
        for row in table.rows:
            if row.name != BLIND:
                continue
            for (benchmark, metric), cell in row.cells.items():
                if metric != "mae":
                    continue
                printed = _published(benchmark, table.rows)
                within = [entry for entry in printed if entry[1].value >= cell.low]
                found.append(Blind(benchmark, cell, within, [entry for entry in printed if entry[1].value < cell.low]))
    return found


# ------------------------------------------------------------------------------------------------- unread class names


@dataclass(frozen=True)
class UnreadPrompts:
    """What CLIP-Count's text defect does to a benchmark's prompts: see ``recount.papers.unread_prompts``."""

    benchmark: str
    prompts: int
    unread: int
    names: int
    unread_names: int
    told_apart: int

    @property
    def share(self) -> float:
        """Return the share of samples whose prompt is not read at all."""
        return self.unread / self.prompts


def unread_prompts(path: Path) -> list[UnreadPrompts]:
    """Return the evidence on unread prompts, a row per benchmark.

    Raises:
        EvidenceError: the file has not the expected columns.
    """
    columns = ("prompts", "unread", "names", "unread_names", "told_apart")
    table = _read(path, ("dataset", "split", *columns))
    return [
        UnreadPrompts(f"{row['dataset']}/{row['split']}", *(int(row[name]) for name in columns))
        for row in table.to_dict("records")
    ]


# ------------------------------------------------------------------------------------------------------- training log


@dataclass(frozen=True)
class Epoch:
    """An evaluated epoch of the log, counted from 0 as there; test errors only where the log has them."""

    epoch: int
    val_mae: float
    val_rmse: float
    test_mae: float
    test_rmse: float

    @property
    def score(self) -> float:
        """Return what the released code selects by: validation MAE + RMSE."""
        return self.val_mae + self.val_rmse


@dataclass(frozen=True)
class Spread:
    """How a validation error varies over the evaluated epochs."""

    metric: str
    lowest: float
    lowest_epoch: int
    median: float
    sd: float
    highest: float
    step: float


@dataclass(frozen=True)
class TrainLog:
    """What the authors' log says of the choice of an epoch.

    Attributes:
        epochs: how many epochs were trained.
        evaluated: those with a validation.
        selected: the epoch that the released code's rule picks.
        runner_up: the best by that rule among the other epochs whose test error is in the log.
        spreads: of validation MAE and RMSE; ``step`` is the median change from one epoch to the next.
        seconds_per_epoch: median of training.
        hours: training and validation in all.
    """

    epochs: int
    evaluated: list[Epoch]
    selected: Epoch
    runner_up: Epoch | None
    spreads: list[Spread]
    seconds_per_epoch: float
    hours: float

    @property
    def tested(self) -> list[Epoch]:
        """Return the epochs whose test error is in the log: each was the best so far on validation."""
        return [epoch for epoch in self.evaluated if pd.notna(epoch.test_mae)]


def train_log(path: Path) -> TrainLog:
    """Compute what the log shows.

    Raises:
        EvidenceError: the file has not the expected columns, or no evaluation.
    """
    seconds = ("train_seconds", "val_seconds", "test_seconds")
    table = _read(path, ("epoch", "val_mae", "val_rmse", "test_mae", "test_rmse", *seconds))
    seen = table.dropna(subset=["val_mae", "val_rmse"])
    if seen.empty:
        raise EvidenceError("no epoch has a validation error")
    columns = ["epoch", "val_mae", "val_rmse", "test_mae", "test_rmse"]
    evaluated = [Epoch(int(row[0]), *map(float, row[1:])) for row in seen[columns].itertuples(index=False)]
    selected = min(evaluated, key=lambda epoch: epoch.score)
    others = [epoch for epoch in evaluated if epoch is not selected and pd.notna(epoch.test_mae)]
    return TrainLog(
        epochs=len(table),
        evaluated=evaluated,
        selected=selected,
        runner_up=min(others, key=lambda epoch: epoch.score, default=None),
        spreads=[_spread(seen, metric) for metric in METRICS],
        seconds_per_epoch=float(table["train_seconds"].median()),
        hours=float(table[list(seconds)].sum().sum() / 3600),
    )


def _spread(seen: pd.DataFrame, metric: str) -> Spread:
    values = seen[f"val_{metric}"].reset_index(drop=True)
    return Spread(
        metric=metric,
        lowest=float(values.min()),
        lowest_epoch=int(seen["epoch"].iloc[int(values.argmin())]),
        median=float(values.median()),
        sd=float(values.std()),
        highest=float(values.max()),
        step=float(values.diff().abs().median()),
    )

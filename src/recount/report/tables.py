"""The papers' tables with what was measured: a cell per row, benchmark and metric, with a reason where it is empty."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from recount.report.numbers import metric as shown_metric
from recount.report.numbers import present
from recount.report.sources import Sources, row_key
from recount.settings.paper import Paper, Row, Table

SELECTIONS = {"last": "last epoch", "best_on_test": "best on test", "best_on_held_out": "best on held-out"}
EXTRA_METRICS = ("nae",)  # shown beside a paper's own columns where it was scored
DOMINATED = "alone carries"
ANCHOR = "anchor"  # the group of rows that are quoted for orientation, under a line
TIMES = ("train_hours_100_epochs", "inference_seconds_per_image")
CONSTANTS = {
    "training_mean": "training mean",
    "training_median": "training median",
    "best_constant": "median of the answers (an oracle)",
    "uniform_guess": "uniform guess",
    "most_frequent": "most frequent answer (an oracle)",
    "dot_map": "the annotation as dots in pixels (an oracle)",
    "block_bins": "the annotation through the bins of blocks (an oracle)",
    "block_bins_2": "the same through the other variant's bins (an oracle)",
}
Record = Mapping[str, Any]  # a row of a CSV, by column
Records = Mapping[tuple[str, ...], Sequence[Record]]
MARKS = ("trivial", "oracle")  # statuses of rows that mark the scale; no system stands behind them
STATUSES = {
    "trained": ("●", "trained here"),
    "checkpoint": ("◆", "a released checkpoint, evaluated here"),
    "quoted": ("❞", "published only; not run here"),
    "trivial": ("▬", "a constant predictor"),
    "oracle": ("◇", "the annotation itself, in the form in which systems are taught it"),
    "missing": ("○", "no number, and the reason is given"),
}


@dataclass(frozen=True)
class Published:
    """A printed number.

    Attributes:
        text: as printed.
        value: as a number; None where it is not one.
        source, note: where it is printed, and what is odd about it.
        chosen_on_test: whether it was selected with the test images in view.
    """

    text: str
    value: float | None
    source: str
    note: str
    chosen_on_test: bool


@dataclass(frozen=True)
class Cell:
    """A cell of a table: what was printed, what was measured, how sure that is, or why there is nothing.

    Attributes:
        benchmark, metric: the column.
        published: the printed number, or None.
        value, low, high, sd: measured mean over seeds, its 95 % interval, the standard deviation over seeds.
        seeds: the seeds behind it.
        n: number of images.
        selection: which weights ("" where there is nothing to select).
        status, reason: as in scores.csv.
        constant: value of the best constant predictor in this column, or None.
        extra: whether the metric is recount's own addition to the paper's columns.
    """

    benchmark: str
    metric: str
    published: Published | None
    value: float | None
    low: float | None
    high: float | None
    sd: float | None
    seeds: tuple[str, ...]
    n: int | None
    selection: str
    status: str
    reason: str
    constant: float | None = None
    extra: bool = False

    @property
    def chosen_on_test(self) -> bool:
        """Whether the measured number was selected on test images."""
        return self.selection == "best_on_test" and present(self.value)

    @property
    def difference(self) -> float | None:
        """Return measured minus published."""
        if self.published is None or self.published.value is None or self.value is None or not present(self.value):
            return None
        return self.value - self.published.value

    @property
    def relative(self) -> float | None:
        """Return the difference as a share of the published number."""
        if self.difference is None or self.published is None or not self.published.value:
            return None
        return self.difference / self.published.value

    @property
    def of_constant(self) -> float | None:
        """Return the error as a share of the best constant predictor's; an accuracy's error is its wrong answers."""
        if self.constant is None or self.value is None or not present(self.value):
            return None
        wrong = shown_metric(self.metric).wrong
        return wrong(self.value) / wrong(self.constant) if wrong(self.constant) else None

    @property
    def learned_nothing(self) -> bool:
        """Whether a trained system is no better than the best constant."""
        return self.status in ("trained", "checkpoint") and self.of_constant is not None and self.of_constant >= 1

    @property
    def dominated(self) -> bool:
        """Whether one image carries more than half of the squared error behind the number, as score notes."""
        return DOMINATED in self.reason


@dataclass(frozen=True)
class RowView:
    """A row of a table with its cells, in the order of the table's columns."""

    key: str
    label: str
    system: str
    variant: str
    group: str
    note: str
    protocol: str
    cells: tuple[Cell, ...]

    @property
    def anchor(self) -> str:
        """Return what a link to this row ends with, the same as long as the row shows the same variant."""
        return re.sub(r"[^a-z0-9_.]+", "-", (f"{self.system}-{self.variant}" if self.variant else self.key).lower())

    @property
    def marks(self) -> tuple[str, ...]:
        """Return what the page's filter finds the row by: its statuses, and what is marked in its cells."""
        found = [cell.status for cell in self.cells if not cell.extra]
        found += ["nothing" for cell in self.cells if cell.learned_nothing]
        found += ["heavy" for cell in self.cells if cell.dominated]
        return tuple(dict.fromkeys(found))

    @property
    def status(self) -> str:
        """Return the status of the row's cells in the paper's own columns, or "mixed"."""
        statuses = {cell.status for cell in self.cells if not cell.extra}
        return statuses.pop() if len(statuses) == 1 else "mixed"

    @property
    def reasons(self) -> tuple[tuple[str, str], ...]:
        """Return why cells have no number: (sentence, last lines of the log that it ends with, or "")."""
        given = dict.fromkeys(
            cell.reason for cell in self.cells if cell.reason and cell.value is None and not cell.extra
        )
        return tuple(_with_log(reason) for reason in given)


@dataclass(frozen=True)
class Column:
    """A measured column: benchmark, metric, what stands for the benchmark, and its best constant predictor.

    ``extra`` marks a metric that the paper does not print: measured only.
    """

    benchmark: str
    metric: str
    stand_in: str
    constant_label: str = ""
    constant: float | None = None
    extra: bool = False


@dataclass(frozen=True)
class TableView:
    """A paper's table as the report shows it."""

    id: str
    name: str
    paper: str
    title: str
    caption: str
    selection: str
    columns: tuple[Column, ...]
    rows: tuple[RowView, ...]
    why_not_comparable: str
    notes: tuple[str, ...] = field(default=())

    @property
    def groups(self) -> bool:
        """Whether any row belongs to a named group."""
        return any(row.group for row in self.rows)

    @property
    def file(self) -> str:
        """Return the stem of the files that hold this table."""
        return f"{self.paper}-{self.name}"


def _with_log(reason: str) -> tuple[str, str]:
    """Split a reason as score writes it into its sentence and the lines of the log behind " ends: "."""
    sentence, ends, lines = reason.partition(" ends: ")
    return sentence + (" ends:" if ends else ""), lines.replace(" | ", "\n")


def paper_tables(sources: Sources, name: str) -> list[TableView]:
    """Return the tables of a paper, in its own order."""
    paper = sources.project.papers[name]
    return [_table(sources, name, paper, key, table) for key, table in paper.tables.items()]


def _table(sources: Sources, name: str, paper: Paper, key: str, table: Table) -> TableView:
    scores = sources.scores
    scores = scores[(scores["paper"] == name) & (scores["table"] == key)]
    published = sources.published[name]
    published = published[published["table"] == key]
    labels = {(row.system, row.variant or ""): row.label for row in table.rows}
    columns = tuple(_columns(sources, table, scores, labels))
    measured = _by(scores, "system", "variant", "benchmark", "metric")
    printed = _by(published, "row", "benchmark", "metric")
    rows = [_row(sources, paper, table, row, measured, printed, columns) for row in table.rows]
    listed = {(row.system, row.variant) for row in rows}
    rows += _trivial_rows(scores, columns, table, listed)
    rows.sort(key=_place)
    suite = sources.project.suite
    return TableView(
        id=f"{name}-{key}",
        name=key,
        paper=name,
        title=table.title,
        caption=table.caption,
        selection=table.selection,
        columns=columns,
        rows=tuple(rows),
        why_not_comparable="" if suite.comparable else suite.why_not_comparable,
        notes=tuple(_stand_in_notes(sources, table)),
    )


def _by(table: pd.DataFrame, *columns: str) -> Records:
    """Return the rows of a table by their values in some columns, in their order."""
    found: dict[tuple[str, ...], list[dict[str, Any]]] = defaultdict(list)
    for record in table.to_dict("records"):
        found[tuple(record[column] for column in columns)].append({str(name): value for name, value in record.items()})
    return dict(found)


def _place(row: RowView) -> tuple[int, float]:
    """Keep the paper's order; after it the oracles, the constants, the best of each first, and quoted anchors."""
    if row.group == ANCHOR:
        return 3, 0.0
    if row.status not in MARKS:
        return 0, 0.0
    cell = row.cells[0] if row.cells else None
    wrong = float("inf") if cell is None or cell.value is None else shown_metric(cell.metric).wrong(cell.value)
    return (1 if row.status == "oracle" else 2), wrong


def _stand_in_notes(sources: Sources, table: Table) -> Iterable[str]:
    """Yield what stands for the table's benchmarks in this suite, and what is noted of them; the same things once."""
    said: dict[str, list[str]] = defaultdict(list)
    for benchmark in table.benchmarks:
        entry = sources.project.suite.benchmarks.get(benchmark)
        if entry is None:
            said["this suite has nothing that stands for it."].append(benchmark)
            continue
        itself = f"{entry.dataset}/{entry.split}" == benchmark
        words = f"{'' if itself else f'{entry.dataset}/{entry.split} stands for it here. '}{entry.note}".strip()
        if words:
            said[words].append(benchmark)
    yield from (f"{', '.join(benchmarks)}: {words}" for words, benchmarks in said.items())


def _columns(
    sources: Sources, table: Table, scores: pd.DataFrame, labels: Mapping[tuple[str, str], str]
) -> Iterable[Column]:
    for benchmark in table.benchmarks:
        entry = sources.project.suite.benchmarks.get(benchmark)
        stand_in = f"{entry.dataset}/{entry.split}" if entry else ""
        scored = set(scores.loc[scores["benchmark"] == benchmark, "metric"])
        for name in [*table.metrics, *(name for name in EXTRA_METRICS if name in scored)]:
            label, value = _best_constant(scores, benchmark, name, labels)
            yield Column(benchmark, name, stand_in, label, value, name not in table.metrics)


def _best_constant(
    scores: pd.DataFrame, benchmark: str, metric: str, labels: Mapping[tuple[str, str], str]
) -> tuple[str, float | None]:
    """Return the label and the value of the best constant predictor of a column."""
    shown = shown_metric(metric)
    if not shown.scored:
        return "", None
    trivial = scores[
        (scores["status"] == "trivial") & (scores["benchmark"] == benchmark) & (scores["metric"] == metric)
    ].dropna(subset="value")
    if trivial.empty:
        return "", None
    best = trivial.iloc[int(trivial["value"].astype(float).map(shown.wrong).argmin())]
    label = labels.get((best["system"], best["variant"])) or CONSTANTS.get(best["variant"], best["variant"])
    return str(label), float(best["value"])


def _row(
    sources: Sources,
    paper: Paper,
    table: Table,
    row: Row,
    scores: Records,
    published: Records,
    columns: Sequence[Column],
) -> RowView:
    key = row_key(row)
    entry = paper.systems.get(row.system)
    variant = entry.variants.get(row.variant) if entry and row.variant else None
    absent = _absent(sources, row, paper)
    cells = tuple(
        _cell(
            scores.get((row.system, row.variant or "", column.benchmark, column.metric), ()),
            column,
            table.selection,
            _published(published, key, column, table.selection),
            absent,
        )
        for column in columns
    )
    return RowView(
        key=key,
        label=row.label,
        system=row.system,
        variant=row.variant or "",
        group=row.group,
        note=row.note or (variant.note if variant else ""),
        protocol=variant.protocol if variant else "",
        cells=cells,
    )


def _absent(sources: Sources, row: Row, paper: Paper) -> tuple[str, str]:
    """Return (status, reason) of a row that scores.csv does not have."""
    entry = paper.systems.get(row.system)
    if entry is not None and entry.quoted_because:
        return "quoted", entry.quoted_because
    if row.variant and entry is not None and row.variant in entry.variants:
        why = sources.project.not_run(row.system, row.variant, entry)
        if why:
            return "missing", why
    return "missing", "not run yet: scores.csv has no such row"


def _published(published: Records, key: str, column: Column, selection: str) -> Published | None:
    """Return the printed number of a row in a column; a printed range is shown as one."""
    printed, low, high = (
        next(iter(published.get((key, column.benchmark, f"{column.metric}{end}"), ())), None)
        for end in ("", "_min", "_max")
    )
    span = f"{low['value']} to {high['value']}" if low and high else ""
    hit = printed or (low if span else None)
    if hit is None:
        return None
    note = f"also printed: {span} ({low['note']})" if span and low and printed else ""
    text = str(printed["value"]) if printed else span
    return Published(
        text=text,
        value=_number(text),
        source=hit["source"],
        note="; ".join(part for part in (hit["note"], note) if part),
        chosen_on_test=selection == "best_on_test" and shown_metric(column.metric).scored,
    )


def _cell(
    scores: Sequence[Record], column: Column, wanted: str, published: Published | None, absent: tuple[str, str]
) -> Cell:
    """Return the cell that the scores of one system in one column fill."""
    if not scores:
        status, reason = absent
        return Cell(
            column.benchmark, column.metric, published, None, None, None, None, (), None, "", status, reason,
            column.constant, column.extra,
        )  # fmt: skip
    selection = _selection(scores, wanted)
    mine = [score for score in scores if score["selection"] == selection]
    seeds = tuple(sorted(score["seed"] for score in mine if score["seed"] not in ("all", "")))
    chosen = next((score for score in mine if score["seed"] == "all"), mine[0])
    value, low, high, sd, n = (_number(chosen[name]) for name in ("value", "ci_low", "ci_high", "sd", "n"))
    status = str(chosen["status"])
    if status == "quoted":  # score repeats the printed number; it was not measured
        value = None
    return Cell(
        benchmark=column.benchmark,
        metric=column.metric,
        published=published,
        value=value,
        low=low,
        high=high,
        sd=sd,
        seeds=seeds,
        n=None if n is None else int(n),
        selection="" if status in ("trivial", "oracle", "quoted", "missing") else selection,
        status=status,
        reason=" · ".join(dict.fromkeys(score["reason"] for score in mine if score["reason"])),
        constant=column.constant,
        extra=column.extra,
    )


def _selection(scores: Sequence[Record], wanted: str) -> str:
    """Return the table's own selection where it was measured, else the first that was; the cell says which it is."""
    there = [score["selection"] for score in scores if _number(score["value"]) is not None]
    there = there or [score["selection"] for score in scores]
    return wanted if wanted in there else str(there[0])


def _number(value: Any) -> float | None:
    """Return a number, or None where there is none."""
    try:
        converted = float(value)
    except (TypeError, ValueError):
        return None
    return None if math.isnan(converted) else converted


def _trivial_rows(
    scores: pd.DataFrame, columns: Sequence[Column], table: Table, listed: set[tuple[str, str]]
) -> list[RowView]:
    """Return the constant predictors and oracles that scores.csv has for a table and the table itself does not list."""
    trivial = scores[scores["status"].isin(MARKS)]
    rows = []
    for (system, variant, status), part in trivial.groupby(["system", "variant", "status"], sort=False):
        if (system, variant) in listed:
            continue
        mine = _by(part, "benchmark", "metric")
        cells = tuple(
            _cell(mine.get((c.benchmark, c.metric), ()), c, table.selection, None, ("missing", "not scored"))
            for c in columns
        )
        label = CONSTANTS.get(str(variant), str(variant))
        note = next((cell.reason for cell in cells if cell.reason), "")
        rows.append(RowView(f"{system}/{variant}", label, str(system), str(variant), str(status), note, "", cells))
    return rows


def status_counts(tables: Iterable[TableView]) -> dict[str, int]:
    """Count the cells of tables by status, in the order of the legend."""
    counts = dict.fromkeys(STATUSES, 0)
    for table in tables:
        for row in table.rows:
            for cell in row.cells:
                if cell.extra:
                    continue
                counts[cell.status] = counts.get(cell.status, 0) + 1
    return {status: count for status, count in counts.items() if count}

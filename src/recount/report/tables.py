"""The papers' tables with what was measured: a cell per row, benchmark and metric, with a reason where it is empty."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from recount.metrics import metric as metric_of
from recount.report.numbers import present
from recount.report.sources import Sources
from recount.results.reason import NOTHING, Reason, joined
from recount.results.scores import ALL_SEEDS, Score
from recount.settings.paper import Row, Table

SELECTIONS = {"last": "last epoch", "best_on_test": "best on test", "best_on_held_out": "best on held-out"}
EXTRA_METRICS = ("nae",)  # shown beside a paper's own columns where it was scored
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
MARKS = ("trivial", "oracle")  # statuses of rows that mark the scale; no system stands behind them
RUN_HERE = ("trained", "checkpoint")  # statuses of measured systems
STATUSES = {
    "trained": ("●", "trained here"),
    "checkpoint": ("◆", "a released checkpoint, evaluated here"),
    "quoted": ("❞", "published only; not run here"),
    "trivial": ("▬", "a constant predictor"),
    "oracle": ("◇", "the annotation itself, in the form that systems are trained on"),
    "missing": ("○", "no number, and the reason is given"),
}


@dataclass(frozen=True)
class Published:
    """A printed number (``value``: None where the text is none), where it is printed, and what is odd about it."""

    text: str
    value: float | None
    source: str
    note: str
    chosen_on_test: bool


@dataclass(frozen=True)
class Cell:
    """A cell of a table: what was printed, what was measured, how sure that is, or why there is nothing.

    Attributes:
        value, low, high, sd: measured mean over seeds, its 95 % interval, the standard deviation over seeds.
        n: number of images.
        selection: which weights ("" where there is nothing to select).
        status, reason: as in scores.csv.
    """

    column: Column
    published: Published | None
    status: str
    reason: Reason
    value: float | None = None
    low: float | None = None
    high: float | None = None
    sd: float | None = None
    seeds: tuple[str, ...] = ()
    n: int | None = None
    selection: str = ""

    @property
    def extra(self) -> bool:
        """Whether the metric is recount's own addition to the paper's columns."""
        return self.column.extra

    @property
    def chosen_on_test(self) -> bool:
        """Whether the measured number was selected on test images."""
        return self.selection == "best_on_test" and present(self.value)

    @property
    def difference(self) -> float | None:
        """Return measured minus published."""
        if self.published is None or self.published.value is None or self.value is None:
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
        if self.column.constant is None or self.value is None:
            return None
        wrong = metric_of(self.column.metric).wrong
        return wrong(self.value) / wrong(self.column.constant) if wrong(self.column.constant) else None

    @property
    def learned_nothing(self) -> bool:
        """Whether a trained system is no better than the best constant."""
        return self.status in RUN_HERE and self.of_constant is not None and self.of_constant >= 1

    @property
    def dominated(self) -> bool:
        """Whether one image carries more than half of the squared error behind the number, as score notes."""
        return self.reason.kind == "dominated"


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
    def reasons(self) -> tuple[Reason, ...]:
        """Return why cells have no number."""
        empty = [cell.reason for cell in self.cells if cell.value is None and not cell.extra]
        return tuple(filter(None, dict.fromkeys(empty)))


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
    notes: tuple[str, ...] = ()

    @property
    def file(self) -> str:
        """Return the stem of the files that hold this table."""
        return f"{self.paper}-{self.name}"

    @property
    def short_title(self) -> str:
        """Return the title up to its first stop: "Table 1"."""
        return re.split(r"\. |:| \(", self.title)[0].strip()


def paper_tables(sources: Sources, name: str) -> list[TableView]:
    """Return the tables of a paper, in its own order."""
    paper = sources.project.papers[name]
    return [_table(sources, name, key, table) for key, table in paper.tables.items()]


def _table(sources: Sources, name: str, key: str, table: Table) -> TableView:
    scores = [score for score in sources.score_rows if (score.paper, score.table) == (name, key)]
    published = sources.published[name]
    published = published[published["table"] == key]
    printed = {(r["row"], r["benchmark"], r["metric"]): r for r in reversed(published.to_dict("records"))}
    columns = tuple(_columns(sources, table, scores))
    measured: dict[tuple[str, str, str, str], list[Score]] = defaultdict(list)
    for score in scores:
        measured[score.system, score.variant, score.benchmark, score.metric].append(score)
    rows = [_row(sources, table, row, measured, printed, columns) for row in table.rows]
    rows += _unlisted_marks(scores, table, measured, columns, {(row.system, row.variant) for row in rows})
    suite = sources.project.suite
    return TableView(
        id=f"{name}-{key}",
        name=key,
        paper=name,
        title=table.title,
        caption=table.caption,
        selection=table.weights,
        columns=columns,
        rows=tuple(sorted(rows, key=_place)),
        why_not_comparable="" if suite.comparable else suite.why_not_comparable,
        notes=tuple(_stand_in_notes(sources, table)),
    )


def _place(row: RowView) -> tuple[int, float]:
    """Keep the paper's order; after it the oracles, the constants, the best of each first, and quoted anchors."""
    if row.group == ANCHOR:
        return 3, 0.0
    if row.status not in MARKS:
        return 0, 0.0
    value = row.cells[0].value if row.cells else None
    wrong = math.inf if value is None else metric_of(row.cells[0].column.metric).wrong(value)
    return (1 if row.status == "oracle" else 2), wrong


def _stand_in_notes(sources: Sources, table: Table) -> Iterable[str]:
    """Yield what stands for the table's benchmarks in this suite, and what is noted of them; the same things once."""
    said: dict[str, list[str]] = defaultdict(list)
    for benchmark in table.on:
        entry = sources.project.stand_ins.get(benchmark)
        if entry is None:
            yield f"{sources.project.why_no_data(benchmark)}."
            continue
        place = sources.project.place(benchmark)
        words = f"{'' if place == benchmark else f'{place} stands for it here. '}{entry.note}".strip()
        if words:
            said[words].append(benchmark)
    yield from (f"{', '.join(benchmarks)}: {words}" for words, benchmarks in said.items())


def _columns(sources: Sources, table: Table, scores: Sequence[Score]) -> Iterable[Column]:
    labels = {(row.system, row.variant): sources.label_of(row) for row in table.rows}
    for benchmark in table.on:
        stand_in = sources.project.place(benchmark)
        scored = {score.metric for score in scores if score.benchmark == benchmark}
        for name in [*table.metrics, *(name for name in EXTRA_METRICS if name in scored)]:
            label, value = _best_constant(scores, benchmark, name, labels)
            yield Column(benchmark, name, stand_in, label, value, name not in table.metrics)


def _best_constant(
    scores: Sequence[Score], benchmark: str, metric: str, labels: Mapping[tuple[str, str], str]
) -> tuple[str, float | None]:
    """Return the label and the value of the best constant predictor of a column."""
    trivial = [
        score
        for score in scores
        if (score.status, score.benchmark, score.metric) == ("trivial", benchmark, metric) and present(score.value)
    ]
    if not trivial or not metric_of(metric).scored:
        return "", None
    best = min(trivial, key=lambda score: metric_of(metric).wrong(score.value))
    label = labels.get((best.system, best.variant)) or CONSTANTS.get(best.variant, best.variant)
    return label, best.value


def _row(
    sources: Sources,
    table: Table,
    row: Row,
    scores: Mapping[tuple[str, str, str, str], Sequence[Score]],
    printed: Mapping[tuple[str, str, str], Mapping[Any, Any]],
    columns: Sequence[Column],
) -> RowView:
    variant = sources.project.experiments[row.system].variants[row.variant] if row.run else None
    absent = _absent(sources, row)
    cells = []
    for column in columns:
        mine = scores.get((row.system, row.variant, column.benchmark, column.metric), ())
        cells.append(_cell(mine, column, table.weights, _published(printed, row.key, column, table.weights), absent))
    note, protocol = row.note or (variant.note if variant else ""), variant.protocol if variant else ""
    label = sources.label_of(row)
    return RowView(row.key, label, row.system, row.variant, row.group, note, protocol, tuple(cells))


def _absent(sources: Sources, row: Row) -> tuple[str, Reason]:
    """Return status and reason of a row that scores.csv does not have."""
    if row.quoted:
        return "quoted", Reason("skipped", row.quoted)
    why = sources.project.not_run(row.system, row.variant)
    return "missing", Reason("skipped", why) if why else Reason("not run", "not run yet: scores.csv has no such row")


def _published(
    published: Mapping[tuple[str, str, str], Mapping[Any, Any]], key: str, column: Column, selection: str
) -> Published | None:
    """Return the printed number of a row in a column; a printed range is shown as one."""
    printed, low, high = (
        published.get((key, column.benchmark, f"{column.metric}{end}")) for end in ("", "_min", "_max")
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
        chosen_on_test=selection == "best_on_test" and metric_of(column.metric).scored,
    )


def _cell(
    scores: Sequence[Score], column: Column, wanted: str, published: Published | None, absent: tuple[str, Reason]
) -> Cell:
    """Return the cell that the scores of one system in one column fill.

    It is of the table's own selection where that was measured, else of the first that was; the cell says which it is.
    """
    if not scores:
        return Cell(column, published, *absent)
    there = [score.selection for score in scores if present(score.value)] or [score.selection for score in scores]
    selection = wanted if wanted in there else there[0]
    mine = [score for score in scores if score.selection == selection]
    chosen = next((score for score in mine if score.seed == ALL_SEEDS), mine[0])
    return Cell(
        column=column,
        published=published,
        status=chosen.status,
        reason=joined(score.reason for score in mine),
        value=None if chosen.status == "quoted" else _known(chosen.value),  # score repeats the printed number
        low=_known(chosen.ci_low),
        high=_known(chosen.ci_high),
        sd=_known(chosen.sd),
        seeds=tuple(sorted(score.seed for score in mine if score.seed not in (ALL_SEEDS, ""))),
        n=chosen.n,
        selection=selection if chosen.status in RUN_HERE else "",
    )


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value


def _number(text: str) -> float | None:
    """Return a printed number, or None where the text is none."""
    try:
        return _known(float(text))
    except ValueError:
        return None


def _unlisted_marks(
    scores: Sequence[Score],
    table: Table,
    measured: Mapping[tuple[str, str, str, str], Sequence[Score]],
    columns: Sequence[Column],
    listed: set[tuple[str, str]],
) -> Iterable[RowView]:
    """Yield the constant predictors and oracles that scores.csv has for a table and the table itself does not list."""
    there = dict.fromkeys((score.system, score.variant, score.status) for score in scores if score.status in MARKS)
    for system, variant, status in there:
        if (system, variant) not in listed:
            cells = tuple(
                _cell(
                    measured.get((system, variant, column.benchmark, column.metric), ()),
                    column, table.weights, None, ("missing", Reason("not run", "not scored")),
                )
                for column in columns
            )  # fmt: skip
            note = next((cell.reason for cell in cells if cell.reason), NOTHING).text
            label = CONSTANTS.get(variant, variant)
            yield RowView(f"{system}/{variant}", label, system, variant, status, note, "", cells)


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

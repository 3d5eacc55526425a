"""The papers' tables with what was measured: a cell per row, benchmark and metric, with a reason where it is empty."""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from recount.metrics import metric as metric_of
from recount.report.numbers import number, present, signed
from recount.report.sources import Sources, chain_anchor
from recount.report.words import WORDS
from recount.results.reason import NOTHING, Reason, joined
from recount.results.scores import ALL_SEEDS, Score
from recount.results.submissions import SUBMITTED
from recount.settings.paper import Row, Table

SELECTIONS = {"last": "last epoch", "best_on_test": "best on test", "best_on_held_out": "best on held-out"}
ONLY = "only"  # a selection among the one epoch that was evaluated
CHOICES = SELECTIONS | {ONLY: "only epoch evaluated"}
EXTRA_METRICS = ("nae",)  # shown beside a paper's own columns where it was scored
ANCHOR = "anchor"  # the group of rows that are quoted for orientation
OWN = ("recount's own", "not in the paper's table")  # groups of rows that recount adds
TIMES = ("train_hours_100_epochs", "inference_seconds_per_image")
CONSTANTS: dict[str, str] = WORDS["constants"]
STATUSES = WORDS["statuses"]
MARKS = ("trivial", "oracle")  # statuses of rows that mark the scale; no system stands behind them
RUN_HERE = ("trained", "checkpoint")  # statuses of measured systems


@dataclass(frozen=True)
class Published:
    """A printed number (``value``: None where the text is none), where it is printed, and what is odd about it."""

    text: str
    value: float | None
    source: str
    note: str
    chosen_on_test: bool
    shown: str  # in the column's unit: per cent of what is a share


@dataclass(frozen=True)
class Cell:
    """A cell of a table: what was printed, what was measured, how sure that is, or why there is nothing."""

    column: "Column"
    published: Published | None
    status: str  # status and reason as in scores.csv
    reason: Reason
    value: float | None = None  # mean over seeds
    low: float | None = None  # 95 % interval
    high: float | None = None
    sd: float | None = None  # over seeds
    seeds: tuple[str, ...] = ()
    n: int | None = None  # images
    selection: str = ""  # which weights; "" where there is nothing to select
    chain: str = ""  # anchor of what the number was made from
    again: str = ""  # the benchmark of an earlier column that has the same measurement, where one split stands for both

    @property
    def difference(self) -> float | None:
        """Return measured minus published, where the two may be compared at all."""
        printed = self.published.value if self.published and self.column.comparable else None
        return None if self.value is None or printed is None else self.value - printed

    @property
    def relative(self) -> float | None:
        """Return the difference as a share of the published number."""
        printed = self.published.value if self.published else None
        return self.difference / printed if self.difference is not None and printed else None

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
    repeats: bool = False  # another row shows the same printed numbers, and nothing was measured for this one

    @property
    def anchor(self) -> str:
        """Return what a link to this row ends with, the same as long as the row shows the same variant."""
        return re.sub(r"[^a-z0-9_.]+", "-", (f"{self.system}-{self.variant}" if self.variant else self.key).lower())

    @property
    def marks(self) -> tuple[str, ...]:
        """Return what the page's filter finds the row by: its statuses, and what is marked in its cells."""
        found = [cell.status for cell in self.cells if not cell.column.extra]
        found += ["nothing" for cell in self.cells if cell.learned_nothing]
        found += ["heavy" for cell in self.cells if cell.reason.kind == "dominated"]
        return tuple(dict.fromkeys(found))

    @property
    def status(self) -> str:
        """Return the status of the row's cells in the paper's own columns, or "mixed"."""
        statuses = {cell.status for cell in self.cells if not cell.column.extra}
        return statuses.pop() if len(statuses) == 1 else "mixed"

    @property
    def beside(self) -> bool:
        """Whether it is not the paper's: recount's own, a mark of the scale, quoted for comparison, a repetition."""
        return self.group in (*OWN, ANCHOR) or self.status in MARKS or self.repeats

    @property
    def reasons(self) -> tuple[Reason, ...]:
        """Return why cells have no number."""
        empty = [cell.reason for cell in self.cells if cell.value is None and not cell.column.extra]
        return tuple(filter(None, dict.fromkeys(empty)))


@dataclass(frozen=True)
class Column:
    """A measured column: benchmark, metric, what stands for the benchmark, and its best constant predictor."""

    benchmark: str
    metric: str
    stand_in: str
    constant_label: str
    constant: float | None
    extra: bool  # the paper does not print this metric: measured only
    comparable: bool = True  # whether measured and printed numbers may be set against each other
    digits: int = 0  # decimals of its printed numbers, as they are shown

    @property
    def used(self) -> str:
        """Return what its measured numbers are of: ``<data set>/<split>``, or the benchmark where nothing is."""
        return self.stand_in or self.benchmark

    @property
    def head(self) -> str:
        """Return what it is, with its unit."""
        shown = metric_of(self.metric)
        return f"{shown.label}, %" if shown.is_share else shown.label

    def shown(self, value: float | None, like: float | None = None) -> str:
        """Return a measured value in the column's unit: per cent of what is a share, as the papers print it."""
        scale = 100 if metric_of(self.metric).is_share else 1
        return number(None if value is None else scale * value, None if like is None else scale * like)

    def signed(self, value: float) -> str:
        """Return a difference of values in the column's unit, with its sign."""
        return signed(100 * value if metric_of(self.metric).is_share else value)

    def interval(self, low: float | None, high: float | None, like: float | None = None) -> str:
        """Return an interval in the column's unit, or "" where there is none."""
        return f"{self.shown(low, like)} to {self.shown(high, like)}" if present(low) and present(high) else ""


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
    def papers_rows(self) -> list[RowView]:
        """Return the rows of the paper's own table."""
        return [row for row in self.rows if not row.beside]

    @property
    def rows_beside(self) -> list[RowView]:
        """Return all other rows."""
        return [row for row in self.rows if row.beside]

    @property
    def printed(self) -> bool:
        """Whether the paper prints any of its numbers."""
        return any(cell.published for row in self.rows for cell in row.cells)

    @property
    def short_title(self) -> str:
        """Return the title up to its first stop: "Table 1"."""
        return re.split(r"\. |:| \(", self.title)[0].strip()


def paper_tables(sources: Sources, name: str) -> list[TableView]:
    """Return the tables of a paper, in its own order."""
    paper = sources.project.papers[name]
    return [_Maker(sources, name, key, table).view() for key, table in paper.tables.items()]


class _Maker:
    """Makes one table of a paper from what was printed and what was scored."""

    def __init__(self, sources: Sources, paper: str, key: str, table: Table) -> None:
        self.sources, self.paper, self.key, self.table = sources, paper, key, table
        self.scores = [score for score in sources.score_rows if (score.paper, score.table) == (paper, key)]
        self.measured: dict[tuple[str, str, str, str], list[Score]] = defaultdict(list)
        for score in self.scores:
            self.measured[score.system, score.variant, score.benchmark, score.metric].append(score)
        published = sources.published[paper]
        rows = published[published["table"] == key].to_dict("records")
        self.printed = {(row["row"], row["benchmark"], row["metric"]): row for row in reversed(rows)}
        self.labels = {(row.system, row.variant): sources.label_of(row) for row in table.rows}
        self.chains = {link.anchor for link in sources.chains}
        self.columns = tuple(self._columns())

    def view(self) -> TableView:
        table, suite = self.table, self.sources.project.suite
        rows = [*_without_repeats(map(self._row, table.rows)), *self._unlisted_marks()]
        return TableView(
            id=f"{self.paper}-{self.key}",
            name=self.key,
            paper=self.paper,
            title=table.title,
            caption=table.caption,
            selection=table.weights,
            columns=self.columns,
            rows=tuple(sorted(rows, key=_place)),
            why_not_comparable="" if suite.comparable else suite.why_not_comparable,
            notes=tuple(_stand_in_notes(self.sources, table)),
        )

    def _columns(self) -> Iterable[Column]:
        suite = self.sources.project.suite
        for benchmark in self.table.on:
            stand_in = self.sources.project.place(benchmark)
            scored = {score.metric for score in self.scores if score.benchmark == benchmark}
            for name in [*self.table.metrics, *(name for name in EXTRA_METRICS if name in scored)]:
                best = self._best_constant(benchmark, name)
                extra, digits = name not in self.table.metrics, self._digits(benchmark, name)
                yield Column(benchmark, name, stand_in, *best, extra, suite.comparable, digits)

    def _digits(self, benchmark: str, metric: str) -> int:
        """Return the decimals of a share's printed numbers in per cent."""
        places = [row["value"].partition(".")[2] for (_, *at), row in self.printed.items() if at == [benchmark, metric]]
        return max(0, *(len(decimals) - 2 for decimals in places)) if places else 0

    def _best_constant(self, benchmark: str, metric: str) -> tuple[str, float | None]:
        key = ("trivial", benchmark, metric)
        trivial = [s for s in self.scores if (s.status, s.benchmark, s.metric) == key and present(s.value)]
        if not trivial or not metric_of(metric).scored:
            return "", None
        best = min(trivial, key=lambda score: metric_of(metric).wrong(score.value))
        label = self.labels.get((best.system, best.variant)) or CONSTANTS.get(best.variant, best.variant)
        return label, best.value

    def _row(self, row: Row) -> RowView:
        project = self.sources.project
        variant = project.experiments[row.system].variants[row.variant] if row.run else None
        if row.quoted:
            absent = "quoted", Reason("skipped", row.quoted)
        elif why := project.not_run(row.system, row.variant):
            absent = "missing", Reason("skipped", why)
        else:
            absent = "missing", Reason("not run", "not run yet: scores.csv has no such row")
        cells = [self._cell(row, column, self._published(row.key, column), absent) for column in self.columns]
        note, protocol = row.note or (variant.note if variant else ""), variant.protocol if variant else ""
        label = self.sources.label_of(row)
        return RowView(row.key, label, row.system, row.variant, row.group, note, protocol, tuple(_said_once(cells)))

    def _published(self, key: str, column: Column) -> Published | None:
        """Return the printed number of a row in a column; a printed range is shown as one."""
        names = (f"{column.metric}{end}" for end in ("", "_min", "_max"))
        printed, low, high = (self.printed.get((key, column.benchmark, name)) for name in names)
        span = f"{low['value']} to {high['value']}" if low and high else ""
        hit = printed or (low if span else None)
        if hit is None:
            return None
        note = f"also printed: {span} ({low['note']})" if span and low and printed else ""
        text, note = str(printed["value"]) if printed else span, "; ".join(filter(None, [hit["note"], note]))
        on_test = self.table.weights == "best_on_test" and metric_of(column.metric).scored
        value = _number(text)
        in_per_cent = metric_of(column.metric).is_share and value is not None
        shown = f"{100 * (value or 0):.{column.digits}f}" if in_per_cent else text
        return Published(text, value, hit["source"], note, on_test, shown)

    def _cell(self, row: Row | Score, column: Column, published: Published | None, absent: tuple[str, Reason]) -> Cell:
        """Return a cell with the scores of the table's selection where it was measured, else of the first that was."""
        if not (scores := self.measured.get((row.system, row.variant, column.benchmark, column.metric))):
            return Cell(column, published, *absent)
        there = [score.selection for score in scores if present(score.value)] or [score.selection for score in scores]
        selection = self.table.weights if self.table.weights in there else there[0]
        mine = [score for score in scores if score.selection == selection]
        chosen = next((score for score in mine if score.seed == ALL_SEEDS), mine[0])
        key = (row.system, row.variant)
        evaluated, single = self.sources.evaluated_as(key), self.sources.epochs_evaluated(key) == 1
        choice = ONLY if single and selection != "last" else selection
        anchor = chain_anchor(*evaluated, column.stand_in) if chosen.status in RUN_HERE else ""
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
            selection=choice if chosen.status in RUN_HERE else "",
            chain=anchor if anchor in self.chains else "",
        )

    def _unlisted_marks(self) -> Iterable[RowView]:
        """Yield constants, oracles and submitted counters that were scored and that the table itself does not list."""
        marks = {(s.system, s.variant, s.status): s for s in self.scores if s.status in (*MARKS, SUBMITTED)}
        absent = "missing", Reason("not run", "not scored")
        for (system, variant, status), score in marks.items():
            if (system, variant) not in self.labels:
                cells = tuple(self._cell(score, column, None, absent) for column in self.columns)
                note = next((cell.reason for cell in cells if cell.reason), NOTHING).text
                label = CONSTANTS.get(variant, variant)
                if status == SUBMITTED:
                    label, said = self.sources.submitted(variant, self.table.on)
                    note = "; ".join(filter(None, [said, note]))
                yield RowView(f"{system}/{variant}", label, system, variant, status, note, "", tuple(_said_once(cells)))


def _said_once(cells: Iterable[Cell]) -> Iterator[Cell]:
    """Yield a row's cells; one that has the measurement of an earlier column says of which."""
    seen: dict[tuple[str, str], Cell] = {}
    for cell in cells:
        first = seen.setdefault((cell.column.metric, cell.column.stand_in), cell)
        same = cell.value is not None and (cell.value, cell.selection) == (first.value, first.selection)
        yield replace(cell, again=first.column.benchmark) if same and first is not cell else cell


def _without_repeats(rows: Iterable[RowView]) -> Iterator[RowView]:
    """Yield rows; one whose printed numbers stand above already and that has no measured ones says that it repeats."""
    seen = set[str]()
    for row in rows:
        empty = all(cell.value is None for cell in row.cells)
        yield replace(row, repeats=True) if empty and row.key in seen else row
        seen.add(row.key)


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
    said: dict[str, list[str]] = defaultdict(list)
    for benchmark in table.on:
        if (entry := sources.project.stand_ins.get(benchmark)) is None:
            yield f"{sources.project.why_no_data(benchmark)}."
            continue
        place = f"{entry.dataset}/{entry.split}"
        words = f"{'' if place == benchmark else f'{place} stands for it here. '}{entry.note}".strip()
        if words:
            said[words].append(benchmark)
    yield from (f"{', '.join(benchmarks)}: {words}" for words, benchmarks in said.items())


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value


def _number(text: str) -> float | None:
    try:
        return _known(float(text))
    except ValueError:
        return None


def status_counts(tables: Iterable[TableView]) -> dict[str, int]:
    """Count the cells of tables by status, in the order of the legend."""
    counts = Counter(
        cell.status for table in tables for row in table.rows for cell in row.cells if not cell.column.extra
    )
    return {status: counts[status] for status in [*STATUSES, *counts] if counts[status]}

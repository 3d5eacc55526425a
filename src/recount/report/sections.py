"""What the sections of the page show, computed from the sources: selection, curves, errors, cost, summary."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import pandas as pd

from recount.report.gallery import Shown
from recount.report.numbers import big, in_a_sentence, metric, number, percent, present, signed
from recount.report.sources import RunRecord, Sources
from recount.report.tables import MARKS, Cell, RowView, TableView

INFLUENCE = ("system", "variant", "seed", "selection", "id", "share_of_squared_error", "mae_effect", "rmse_effect")
HEAVY = 0.5  # one image carries more than this share of the squared error: said aloud


@dataclass(frozen=True)
class PlainTable:
    """A table of texts, for export; ``alignment`` has l, r or w (wide) for each column."""

    caption: str
    heads: list[str]
    rows: list[list[str]]
    alignment: str


@dataclass(frozen=True)
class Variant:
    """A variant that a paper's tables show: its ids, its label there, and whether the first table has it."""

    system: str
    variant: str
    label: str
    first: bool = True


def variants_of(tables: Sequence[TableView]) -> list[Variant]:
    """Return the variants of a paper's tables that have a network, each once, with the label of its first row."""
    found: dict[tuple[str, str], Variant] = {}
    for place, table in enumerate(tables):
        for row in table.rows:
            if row.variant and row.system and not _marks_the_scale(row):
                found.setdefault((row.system, row.variant), Variant(row.system, row.variant, row.label, place == 0))
    return list(found.values())


def _marks_the_scale(row: RowView) -> bool:
    return any(cell.status in MARKS for cell in row.cells)


# ------------------------------------------------------------------------------------------------------- selection


@dataclass(frozen=True)
class SelectionRow:
    """One variant's metric under the three protocols; NaN where a protocol was not run.

    Attributes:
        metric: mae, accuracy, …
        gain: how much better the best epoch on test looks than the last one: what selection on the test images gave.
        relative: the gain as a share of the last epoch's value.
        share: the gain as a share of all that the variant is better than the best constant.
    """

    label: str
    benchmark: str
    metric: str
    last: float
    best_on_test: float
    best_on_held_out: float
    gain: float
    relative: float
    share: float


def paper_metric(tables: Sequence[TableView]) -> str:
    """Return the metric that a paper is about: the first one in its tables that is computed from predictions."""
    names = [column.metric for table in tables for column in table.columns]
    return next((name for name in names if metric(name).scored), "mae")


def selection_rows(sources: Sources, tables: Sequence[TableView]) -> list[SelectionRow]:
    """Return the protocols side by side, on the first table's benchmarks, for variants scored with two at least."""
    name = paper_metric(tables)
    benchmarks = {column.benchmark for table in tables[:1] for column in table.columns}
    scores = sources.scores[(sources.scores["metric"] == name) & sources.scores["benchmark"].isin(benchmarks)]
    constants = {(c.benchmark, c.metric): c.constant for table in tables for c in table.columns}
    rows = []
    for variant in variants_of(tables):
        mine = scores[(scores["system"] == variant.system) & (scores["variant"] == variant.variant)]
        for benchmark, part in mine.groupby("benchmark", sort=False):
            values = {
                name: _mean(part[part["selection"] == name]) for name in ("last", "best_on_test", "best_on_held_out")
            }
            if sum(present(value) for value in values.values()) >= 2:
                constant = constants.get((str(benchmark), name))
                rows.append(_selection_row(variant.label, str(benchmark), name, values, constant))
    return rows


def _selection_row(
    label: str, benchmark: str, name: str, values: dict[str, float], constant: float | None
) -> SelectionRow:
    wrong = metric(name).wrong
    gain = wrong(values["last"]) - wrong(values["best_on_test"])
    worth = float("nan") if constant is None else wrong(constant) - wrong(values["best_on_test"])
    return SelectionRow(
        label=label,
        benchmark=benchmark,
        metric=name,
        **values,
        gain=gain,
        relative=gain / values["last"] if values["last"] else float("nan"),
        share=gain / worth if worth > 0 else float("nan"),
    )


def selection_table(rows: Sequence[SelectionRow]) -> PlainTable:
    """Return the protocols as a table of texts, for export."""
    heads = ["System", "Benchmark", "Metric", "Best on test", "Last epoch", "Best on held-out", "Gain", "Share"]
    cells = [
        [
            row.label, row.benchmark, metric(row.metric).label, number(row.best_on_test), number(row.last),
            number(row.best_on_held_out), number(row.gain), percent(row.share, 1),
        ]
        for row in rows
    ]  # fmt: skip
    return PlainTable("Weights chosen on test, on held-out images and not at all", heads, cells, "lllrrrrr")


def _mean(rows: pd.DataFrame) -> float:
    """Return the mean over seeds as scores.csv gives it, or of its single seed."""
    overall = rows[rows["seed"] == "all"]
    values = pd.to_numeric((overall if len(overall) else rows)["value"], errors="coerce").dropna()
    return float(values.iloc[0]) if len(values) else float("nan")


# --------------------------------------------------------------------------------------------------------- curves


@dataclass(frozen=True)
class Curves:
    """Evaluations during training: ``runs`` has columns label, seed, epoch, value; ``watched`` says on what."""

    runs: pd.DataFrame
    metric: str
    watched: str


def training_curves(runs: Sequence[RunRecord], variants: Sequence[Variant], name: str) -> Curves:
    """Return our evaluations of a metric during training: on test where it was watched, else on held-out images."""
    for watched, prefix in (("test", "test"), ("held-out", "held_out")):
        found = _evaluations(runs, variants, f"{prefix}_{name}")
        if len(found):
            return Curves(found, name, watched)
    return Curves(found, name, "test")


def _evaluations(runs: Sequence[RunRecord], variants: Sequence[Variant], column: str) -> pd.DataFrame:
    parts = []
    for variant in variants:
        for run in runs:
            if (run.system, run.variant) != (variant.system, variant.variant) or column not in run.history:
                continue
            seen = run.history.dropna(subset=column)
            if len(seen) > 1:
                values = {"label": variant.label, "seed": run.seed, "epoch": seen["epoch"], "value": seen[column]}
                parts.append(pd.DataFrame(values))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=["label", "seed", "epoch", "value"])


def histories(runs: Sequence[RunRecord], variants: Sequence[Variant]) -> dict[str, pd.DataFrame]:
    """Return the history of each variant's first seed by label, where it has a loss."""
    found: dict[str, pd.DataFrame] = {}
    for variant in variants:
        for run in runs:
            if (run.system, run.variant) == (variant.system, variant.variant) and "loss" in run.history:
                found.setdefault(variant.label, run.history)
    return found


# --------------------------------------------------------------------------------------------------------- errors


def predictions_of(
    sources: Sources, dataset: str, split: str, variant: Variant, selection: str
) -> tuple[int, str, pd.DataFrame] | None:
    """Return a variant's predictions on a split: its lowest seed, the wanted selection or else its first.

    Returns:
        the seed, the selection and the predictions; None where there are none.
    """
    mine = sources.predictions_by_variant.get((dataset, split, variant.system, variant.variant))
    if mine is None:
        return None
    seed = int(mine["seed"].min())
    mine = mine[mine["seed"] == seed]
    there = mine["selection"].unique().tolist()
    chosen = selection if selection in there else there[0]
    return seed, chosen, mine[mine["selection"] == chosen].reset_index(drop=True)


def shown_predictions(
    sources: Sources, place: tuple[str, str, str, str], variants: Sequence[Variant], selection: str
) -> list[Shown]:
    """Return each variant's predictions on a benchmark with its density maps; ``predictions_of`` says which."""
    _, dataset, split, _ = place
    shown = []
    for variant in variants:
        found = predictions_of(sources, dataset, split, variant, selection)
        if found is not None:
            seed, chosen, predictions = found
            maps = sources.maps(dataset, split, variant.system, variant.variant, seed, chosen)
            shown.append(Shown(variant.label, predictions, maps, variant.first))
    return shown


@dataclass(frozen=True)
class Influential:
    """An image that moves a system's errors."""

    label: str
    image: str
    share: float
    mae_effect: float
    rmse_effect: float

    @property
    def heavy(self) -> bool:
        """Whether this image alone carries more than half of the squared error."""
        return self.share > HEAVY


def influential(
    sources: Sources, place: tuple[str, str, str, str], variants: Sequence[Variant], selection: str, most: int = 3
) -> list[Influential]:
    """Return the images that carry most of each variant's squared error, largest first, from influence.csv."""
    table = sources.influence
    if any(column not in table.columns for column in INFLUENCE):
        return []
    benchmark, dataset, split, _ = place
    if "dataset" in table.columns:
        table = table[table["dataset"].isin([dataset, f"{dataset}/{split}"])]
    if "benchmark" in table.columns:
        table = table[table["benchmark"] == benchmark]
    rows = []
    for variant in variants:
        mine = table[(table["system"] == variant.system) & (table["variant"] == variant.variant)]
        if mine.empty:
            continue
        mine = mine[mine["seed"] == mine["seed"].min()]
        there = mine["selection"].unique().tolist()
        mine = mine[mine["selection"] == (selection if selection in there else there[0])]
        for row in mine.nlargest(most, "share_of_squared_error").itertuples(index=False):
            rows.append(
                Influential(variant.label, str(row.id), row.share_of_squared_error, row.mae_effect, row.rmse_effect)
            )
    return rows


# ----------------------------------------------------------------------------------------------------------- cost


COSTS = (
    "wall_seconds", "gpu_seconds", "peak_memory_mb", "parameters_total", "parameters_trained", "flops_per_window",
    "seconds_per_step",
)  # fmt: skip


@dataclass(frozen=True)
class CostRow:
    """What a variant cost, as the mean over its seeds; NaN where a run did not say."""

    variant: Variant
    seeds: int
    values: dict[str, float]
    seconds_per_epoch: float
    seconds_per_image: float


def cost_rows(sources: Sources, variants: Iterable[Variant]) -> list[CostRow]:
    """Return the cost of each variant that was run."""
    rows = []
    for variant in variants:
        runs = [run for run in sources.runs if (run.system, run.variant) == (variant.system, variant.variant)]
        costs = [run.record.get("cost", {}) for run in runs]
        if not costs:
            continue
        values = {
            name: float(pd.to_numeric(pd.Series([cost.get(name) for cost in costs]), errors="coerce").mean())
            for name in COSTS
        }
        seconds = sources.seconds_per_image.get((variant.system, variant.variant), float("nan"))
        epochs = [run.seconds_per_epoch for run in runs if run.seconds_per_epoch is not None]
        per_epoch = sum(epochs) / len(epochs) if epochs else float("nan")
        rows.append(CostRow(variant, len(runs), values, per_epoch, seconds))
    return rows


def cost_table(rows: Sequence[CostRow]) -> PlainTable:
    """Return the costs as a table of texts, for export."""
    heads = ["System", "Seeds", *(name.replace("_", " ") for name in COSTS), "seconds per epoch", "seconds per image"]
    cells = [
        [
            row.variant.label, str(row.seeds), *(number(row.values[name]) for name in COSTS),
            number(row.seconds_per_epoch), number(row.seconds_per_image),
        ]
        for row in rows
    ]  # fmt: skip
    return PlainTable("What training and prediction cost", heads, cells, "l" + "r" * (len(heads) - 1))


@dataclass(frozen=True)
class PrintedSize:
    """How many parameters a paper says that a variant has, beside what was counted here; NaN where it was not run.

    Attributes:
        printed: millions, as printed; ``source``, ``note``: where, and what is odd about it.
        trained, total: parameters counted in the run: with a gradient, and all.
    """

    variant: Variant
    printed: str
    source: str
    note: str
    trained: float
    total: float


def printed_sizes(published: pd.DataFrame, variants: Iterable[Variant], costs: Sequence[CostRow]) -> list[PrintedSize]:
    """Return the printed numbers of parameters of a paper's variants, from its published.csv."""
    counted = {(row.variant.system, row.variant.variant): row.values for row in costs}
    printed = published[published["metric"] == "parameters_million"].drop_duplicates(["system", "variant"])
    rows = {(row["system"], row["variant"]): row for row in printed.to_dict("records")}
    sizes = []
    for variant in variants:
        key = (variant.system, variant.variant)
        if key in rows:
            values, row = counted.get(key, {}), rows[key]
            trained, total = (values.get(f"parameters_{which}", float("nan")) for which in ("trained", "total"))
            sizes.append(PrintedSize(variant, row["value"], row["source"], row["note"], trained, total))
    return sizes


def size_table(sizes: Sequence[PrintedSize]) -> PlainTable:
    """Return printed and counted parameters as a table of texts, for export."""
    heads = ["System", "Printed, millions", "Trained here", "All here", "Printed where", "Note"]
    cells = [[s.variant.label, s.printed, big(s.trained), big(s.total), s.source, s.note] for s in sizes]
    return PlainTable("Parameters, printed and counted", heads, cells, "lrrrww")


def influence_table(place: str, entries: Sequence[Influential]) -> PlainTable:
    """Return the influential images of a benchmark as a table of texts, for export."""
    heads = ["System", "Image", "Share of squared error", "MAE with it - without", "RMSE with it - without"]
    cells = [
        [entry.label, entry.image, percent(entry.share), signed(entry.mae_effect), signed(entry.rmse_effect)]
        for entry in entries
    ]
    return PlainTable(f"Images that carry most of the squared error on {place}", heads, cells, "llrrr")


@dataclass(frozen=True)
class Ratio:
    """How two systems of a table of times compare, printed and here."""

    metric: str
    slower: str
    faster: str
    published: tuple[float, float] | None
    measured: tuple[float, float] | None


def time_ratios(table: TableView, times: Sequence[str]) -> list[Ratio]:
    """Return the ratio of a two-row table's rows for each column that is a time."""
    if len(table.rows) != 2:
        return []
    first, second = table.rows
    ratios = []
    for place, column in enumerate(table.columns):
        if column.metric in times:
            pair = (first.cells[place], second.cells[place])
            ratios.append(Ratio(column.metric, first.label, second.label, _printed(pair), _here(pair)))
    return ratios


def _printed(pair: tuple[Cell, Cell]) -> tuple[float, float] | None:
    values = [cell.published.value for cell in pair if cell.published and cell.published.value]
    return (values[0], values[1]) if len(values) == 2 else None


def _here(pair: tuple[Cell, Cell]) -> tuple[float, float] | None:
    values = [cell.value for cell in pair if cell.value]
    return (values[0], values[1]) if len(values) == 2 else None


# -------------------------------------------------------------------------------------------------------- summary


def findings(
    tables: Sequence[TableView], selections: Sequence[SelectionRow], heavy: Sequence[Influential]
) -> list[str]:
    """Return what a reader should know first, as sentences; each is computed."""
    sentences = []
    # by each table's first metric; a row may stand in several tables
    trained = {
        (row.system, row.variant): row
        for table in tables
        for row in table.rows
        if row.cells and row.cells[0].status in ("trained", "checkpoint") and row.cells[0].constant
    }
    nothing = [row.label for row in trained.values() if row.cells[0].learned_nothing]
    if nothing:
        names = ", ".join(nothing)
        sentences.append(
            f"{len(nothing)} of {len(trained)} systems and variants do no better than the best constant: {names}."
        )
    elif trained:
        sentences.append(f"All {len(trained)} systems and variants do better than the best constant predictor.")
    sentences += _against_training_mean(tables)
    sentences += _gains(selections)
    alone = [entry for entry in heavy if entry.heavy]
    if alone:
        images = ", ".join(dict.fromkeys(f"{entry.image} ({entry.label}, {percent(entry.share)})" for entry in alone))
        sentences.append(f"A single image carries more than half of a squared error: {images}.")
    return sentences


def _gains(selections: Sequence[SelectionRow]) -> Iterable[str]:
    """Yield, for each metric, what choosing the epoch on the test images does to it."""
    for name in dict.fromkeys(row.metric for row in selections):
        gains = pd.Series([row.relative for row in selections if row.metric == name], dtype=float).dropna()
        shown = metric(name)
        does = "raises" if shown.best == "highest" else "lowers"
        if len(gains):
            yield (
                f"Choosing the epoch on the test images {does} the {in_a_sentence(shown.label)} by "
                f"{percent(gains.median(), 1)} in the median over {len(gains)} variants, by {percent(gains.max(), 1)} "
                "at most."
            )


def _against_training_mean(tables: Sequence[TableView]) -> Iterable[str]:
    """Yield, for the first table's first column, which systems do no better than the mean of the training counts."""
    for table in tables[:1]:
        means = [row.cells[0].value for row in table.rows if row.status == "trivial" and "training mean" in row.label]
        trained = [row for row in table.rows if row.status in ("trained", "checkpoint")]
        if not means or means[0] is None or not trained:
            continue
        mean = means[0]
        behind = [row.label for row in trained if row.cells[0].value is not None and row.cells[0].value >= mean]
        column = table.columns[0]
        which = f": not so {', '.join(behind)}" if behind else ""
        yield (
            f"{len(trained) - len(behind)} of the {len(trained)} systems run in {_short(table)} have a lower "
            f"{in_a_sentence(metric(column.metric).label)} than the training mean ({number(mean)}){which}."
        )


def _short(table: TableView) -> str:
    return re.split(r"[.:(]", table.title)[0].strip()


def best_rows(tables: Sequence[TableView]) -> list[str]:
    """Return, for each table of scores, which row is best, and by how much it beats the best constant."""
    sentences = []
    for table in tables:
        ranked = [
            (row.cells[0].of_constant, row)
            for row in table.rows
            if row.cells and row.cells[0].status in ("trained", "checkpoint") and row.cells[0].of_constant is not None
        ]
        if not ranked:
            continue
        share, row = min(ranked, key=lambda entry: entry[0] or 0.0)
        column, cell = table.columns[0], row.cells[0]
        shown, name = metric(column.metric), _short(table)
        assert share is not None
        if share >= 1:
            sentences.append(f"{name}: no row is better than the best constant.")
            continue
        against = (
            f"against {number(column.constant)} of the best constant"
            if shown.best == "highest"
            else f"{percent(1 - share)} below the best constant"
        )
        label = in_a_sentence(shown.label)
        sentences.append(f"{name}: {shown.best} {label} measured is {number(cell.value)}, {row.label}, {against}.")
    return sentences

"""Exhibits of every paper: how weights were chosen, learning curves, photographs, errors, cost."""

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from scipy.stats import binomtest

from recount import datasets
from recount.datasets.formats.captions import NUMBERS
from recount.metrics import LARGE_NUMBERS
from recount.metrics import metric as metric_of
from recount.report import figures
from recount.report.exhibits import Cell, Context, Exhibit, Line, Plot, Sheet, Variant
from recount.report.gallery import AnswerTable, Gallery, Shown, answers_by_picture, gallery
from recount.report.numbers import big, in_a_sentence, megabytes, percent, present, seconds, signed
from recount.report.sources import Place, Sources
from recount.report.tables import MARKS, SELECTIONS, TableView
from recount.report.words import said
from recount.results.scores import ALL_SEEDS, InfluentialImage
from recount.results.submissions import SUBMITTED

HEAVY = 0.5  # one image carries more than this share of the squared error: said aloud
UNPUBLISHABLE = "The licence of these photographs does not let them be published: keep this page to yourself."
Influential = tuple[str, InfluentialImage]  # a system's label, and an image that moves its errors
Behind = Mapping[str, pd.DataFrame]  # name of a published run -> columns epoch, value


def variants_of(tables: Sequence[TableView]) -> tuple[Variant, ...]:
    """Return the variants of a paper's tables that have a network, each once, with the label of its first row."""
    found: dict[tuple[str, str], Variant] = {}
    for place, table in enumerate(tables):
        for row in table.rows:
            if row.variant and row.system and not any(cell.status in (*MARKS, SUBMITTED) for cell in row.cells):
                found.setdefault((row.system, row.variant), Variant(row.system, row.variant, row.label, place == 0))
    return tuple(found.values())


def paper_metric(tables: Sequence[TableView]) -> str:
    """Return the metric that a paper is about: the first one in its tables that is computed from predictions."""
    names = [column.metric for table in tables for column in table.columns]
    return next((name for name in names if metric_of(name).scored), "mae")


def chosen_by(tables: Sequence[TableView]) -> str:
    """Return which weights a paper's first table shows."""
    return next((table.selection for table in tables), "last")


@dataclass(frozen=True)
class SelectionRow:
    """One variant's metric by the way to choose the epoch, and the best constant's; NaN where it is not known."""

    label: str
    used: str  # the data: what stands for the benchmark
    metric: str
    last: float
    best_on_test: float
    best_on_held_out: float
    constant: float

    @property
    def gain(self) -> float:
        """Return how much better the best epoch on test looks than the last one."""
        wrong = metric_of(self.metric).wrong
        return wrong(self.last) - wrong(self.best_on_test)

    @property
    def relative(self) -> float:
        """Return the gain as a share of the last epoch's value."""
        return self.gain / self.last if self.last else math.nan

    @property
    def share(self) -> float:
        """Return the gain as a share of all that the variant is better than the best constant."""
        worth = metric_of(self.metric).wrong(self.constant) - metric_of(self.metric).wrong(self.best_on_test)
        return self.gain / worth if worth > 0 else math.nan


def selection_rows(sources: Sources, tables: Sequence[TableView]) -> list[SelectionRow]:
    """Return the protocols side by side, on the first table's benchmarks, for variants scored with two at least."""
    name = paper_metric(tables)
    benchmarks = {column.benchmark for table in tables[:1] for column in table.columns}
    found: dict[tuple[str, str, str, str], float] = {}  # the mean over seeds, or the value of the single seed
    for score in sources.score_rows:
        key = (score.system, score.variant, score.benchmark, score.selection)
        wanted = score.metric == name and score.benchmark in benchmarks and present(score.value)
        if wanted and (score.seed == ALL_SEEDS or key not in found):
            found[key] = score.value
    constants = {(c.benchmark, c.metric): c.constant for table in tables for c in table.columns}
    rows = []
    for variant in variants_of(tables):
        places = {sources.project.place(key[2]) or key[2]: key[2] for key in reversed(found) if key[:2] == variant.key}
        for used, benchmark in reversed(places.items()):
            values = {selection: found.get((*variant.key, benchmark, selection), math.nan) for selection in SELECTIONS}
            if sum(map(present, values.values())) >= 2 and sources.epochs_evaluated(variant.key) != 1:
                constant = constants.get((benchmark, name))
                constant = math.nan if constant is None else constant
                rows.append(SelectionRow(variant.label, used, name, **values, constant=constant))
    return rows


def selection(context: Context, rows: Sequence[SelectionRow]) -> Iterator[Exhibit]:
    """Yield how weights are chosen and what that does to a number."""
    if not rows:
        return
    metric = metric_of(rows[0].metric)
    plots = []
    for used in dict.fromkeys(row.used for row in rows):
        table = pd.DataFrame([vars(row) for row in rows if row.used == used])
        caption = f"{metric.label} on {used} of the same runs, by the way to choose the weights."
        name = f"selection-{used.replace('/', '-')}"
        plots.append(context.plot(figures.selection_dumbbells(table, rows[0].metric), name, caption))
    lines = []
    for row in rows:
        values = (row.best_on_test, row.last, row.best_on_held_out, row.gain)
        cells = [Cell(value, percent(value, 1) if metric.is_share else "") for value in values]
        gain = replace(cells.pop(), below=percent(row.relative, 1))
        lines.append(Line((row.label, row.used, *cells, gain, Cell(row.share, percent(row.share, 1)))))
    heads = ("System", "On", "Best on test ⚑", "Last epoch", "Best on held-out", "Gain",
             "Share of what was learned")  # fmt: skip
    title = f"{metric.label} by the way to choose the weights"
    yield Exhibit(
        "selection", "How weights are chosen, and what that does to a number",
        said("selection", metric=in_a_sentence(metric.label)), tuple(plots),
        (Sheet(f"{context.name}-selection", title, heads, tuple(lines)),), short="How weights are chosen",
    )  # fmt: skip


def _training_curves(sources: Sources, variants: Sequence[Variant], name: str) -> tuple[pd.DataFrame, str]:
    """Return our evaluations during training (label, seed, epoch, value), and the images: on test, else held-out."""
    for watched, prefix in (("test", "test"), ("held-out", "held_out")):
        column = f"{prefix}_{name}"
        parts = [
            pd.DataFrame({"label": variant.label, "seed": run.seed, "epoch": seen["epoch"], "value": seen[column]})
            for variant in variants
            for run in sources.runs
            if run.key == sources.trained_as(variant.key) and column in run.history
            if len(seen := run.history.dropna(subset=column)) > 1
        ]
        if parts:
            return pd.concat(parts, ignore_index=True), watched
    return pd.DataFrame(columns=["label", "seed", "epoch", "value"]), "test"


def curves(context: Context, behind: Behind) -> Iterator[Exhibit]:
    """Yield the learning curves, over the authors' own where there are some of the paper's metric."""
    metric, sources, plots = paper_metric(context.tables), context.sources, []
    label = metric_of(metric).label
    runs, watched = _training_curves(sources, context.variants, metric)
    if len(runs):
        grey = ", the authors' own in grey" if behind else ""
        caption = f"{label} on {watched} images during training, ours in colour{grey}."
        if not context.comparable:
            caption = said("shapes", grey=grey, metric=label, watched=watched, best=metric_of(metric).best)
        figure = figures.curves_over_log(runs, metric, watched, behind, context.comparable)
        plots.append(context.plot(figure, "curves", caption))
    histories: dict[str, pd.DataFrame] = {}
    for variant in context.variants:
        for run in sources.runs:
            if run.key == sources.trained_as(variant.key) and "loss" in run.history:
                histories.setdefault(variant.label, run.history)
    if histories:
        caption = f"Loss and {in_a_sentence(label)} of every run's first seed."
        heading = "Run by run" if plots else ""
        plots.append(context.plot(figures.training_panels(histories, metric), "runs", caption, heading))
    if plots:
        yield Exhibit("curves", "Learning curves", figures=tuple(plots))


def predictions_of(
    sources: Sources, place: Place, variant: Variant, selection: str
) -> tuple[int, str, pd.DataFrame] | None:
    """Return seed, selection and predictions of a variant: the lowest seed, the wanted selection or else the first."""
    mine = sources.predictions_by_variant.get((place.dataset, place.split, *sources.evaluated_as(variant.key)))
    if mine is None:
        return None
    mine = mine[mine["seed"] == mine["seed"].min()]
    chosen = selection if selection in set(mine["selection"]) else mine["selection"].iloc[0]
    return int(mine["seed"].iloc[0]), chosen, mine[mine["selection"] == chosen].reset_index(drop=True)


def photographs(context: Context) -> Iterator[Exhibit]:
    """Yield the gallery of each data set, the first open; of systems that answer a number, a table of their answers."""
    selection, by_caption = chosen_by(context.tables), paper_metric(context.tables) == "accuracy"
    built: list[Gallery] = []
    answered: list[AnswerTable] = []
    for place in context.sources.places():
        stem = re.sub(r"[^\w-]", "-", f"photo-{context.name}-{place.dataset}-{place.split}")  # a class of CSS
        shown = []
        for variant in context.variants:
            if (found := predictions_of(context.sources, place, variant, selection)) is not None:
                seed, chosen, predictions = found
                maps = context.sources.maps(place, *context.sources.evaluated_as(variant.key), seed, chosen)
                shown.append(Shown(variant.label, predictions, maps, variant.first))
        words = SELECTIONS.get(selection, selection)
        what = context.sources, stem, place, shown, words, _notice(place.dataset)
        if by_caption:
            answered += filter(None, [answers_by_picture(*what)])
        else:
            built += filter(None, [gallery(*what)])
    if answered:
        yield Exhibit("gallery", "Answers, picture by picture", answers=tuple(answered))
    if built:
        yield Exhibit("gallery", "Photographs", galleries=tuple(built))


def _notice(dataset: str) -> str:
    entry = datasets.load(dataset) if dataset in datasets.names() else None
    return "" if entry is None or entry.may_be_shown else UNPUBLISHABLE


def influential(context: Context, place: Place, most: int = 3) -> list[Influential]:
    """Return the images that carry most of each variant's squared error, largest first, from influence.csv."""
    wanted, rows = chosen_by(context.tables), []
    images = [image for image in context.sources.influence if image.benchmark == place.benchmark]
    here = [image for image in images if image.dataset in (place.dataset, str(place))]
    for variant in context.variants:
        mine = [image for image in here if (image.system, image.variant) == context.sources.evaluated_as(variant.key)]
        seed = min((image.seed for image in mine), default=0)
        there = [image.selection for image in mine if image.seed == seed]
        chosen = seed, wanted if wanted in there else next(iter(there), "")
        first = [image for image in mine if (image.seed, image.selection) == chosen]
        first.sort(key=lambda image: -image.share_of_squared_error)
        rows += [(variant.label, image) for image in first[:most]]
    return rows


def errors(context: Context, heavy: Mapping[Place, Sequence[Influential]]) -> Iterator[Exhibit]:
    """Yield what was answered for what was there: counts as dots, answers by caption as confusion matrices."""
    selection, plots, sheets = chosen_by(context.tables), [], []
    for place in context.sources.places():
        shown = [(v.label, predictions_of(context.sources, place, v, selection)) for v in context.variants]
        found = {label: predicted[2] for label, predicted in shown if predicted is not None}
        if not found or paper_metric(context.tables) == "accuracy":
            continue
        caption = f"Predicted against true count on {place}; the line is exact."
        figure = figures.predicted_against_true(found)
        plots.append(context.plot(figure, f"{place.dataset}-{place.split}-scatter", caption))
        if heavy.get(place):
            rows = [(label, image.id, image.share_of_squared_error) for label, image in heavy[place]]
            shares = pd.DataFrame(rows, columns=["label", "image", "share"])
            caption = f"The three images that carry most of each system's squared error on {place}."
            figure = figures.influence_bars(shares)
            plots.append(context.plot(figure, f"{place.dataset}-{place.split}-influence", caption))
            sheets.append(_influence_sheet(context.name, place, heavy[place]))
    if plots:
        yield Exhibit("errors", "Errors, image by image", figures=tuple(plots), tables=tuple(sheets), short="Errors")


def _influence_sheet(paper: str, place: Place, entries: Iterable[Influential]) -> Sheet:
    lines = []
    for label, image in entries:
        share = image.share_of_squared_error
        below, marks = ("more than half", "heavy") if share > HEAVY else ("", "")
        effects = [Cell(effect, signed(effect)) for effect in (image.mae_effect, image.rmse_effect)]
        cell = Cell(share, percent(share), below=below, alarm=True)
        lines.append(Line((label, image.id, cell, *effects), marks=marks))
    heads = ("System", "Image", "Share of squared error", "MAE with it − without", "RMSE with it − without")
    file = f"{paper}-influence-{place.dataset}-{place.split}"
    return Sheet(file, f"Images that move the errors on {place}", heads, tuple(lines), folded=True)


def answers(context: Context) -> Iterator[Exhibit]:
    """Yield confusion matrices and recalls of systems that answer a number, for each way to choose the epoch."""
    plots, lines, places = list[Plot](), list[Line](), list[str]()
    for place in context.sources.places():
        for selection in ("last", "best_on_test"):
            found = dict(_answered(context, place, selection))
            if not found or paper_metric(context.tables) != "accuracy":
                continue
            places.append(str(place))
            words = SELECTIONS[selection]
            lines += [answer_line(label, str(place), words, predictions) for label, predictions in found.items()]
            shown = "for each true number (row), the share of pictures by answer (column)"
            caption = f"Measured on {place}, {words}: {shown}."
            name, heading = f"{place.dataset}-{place.split}-{selection}", f"{place}, {words}" if plots else ""
            plots.append(context.plot(figures.confusions(found), f"confusions-{name}", caption, heading))
    if plots:
        where = ", ".join(dict.fromkeys(places))
        yield Exhibit(
            "matrices", "Confusion matrices", said("answers", where=where), tuple(plots),
            (answer_sheet(f"{context.name}-answers", "Accuracy and recall measured here", lines),),
        )  # fmt: skip


def _answered(context: Context, place: Place, selection: str) -> Iterator[tuple[str, pd.DataFrame]]:
    for variant in context.variants:
        if (found := predictions_of(context.sources, place, variant, selection)) is not None:
            key = (place.dataset, place.split, *context.sources.evaluated_as(variant.key))
            there = set(context.sources.predictions_by_variant[key]["selection"])
            # An untrained baseline has one kind of weights only, which stands for both.
            if (found[1] == selection or there == {"last"}) and found[2]["predicted_count"].notna().any():
                yield variant.label, found[2]


def answer_line(label: str, where: str, weights: str, predictions: pd.DataFrame) -> Line:
    """Return accuracy with its exact interval, mean absolute deviation and recalls of predictions."""
    finite = predictions.dropna(subset=["true_count", "predicted_count"])
    true, answer = finite["true_count"].to_numpy(), finite["predicted_count"].to_numpy()
    right = true == answer
    ends = binomtest(int(right.sum()), len(finite)).proportion_ci(0.95, "exact")
    groups = [true >= LARGE_NUMBERS[0], *(true == number for number in NUMBERS.values())]
    recalls = [float(right[group].mean()) if group.any() else math.nan for group in groups]
    below = f"{percent(ends.low, 1)} to {percent(ends.high, 1)}"
    accuracy = Cell(float(right.mean()), percent(right.mean(), 2), (ends.low, ends.high), below)
    times, deviation = Cell(int(right.sum()), f"{right.sum()} of {len(finite)}"), float(np.abs(answer - true).mean())
    shown = [Cell(recall, percent(recall)) for recall in recalls]
    return Line((label, where, weights, times, accuracy, deviation, *shown))


def answer_sheet(file: str, title: str, lines: Sequence[Line], *, folded: bool = False) -> Sheet:
    """Return answers as a table."""
    recalls = tuple(str(number) for number in NUMBERS.values())
    heads = ("System", "Where", "Weights", "Right", "Accuracy", "Mean |error|", "Recall, 7 to 10", *recalls)
    hints = tuple((number, f"recall of {number}") for number in recalls)
    return Sheet(file, title, heads, tuple(lines), hints, folded=folded)


COSTS = {
    "wall_seconds": ("Wall time", seconds), "gpu_seconds": ("GPU time", seconds),
    "seconds_per_step": ("Per step", seconds), "seconds_per_100_epochs": ("100 epochs", seconds),
    "peak_memory_mb": ("Peak memory", megabytes), "parameters_trained": ("Trained", big),
    "parameters_total": ("All", big), "flops_per_window": ("FLOPs", big), "seconds_per_image": ("Per image", seconds),
}  # fmt: skip


def _costs_of(sources: Sources, variants: Iterable[Variant]) -> dict[Variant, dict[str, float]]:
    found = {}
    for variant in variants:
        if runs := [run for run in sources.runs if run.key == sources.trained_as(variant.key)]:
            said = pd.DataFrame([run.record.cost.model_dump() for run in runs if run.record])
            costs = said.reindex(columns=list(COSTS))
            values = {str(name): float(v) for name, v in costs.apply(pd.to_numeric, errors="coerce").mean().items()}
            epochs = [run.seconds_per_epoch for run in runs if run.seconds_per_epoch is not None]
            values["seconds_per_100_epochs"] = 100 * sum(epochs) / len(epochs) if epochs else math.nan
            values["seconds_per_image"] = sources.seconds_per_image.get(sources.evaluated_as(variant.key), math.nan)
            found[variant] = values
    return found


def cost(context: Context) -> Iterator[Exhibit]:
    """Yield what training and prediction cost, and printed beside counted parameters."""
    if not (costs := _costs_of(context.sources, context.variants)):
        return
    on_gpu = any(values["gpu_seconds"] > 0 for values in costs.values())
    shown_costs = {name: how for name, how in COSTS.items() if on_gpu or name != "gpu_seconds"}
    lines = [
        Line((variant.label, _targets(context.sources, variant),
              *(Cell(values[name], write(values[name])) for name, (_, write) in shown_costs.items())))
        for variant, values in costs.items()
    ]  # fmt: skip
    heads = ("System", "Targets", *(head for head, _ in shown_costs.values()))
    groups = (("", 2), ("training", 5 if on_gpu else 4), ("parameters", 2), ("prediction", 2))
    sheets = [Sheet(f"{context.name}-cost", "What training and prediction cost", heads, tuple(lines), groups=groups)]
    sheets += [sheet for sheet in [_sizes(context, costs)] if sheet.lines]
    no_gpu = "" if on_gpu else "; no run used a GPU"
    smaller = "" if context.comparable else " The networks are those of this suite, smaller than the papers'."
    words, plots = said("cost", no_gpu=no_gpu, smaller=smaller), tuple(_cost_plot(context, costs))
    yield Exhibit("cost", "Cost", words, plots, tuple(sheets))


def _targets(sources: Sources, variant: Variant) -> str:
    """Return what the targets of a variant's training were made of; a dash where it learns none of its own."""
    runs = [run for run in sources.runs if run.key == sources.trained_as(variant.key) and run.record]
    return ", ".join(dict.fromkeys(run.record.targets for run in runs if run.record and run.record.targets)) or "–"


def _cost_plot(context: Context, costs: Mapping[Variant, Mapping[str, float]]) -> Iterator[Plot]:
    metric = paper_metric(context.tables)
    values = {
        (row.system, row.variant): row.cells[0].value
        for table in reversed(context.tables)
        for row in table.rows
        if row.cells and row.cells[0].column.metric == metric and row.cells[0].value is not None
    }
    labels = {name: experiment.label for name, experiment in context.experiments.items()}
    points = [(labels.get(v.system, v.system), cost["wall_seconds"], values.get(v.key)) for v, cost in costs.items()]
    table = pd.DataFrame(points, columns=["system", "seconds", "value"]).dropna()
    if not table.empty:
        caption = f"{metric_of(metric).label} against training time on this machine; one dot per variant."
        yield context.plot(figures.cost_against_value(table, metric), "cost", caption)


def _sizes(context: Context, costs: Mapping[Variant, Mapping[str, float]]) -> Sheet:
    published = context.sources.published[context.name]
    printed = published[published["metric"] == "parameters_million"].drop_duplicates(["system", "variant"])
    rows = {(row["system"], row["variant"]): row for row in printed.to_dict("records")}
    lines = []
    for variant in context.variants:
        if variant.key in rows:
            row, counted = rows[variant.key], costs.get(variant, {})
            sizes = [counted.get(name, math.nan) for name in ("parameters_trained", "parameters_total")]
            cells = Cell(float(row["value"]), f"{row['value']} M"), *(Cell(size, big(size)) for size in sizes)
            lines.append(Line((variant.label, *cells, row["source"], row["note"])))
    heads = ("System", "Printed, millions", "Trained here", "All here", "Printed where", "Note")
    note = "" if context.comparable else said("sizes")
    return Sheet(f"{context.name}-parameters", "Parameters, printed and counted", heads, tuple(lines), note=note)

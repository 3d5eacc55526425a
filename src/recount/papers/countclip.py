"""What CountCLIP's printed numbers show: its table, its confusion matrices, the epochs in its notebook's history.

``recount evidence countclip`` makes ``cut_77.csv`` from CountBench's captions, and ``lambdas.csv``; the other files of
evidence are transcribed.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import PercentFormatter

from recount import systems
from recount.datasets.countbench import read_items
from recount.datasets.countclip_zenodo import CLASS_COUNTS
from recount.datasets.formats import captions
from recount.errors import UserError
from recount.judging import countclip_evidence as printed
from recount.judging.countclip_evidence import BEST, END, AgainstBaseline, Evidence, Panel
from recount.report.exhibits import Context, Exhibit, Plot
from recount.report.figures import confusions
from recount.report.numbers import number, percent, signed_to
from recount.report.panels import row_axes
from recount.report.sections import answer_line, answer_sheet
from recount.report.sources import Sources
from recount.report.style import ALARM, BEHIND, INK, MUTED, SERIES, WIDTH
from recount.report.tables import SELECTIONS
from recount.settings.paper import Paper

STATES = {END: "last", BEST: "best_on_test"}
CUT = 77  # characters of a caption that CountCLIP reads
FILES = {"confusions", "epochs", "cut_77", "lambdas", "leak"}


@dataclass(frozen=True, slots=True)
class LostWord:
    """An item of CountBench whose number word lies beyond the cut of captions."""

    index: int  # in CountBench.json
    number: int
    position: int  # of the word, characters from 0


def _lost_word_rows(raw: Path) -> list[LostWord]:
    items = read_items(raw / "countbench" / "CountBench.json")
    words = {number: word for word, number in captions.NUMBERS.items()}
    found = [LostWord(k, i["number"], i["text"].lower().find(words[i["number"]])) for k, i in enumerate(items)]
    return [item for item in found if item.position + len(words[item.number]) > CUT]


@dataclass(frozen=True, slots=True)
class _Weight:
    weighting: str
    number: int
    pairs: int
    value: float


def _weight_rows(raw: Path) -> list[_Weight]:
    lambdas = import_module(systems.load("countclip").__module__).lambdas
    return [
        _Weight(weighting, number, CLASS_COUNTS[number], value)
        for weighting in ("const", "norm", "modal", "log")
        for number, value in lambdas(weighting, CLASS_COUNTS).items()
    ]


EVIDENCE = {"cut_77": _lost_word_rows, "lambdas": _weight_rows}


def curves(sources: Sources, paper: Paper, metric: str) -> Mapping[str, pd.DataFrame]:
    """Return the accuracies after each epoch of the recovered runs that printed them: columns epoch, value."""
    path = paper.evidence.get("epochs")
    runs = printed.read_epochs(path) if path is not None and metric == "accuracy" else []
    tables = {run.variant: pd.DataFrame({"value": run.accuracies}) for run in runs if run.accuracies}
    return {f"authors' run of {name}": table.assign(epoch=table.index + 1) for name, table in tables.items()}


def exhibits(context: Context) -> Iterator[Exhibit]:
    """Yield what the printed numbers show."""
    files = context.paper.evidence
    if not files.keys() >= FILES:
        return
    try:
        found = printed.evidence(context.paper.folder)
    except UserError as error:
        context.sources.problem(files["confusions"], str(error))
        return
    labels = context.labels
    shown = tuple(findings(found, labels, leaks=len(pd.read_csv(files["leak"]))))
    panels = [p for state in STATES for p in found.panels if p.state == state and p.figure != "fig3"]
    lines = [
        answer_line(labels.get(p.variant, p.variant), p.name, SELECTIONS[STATES[p.state]], images_of(p)) for p in panels
    ]
    title = "Printed matrices in numbers: accuracy with its exact interval, recall of each number"
    yield Exhibit(
        id="published",
        title="What the printed numbers show",
        sentence=(
            f"Computed from the paper's table, its {len(found.panels)} printed confusion matrices and the epochs that "
            f"the notebook's history holds (papers/{context.name}/). Nothing here needs a training run."
        ),
        findings=shown,
        glance=f"As printed, a{shown[0][0][1:-1]} ({percent(found.baseline.baseline, 2)}).",
        figures=tuple(_plots(context, found, panels)),
        tables=(answer_sheet(f"{context.name}-printed", title, lines, folded=True),),
    )


def images_of(panel: Panel) -> pd.DataFrame:
    """Return a printed matrix as one row per image: true_count, predicted_count."""
    every = [(true, answer) for true in printed.NUMBERS for answer in printed.NUMBERS]
    return pd.DataFrame(np.repeat(every, panel.matrix.ravel(), axis=0), columns=["true_count", "predicted_count"])


def findings(found: Evidence, labels: Mapping[str, str], leaks: int) -> Iterator[tuple[str, str]]:
    """Yield what the printed numbers show."""
    base, claim, chance = found.baseline, found.headline, found.selection
    above = "; ".join(labels.get(name, name) for name in base.above_at_best) or "none"
    yield (
        f"After ten epochs {len(base.below_at_end)} of {len(base.at_end)} configurations are below the baseline.",
        f"The untrained baseline has {percent(base.baseline, 2)}. At the epoch chosen on the test images "
        f"{len(base.above_at_best)} are above it: {above}.",
    )
    low, high = (signed_to(end, 0) for end in claim.interval)
    yield (
        f"The headline is {claim.images} images.",
        f"{claim.after} of {claim.n} are right instead of {claim.before}. The difference has a standard error of "
        f"{number(100 * claim.standard_error)} points (z = {claim.z:.2f}). By the printed matrices, at least "
        f"{claim.gained_at_least} images changed to right and at least {claim.lost_at_least} to wrong. In the pairing "
        f"most favourable to the claim, McNemar's exact test gives p = {claim.smallest_p:.2f} and a 95 % interval of "
        f"{low} to {high} images.",
    )
    yield (
        "Choosing the best of ten epochs on the test images gains that by chance.",
        f"Accuracies of the recovered runs vary from epoch to epoch with a standard deviation of {100 * chance.sd:.2f} "
        "points (including any trend of a run). A run at the baseline's level that learns nothing has a best epoch "
        f"{100 * chance.expected_gain:.2f} points above it on average. {percent(chance.share_of_runs)} of such runs "
        f"reach +{100 * chance.claimed:.2f} points, and {percent(chance.share_of_studies, 1)} of the studies with "
        f"eleven such runs have at least one that does. (Best of ten independent evaluations: "
        f"{chance.in_standard_errors:.2f} standard errors.)",
    )
    if chance.observed_gains:
        gains = [f"{labels.get(k, k)} {signed_to(100 * gain, 2)} points" for k, gain in chance.observed_gains.items()]
        yield "Best minus last epoch in the recovered runs:", f"{'; '.join(gains)}."
    twos = sum(item["number"] == 2 for item in found.lost_words)
    yield (
        f"{len(found.lost_words)} of 540 captions lose their number word by the cut at 77 characters.",
        f"Their nine captions are equal, so the answer is always “two”; {twos} of them do show two.",
    )
    if leaks:
        yield (
            "A leaked pair:",
            f"one CountBench picture is also a candidate of the training set (one of the {leaks} rows in "
            "evidence/leak.csv).",
        )
    for entry in found.mismatches:
        fits = f": the accuracy of “{entry.fits}”" if entry.fits else ""
        yield (
            "Exchanged panel:",
            f"{entry.panel} ({labels.get(entry.variant, entry.variant)}), said to be “{entry.said}” with "
            f"{percent(entry.printed, 2)}, has {entry.correct} right answers, {percent(entry.recomputed, 2)}{fits}.",
        )
    yield from _unlearned(found)


def _unlearned(found: Evidence) -> Iterator[tuple[str, str]]:
    before = [entry.largest for entry in found.panels if (entry.variant, entry.state) == (printed.BASELINE, BEST)]
    trained = [entry for entry in found.panels if entry.variant != printed.BASELINE]
    end, best = (max((e.largest for e in trained if e.state == state), default=0) for state in (END, BEST))
    if before:
        yield (
            "Large numbers are unlearned.",
            f"Recall on eight to ten is {percent(before[0], 1)} before training. After ten epochs it is at most "
            f"{percent(end, 1)}, at the best epoch at most {percent(best, 1)}.",
        )


def _plots(context: Context, found: Evidence, panels: Iterable[Panel]) -> Iterator[Plot]:
    labels = context.labels
    minus = "Printed accuracy minus that of the untrained baseline"
    caption = f"{minus}: after ten epochs, and at the epoch chosen on the test images."
    yield context.plot(_against_baseline(found.baseline, labels), "against-baseline", caption)
    runs = "Accuracy on CountBench after each epoch of the runs that the notebook's history printed"
    caption, figure = f"{runs}; the line is the untrained baseline.", _recovered_epochs(found, labels)
    yield context.plot(figure, "recovered-epochs", caption, "Recovered epochs")
    caption = "Lambda by number from the class counts of the authors' training set (equations 3 to 6, as coded)."
    figure = _weights_by_number(pd.read_csv(context.paper.evidence["lambdas"]))
    yield context.plot(figure, "lambda", caption, "Lambda by number")
    for state, selection in STATES.items():
        figure = confusions({labels.get(p.variant, p.variant): images_of(p) for p in panels if p.state == state})
        caption = f"Printed, {state}: for each true number (row), the share of pictures by answer (column)."
        name, heading = f"published-confusions-{selection}", f"Printed confusion matrices, {state}"
        yield context.plot(figure, name, caption, heading)


def _against_baseline(baseline: AgainstBaseline, labels: Mapping[str, str]) -> Figure:
    names = list(baseline.at_end)
    figure, (ax,) = row_axes([labels.get(name, name) for name in names], 0.27, above=0.35, grid=False)
    end, best = ([100 * values[name] for name in names] for values in (baseline.at_end, baseline.at_best))
    ax.hlines(range(len(names)), end, best, color=BEHIND, linewidth=2, zorder=1)
    hollow: dict[str, Any] = {"markerfacecolor": "none", "markeredgewidth": 1.6}
    handles = []
    for label, values, colour, look in (
        ("after ten epochs", end, SERIES[0], {}),
        ("best on the test images", best, SERIES[1], hollow),
    ):
        ax.plot(values, range(len(names)), "o", color=colour, markersize=6, label=label, **look)
        handles.append(Line2D([], [], marker="o", ls="", color=colour, label=label, **look))
    ax.axvline(0, color=INK, linewidth=1)
    ax.set_xlabel("percentage points of accuracy above the untrained baseline, as printed")
    figure.legend(handles=handles, loc="upper left", ncols=2)
    return figure


def _recovered_epochs(found: Evidence, labels: Mapping[str, str]) -> Figure:
    figure, ax = plt.subplots(figsize=(WIDTH, 3.1), layout="constrained")
    for place, run in enumerate(run for run in found.runs if run.accuracies):
        epochs, label = range(1, len(run.accuracies) + 1), labels.get(run.variant, run.variant)
        ax.plot(epochs, run.accuracies, "o-", color=SERIES[place], linewidth=1.4, markersize=4, label=label)
    level = found.baseline.baseline
    ax.axhline(level, color=ALARM, linewidth=1.2, linestyle=(0, (5, 3)))
    ax.annotate("untrained", (1, level), xytext=(0, 4), textcoords="offset points", fontsize=8, color=ALARM)
    ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    ax.set(xlabel="epoch", ylabel="accuracy on CountBench")
    ax.grid(axis="y", linewidth=0.6)
    ax.legend()
    return figure


def _weights_by_number(weights: pd.DataFrame) -> Figure:
    figure, (left, right) = plt.subplots(1, 2, figsize=(WIDTH, 3.0), layout="constrained")
    bars = left.bar(list(CLASS_COUNTS), list(CLASS_COUNTS.values()), color=BEHIND)
    left.bar_label(bars, fontsize=7.5, color=MUTED)
    left.set(yscale="log", xlabel="number", ylabel="counting pairs", xticks=list(CLASS_COUNTS), title="training set")
    for place, (weighting, own) in enumerate(weights.groupby("weighting", sort=False)):
        right.plot(own["number"], own["value"], "o-", color=SERIES[place], markersize=4, label=weighting)
    right.set(yscale="log", xlabel="number", ylabel="lambda", xticks=list(CLASS_COUNTS), title="weight of a pair")
    right.grid(axis="y", linewidth=0.6)
    right.legend()
    return figure

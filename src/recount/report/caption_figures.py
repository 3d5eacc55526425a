"""Figures of the section on counting by captions: printed accuracies, recovered epochs, weights, confusion matrices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import PercentFormatter

from recount.datasets.countclip_zenodo import CLASS_COUNTS
from recount.judging.countclip_evidence import AgainstBaseline, RecoveredRun
from recount.report.figures import confusions
from recount.report.panels import row_axes
from recount.report.style import ALARM, BEHIND, INK, MUTED, SERIES, WIDTH
from recount.systems.countclip import lambdas

__all__ = ["against_baseline", "confusions", "recovered_epochs", "weights_by_number"]


def against_baseline(baseline: AgainstBaseline, labels: Mapping[str, str]) -> Figure:
    """Draw each configuration's printed accuracy minus the baseline's: hollow at the end, filled at the best epoch."""
    names = list(baseline.at_end)
    figure, (ax,) = row_axes([labels.get(name, name) for name in names], 0.27, above=0.35, grid=False)
    end, best = ([100 * values[name] for name in names] for values in (baseline.at_end, baseline.at_best))
    ax.hlines(range(len(names)), end, best, color=BEHIND, linewidth=2, zorder=1)
    ax.plot(end, range(len(names)), "o", color=SERIES[0], markersize=6)
    ax.plot(best, range(len(names)), "o", color=SERIES[1], markerfacecolor="none", markeredgewidth=1.6, markersize=6)
    ax.axvline(0, color=INK, linewidth=1)
    ax.set_xlabel("percentage points of accuracy above the untrained baseline, as printed")
    handles = [
        Line2D([], [], marker="o", linestyle="", color=SERIES[0], label="after ten epochs"),
        Line2D(
            [], [], marker="o", linestyle="", color=SERIES[1], markerfacecolor="none", label="best on the test images"
        ),
    ]
    figure.legend(handles=handles, loc="upper left", ncols=2)
    return figure


def recovered_epochs(runs: Sequence[RecoveredRun], baseline: float, labels: Mapping[str, str]) -> Figure:
    """Draw the accuracies after each epoch of the runs that printed them."""
    figure, ax = plt.subplots(figsize=(WIDTH, 3.1), layout="constrained")
    for place, run in enumerate(run for run in runs if run.accuracies):
        name = labels.get(run.variant, run.variant)
        epochs = range(1, len(run.accuracies) + 1)
        ax.plot(epochs, run.accuracies, "o-", color=SERIES[place], linewidth=1.4, markersize=4, label=name)
    ax.axhline(baseline, color=ALARM, linewidth=1.2, linestyle=(0, (5, 3)))
    ax.annotate("untrained", (1, baseline), xytext=(0, 4), textcoords="offset points", fontsize=8, color=ALARM)
    ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    ax.set(xlabel="epoch", ylabel="accuracy on CountBench")
    ax.grid(axis="y", linewidth=0.6)
    ax.legend()
    return figure


def weights_by_number() -> Figure:
    """Draw lambda against the number for the three weightings, and how many training pairs each number has."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(WIDTH, 3.0), layout="constrained")
    _bars(left)
    for place, weighting in enumerate(("const", "norm", "modal", "log")):
        values = lambdas(weighting, CLASS_COUNTS)  # type: ignore[arg-type]
        right.plot(list(values), list(values.values()), "o-", color=SERIES[place], markersize=4, label=weighting)
    right.set_yscale("log")
    right.set(xlabel="number", ylabel="lambda", xticks=list(CLASS_COUNTS), title="weight of a pair")
    right.grid(axis="y", linewidth=0.6)
    right.legend()
    return figure


def _bars(ax: Axes) -> None:
    bars = ax.bar(list(CLASS_COUNTS), list(CLASS_COUNTS.values()), color=BEHIND)
    ax.bar_label(bars, fontsize=7.5, color=MUTED)
    ax.set_yscale("log")
    ax.set(xlabel="number", ylabel="counting pairs", xticks=list(CLASS_COUNTS), title="training set")

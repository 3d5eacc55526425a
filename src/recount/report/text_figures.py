"""Figures of the text-guided systems: what they answer to other prompts, and the authors' training log."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from recount.papers.t2icount import TrainLog
from recount.report.panels import row_axes
from recount.report.style import ALARM, BEHIND, INK, MUTED, SERIES, WIDTH
from recount.report.text_guided import PromptRow

LABEL = 34  # characters of a row's label


def prompt_answers(rows: Sequence[PromptRow]) -> Figure:
    """Draw, a line per variant, the mean counts under three prompts, and PrACo's NP and NMN.

    A system that ignores its prompt has its marks on top of each other in both panels.
    """
    names = [row.label if len(row.label) <= LABEL else f"{row.label[: LABEL - 1]}…" for row in rows]
    figure, (left, right) = row_axes(names, 0.3, above=0.35, ratios=(3, 2))
    asked = {
        "majority": ("o", SERIES[1], [row.majority[1] for row in rows]),
        "minority": ("s", SERIES[0], [row.minority[1] for row in rows]),
        "absent class": ("X", SERIES[3], [row.absent for row in rows]),
    }
    _lines(left, [values for _, _, values in asked.values()])
    for name, (marker, colour, values) in asked.items():
        left.plot(
            values,
            range(len(rows)),
            marker=marker,
            color=colour,
            linestyle="",
            markersize=6.5,
            label=name,
        )
    for name, colour in (("majority", SERIES[1]), ("minority", SERIES[0])):
        true = [getattr(row, name)[0] for row in rows if np.isfinite(getattr(row, name)[0])]
        if true:
            left.axvline(true[0], color=colour, linewidth=1.1, linestyle=(0, (4, 3)), zorder=0)
    left.set_xlim(left=0)
    left.set_xlabel("counted when asked for it, mean over pictures; dashed: true")
    ratios = {
        "right prompt (NP)": ("o", "none", [row.np for row in rows]),
        "wrong ones (NMN)": ("X", SERIES[3], [row.nmn.value for row in rows]),
    }
    _lines(right, [values for _, _, values in ratios.values()])
    for name, (marker, face, values) in ratios.items():
        edge = INK if face == "none" else face
        right.plot(
            values, range(len(rows)), marker=marker, color=edge, markerfacecolor=face, linestyle="", markersize=6.5,
            label=name,
        )  # fmt: skip
    for ideal, colour in ((1, MUTED), (0, SERIES[3])):
        right.axvline(ideal, color=colour, linewidth=1.1, linestyle=(0, (4, 3)), zorder=0)
    right.set_xlabel("count ÷ true count; ideal: 1 and 0")
    for ax in (left, right):
        ax.legend(loc="lower left", bbox_to_anchor=(-0.02, 1), ncols=3, columnspacing=1, handletextpad=0.2)
    return figure


def _lines(ax: Axes, columns: Sequence[Sequence[float]]) -> None:
    values = pd.DataFrame(columns)
    ax.hlines(values.columns, values.min(), values.max(), color=BEHIND, linewidth=2, zorder=1)


def validation_noise(log: TrainLog) -> Figure:
    """Draw the validation errors of the authors' log over the epochs, with what was selected and tested."""
    figure, axes = plt.subplots(2, 1, figsize=(WIDTH, 4.4), sharex=True, layout="constrained")
    epochs = pd.DataFrame([vars(epoch) for epoch in log.evaluated])
    for ax, spread in zip(axes, log.spreads, strict=True):
        column = f"val_{spread.metric}"
        ax.axhspan(spread.median - spread.sd, spread.median + spread.sd, color=BEHIND, alpha=0.25, linewidth=0)
        ax.axhline(spread.median, color=MUTED, linewidth=1, linestyle=(0, (5, 3)))
        ax.plot(epochs["epoch"], epochs[column], color=MUTED, linewidth=1.3, marker="o", markersize=2.6)
        for tested in log.tested:
            chosen = tested is log.selected
            value = getattr(tested, column)
            ax.plot(
                tested.epoch, value, marker="o", markersize=8, linestyle="", markerfacecolor="none",
                color=ALARM if chosen else SERIES[0], markeredgewidth=1.8,
            )  # fmt: skip
            error = tested.test_mae if spread.metric == "mae" else tested.test_rmse
            ax.annotate(
                f"test {error:g}", (tested.epoch, value), xytext=(8, -4), textcoords="offset points", fontsize=8.5,
                color=ALARM if chosen else SERIES[0],
            )  # fmt: skip
        ax.set_ylabel(f"validation {spread.metric.upper()}")
        ax.grid(axis="y", linewidth=0.6)
    axes[1].set_xlabel("epoch, counted from 0 as in the log")
    return figure

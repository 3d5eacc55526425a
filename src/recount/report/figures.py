"""The report's figures: seaborn and matplotlib, written as SVG and PNG, inlined as SVG that follows light and dark.

Colours are drawn as fixed marks and replaced by CSS variables in the page, so one drawing serves both themes. Text stays
text. The bytes are the same for the same data: no dates, and ids hashed with a fixed salt.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from recount.evaluation.published_log import LoggedRun
from recount.report.tables import SELECTIONS, TableView

INK, MUTED, GRID, BEHIND, ALARM = "#1d2026", "#69707d", "#dedbd4", "#b4b0a8", "#b3261e"
SERIES = ("#0b6aa2", "#c8500a", "#0a8064", "#9a3f8f", "#8a6d00", "#4a5bc4", "#b0305c", "#3d7d1f")
#: Marks in the drawing -> CSS variables of the page.
VARIABLES = {
    INK: "var(--ink)",
    MUTED: "var(--muted)",
    GRID: "var(--line)",
    BEHIND: "var(--behind)",
    ALARM: "var(--alarm)",
    **{colour: f"var(--series-{n})" for n, colour in enumerate(SERIES)},
}
STYLE: dict[str, Any] = {
    "svg.hashsalt": "recount",
    "svg.fonttype": "none",
    "text.parse_math": False,  # a dollar sign in a label is a dollar sign
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.labelsize": 9,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "legend.fontsize": 8.5,
    "legend.frameon": False,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": MUTED,
    "xtick.color": INK,
    "ytick.color": INK,
    "grid.color": GRID,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "path.simplify": True,
}
WIDTH = 9.6  # inches; the page's text column
SCATTER_AS_VECTORS = 4000  # points; beyond, the dots become a picture inside the SVG


def use_style() -> None:
    """Set seaborn's theme and the report's own style for all figures that follow."""
    mpl.use("Agg")
    sns.set_theme(context="paper", style="ticks", palette=list(SERIES), rc=STYLE)


def save(figure: Figure, folder: Path, name: str, description: str) -> str:
    """Write ``<name>.svg`` and ``<name>.png``, and return the SVG for the page.

    Args:
        figure: is closed afterwards.
        folder: must exist.
        name: file name without suffix.
        description: for readers who do not see the figure; escaped here.
    """
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", bbox_inches="tight", metadata={"Date": None, "Creator": "recount"})
    svg = buffer.getvalue()
    (folder / f"{name}.svg").write_text(svg, encoding="utf-8")
    figure.savefig(
        folder / f"{name}.png", dpi=150, bbox_inches="tight", facecolor="white", metadata={"Software": "recount"}
    )
    mpl.pyplot.close(figure)
    return inlined(svg, description)


def inlined(svg: str, description: str) -> str:
    """Turn a matplotlib SVG file into an element of the page: no prologue, CSS variables for colours, a description."""
    from markupsafe import escape

    body = svg[svg.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    for mark, variable in VARIABLES.items():
        body = body.replace(mark, variable)
    body = body.replace("'DejaVu Sans'", "var(--sans)").replace("DejaVu Sans", "var(--sans)")
    head, _, rest = body.partition(">")
    head = re.sub(r'(width|height)="[\d.]+pt"', "", head)
    return f'{head} role="img" aria-label="{escape(description)}">{rest}'


def _figure(rows: float, columns: int = 1, panels: int = 1, width: float = WIDTH) -> tuple[Figure, np.ndarray]:
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(panels, columns, figsize=(width, rows), squeeze=False, layout="constrained")
    return figure, axes


def _shortened(text: str, length: int = 42) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


# --------------------------------------------------------------------------------------------------------- tables


def forest(table: TableView, benchmark: str, metric: str, comparable: bool) -> Figure | None:
    """Draw the measured values of a column with their intervals, seeds' mean, published values and the best constant."""
    place = next(n for n, column in enumerate(table.columns) if (column.benchmark, column.metric) == (benchmark, metric))
    column = table.columns[place]
    rows = [row for row in table.rows if row.cells[place].value is not None and row.cells[place].status != "trivial"]
    if not rows:
        return None
    figure, axes = _figure(0.9 + 0.3 * len(rows))
    ax: Axes = axes[0, 0]
    for y, row in enumerate(rows):
        cell = row.cells[place]
        assert cell.value is not None
        colour = SERIES[2] if cell.status == "checkpoint" else SERIES[0]
        if cell.low is not None and cell.high is not None:
            ax.plot([cell.low, cell.high], [y, y], color=colour, linewidth=2.2, alpha=0.55, solid_capstyle="round")
        ax.plot(cell.value, y, marker="o", markersize=6.5, color=ALARM if cell.learned_nothing else colour)
        if comparable and cell.published is not None and cell.published.value is not None:
            ax.plot(cell.published.value, y, marker="D", markersize=6, markerfacecolor="none", color=INK, linestyle="")
    ax.set_yticks(range(len(rows)), [_shortened(row.label) for row in rows])
    ax.set_ylim(len(rows) - 0.4, -0.6)
    if column.constant is not None:
        ax.axvline(column.constant, color=ALARM, linewidth=1.2, linestyle=(0, (5, 3)))
        right = ax.get_xlim()[1]
        ax.axvspan(column.constant, max(right, column.constant * 1.02), color=ALARM, alpha=0.06, linewidth=0)
        label = f" best constant (training {column.constant_label}): beyond it nothing was learned"
        ha = "left" if column.constant < 0.6 * right else "right"
        ax.text(column.constant, -0.62, label.strip() if ha == "right" else label, color=ALARM, fontsize=8, ha=ha, va="bottom")
    ax.set_xlim(left=0)
    ax.set_xlabel(f"{metric.upper()} on {column.stand_in or benchmark}, with 95 % interval")
    ax.grid(axis="x", linewidth=0.6)
    sns.despine(ax=ax, left=True)
    ax.tick_params(axis="y", length=0)
    return figure


def selection_dumbbells(rows: pd.DataFrame, metric: str) -> Figure:
    """Draw each variant's error under the three selection protocols on one line.

    Args:
        rows: columns label, last, best_on_test, best_on_held_out.
        metric: for the axis.
    """
    figure, axes = _figure(1.0 + 0.28 * len(rows))
    ax: Axes = axes[0, 0]
    looks = {"best_on_test": ("o", SERIES[1], "none"), "best_on_held_out": ("s", SERIES[2], SERIES[2]), "last": ("o", SERIES[0], SERIES[0])}
    for y, row in enumerate(rows.itertuples(index=False)):
        values = [getattr(row, name) for name in looks if np.isfinite(getattr(row, name))]
        if values:
            ax.plot([min(values), max(values)], [y, y], color=BEHIND, linewidth=2, zorder=1)
    for name, (marker, edge, face) in looks.items():
        ax.plot(
            rows[name], range(len(rows)), marker=marker, linestyle="", color=edge, markerfacecolor=face,
            markersize=6.5, markeredgewidth=1.6, label=SELECTIONS[name],
        )  # fmt: skip
    ax.set_yticks(range(len(rows)), [_shortened(label) for label in rows["label"]])
    ax.set_ylim(len(rows) - 0.4, -0.6)
    ax.set_xlabel(metric.upper())
    ax.grid(axis="x", linewidth=0.6)
    ax.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3)
    sns.despine(ax=ax, left=True)
    ax.tick_params(axis="y", length=0)
    return figure


# --------------------------------------------------------------------------------------------------------- learning


def _colours(labels: Sequence[str]) -> dict[str, str]:
    return {label: SERIES[n % len(SERIES)] for n, label in enumerate(labels)}


def curves_over_log(curves: pd.DataFrame, behind: Mapping[str, pd.DataFrame], comparable: bool) -> Figure:
    """Draw our evaluations during training over the authors' own log.

    Where numbers are not comparable, both are drawn as shapes: the share of training on x, and on y the MAE as a multiple
    of the lowest MAE of the same run.

    Args:
        curves: columns label, seed, epoch, mae.
        behind: name of a published run -> columns epoch, mae.
        comparable: whether epochs and errors share axes with the published ones.
    """
    figure, axes = _figure(3.6)
    ax: Axes = axes[0, 0]
    for n, (name, run) in enumerate(behind.items()):
        shown = run if comparable else _shape(run)
        ax.plot(shown["epoch"], shown["mae"], color=BEHIND, linewidth=1.4, linestyle=("-", "--", ":", "-.")[n % 4], label=name)
    labels = list(dict.fromkeys(curves["label"]))
    shown = curves if comparable else curves.groupby(["label", "seed"], group_keys=False, sort=False)[curves.columns].apply(_shape)
    sns.lineplot(
        shown, x="epoch", y="mae", hue="label", units="seed", estimator=None, hue_order=labels,
        palette=_colours(labels), linewidth=1.5, ax=ax,
    )  # fmt: skip
    ax.set_yscale("log")
    ax.yaxis.set_major_formatter(mpl.ticker.FormatStrFormatter("%g"))
    ax.yaxis.set_minor_formatter(mpl.ticker.NullFormatter())
    ax.yaxis.set_major_locator(mpl.ticker.LogLocator(subs=(1, 1.5, 2, 3, 5, 7)))
    ax.set_xlabel("epoch" if comparable else "share of training")
    ax.set_ylabel("MAE on test" if comparable else "MAE ÷ lowest MAE of the same run")
    ax.grid(axis="y", linewidth=0.6)
    ax.legend(loc="upper left", bbox_to_anchor=(1.01, 1), title=None)
    return figure


def _shape(run: pd.DataFrame) -> pd.DataFrame:
    return run.assign(epoch=run["epoch"] / run["epoch"].max(), mae=run["mae"] / run["mae"].min())


def training_panels(runs: Mapping[str, pd.DataFrame]) -> Figure:
    """Draw loss and errors of each run against the epoch, one panel per run, on shared axes per quantity."""
    columns = 3
    panels = -(-len(runs) // columns)
    figure, axes = _figure(0.4 + 1.75 * panels, columns, panels)
    for ax, (name, history) in zip(axes.flat, runs.items(), strict=False):
        ax.set_title(_shortened(name, 38))
        ax.plot(history["epoch"], history["loss"], color=BEHIND, linewidth=1.4)
        ax.set_yscale("symlog", linthresh=1)
        ax.tick_params(axis="y", colors=MUTED)
        error = ax.twinx()
        for column, colour in (("test_mae", SERIES[1]), ("held_out_mae", SERIES[2])):
            if column in history and history[column].notna().any():
                seen = history.dropna(subset=column)
                error.plot(seen["epoch"], seen[column], color=colour, linewidth=1.5, marker="o", markersize=2.4)
        error.set_ylim(bottom=0)
        error.spines["right"].set_visible(True)
    for ax in list(axes.flat)[len(runs) :]:
        ax.set_visible(False)
    handles = [
        mpl.lines.Line2D([], [], color=colour, linewidth=1.6, label=label)
        for label, colour in (
            ("training loss (left axis)", BEHIND), ("MAE on test (right axis)", SERIES[1]), ("MAE on held-out", SERIES[2]),
        )
    ]  # fmt: skip
    figure.legend(handles=handles, loc="outside upper left", ncols=3)
    return figure


# --------------------------------------------------------------------------------------------------------- errors


def predicted_against_true(predictions: Mapping[str, pd.DataFrame], constant: float | None) -> Figure:
    """Draw predicted against true counts, one panel per variant, logarithmic above 1; the diagonal is exact.

    Args:
        predictions: label -> columns true_count, predicted_count.
        constant: the best constant prediction, drawn as a line, or None.
    """
    columns = 4
    panels = -(-len(predictions) // columns)
    figure, axes = _figure(0.3 + 2.25 * panels, columns, panels)
    every = pd.concat(predictions.values())
    top = 1.3 * float(np.nanmax(every[["true_count", "predicted_count"]].to_numpy()))
    low = 0.8 * max(1.0, float(every["true_count"].min()))
    as_picture = len(every) > SCATTER_AS_VECTORS
    for ax, (name, table) in zip(axes.flat, predictions.items(), strict=False):
        ax.plot([low, top], [low, top], color=MUTED, linewidth=1)
        if constant is not None:
            ax.axhline(constant, color=ALARM, linewidth=1, linestyle=(0, (5, 3)))
        shown = table.assign(predicted_count=table["predicted_count"].clip(lower=low))
        sns.scatterplot(
            shown, x="true_count", y="predicted_count", s=16, color=SERIES[0], alpha=0.65, linewidth=0, ax=ax,
            rasterized=as_picture,
        )  # fmt: skip
        ax.set(xscale="log", yscale="log", xlim=(low, top), ylim=(low, top), xlabel="", ylabel="")
        ax.set_title(_shortened(name, 26))
        ax.set_box_aspect(1)
        for axis in (ax.xaxis, ax.yaxis):
            axis.set_major_formatter(mpl.ticker.FormatStrFormatter("%g"))
            axis.set_minor_formatter(mpl.ticker.NullFormatter())
    for ax in list(axes.flat)[len(predictions) :]:
        ax.set_visible(False)
    figure.supxlabel("true count", fontsize=9)
    figure.supylabel("predicted count", fontsize=9)
    return figure


def influence_bars(shares: pd.DataFrame) -> Figure:
    """Draw which images carry a system's squared error.

    Args:
        shares: columns label (system), image, share (of the squared error), one row per system and image, largest first.
    """
    labels = list(dict.fromkeys(shares["label"]))
    figure, axes = _figure(0.9 + 0.3 * len(labels))
    ax: Axes = axes[0, 0]
    for y, label in enumerate(labels):
        left = 0.0
        for n, row in enumerate(shares[shares["label"] == label].itertuples(index=False)):
            heavy = row.share > 0.5
            ax.barh(y, row.share, left=left, height=0.72, color=ALARM if heavy else SERIES[0], alpha=max(0.25, 0.95 - 0.22 * n), linewidth=0)
            if row.share > 0.12:
                text = _shortened(str(row.image), 16)
                ax.text(left + row.share / 2, y, text, ha="center", va="center", fontsize=7.5, color="white" if n < 2 else INK)
            left += row.share
        ax.barh(y, max(0.0, 1 - left), left=left, height=0.72, color=GRID, linewidth=0)
    ax.axvline(0.5, color=INK, linewidth=1, linestyle=(0, (2, 2)))
    ax.set_yticks(range(len(labels)), [_shortened(label) for label in labels])
    ax.set_ylim(len(labels) - 0.4, -0.6)
    ax.set_xlim(0, 1)
    ax.xaxis.set_major_formatter(mpl.ticker.PercentFormatter(1, decimals=0))
    ax.set_xlabel("share of the squared error; the rest of the images in grey")
    sns.despine(ax=ax, left=True)
    ax.tick_params(axis="y", length=0)
    return figure


def cost_against_error(costs: pd.DataFrame, metric: str) -> Figure:
    """Draw the error against the cost of training; columns label, system, seconds, error."""
    figure, axes = _figure(3.4)
    ax: Axes = axes[0, 0]
    systems = list(dict.fromkeys(costs["system"]))
    sns.scatterplot(
        costs, x="seconds", y="error", hue="system", hue_order=systems, palette=_colours(systems), s=55, linewidth=0, ax=ax
    )
    ax.set_xscale("log")
    ax.xaxis.set_major_formatter(mpl.ticker.FormatStrFormatter("%g"))
    ax.set_ylim(bottom=0)
    ax.set_xlabel("training time on this machine, seconds")
    ax.set_ylabel(metric.upper())
    ax.grid(linewidth=0.6)
    ax.legend(loc="upper left", bbox_to_anchor=(1.01, 1), title=None)
    return figure


# --------------------------------------------------------------------------------------------------------- evidence


def published_log(
    runs: Mapping[str, LoggedRun], marks: Sequence[tuple[str, str, int, float]], printed: float | None
) -> Figure:
    """Draw the runs of a published log, with the evaluations that became printed numbers, and their learning rates.

    Args:
        runs: name -> run.
        marks: (name of the run, label, epoch, MAE) of printed numbers.
        printed: a printed MAE that the log does not hold, drawn as a line, or None.
    """
    import matplotlib.pyplot as plt

    figure, (top, bottom) = plt.subplots(
        2, 1, figsize=(WIDTH, 5.2), sharex=True, height_ratios=(3, 1.15), layout="constrained"
    )
    colours = _colours(list(runs))
    for name, run in runs.items():
        top.plot(run.evaluations["epoch"], run.evaluations["mae"], color=colours[name], linewidth=1.4, label=name)
        bottom.plot(run.rates["epoch"], run.rates["rate"], color=colours[name], linewidth=1.1)
    for name, label, epoch, mae in marks:
        top.plot(epoch, mae, marker="o", markersize=7, markerfacecolor="none", markeredgewidth=1.8, color=colours[name])
        top.annotate(label, (epoch, mae), xytext=(4, -13), textcoords="offset points", fontsize=8, color=INK)
    if printed is not None:
        top.axhline(printed, color=ALARM, linewidth=1.2, linestyle=(0, (5, 3)))
        text = f"printed in Table 1: {printed:g}, nowhere in the log"
        top.annotate(text, (600, printed), xytext=(0, -11), textcoords="offset points", fontsize=8, color=ALARM, ha="right")
    top.set_yscale("log")
    top.set_ylim(90, 1000)
    top.yaxis.set_major_locator(mpl.ticker.LogLocator(subs=(1, 1.5, 2, 3, 5, 7)))
    top.yaxis.set_major_formatter(mpl.ticker.FormatStrFormatter("%g"))
    top.yaxis.set_minor_formatter(mpl.ticker.NullFormatter())
    top.set_ylabel("MAE on the test images")
    top.legend(loc="upper right", title=None)
    bottom.set_yscale("log")
    bottom.set_ylabel("learning rate")
    bottom.set_xlabel("epoch")
    for ax in (top, bottom):
        ax.grid(axis="y", linewidth=0.6)
    return figure

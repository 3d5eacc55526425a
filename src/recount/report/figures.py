"""The report's figures: seaborn and matplotlib, written as SVG and PNG, inlined as SVG that follows light and dark.

Colours are drawn as fixed marks and replaced by CSS variables in the page, so one drawing serves both themes. Text
stays text. The bytes are the same for the same data: no dates, and ids hashed with a fixed salt.
"""

from __future__ import annotations

import io
import itertools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from markupsafe import escape
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, PercentFormatter

from recount.evaluation.metrics import confusion
from recount.evaluation.published_log import LoggedRun
from recount.report.numbers import Metric
from recount.report.numbers import metric as shown_metric
from recount.report.sections import Curves
from recount.report.tables import MARKS, SELECTIONS, Cell, TableView

INK, MUTED, GRID, BEHIND, ALARM, PAPER = "#1d2026", "#69707d", "#dedbd4", "#b4b0a8", "#b3261e", "#fcfbf8"
SERIES = ("#0b6aa2", "#c8500a", "#0a8064", "#9a3f8f", "#8a6d00", "#4a5bc4", "#b0305c", "#3d7d1f")
#: Marks in the drawing -> CSS variables of the page.
VARIABLES = {
    INK: "var(--ink)",
    MUTED: "var(--muted)",
    GRID: "var(--line)",
    BEHIND: "var(--behind)",
    ALARM: "var(--alarm)",
    PAPER: "var(--paper)",
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
DASHES: tuple[tuple[float, Sequence[float]], ...] = ((0, ()), (0, (4, 2)), (0, (1, 1.5)))  # of published runs
#: How a kind of evidence and a verdict look in a forest of claims.
EVIDENCE_LOOKS: dict[str, dict[str, Any]] = {
    "trained": {"marker": "o", "markersize": 6.5},
    "checkpoint": {"marker": "s", "markersize": 6},
    "published": {"marker": "D", "markersize": 5.5, "markerfacecolor": "none", "markeredgewidth": 1.5},
}
EVIDENCE_NAMES = {"trained": "retrained here", "checkpoint": "released weights", "published": "as published"}
VERDICT_COLOURS = {
    "holds": SERIES[2],
    "holds in direction": SERIES[7],
    "inconclusive": SERIES[4],
    "contradicted": ALARM,
}
ROOM_AT_LEFT = (0.03, 0, 0.97, 1)
LEAST_EFFECT = -1.5  # a share; what is worse still is drawn at the edge
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
    if figure.get_layout_engine() is not None:
        figure.draw_without_rendering()  # lays the figure out, once for both files
        figure.set_layout_engine("none")
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": "recount"})
    svg = buffer.getvalue()
    (folder / f"{name}.svg").write_text(svg, encoding="utf-8")
    figure.savefig(folder / f"{name}.png", dpi=130, facecolor="white", metadata={"Software": "recount"})
    plt.close(figure)
    return inlined(svg, description)


def inlined(svg: str, description: str) -> str:
    """Turn a matplotlib SVG file into an element of the page: no prologue, CSS variables for colours, a description."""
    body = svg[svg.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    for mark, variable in VARIABLES.items():
        body = body.replace(mark, variable)
    body = body.replace("'DejaVu Sans'", "var(--sans)").replace("DejaVu Sans", "var(--sans)")
    head, _, rest = body.partition(">")
    head = re.sub(r'(width|height)="[\d.]+pt"', "", head)
    return f'{head} role="img" aria-label="{escape(description)}">{rest}'


def _figure(rows: float) -> tuple[Figure, np.ndarray]:
    """Return a figure of one panel, with room at the left: a browser's letters may be wider than matplotlib's."""
    figure, axes = plt.subplots(figsize=(WIDTH, rows), squeeze=False, layout=ConstrainedLayoutEngine(rect=ROOM_AT_LEFT))
    return figure, axes


def _plain(value: float, _: object = None) -> str:
    return f"{value:g}"


def _plain_log(axis: Axis, subs: Sequence[float] = (1,)) -> None:
    """Write the ticks of a logarithmic axis as plain numbers; matplotlib's own would need its mathematical markup."""
    axis.set_major_locator(LogLocator(subs=subs))
    axis.set_major_formatter(FuncFormatter(_plain))
    axis.set_minor_formatter(NullFormatter())


def _shortened(text: str, length: int = 42) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


# --------------------------------------------------------------------------------------------------------- tables


def forest(table: TableView, benchmark: str, metric: str, comparable: bool) -> Figure | None:
    """Draw the measured values of a column with their intervals, the published values and the best constant.

    Where the two are not comparable, the published values stand in a panel of their own, row by row beside the measured
    ones, so that order and direction can be compared and nothing else.
    """
    place = next(
        n for n, column in enumerate(table.columns) if (column.benchmark, column.metric) == (benchmark, metric)
    )
    column, shown = table.columns[place], shown_metric(metric)
    rows = [row for row in table.rows if row.cells[place].value is not None and row.cells[place].status not in MARKS]
    if not rows:
        return None
    cells = [row.cells[place] for row in rows]
    printed = [cell.published.value if cell.published else None for cell in cells]
    beside = not comparable and any(value is not None for value in printed)
    figure, axes = plt.subplots(
        1, 2 if beside else 1, figsize=(WIDTH, 0.9 + 0.3 * len(rows)), squeeze=False, sharey=True,
        width_ratios=(1, 2.2) if beside else None, layout=ConstrainedLayoutEngine(rect=ROOM_AT_LEFT),
    )  # fmt: skip
    ax: Axes = axes[0, -1]
    for y, cell in enumerate(cells):
        _measured_dot(ax, y, cell)
    if comparable or beside:
        _published_diamonds(axes[0, 0], printed)
    axes[0, 0].set_yticks(range(len(rows)), [_shortened(row.label) for row in rows])
    ax.set_ylim(len(rows) - 0.4, -0.6)
    for panel in axes[0]:
        panel.set_xlim(left=0)
        panel.grid(axis="x", linewidth=0.6)
        sns.despine(ax=panel, left=True)
        panel.tick_params(axis="y", length=0)
    if column.constant is not None:
        _mark_constant(ax, column.constant, column.constant_label, shown)
    if beside:
        axes[0, 0].set_xlabel(f"{shown.label} as printed")
    ax.set_xlabel(f"{shown.label} on {column.stand_in or benchmark}, with 95 % interval")
    return figure


def _measured_dot(ax: Axes, y: float, cell: Cell) -> None:
    assert cell.value is not None
    colour = SERIES[2] if cell.status == "checkpoint" else SERIES[0]
    if cell.low is not None and cell.high is not None:
        ax.plot([cell.low, cell.high], [y, y], color=colour, linewidth=2.2, alpha=0.55, solid_capstyle="round")
    ax.plot(cell.value, y, marker="o", markersize=6.5, color=ALARM if cell.learned_nothing else colour)


def _published_diamonds(ax: Axes, printed: Sequence[float | None]) -> None:
    values = [np.nan if value is None else value for value in printed]
    ax.plot(
        values, range(len(values)), marker="D", markersize=6, markerfacecolor="none", color=INK, linestyle="",
    )  # fmt: skip


def _mark_constant(ax: Axes, constant: float, label: str, shown: Metric) -> None:
    """Draw the best constant and shade the side of it on which nothing was learned."""
    left, right = ax.get_xlim()
    right = max(right, constant * 1.02)
    ax.set_xlim(left, right)
    ax.axvline(constant, color=ALARM, linewidth=1.2, linestyle=(0, (5, 3)))
    side = (left, constant) if shown.best == "highest" else (constant, right)
    ax.axvspan(*side, color=ALARM, alpha=0.06, linewidth=0)
    words = f"best constant ({label}): {'below' if shown.best == 'highest' else 'beyond'} it nothing was learned"
    at_left = constant < 0.6 * right
    ax.text(
        constant, -0.62, f" {words}" if at_left else f"{words} ", color=ALARM, fontsize=8,
        ha="left" if at_left else "right", va="bottom",
    )  # fmt: skip


def claims_forest(effects: pd.DataFrame) -> Figure:
    """Draw by how much the arm that a claim puts first is better, retrained here and as published, against the claim.

    Args:
        effects: columns claim, label, verdict, evidence, effect, low, high, claimed, all as shares of the worse arm.
    """
    labels = list(dict.fromkeys(effects["label"]))
    figure, axes = _figure(1.1 + 0.27 * len(labels))
    ax: Axes = axes[0, 0]
    finite = effects[["effect", "low", "high"]].to_numpy(dtype=float)
    left = max(float(np.nanmin(np.append(finite, 0))), LEAST_EFFECT)
    right = max(float(np.nanmax(np.append(finite, 0))), 0.05)
    for row in effects.itertuples(index=False):
        _effect(ax, labels.index(str(row.label)), row, left)
    claims = [effects.loc[effects["label"] == label, "claim"].iloc[0] for label in labels]
    for place, (above, below) in enumerate(itertools.pairwise(claims)):
        if above != below:
            ax.axhline(place + 0.5, color=GRID, linewidth=0.6)
    ax.axvline(0, color=INK, linewidth=1)
    ax.set_xlim(left - 0.04 * (right - left), right + 0.04 * (right - left))
    ax.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    ax.set_yticks(range(len(labels)), [_shortened(label, 68) for label in labels], fontsize=7.5)
    ax.set_ylim(len(labels) - 0.4, -0.6)
    ax.set_xlabel("better by, as a share of what it is compared with")
    figure.legend(handles=_legend_of_claims(effects), loc="outside upper left", ncols=7, fontsize=7.5)
    sns.despine(ax=ax, left=True)
    ax.tick_params(axis="y", length=0)
    return figure


def _effect(ax: Axes, y: float, row: Any, left: float) -> None:
    """Draw one effect with its interval and the claimed amount; what lies left of the axis stands at its edge."""
    colour = VERDICT_COLOURS[row.verdict]
    if np.isfinite(row.claimed) and row.claimed:
        ax.plot([row.claimed] * 2, [y - 0.4, y + 0.4], color=MUTED, linewidth=1.2, linestyle=(0, (2, 1.5)))
    if np.isfinite(row.low) and np.isfinite(row.high):
        ends = [max(row.low, left), max(row.high, left)]
        ax.plot(ends, [y, y], color=colour, linewidth=2.2, alpha=0.5, solid_capstyle="round")
    ax.plot(max(row.effect, left), y, color=colour, linestyle="", **EVIDENCE_LOOKS[row.evidence])


def _legend_of_claims(effects: pd.DataFrame) -> list[Line2D]:
    there = set(effects["evidence"]) | set(effects["verdict"])
    kinds = [
        Line2D([], [], color=MUTED, linestyle="", label=EVIDENCE_NAMES[kind], **look)
        for kind, look in EVIDENCE_LOOKS.items()
        if kind in there
    ]
    verdicts = [
        Line2D([], [], color=colour, linewidth=4, label=verdict)
        for verdict, colour in VERDICT_COLOURS.items()
        if verdict in there
    ]
    return kinds + verdicts


def selection_dumbbells(rows: pd.DataFrame, metric: str) -> Figure:
    """Draw each variant's error under the three selection protocols on one line.

    Args:
        rows: columns label, last, best_on_test, best_on_held_out.
        metric: for the axis.
    """
    figure, axes = _figure(1.0 + 0.28 * len(rows))
    ax: Axes = axes[0, 0]
    looks = {
        "best_on_test": ("o", SERIES[1], "none"),
        "best_on_held_out": ("s", SERIES[2], SERIES[2]),
        "last": ("o", SERIES[0], SERIES[0]),
    }
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
    ax.set_xlabel(shown_metric(metric).label)
    ax.grid(axis="x", linewidth=0.6)
    ax.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3)
    sns.despine(ax=ax, left=True)
    ax.tick_params(axis="y", length=0)
    return figure


# --------------------------------------------------------------------------------------------------------- learning


def _colours(labels: Sequence[str]) -> dict[str, str]:
    return {label: SERIES[n % len(SERIES)] for n, label in enumerate(labels)}


def _panels(count: int, columns: int, height: float, share: bool, above: float = 0.6) -> tuple[Figure, list[Axes]]:
    """Return a figure with so many panels and the panels, row by row; places left over stay empty.

    Margins are given in inches: laying out dozens of panels by trial takes longer than drawing them.
    """
    rows = -(-count // columns)
    tall = 0.3 + above + height * rows
    figure, axes = plt.subplots(rows, columns, figsize=(WIDTH, tall), squeeze=False, sharex=share, sharey=share)
    figure.subplots_adjust(
        left=0.62 / WIDTH, right=1 - 0.4 / WIDTH, top=1 - above / tall, bottom=0.5 / tall, hspace=0.42,
        wspace=0.16 if share else 0.42,
    )  # fmt: skip
    for place, ax in enumerate(axes.flat):
        if place >= count:
            ax.set_axis_off()
        elif share and place + columns >= count:
            ax.xaxis.set_tick_params(labelbottom=True)
    return figure, list(axes.flat)[:count]


def _around(figure: Figure, across: str, up: str, handles: Sequence[Line2D]) -> None:
    """Label the common axes of a figure of panels, with a legend above."""
    tall = figure.get_figheight()
    figure.text(0.5, 0.08 / tall, across, ha="center", va="bottom", fontsize=9)
    figure.text(0.06 / WIDTH, 0.5, up, ha="left", va="center", rotation=90, fontsize=9)
    if handles:
        figure.legend(handles=handles, loc="upper left", ncols=4, bbox_to_anchor=(0.4 / WIDTH, 1 - 0.02 / tall))


def curves_over_log(curves: Curves, behind: Mapping[str, pd.DataFrame], comparable: bool) -> Figure:
    """Draw our evaluations during training over the authors' own log, one panel per variant, one line per seed.

    Where numbers are not comparable, both are drawn as shapes: the share of training on x, and on y the metric as a
    multiple of the best value of the same run.

    Args:
        curves: what was evaluated.
        behind: name of a published run -> columns epoch, value.
        comparable: whether epochs and values share axes with the published ones.
    """
    shown, runs = shown_metric(curves.metric), curves.runs
    if not comparable:
        runs = pd.concat(_shape(run, shown) for _, run in runs.groupby(["label", "seed"], sort=False))
        behind = {name: _shape(run, shown) for name, run in behind.items()}
    labels = list(dict.fromkeys(runs["label"]))
    figure, panels = _panels(len(labels), 4, 1.5, share=True)
    _scale_of_curves(panels[0], runs["value"], shown)
    for ax, label in zip(panels, labels, strict=True):
        for run, dashes in zip(behind.values(), DASHES, strict=False):
            ax.plot(run["epoch"], run["value"], color=BEHIND, linewidth=1, linestyle=dashes)
        for _, run in runs[runs["label"] == label].groupby("seed", sort=False):
            ax.plot(run["epoch"], run["value"], color=SERIES[0], linewidth=1.4)
        ax.set_title(_shortened(label, 30), fontsize=8)
        ax.grid(axis="y", linewidth=0.6)
    handles = [Line2D([], [], color=SERIES[0], label="here, a line per seed")]
    for name, dashes in zip(behind, DASHES, strict=False):
        handles.append(Line2D([], [], color=BEHIND, linestyle=dashes, label=name))
    up = f"{shown.label} on {curves.watched}" if comparable else f"{shown.label} ÷ {shown.best} of the run"
    _around(figure, "epoch" if comparable else "share of training", up, handles)
    return figure


def _scale_of_curves(ax: Axes, values: pd.Series, shown: Metric) -> None:
    """Draw errors on a logarithmic axis, on which they fall by orders, and shares of right answers on a plain one."""
    values = values[np.isfinite(values) & (values > 0)]
    if values.empty:
        return
    lowest, highest = values.min(), values.max()
    if shown.best == "highest":
        ax.set_ylim(0, 1.15 * highest)
        return
    ax.set(yscale="log", ylim=(0.93 * lowest, max(1.15 * highest, 3 * lowest)))
    _plain_log(ax.yaxis, (1, 2, 5))


def _shape(run: pd.DataFrame, shown: Metric) -> pd.DataFrame:
    best = run["value"].max() if shown.best == "highest" else run["value"].min()
    return run.assign(epoch=run["epoch"] / run["epoch"].max(), value=run["value"] / best if best else np.nan)


def training_panels(runs: Mapping[str, pd.DataFrame], metric: str) -> Figure:
    """Draw loss (left axis) and a metric (right axis) of each run against the epoch, one panel per run."""
    figure, panels = _panels(len(runs), 4, 1.5, share=False)
    label = shown_metric(metric).label
    for ax, (name, history) in zip(panels, runs.items(), strict=True):
        ax.set_title(_shortened(name, 30), fontsize=8)
        ax.plot(history["epoch"], history["loss"], color=BEHIND, linewidth=1.4)
        ax.tick_params(axis="y", labelcolor=MUTED)
        error = ax.twinx()
        for column, colour in ((f"test_{metric}", SERIES[1]), (f"held_out_{metric}", SERIES[2])):
            if column in history and history[column].notna().any():
                seen = history.dropna(subset=column)
                error.plot(seen["epoch"], seen[column], color=colour, linewidth=1.5, marker="o", markersize=2.2)
        error.set_ylim(bottom=0)
        error.spines["right"].set_visible(True)
    names = {
        "training loss (left axis)": BEHIND,
        f"{label} on test (right axis)": SERIES[1],
        f"{label} on held-out": SERIES[2],
    }
    handles = [Line2D([], [], color=colour, linewidth=1.6, label=name) for name, colour in names.items()]
    _around(figure, "epoch", "", handles)
    return figure


# --------------------------------------------------------------------------------------------------------- errors


def predicted_against_true(predictions: Mapping[str, pd.DataFrame]) -> Figure:
    """Draw predicted against true counts, one panel per variant, logarithmic above 1; the diagonal is exact.

    Args:
        predictions: label -> columns true_count, predicted_count.
    """
    figure, panels = _panels(len(predictions), 5, 1.95, share=True, above=0.25)
    every = pd.concat(predictions.values())
    top = 1.3 * float(np.nanmax(every[["true_count", "predicted_count"]].to_numpy()))
    low = 0.8 * max(1.0, float(every["true_count"].min()))
    as_picture = len(every) > SCATTER_AS_VECTORS
    panels[0].set(xscale="log", yscale="log", xlim=(low, top), ylim=(low, top))
    for axis in (panels[0].xaxis, panels[0].yaxis):
        _plain_log(axis, (1,) if top / low > 30 else (1, 2, 5))
    for ax, (name, table) in zip(panels, predictions.items(), strict=True):
        ax.plot([low, top], [low, top], color=MUTED, linewidth=1)
        shown = table["predicted_count"].clip(lower=low)
        ax.plot(
            table["true_count"], shown, marker="o", markersize=3.6, linestyle="", color=SERIES[0], alpha=0.65,
            markeredgewidth=0, rasterized=as_picture,
        )  # fmt: skip
        ax.set_title(_shortened(name, 24), fontsize=8)
        ax.set_box_aspect(1)
    _around(figure, "true count", "predicted count", [])
    return figure


def confusions(predictions: Mapping[str, pd.DataFrame]) -> Figure:
    """Draw a confusion matrix per variant: for each true number (row), the share of each answer (column).

    Args:
        predictions: label -> columns true_count, predicted_count, both from a short list of whole numbers.
    """
    every = pd.concat(predictions.values()).dropna(subset=["true_count", "predicted_count"])
    numbers = sorted({int(value) for value in every[["true_count", "predicted_count"]].to_numpy().ravel()})
    figure, panels = _panels(len(predictions), 6, 1.6, share=True, above=0.25)
    for ax, (name, table) in zip(panels, predictions.items(), strict=True):
        finite = table.dropna(subset=["true_count", "predicted_count"])
        matrix = (
            confusion(finite["true_count"], finite["predicted_count"], numbers) if len(finite) else np.zeros((0, 0))
        )
        shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
        for (row, column), share in np.ndenumerate(shares):
            if share:
                colour = SERIES[2] if row == column else SERIES[1]
                ax.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, color=colour, alpha=share, linewidth=0))
        ax.set(xlim=(-0.5, len(numbers) - 0.5), ylim=(len(numbers) - 0.5, -0.5))
        ax.set_xticks(range(len(numbers)), [str(number) for number in numbers], fontsize=6)
        ax.set_yticks(range(len(numbers)), [str(number) for number in numbers], fontsize=6)
        ax.tick_params(length=0)
        right = f", {np.trace(matrix)} of {len(finite)}" if len(finite) else ""
        ax.set_title(f"{_shortened(name, 18)}{right}", fontsize=7)
        ax.set_box_aspect(1)
    _around(figure, "answer", "true number", [])
    return figure


def influence_bars(shares: pd.DataFrame) -> Figure:
    """Draw which images carry a system's squared error.

    Args:
        shares: columns label (system), image, share (of the squared error); largest first for each system.
    """
    labels = list(dict.fromkeys(shares["label"]))
    figure, axes = _figure(0.9 + 0.3 * len(labels))
    ax: Axes = axes[0, 0]
    for y, label in enumerate(labels):
        left = 0.0
        for n, row in enumerate(shares[shares["label"] == label].itertuples(index=False)):
            heavy = row.share > 0.5
            ax.barh(
                y,
                row.share,
                left=left,
                height=0.72,
                color=ALARM if heavy else SERIES[0],
                alpha=max(0.25, 0.95 - 0.22 * n),
                linewidth=0,
            )
            if row.share > 0.12:
                text = _shortened(str(row.image), 16)
                ax.text(
                    left + row.share / 2,
                    y,
                    text,
                    ha="center",
                    va="center",
                    fontsize=7.5,
                    color="white" if n < 2 else INK,
                )
            left += row.share
        ax.barh(y, max(0.0, 1 - left), left=left, height=0.72, color=GRID, linewidth=0)
    ax.axvline(0.5, color=INK, linewidth=1, linestyle=(0, (2, 2)))
    ax.set_yticks(range(len(labels)), [_shortened(label) for label in labels])
    ax.set_ylim(len(labels) - 0.4, -0.6)
    ax.set_xlim(0, 1)
    ax.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    ax.set_xlabel("share of the squared error; the rest of the images in grey")
    sns.despine(ax=ax, left=True)
    ax.tick_params(axis="y", length=0)
    return figure


def cost_against_value(costs: pd.DataFrame, metric: str) -> Figure:
    """Draw a metric against the cost of training; columns system, seconds, value."""
    figure, axes = _figure(3.4)
    ax: Axes = axes[0, 0]
    systems = list(dict.fromkeys(costs["system"]))
    sns.scatterplot(
        costs,
        x="seconds",
        y="value",
        hue="system",
        hue_order=systems,
        palette=_colours(systems),
        s=55,
        linewidth=0,
        ax=ax,
    )
    if costs["seconds"].max() > 10 * costs["seconds"].min():
        ax.set_xscale("log")
        _plain_log(ax.xaxis, (1, 2, 5))
    else:
        ax.set_xlim(left=0)
    ax.set_ylim(bottom=0)
    ax.set_xlabel("training time on this machine, seconds")
    ax.set_ylabel(shown_metric(metric).label)
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
    figure, (top, bottom) = plt.subplots(
        2, 1, figsize=(WIDTH, 5.2), sharex=True, height_ratios=(3, 1.15), layout="constrained"
    )
    colours = _colours(list(runs))
    for name, run in runs.items():
        top.plot(
            run.evaluations["epoch"],
            run.evaluations["mae"],
            color=colours[name],
            linewidth=1.4,
            label=f"run {name}, lines {run.lines[0]} to {run.lines[1]}",
        )
        bottom.plot(run.rates["epoch"], run.rates["rate"], color=colours[name], linewidth=1.1)
    above = True
    for name, label, epoch, mae in sorted(marks, key=lambda mark: mark[2]):
        top.plot(epoch, mae, marker="o", markersize=7, markerfacecolor="none", markeredgewidth=1.8, color=colours[name])
        place = (10, 30) if above else (-4, -24)
        top.annotate(
            label, (epoch, mae), xytext=place, textcoords="offset points", fontsize=8.5, color=colours[name],
            ha="center", zorder=5, bbox={"facecolor": PAPER, "edgecolor": "none", "pad": 1, "alpha": 0.85},
            arrowprops={"arrowstyle": "-", "color": colours[name], "linewidth": 0.8, "shrinkB": 4},
        )  # fmt: skip
        above = not above
    if printed is not None:
        top.axhline(printed, color=ALARM, linewidth=1.2, linestyle=(0, (5, 3)))
        text = f"printed in Table 1: {printed:g}, nowhere in the log"
        top.annotate(
            text, (600, printed), xytext=(0, -11), textcoords="offset points", fontsize=8, color=ALARM, ha="right"
        )
    top.set(yscale="log", ylim=(80, 1000), ylabel="MAE on the test images")
    _plain_log(top.yaxis, (1, 1.5, 2, 3, 5, 7))
    top.legend(loc="upper right", title=None)
    bottom.set_yscale("log")
    _plain_log(bottom.yaxis)
    bottom.set_ylabel("learning rate")
    bottom.set_xlabel("epoch")
    for ax in (top, bottom):
        ax.grid(axis="y", linewidth=0.6)
    return figure

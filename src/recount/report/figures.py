"""The report's figures: seaborn and matplotlib, written as SVG and PNG, inlined as SVG that follows light and dark.

Colours are drawn as fixed marks and replaced by CSS variables in the page, so one drawing serves both themes. Text
stays text. The bytes are the same for the same data: no dates, and ids hashed with a fixed salt.
"""

import io
import itertools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from markupsafe import escape
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator, PercentFormatter

from recount.metrics import Metric
from recount.metrics import metric as metric_of
from recount.report.panels import Panels, Scale, row_axes, shortened, width
from recount.report.style import ALARM, BEHIND, GRID, INK, MUTED, SERIES, STYLE, VARIABLES, WIDTH
from recount.report.tables import MARKS, SELECTIONS, Cell, TableView
from recount.scoring.groups import confusion

#: How published runs are dashed.
DASHES: tuple[Literal["solid"] | tuple[float, tuple[float, ...]], ...] = ("solid", (0, (4, 2)), (0, (1, 1.5)))
#: How a kind of evidence and a verdict look in a forest of claims.
EVIDENCE_LOOKS: dict[str, dict[str, Any]] = {
    "trained": {"marker": "o", "markersize": 6.5},
    "checkpoint": {"marker": "s", "markersize": 6},
    "published": {"marker": "D", "markersize": 5.5, "markerfacecolor": "none", "markeredgewidth": 1.5},
}
EVIDENCE_NAMES = {"trained": "retrained here", "checkpoint": "released weights", "published": "as published"}
VERDICT_COLOURS = {
    "holds": SERIES[2],
    "leans for": SERIES[7],
    "undecided": SERIES[4],
    "leans against": SERIES[6],
    "does not hold": ALARM,
    "same direction": SERIES[0],
    "opposite direction": SERIES[5],
    "consistent": MUTED,
    "cannot tell": MUTED,
    "inconsistent": MUTED,
}
PNG_DPI = 130
EFFECTS = (-1.5, 2.0)  # shares; what is beyond is drawn at the edge
GLANCE, GLANCED = 5.8, 6  # inches and rows of the front page's figures
SCATTER_AS_VECTORS = 4000  # points; beyond, the dots become a picture inside the SVG


def use_style() -> None:
    """Set seaborn's theme and the report's own style for all figures that follow."""
    mpl.use("Agg")
    sns.set_theme(context="paper", style="ticks", palette=list(SERIES), rc=STYLE)


def save(figure: Figure, folder: Path, name: str, description: str) -> str:
    """Write ``<name>.svg`` and ``<name>.png``, close the figure, and return the SVG for the page."""
    if figure.get_layout_engine() is not None:
        figure.draw_without_rendering()  # lays the figure out, once for both files
        figure.set_layout_engine("none")
    buffer = io.StringIO()  # the canvases write what is laid out; savefig would lay it out again for each file
    FigureCanvasSVG(figure).print_svg(buffer, metadata={"Date": None, "Creator": "recount"})
    svg = buffer.getvalue()
    (folder / f"{name}.svg").write_text(svg, encoding="utf-8")
    figure.set_dpi(PNG_DPI)
    figure.set_facecolor("white")
    FigureCanvasAgg(figure).print_png(folder / f"{name}.png", metadata={"Software": "recount"})
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


def plain_log(axis: Axis, subs: Sequence[float] = (1,)) -> None:
    """Write the ticks of a logarithmic axis as plain numbers; matplotlib's own would need its mathematical markup."""
    axis.set_major_locator(LogLocator(subs=subs))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(NullLocator())


def forest(table: TableView, place: int) -> Figure | None:
    """Draw a column's measured values with intervals; what is printed has a panel of its own if not comparable."""
    column, shown = table.columns[place], metric_of(table.columns[place].metric)
    rows = [row for row in table.rows if row.cells[place].value is not None and row.cells[place].status not in MARKS]
    if not rows:
        return None
    cells = [row.cells[place] for row in rows]
    printed = np.array([cell.published.value if cell.published else None for cell in cells], float)
    beside = not column.comparable and not np.isnan(printed).all()
    labels = [shortened(row.label) for row in rows]
    figure, axes = row_axes(labels, 0.3, above=0.25, ratios=(1, 2.2) if beside else (1,))
    ax = axes[-1]
    _measured_dots(ax, cells)
    if column.comparable or beside:
        axes[0].plot(printed, range(len(rows)), "D", markersize=6, markerfacecolor="none", color=INK)
    for panel in axes:
        panel.set_xlim(0, 1.03 * panel.get_xlim()[1])  # a mark at the edge is whole
    if column.constant is not None:
        _mark_constant(ax, column.constant, column.constant_label, shown)
    if beside:
        axes[0].set_xlabel(f"{shown.label} as printed")
    ax.set_xlabel(f"{shown.label} on {column.used}, with 95 % interval")
    for panel in axes if shown.is_share else ():
        panel.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    return figure


def glance(table: TableView, own: str) -> Figure | None:
    """Draw the best rows of a table's first column in small, the paper's own (of system ``own``) in another colour."""
    column, shown = table.columns[0], metric_of(table.columns[0].metric)
    measured = [row for row in table.rows if row.cells[0].value is not None and row.cells[0].status not in MARKS]
    ranked = sorted(measured, key=lambda row: shown.wrong(row.cells[0].value or 0.0))
    best = [*ranked[: GLANCED - 1], *[row for row in ranked[GLANCED - 1 :] if row.system == own][:1]]
    rows = [row for row in measured if row in best]
    if not rows:
        return None
    figure, (ax,) = row_axes([shortened(row.label, 30) for row in rows], 0.19, above=0.1, wide=GLANCE)
    known = [(y, c.low, c.high) for y, row in enumerate(rows) if (c := row.cells[0]).low is not None and c.high]
    colours = [SERIES[1] if row.system == own else SERIES[0] for row in rows]
    _intervals(ax, [(y, float(low), float(high)) for y, low, high in known], [colours[y] for y, *_ in known], alpha=0.5)
    for y, row in enumerate(rows):
        ax.plot(float(row.cells[0].value or 0), y, "o", color=colours[y], markersize=5.5)
    ax.set_xlim(left=0)
    if column.constant is not None:
        ax.set_xlim(right=max(ax.get_xlim()[1], 1.02 * column.constant))
        ax.axvline(column.constant, color=ALARM, linewidth=1.2, linestyle=(0, (5, 3)))
    if shown.is_share:
        ax.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    ax.set_xlabel(f"{shown.label} on {column.used}, with 95 % interval")
    return figure


def _measured_dots(ax: Axes, cells: Sequence[Cell]) -> None:
    colours = [SERIES[2] if cell.status == "checkpoint" else SERIES[0] for cell in cells]
    known = [(y, cell.low, cell.high) for y, cell in enumerate(cells) if cell.low is not None and cell.high is not None]
    _intervals(ax, known, [colours[y] for y, _, _ in known], alpha=0.55)
    marks = [ALARM if cell.learned_nothing else colour for cell, colour in zip(cells, colours, strict=True)]
    for colour in dict.fromkeys(marks):
        places = [(cell.value, y) for y, cell in enumerate(cells) if marks[y] == colour]
        ax.plot(*zip(*places, strict=True), marker="o", markersize=6.5, color=colour, linestyle="")


def _intervals(ax: Axes, ends: Sequence[tuple[float, float, float]], colours: Sequence[str], alpha: float) -> None:
    segments = [[(low, y), (high, y)] for y, low, high in ends]
    ax.add_collection(LineCollection(segments, colors=colours, linewidths=2.2, alpha=alpha, capstyle="round"))


def _mark_constant(ax: Axes, constant: float, label: str, shown: Metric) -> None:
    left, right = ax.get_xlim()
    right = max(right, constant * 1.02)
    ax.set_xlim(left, right)
    ax.axvline(constant, color=ALARM, linewidth=1.2, linestyle=(0, (5, 3)))
    side = (left, constant) if shown.best == "highest" else (constant, right)
    ax.axvspan(*side, color=ALARM, alpha=0.06, linewidth=0)
    words = f"best constant ({label}): {'below' if shown.best == 'highest' else 'beyond'} it nothing was learned"
    panel = ax.get_position().width * WIDTH
    room = panel * (right - constant) / (right - left)
    place, side_of_text = (constant, "left") if width(words, 8) < room else (right, "right")
    ax.text(place, -0.62, words, color=ALARM, fontsize=8, ha=side_of_text, va="bottom")


def claims_forest(effects: pd.DataFrame) -> Figure:
    """Draw the effects of ``relative_effects`` against what is claimed, retrained here and as published."""
    labels = list(dict.fromkeys(effects["label"]))
    figure, (ax,) = row_axes([shortened(label, 68) for label in labels], 0.27, above=0.4, size=7.5, grid=False)
    finite = effects[["effect", "low", "high"]].to_numpy(dtype=float)
    left = max(float(np.nanmin(np.append(finite, 0))), EFFECTS[0])
    right = min(max(float(np.nanmax(np.append(finite, 0))), 0.05), EFFECTS[1])
    inside = effects[["effect", "low", "high", "claimed"]].clip(left, right)
    _effects(ax, inside.assign(**effects[["verdict", "evidence"]], y=effects["label"].map(labels.index)))
    claims = [effects.loc[effects["label"] == label, "claim"].iloc[0] for label in labels]
    between = [place + 0.5 for place, (above, below) in enumerate(itertools.pairwise(claims)) if above != below]
    ax.hlines(between, 0, 1, transform=ax.get_yaxis_transform(), color=GRID, linewidth=0.6)
    ax.axvline(0, color=INK, linewidth=1)
    ax.set_xlim(left - 0.04 * (right - left), right + 0.04 * (right - left))
    ax.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    ax.set_xlabel("better by, as a share of what it is compared with")
    there = set(effects["evidence"]) | set(effects["verdict"])
    marks: dict[str, Any] = {"color": MUTED, "linestyle": ""}
    looks = [(EVIDENCE_NAMES[kind], kind, marks | look) for kind, look in EVIDENCE_LOOKS.items()]
    looks += [(verdict, verdict, {"color": colour, "linewidth": 4}) for verdict, colour in VERDICT_COLOURS.items()]
    handles = [Line2D([], [], label=label, **look) for label, name, look in looks if name in there]
    figure.legend(handles=handles, loc="upper left", ncols=7, fontsize=7.5)
    return figure


def _effects(ax: Axes, effects: pd.DataFrame) -> None:
    claimed = effects[np.isfinite(effects["claimed"]) & (effects["claimed"] != 0)]
    ticks = [[(row.claimed, row.y - 0.4), (row.claimed, row.y + 0.4)] for row in claimed.itertuples(index=False)]
    ax.add_collection(LineCollection(ticks, colors=MUTED, linewidths=1.2, linestyles=(0, (2, 1.5))))
    known = effects.dropna(subset=["low", "high"])
    colours = [VERDICT_COLOURS[verdict] for verdict in known["verdict"]]
    _intervals(ax, list(zip(known["y"], known["low"], known["high"], strict=True)), colours, alpha=0.5)
    for (kind, verdict), part in effects.groupby(["evidence", "verdict"], sort=False):
        look = EVIDENCE_LOOKS[str(kind)]
        ax.plot(part["effect"], part["y"], color=VERDICT_COLOURS[str(verdict)], linestyle="", **look)


def selection_dumbbells(rows: pd.DataFrame, metric: str) -> Figure:
    """Draw each variant's error under the three selections: columns label, last, best_on_test, best_on_held_out."""
    figure, (ax,) = row_axes([shortened(label) for label in rows["label"]], 0.28, above=0.35)
    looks = {"best_on_test": ("o", SERIES[1]), "best_on_held_out": ("s", SERIES[2]), "last": ("o", SERIES[0])}
    values = rows[list(looks)]
    ax.hlines(range(len(rows)), values.min(axis=1), values.max(axis=1), color=BEHIND, linewidth=2, zorder=1)
    for name, (marker, colour) in looks.items():
        face, label = "none" if name == "best_on_test" else colour, SELECTIONS[name]
        ax.plot(
            rows[name], range(len(rows)), marker, color=colour, markerfacecolor=face, markersize=6.5,
            markeredgewidth=1.6, label=label,
        )  # fmt: skip
    ax.set_xlabel(metric_of(metric).label)
    ax.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3)
    return figure


def curves_over_log(
    runs: pd.DataFrame, metric: str, watched: str, behind: Mapping[str, pd.DataFrame], comparable: bool
) -> Figure:
    """Draw our evaluations over the authors' (``behind``); as shapes of training where they are not comparable."""
    shown = metric_of(metric)
    if not comparable:
        runs = pd.concat(_shape(run, shown) for _, run in runs.groupby(["label", "seed"], sort=False))
        behind = {name: _shape(run, shown) for name, run in behind.items()}
    labels = list(dict.fromkeys(runs["label"]))
    across = Scale(0, max(float(run["epoch"].max()) for run in (runs, *behind.values())))
    up = _scale_of_curves(runs["value"], shown)
    panels = Panels([shortened(label, 30) for label in labels], 4, 1.5, above=0.4)
    panels.shared(across.ticks(), up.ticks())
    for panel, label in enumerate(labels):
        panels.grid(panel, up.ticks())
        for run, dashes in zip(behind.values(), DASHES, strict=False):
            panels.line(panel, across.at(run["epoch"]), up.at(run["value"]), BEHIND, 1, linestyles=dashes)
        for _, run in runs[runs["label"] == label].groupby("seed", sort=False):
            panels.line(panel, across.at(run["epoch"]), up.at(run["value"]), SERIES[0], zorder=2.5)
    handles = [Line2D([], [], color=SERIES[0], label="here, a line per seed")]
    handles += [Line2D([], [], color=BEHIND, ls=dashes, label=n) for n, dashes in zip(behind, DASHES, strict=False)]
    title = f"{shown.label} on {watched}" if comparable else f"{shown.label} ÷ {shown.best} of the run"
    return panels.finish("epoch" if comparable else "share of training", title, handles)


def _scale_of_curves(values: pd.Series, shown: Metric) -> Scale:
    values = values[np.isfinite(values) & (values > 0)]
    if values.empty:
        return Scale(0, 1)
    lowest, highest = float(values.min()), float(values.max())
    if shown.best == "highest":
        return Scale(0, 1.15 * highest)
    return Scale(0.93 * lowest, max(1.15 * highest, 3 * lowest), log=True)


def _shape(run: pd.DataFrame, shown: Metric) -> pd.DataFrame:
    best = run["value"].max() if shown.best == "highest" else run["value"].min()
    return run.assign(epoch=run["epoch"] / run["epoch"].max(), value=run["value"] / best if best else np.nan)


def training_panels(runs: Mapping[str, pd.DataFrame], metric: str) -> Figure:
    """Draw loss (left axis) and a metric (right axis) of each run against the epoch, one panel per run."""
    panels = Panels([shortened(name, 30) for name in runs], 4, 1.5, above=0.4, between=0.66)
    label = metric_of(metric).label
    columns, drawn = {f"test_{metric}": SERIES[1], f"held_out_{metric}": SERIES[2]}, set[str]()
    for panel, history in enumerate(runs.values()):
        across = Scale(0, float(history["epoch"].max()))
        loss = Scale(*_ends(history["loss"]))
        panels.labels(panel, across.ticks(), "bottom")
        panels.labels(panel, loss.ticks(), "left", colour=MUTED)
        panels.line(panel, across.at(history["epoch"]), loss.at(history["loss"]), BEHIND)
        there = [column for column in columns if column in history and history[column].notna().any()]
        drawn.update(there)
        if there:
            panels.line(panel, [1, 1], [0, 1], MUTED, 0.8)
            error = Scale(0, 1.05 * float(np.nanmax(history[there].to_numpy(float))) or 1)
            panels.labels(panel, error.ticks(), "right")
        for column in there:
            seen = history.dropna(subset=column)
            places = across.at(seen["epoch"]), error.at(seen[column])
            panels.line(panel, *places, columns[column], 1.5)
            panels.dots(panel, *places, columns[column], 2.2)
    names = {"training loss (left axis)": BEHIND}
    for column, colour in columns.items():
        if column in drawn:
            where = "test" if column.startswith("test") else "held-out"
            names[f"{label} on {where} (right axis)"] = colour
    handles = [Line2D([], [], color=colour, linewidth=1.6, label=name) for name, colour in names.items()]
    return panels.finish("epoch", "training loss", handles)


def _ends(values: pd.Series) -> tuple[float, float]:
    finite = values[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if len(finite) else (0.0, 1.0)
    room = 0.05 * (high - low or abs(high) or 1.0)
    return low - room, high + room


def predicted_against_true(predictions: Mapping[str, pd.DataFrame]) -> Figure:
    """Draw predicted against true counts, one panel per label, logarithmic above 1; the diagonal is exact."""
    every = pd.concat(predictions.values())
    top = 1.3 * float(np.nanmax(every[["true_count", "predicted_count"]].to_numpy()))
    low = 0.8 * max(1.0, float(every["true_count"].min()))
    scale = Scale(low, top, log=True, subs=(1,) if top / low > 30 else (1, 2, 5))
    panels = Panels([shortened(name, 24) for name in predictions], 5, 1.95, above=0.1, square=True)
    panels.shared(scale.ticks(), scale.ticks())
    for panel, table in enumerate(predictions.values()):
        panels.line(panel, [0, 1], [0, 1], MUTED, 1)
        shown = table["predicted_count"].clip(lower=low), table["true_count"].clip(lower=low)
        panels.dots(panel, scale.at(shown[1]), scale.at(shown[0]), SERIES[0], 3.6, alpha=0.65)
    return panels.finish("true count", "predicted count", dots_as_picture=len(every) > SCATTER_AS_VECTORS)


def confusions(predictions: Mapping[str, pd.DataFrame]) -> Figure:
    """Draw a confusion matrix per label: for each true number (row), the share of each answer (column)."""
    finite = [table.dropna(subset=["true_count", "predicted_count"]) for table in predictions.values()]
    numbers = sorted({int(value) for value in pd.concat(finite)[["true_count", "predicted_count"]].to_numpy().ravel()})
    empty = np.zeros((len(numbers), len(numbers)))
    matrices = [confusion(t["true_count"], t["predicted_count"], numbers) if len(t) else empty for t in finite]
    right = [f"{np.trace(m):.0f} of {m.sum():.0f} right" if m.any() else "no answers" for m in matrices]
    panels = Panels(
        [shortened(name, 20) for name in predictions], 6, 1.75, above=0.1, between=0.12, square=True, title_size=7.5,
        subtitles=right,
    )  # fmt: skip
    middles = [((place + 0.5) / len(numbers), str(number)) for place, number in enumerate(numbers)]
    panels.shared(middles, [(1 - middle, text) for middle, text in middles], size=6)
    colours = np.where(np.eye(len(numbers), dtype=bool), SERIES[2], SERIES[1])
    for panel, matrix in enumerate(matrices):
        panels.squares(panel, matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1), colours)
    return panels.finish("answer", "true number")


def influence_bars(shares: pd.DataFrame) -> Figure:
    """Draw which images carry a system's squared error: columns label (system), image, share, largest first."""
    labels = list(dict.fromkeys(shares["label"]))
    figure, (ax,) = row_axes([shortened(label) for label in labels], 0.3, grid=False)
    for y, label in enumerate(labels):
        mine = shares[shares["label"] == label]
        ends = np.append(0.0, np.cumsum(mine["share"]))
        bars = [*zip(ends[:-1], mine["share"], strict=True), (ends[-1], max(0.0, 1 - ends[-1]))]
        looks = [(ALARM if s > 0.5 else SERIES[0], max(0.25, 0.95 - 0.22 * n)) for n, s in enumerate(mine["share"])]
        ax.broken_barh(bars, (y - 0.36, 0.72), facecolors=[*looks, (GRID, 1.0)], linewidth=0)
        for n, (image, share) in enumerate(zip(mine["image"], mine["share"], strict=True)):
            if share > 0.12:
                place, colour = (ends[n] + share / 2, y), "white" if n < 2 else INK
                ax.text(*place, shortened(str(image), 16), ha="center", va="center", fontsize=7.5, color=colour)
    ax.axvline(0.5, color=INK, linewidth=1, linestyle=(0, (2, 2)))
    ax.set_xlim(0, 1)
    ax.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    ax.set_xlabel("share of the squared error; the rest of the images in grey")
    return figure


def cost_against_value(costs: pd.DataFrame, metric: str) -> Figure:
    """Draw a metric against the cost of training; columns system, seconds, value."""
    figure = plt.figure(figsize=(WIDTH, 3.4))
    ax: Axes = figure.add_axes((0.62 / WIDTH, 0.5 / 3.4, 0.68, 2.8 / 3.4))
    for colour, (system, mine) in zip(itertools.cycle(SERIES), costs.groupby("system", sort=False)):
        ax.plot(mine["seconds"], mine["value"], "o", color=colour, markersize=7, markeredgewidth=0, label=str(system))
    if costs["seconds"].max() > 10 * costs["seconds"].min():
        ax.set_xscale("log")
        plain_log(ax.xaxis, (1, 2, 5))
    else:
        ax.set_xlim(left=0)
    ax.set_ylim(bottom=0)
    ax.set_xlabel("training time on this machine, seconds")
    ax.set_ylabel(metric_of(metric).label)
    ax.grid(linewidth=0.6)
    ax.legend(loc="upper left", bbox_to_anchor=(1.01, 1), title=None)
    return figure

"""Small multiples, drawn as a handful of artists in one plane whose unit is an inch.

A panel of matplotlib's own costs a tenth of a second, most of it for ticks that nobody sees, and a paper has hundreds.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.lines import Line2D
from matplotlib.textpath import text_to_path
from matplotlib.ticker import LogLocator, MaxNLocator
from numpy.typing import ArrayLike

from recount.report.style import GRID, INK, MUTED, WIDTH

WIDER = 1.08  # a browser's letters may be wider than matplotlib's
LEFT, RIGHT, BOTTOM = 0.62, 0.4, 0.5  # inches around the panels
HEAD, SECOND_LINE = 0.22, 0.13  # inches above a panel for its title, and for a subtitle
TICK = 0.04  # inches between a frame and its labels
SLACK = 1e-9  # a share this far outside is on the edge
Ticks = Sequence[tuple[float, str]]  # (place in the panel as a share, label)


@dataclass(frozen=True)
class Scale:
    """A scale from ``low`` to ``high``; ``subs`` are the digits at which a logarithmic one has ticks."""

    low: float
    high: float
    log: bool = False
    subs: tuple[float, ...] = (1, 2, 5)

    def at(self, values: ArrayLike) -> np.ndarray:
        """Return where values lie, 0 to 1; NaN where a logarithm has no value."""
        found, ends = np.asarray(values, float), np.array([self.low, self.high])
        if self.log:
            found, ends = np.log10(np.where(found > 0, found, np.nan)), np.log10(ends)
        return (found - ends[0]) / ((ends[1] - ends[0]) or 1.0)

    def ticks(self) -> Ticks:
        """Return a few round numbers within the scale."""
        locator = LogLocator(subs=self.subs) if self.log else MaxNLocator(3, steps=[1, 2, 5, 10])
        values = np.asarray(locator.tick_values(self.low, self.high))
        places = self.at(values)
        inside = (places >= -SLACK) & (places <= 1 + SLACK)
        return [(float(p), f"{v:g}") for p, v in zip(places[inside], values[inside], strict=True)]


class Panels:
    """A figure of titled panels, ``height`` a row with ``above`` for a legend; lengths in inches, letters in points."""

    def __init__(
        self, titles: Sequence[str], columns: int, height: float, *, above: float, between: float = 0.16,
        square: bool = False, title_size: float = 8, subtitles: Sequence[str] = (),
    ) -> None:  # fmt: skip
        self.titles, self.subtitles, self.title_size = titles, subtitles, title_size
        self.columns, self.height, self.above = columns, height, above
        rows = -(-len(titles) // columns)
        self.tall = 0.3 + above + height * rows
        self.wide = (WIDTH - LEFT - RIGHT + between) / columns
        self.head = HEAD + (SECOND_LINE if subtitles else 0)
        self.size = (self.wide - between, height - 0.2 - self.head)
        if square:
            self.size = (min(self.size), min(self.size))
        self._lines: dict[tuple[tuple[str, Any], ...], list[np.ndarray]] = defaultdict(list)
        self._dots: dict[tuple[tuple[str, Any], ...], list[np.ndarray]] = defaultdict(list)
        self._squares: list[tuple[np.ndarray, tuple[str, float]]] = []
        self.figure: Figure = plt.figure(figsize=(WIDTH, self.tall))
        self._plane = self.figure.add_axes((0, 0, 1, 1))
        self._plane.set(xlim=(0, WIDTH), ylim=(0, self.tall))
        self._plane.set_axis_off()

    def _corner(self, panel: int) -> tuple[float, float]:  # the lower left one
        row, column = divmod(panel, self.columns)
        return LEFT + column * self.wide, self.tall - self.above - self.head - row * self.height - self.size[1]

    def _placed(self, panel: int, x: ArrayLike, y: ArrayLike) -> np.ndarray:
        return self._corner(panel) + np.column_stack([x, y]).astype(float) * self.size

    def line(self, panel: int, x: ArrayLike, y: ArrayLike, colour: str, width: float = 1.4, **look: Any) -> None:
        """Draw a line through shares of a panel; it has a gap where a value is NaN or outside the panel."""
        key = (("colors", colour), ("linewidths", width), *sorted(look.items()))
        shares = np.column_stack([x, y]).astype(float)
        inside = np.all((shares >= -SLACK) & (shares <= 1 + SLACK), axis=1)
        for part in np.split(np.where(inside[:, None], shares, np.nan), np.flatnonzero(np.diff(inside)) + 1):
            if len(part) and not np.isnan(part[0, 0]):
                self._lines[key].append(self._placed(panel, *part.T))

    def dots(self, panel: int, x: ArrayLike, y: ArrayLike, colour: str, size: float, **look: Any) -> None:
        """Draw dots of ``size`` points at shares of a panel."""
        key = (("color", colour), ("markersize", size), *sorted(look.items()))
        self._dots[key].append(self._placed(panel, x, y))

    def squares(self, panel: int, shares: np.ndarray, colours: np.ndarray) -> None:
        """Draw a matrix [rows, columns], the first row above; shares (0 to 1) are the strengths of the colours."""
        rows, columns = shares.shape
        for row, column in zip(*np.nonzero(shares), strict=True):
            x = np.array([column, column + 1, column + 1, column]) / columns
            y = 1 - np.array([row, row, row + 1, row + 1]) / rows
            colour = str(colours[row, column]), float(shares[row, column])
            self._squares.append((self._placed(panel, x, y), colour))

    def labels(self, panel: int, ticks: Ticks, side: str, size: float = 8, colour: str = INK) -> None:
        """Write the labels of an axis at the ``left``, ``right`` or ``bottom`` of a panel."""
        x, y = self._corner(panel)
        for place, text in ticks:
            if side == "bottom":
                at, ha, va = (x + place * self.size[0], y - TICK), "center", "top"
            else:
                right = side == "right"
                at = (x + self.size[0] + TICK if right else x - TICK, y + place * self.size[1])
                ha, va = ("left" if right else "right"), "center"
            self._plane.text(*at, text, fontsize=size, color=colour, ha=ha, va=va)

    def shared(self, across: Ticks, up: Ticks, size: float = 8) -> None:
        """Label scales that all panels share: at the left of each row and below each column."""
        for panel in range(len(self.titles)):
            if panel % self.columns == 0:
                self.labels(panel, up, "left", size)
            if panel + self.columns >= len(self.titles):
                self.labels(panel, across, "bottom", size)

    def grid(self, panel: int, up: Ticks) -> None:
        """Draw thin lines across a panel at the places of its ticks."""
        for place, _ in up:
            self.line(panel, [0, 1], [place, place], GRID, 0.6, zorder=0.5)

    def finish(
        self, across: str, up: str, handles: Sequence[Line2D] = (), *, frame: bool = True, dots_as_picture: bool = False
    ) -> Figure:
        """Draw everything, with what the axes show and a legend above; many dots are smaller as a picture."""
        for panel, title in enumerate(self.titles):
            x, y = self._corner(panel)
            top = y + self.size[1] + 0.06
            if self.subtitles:
                self._plane.text(x, top, self.subtitles[panel], fontsize=self.title_size - 0.5, va="bottom")
                top += SECOND_LINE
            self._plane.text(x, top, title, fontsize=self.title_size, weight="bold", va="bottom")
            if frame:
                self.line(panel, [0, 0, 1], [1, 0, 0], MUTED, 0.8)
        if self._squares:
            boxes, colours = [box for box, _ in self._squares], [colour for _, colour in self._squares]
            self._plane.add_collection(PolyCollection(boxes, facecolors=colours, linewidths=0), autolim=False)
        for look, parts in self._lines.items():
            self._plane.add_collection(LineCollection(parts, capstyle="round", **dict(look)), autolim=False)
        for look, groups in self._dots.items():
            places = np.concatenate(groups)
            self._plane.plot(
                places[:, 0], places[:, 1], marker="o", linestyle="", markeredgewidth=0, rasterized=dots_as_picture,
                scalex=False, scaley=False, **dict(look),
            )  # fmt: skip
        self._plane.text(WIDTH / 2, 0.08, across, ha="center", va="bottom", fontsize=9)
        self._plane.text(0.06, self.tall / 2, up, ha="left", va="center", rotation=90, fontsize=9)
        if handles:
            corner = (0.4 / WIDTH, 1 - 0.02 / self.tall)
            self.figure.legend(handles=handles, loc="upper left", ncols=4, bbox_to_anchor=corner)
        return self.figure


def row_axes(
    labels: Sequence[str], height: float, *, above: float = 0.1, ratios: Sequence[float] = (1,), size: float = 8.5,
    grid: bool = True, wide: float = WIDTH,
) -> tuple[Figure, list[Axes]]:  # fmt: skip
    """Return a figure with a row for each label and panels of widths ``ratios``; ``wide`` inches, letters in points."""
    tall = above + BOTTOM + height * len(labels)
    left = 0.2 + max((width(label, size) for label in labels), default=0.0)
    room = wide - left - 0.3 - 0.25 * (len(ratios) - 1)
    figure = plt.figure(figsize=(wide, tall))
    panels = []
    for ratio in ratios:
        share = room * ratio / sum(ratios)
        ax = figure.add_axes((left / wide, BOTTOM / tall, share / wide, height * len(labels) / tall))
        ax.set(ylim=(len(labels) - 0.4, -0.6), yticks=[])
        ax.spines[["left", "top", "right"]].set_visible(False)
        if grid:
            ax.grid(axis="x", linewidth=0.6)
        panels.append(ax)
        left += share + 0.25
    beside = panels[0].get_yaxis_transform()
    for y, label in enumerate(labels):
        panels[0].text(-0.01, y, label, fontsize=size, ha="right", va="center", transform=beside)
    return figure, panels


def shortened(text: str, length: int = 42) -> str:
    """Cut a label that is too long for its place."""
    return text if len(text) <= length else f"{text[: length - 1]}…"


def width(text: str, size: float) -> float:
    """Return how wide a text may be in a browser, inches."""
    return WIDER * text_to_path.get_text_width_height_descent(text, FontProperties(size=size), ismath=False)[0] / 72

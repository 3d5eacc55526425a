"""How the report's figures look: colours, letters, width."""

from typing import Any

INK, MUTED, GRID, BEHIND, ALARM, PAPER = "#1d2026", "#69707d", "#dedbd4", "#b4b0a8", "#b3261e", "#fcfbf8"
SERIES = ("#0b6aa2", "#c8500a", "#0a8064", "#9a3f8f", "#8a6d00", "#4a5bc4", "#b0305c", "#3d7d1f")
#: Marks in the drawing -> CSS variables of the page.
VARIABLES = {
    INK: "var(--ink)", MUTED: "var(--muted)", GRID: "var(--line)", BEHIND: "var(--behind)", ALARM: "var(--alarm)",
    PAPER: "var(--paper)", **{colour: f"var(--series-{n})" for n, colour in enumerate(SERIES)},
}  # fmt: skip
STYLE: dict[str, Any] = {
    "svg.hashsalt": "recount", "svg.fonttype": "none", "path.simplify": True,
    "text.parse_math": False,  # a dollar sign in a label is a dollar sign
    "font.family": "DejaVu Sans", "font.size": 9, "axes.titlesize": 9.5, "axes.labelsize": 9, "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5, "legend.fontsize": 8.5, "axes.titlelocation": "left", "axes.titleweight": "bold",
    **dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color"), INK),
    "axes.edgecolor": MUTED, "grid.color": GRID,
    **dict.fromkeys(("axes.facecolor", "figure.facecolor", "savefig.facecolor"), "none"),
    **dict.fromkeys(("axes.spines.top", "axes.spines.right", "legend.frameon"), False),
}  # fmt: skip
WIDTH = 9.6  # inches; the page's text column

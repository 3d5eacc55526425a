"""A comparison as a document: what differs first; what agrees is counted, and shown on request."""

import math
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from recount.documents import Document, Sheet
from recount.exchange.compare import OUTCOMES, Changed, ComparedCell, Comparison, Side
from recount.metrics import metric
from recount.report.numbers import interval, number, seconds, signed

COLOURS = {"differ": "red", "other data": "yellow", "only A": "yellow", "only B": "yellow", "agree": "green"}
SAME = ("identical", "agree")  # outcomes that are shown on request only
ORDER = ("differ", "other data", "only A", "only B", "no interval", *SAME)
RUNS_NAMED = 3  # of those that a difference concerns; more are counted


def document(comparison: Comparison, *, everything: bool = False) -> Document:
    """Return a comparison as a document; ``everything``: with the cells and verdicts on which both sides agree."""
    cells = sorted((cell for cell in comparison.cells if cell.outcome in ORDER), key=lambda c: ORDER.index(c.outcome))
    verdicts = [said for said in comparison.verdicts if everything or said.a != said.b]
    shown = [cell for cell in cells if everything or cell.outcome not in SAME]
    heads = ("Outcome", "Table", "System", "Column", "Weights", "A", "B", "B − A", "p")
    sheets = [
        Sheet("Cells", heads, [_cell(cell) for cell in shown], [cell.outcome for cell in shown]),
        Sheet(
            "Verdicts on the papers' claims",
            ("Claim", "Evidence", "A", "B"),
            [(f"{v.paper} {v.claim}", v.evidence, v.a or "–", v.b or "–") for v in verdicts],
        ),
        Sheet(
            "What differed in the making",
            ("What", "A", "B", "Runs"),
            [_change(changed, len(comparison.runs)) for changed in comparison.changed],
        ),
    ]
    if everything:
        runs = [
            (run.run, seconds(run.seconds_a), seconds(run.seconds_b), "identical" if run.same_weights else "other")
            for run in comparison.runs
        ]
        sheets.append(Sheet("Runs", ("Run", "A", "B", "Weights"), runs))
    after = []
    if comparison.runs and not comparison.changed:
        after.append("Nothing differed in settings, packages, hardware, commit or data.")
    if len(shown) < len(cells) or len(verdicts) < len(comparison.verdicts):
        hidden = f"{len(cells) - len(shown)} cells and {len(comparison.verdicts) - len(verdicts)} verdicts"
        after.append(f"{hidden} on which both sides agree are not shown: --all")
    rows = [_flat(cell) for cell in [*cells, *(cell for cell in comparison.cells if cell.outcome not in ORDER)]]
    return Document(
        "Two reproductions side by side", list(_told(comparison)), sheets,
        asdict(comparison) | {"outcomes": comparison.outcomes},
        [*rows[0]], [[*row.values()] for row in rows], after, tuple(COLOURS.items()),
    )  # fmt: skip


def _flat(cell: ComparedCell) -> dict[str, Any]:
    row: dict[str, Any] = {}
    for name, value in asdict(cell).items():
        side = isinstance(value, dict)
        row |= {f"{part}_{name}": number for part, number in value.items()} if side else {name: value}
    return row


def _cell(cell: ComparedCell) -> tuple[str, ...]:
    return (
        cell.outcome + (f": {cell.why}" if cell.why else ""),
        f"{cell.paper} {cell.table}",
        f"{cell.system}/{cell.variant}" if cell.variant else cell.system,
        f"{cell.benchmark} {metric(cell.metric).label}",
        cell.selection or "–",
        _side(cell.a),
        _side(cell.b),
        signed(cell.difference) + _bounds(cell, cell.a.value),
        "–" if math.isnan(cell.p_value) else f"{cell.p_value:.3g}",
    )


def _side(side: Side) -> str:
    if math.isnan(side.value):
        return side.status or "–"
    spread = "" if math.isnan(side.sd) else f" ± {number(side.sd, side.value)}"
    return f"{number(side.value)}{spread}{_bounds(side, side.value)}"


def _bounds(about: Side | ComparedCell, like: float) -> str:
    bounds = interval(about.low, about.high, like)
    return f" ({bounds})" if bounds else ""


def _change(changed: Changed, runs: int) -> tuple[str, ...]:
    few = len(changed.runs) <= RUNS_NAMED
    which = ", ".join(changed.runs) if few else f"{len(changed.runs)} of {runs}"
    what = f"{changed.part} {changed.key}".strip()
    return what, changed.a, changed.b, "all" if len(changed.runs) == runs else which


def _told(comparison: Comparison) -> Iterator[str]:
    yield f"A: {comparison.a}"
    yield f"B: {comparison.b}"
    for outcome, cells in comparison.outcomes.items():
        yield f"{cells} {'cell' if cells == 1 else 'cells'}: {outcome} - {OUTCOMES[outcome]}"
    if comparison.verdicts:
        other = sum(entry.a != entry.b for entry in comparison.verdicts)
        yield f"{len(comparison.verdicts)} verdicts on claims, {other} of them different"
    same = sum(run.same_weights for run in comparison.runs)
    yield f"{len(comparison.runs)} runs in both, {same} with identical weights"
    for letter, only in (("A", comparison.only_a), ("B", comparison.only_b)):
        if only:
            yield f"only in {letter}: {', '.join(only)}"
    for why in comparison.unexplained:
        yield f"other counts from identical weights: {why}"
    for why in comparison.unfit:
        yield f"not used: {why}"

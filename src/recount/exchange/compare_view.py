"""A comparison for people and for programs: terminal, Markdown, HTML, CSV, JSON."""

import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from textwrap import shorten
from typing import Any, NamedTuple

from jinja2 import Environment, StrictUndefined
from pydantic import TypeAdapter
from rich.console import Console
from rich.table import Table
from rich.text import Text

from recount.errors import UserError, printable
from recount.exchange.compare import OUTCOMES, Changed, ComparedCell, Comparison, Side
from recount.metrics import metric
from recount.report.export import escape_markdown
from recount.report.numbers import interval, number, seconds, signed
from recount.results.files import csv_text, write_text

COLOURS = {"differ": "red", "other data": "yellow", "only A": "yellow", "only B": "yellow", "agree": "green"}
RUNS_NAMED = 3  # of those that a difference concerns; more are counted
WIDEST = 70  # characters of an outcome with its reason in the terminal; files have all of it


class _Shown(NamedTuple):
    title: str
    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    outcomes: Sequence[str]  # of each row, whose colour it gets; "" for none


def _tables(comparison: Comparison) -> tuple[_Shown, _Shown, _Shown, _Shown]:
    """Return cells, verdicts, what differed, and runs."""
    cells = [cell for cell in comparison.cells if cell.outcome != "neither"]
    heads = ("Table", "System", "Column", "Weights", "A", "B", "B − A", "p", "Outcome")
    verdicts = [
        (f"{said.paper} {said.claim}", said.evidence, said.a or "–", said.b or "–") for said in comparison.verdicts
    ]
    changed = [_change(changed, len(comparison.runs)) for changed in comparison.changed]
    runs = [
        (run.run, seconds(run.seconds_a), seconds(run.seconds_b), "identical" if run.same_weights else "other")
        for run in comparison.runs
    ]
    return (
        _Shown("Cells", heads, [_cell(cell) for cell in cells], [cell.outcome for cell in cells]),
        _Shown("Verdicts on the papers' claims", ("Claim", "Evidence", "A", "B"), verdicts, [""] * len(verdicts)),
        _Shown("What differed in the making", ("What", "A", "B", "Runs"), changed, [""] * len(changed)),
        _Shown("Runs", ("Run", "A", "B", "Weights"), runs, [""] * len(runs)),
    )


def _cell(cell: ComparedCell) -> tuple[str, ...]:
    return (
        f"{cell.paper} {cell.table}",
        f"{cell.system}/{cell.variant}" if cell.variant else cell.system,
        f"{cell.benchmark} {metric(cell.metric).label}",
        cell.selection or "–",
        _side(cell.a),
        _side(cell.b),
        signed(cell.difference) + _bounds(cell, cell.a.value),
        "–" if math.isnan(cell.p_value) else f"{cell.p_value:.3g}",
        cell.outcome + (f": {cell.why}" if cell.why else ""),
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
    for why in comparison.unfit:
        yield f"not used: {why}"


def print_comparison(comparison: Comparison, console: Console) -> None:
    """Print the whole comparison, without the table of runs."""
    for line in _told(comparison):
        console.print(Text(printable(line)))
    cells, verdicts, changed, _ = _tables(comparison)
    for shown in (cells, verdicts, changed):
        if shown.rows or shown is cells:
            table = Table(*shown.heads, title=shown.title, title_justify="left")
            for column in table.columns:
                column.overflow = "fold"
            for row, outcome in zip(shown.rows, shown.outcomes, strict=True):
                texts = [*row[:-1], shorten(row[-1], WIDEST, placeholder=" …")] if outcome else row
                table.add_row(*(Text(printable(text)) for text in texts), style=COLOURS.get(outcome))
            console.print(table)
    if comparison.runs and not comparison.changed:
        console.print("Nothing differed in settings, packages, hardware, commit or data.")


def write_comparison(comparison: Comparison, path: Path) -> None:
    """Write a comparison in the format that the suffix names; the CSV has the cells only."""
    check_suffix(path)
    write_text(path, FORMATS[path.suffix](comparison))


def check_suffix(path: Path) -> None:
    """Raise UserError for an unknown suffix."""
    if path.suffix not in FORMATS:
        raise UserError(f"{path}: a comparison is written as {', '.join(FORMATS)}")


def _csv(comparison: Comparison) -> str:
    """Return the cells, a row each, in full precision."""
    rows = []
    for cell in comparison.cells:
        row: dict[str, Any] = {}
        for name, value in asdict(cell).items():
            side = isinstance(value, dict)
            row |= {f"{part}_{name}": number for part, number in value.items()} if side else {name: value}
        rows.append(row)
    return csv_text([*rows[0]], [[*row.values()] for row in rows])


def _json(comparison: Comparison) -> str:
    content = json.loads(TypeAdapter(Comparison).dump_json(comparison))  # where NaN, which JSON lacks, is null
    return json.dumps({**content, "outcomes": comparison.outcomes}, indent=1, ensure_ascii=False) + "\n"


def _markdown(comparison: Comparison) -> str:
    lines = ["# Two reproductions side by side", "", *(f"* {escape_markdown(line)}" for line in _told(comparison))]
    for shown in _tables(comparison):
        lines += ["", f"## {shown.title}", "", f"| {' | '.join(shown.heads)} |", "|" + "---|" * len(shown.heads)]
        lines += [f"| {' | '.join(escape_markdown(text) for text in row)} |" for row in shown.rows]
    return "\n".join(lines) + "\n"


def _html(comparison: Comparison) -> str:
    source = Path(__file__).with_suffix(".html.j2").read_text(encoding="utf-8")
    environment = Environment(autoescape=True, trim_blocks=True, keep_trailing_newline=True, undefined=StrictUndefined)
    return environment.from_string(source).render(told=_told(comparison), tables=_tables(comparison))


FORMATS: dict[str, Callable[[Comparison], str]] = {".csv": _csv, ".json": _json, ".md": _markdown, ".html": _html}

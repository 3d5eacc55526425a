"""A comparison for people and for programs: terminal, Markdown, HTML, CSV, JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from html import escape
from pathlib import Path
from textwrap import shorten

from rich.console import Console
from rich.table import Table
from rich.text import Text

from recount.errors import UserError
from recount.exchange.compare import OUTCOMES, Changed, ComparedCell, Comparison, Side, cell_table
from recount.report.export import escape_markdown
from recount.report.numbers import interval, metric, number, seconds, signed
from recount.results.files import write_atomically

COLOURS = {"differ": "red", "other data": "yellow", "only A": "yellow", "only B": "yellow", "agree": "green"}
CELL_HEADS = ("Table", "System", "Column", "Weights", "A", "B", "B − A", "p", "Outcome")
CHANGE_HEADS = ("What", "A", "B", "Runs")
VERDICT_HEADS = ("Claim", "Evidence", "A", "B")
RUN_HEADS = ("Run", "A", "B", "Weights")
RUNS_NAMED = 3  # of those that a difference concerns; more are counted
WIDEST = 70  # characters of an outcome with its reason in the terminal; files have all of it
STYLE = """body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:80rem;padding:0 1rem;color:#1d2430}
table{border-collapse:collapse;margin:1rem 0;font-variant-numeric:tabular-nums;display:block;overflow-x:auto}
th,td{padding:.25rem .7rem;text-align:left;border-bottom:1px solid #d9dee6;vertical-align:top}
th{position:sticky;top:0;background:#f4f6f9}td{overflow-wrap:anywhere}.differ{background:#fde4e1}
.only-A,.only-B,.other-data{background:#fdf3d6}.agree{background:#e6f4e6}"""


class OutputError(UserError):
    """A comparison cannot be written; the message says which suffixes are known."""


# ---------------------------------------------------------------------------------------------------------------- text


def _side(side: Side) -> str:
    if side.value != side.value:
        return side.status or "–"
    spread = f" ± {number(side.sd, side.value)}" if side.sd == side.sd else ""
    bounds = interval(side.low, side.high, side.value)
    return f"{number(side.value)}{spread}" + (f" ({bounds})" if bounds else "")


def _cell(cell: ComparedCell) -> tuple[str, ...]:
    bounds = interval(cell.low, cell.high, cell.a.value)
    difference = signed(cell.difference) + (f" ({bounds})" if bounds else "")
    return (
        f"{cell.paper} {cell.table}",
        f"{cell.system}/{cell.variant}" if cell.variant else cell.system,
        f"{cell.benchmark} {metric(cell.metric).label}",
        cell.selection or "–",
        _side(cell.a),
        _side(cell.b),
        difference,
        "–" if cell.p_value != cell.p_value else f"{cell.p_value:.3g}",
        cell.outcome + (f": {cell.why}" if cell.why else ""),
    )


def _shown_cells(comparison: Comparison) -> list[ComparedCell]:
    return [cell for cell in comparison.cells if cell.outcome != "neither"]


def _change(changed: Changed, runs: int) -> tuple[str, ...]:
    what = " ".join(part for part in (changed.part, changed.key) if part)
    if len(changed.runs) == runs:
        which = "all"
    elif len(changed.runs) <= RUNS_NAMED:
        which = ", ".join(changed.runs)
    else:
        which = f"{len(changed.runs)} of {runs}"
    return what, changed.a, changed.b, which


def _changes(comparison: Comparison) -> list[tuple[str, ...]]:
    return [_change(changed, len(comparison.runs)) for changed in comparison.changed]


def _verdicts(comparison: Comparison) -> list[tuple[str, ...]]:
    return [
        (f"{entry.paper} {entry.claim}", entry.evidence, entry.a or "–", entry.b or "–")
        for entry in comparison.verdicts
    ]


def _runs(comparison: Comparison) -> list[tuple[str, ...]]:
    return [
        (run.run, seconds(run.seconds_a), seconds(run.seconds_b), "identical" if run.same_weights else "other")
        for run in comparison.runs
    ]


def _told(comparison: Comparison) -> Iterator[str]:
    """Yield the sentences above the tables."""
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


# ------------------------------------------------------------------------------------------------------------ terminal


def print_comparison(comparison: Comparison, console: Console) -> None:
    """Print the whole comparison."""
    for line in _told(comparison):
        console.print(Text(line))
    table = _rich("Cells", CELL_HEADS)
    for cell in _shown_cells(comparison):
        *texts, outcome = _cell(cell)
        table.add_row(*map(Text, [*texts, shorten(outcome, WIDEST, placeholder=" …")]), style=COLOURS.get(cell.outcome))
    console.print(table)
    if comparison.verdicts:
        _print_rows(console, "Verdicts on the papers' claims", VERDICT_HEADS, _verdicts(comparison))
    if comparison.changed:
        _print_rows(console, "What differed in the making", CHANGE_HEADS, _changes(comparison))
    elif comparison.runs:
        console.print("Nothing differed in settings, packages, hardware, commit or data.")


def _rich(title: str, heads: Sequence[str]) -> Table:
    table = Table(title=title, title_justify="left")
    for head in heads:
        table.add_column(head, overflow="fold")
    return table


def _print_rows(console: Console, title: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    table = _rich(title, heads)
    for row in rows:
        table.add_row(*map(Text, row))
    console.print(table)


# --------------------------------------------------------------------------------------------------------------- files


def write_comparison(comparison: Comparison, path: Path) -> None:
    """Write a comparison in the format that the suffix names; the CSV has the cells only.

    Raises:
        OutputError: the suffix is none of the known ones.
    """
    check_suffix(path)
    text = FORMATS[path.suffix](comparison)
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def check_suffix(path: Path) -> None:
    """Check that a comparison can be written to ``path``.

    Raises:
        OutputError: the suffix is none of the known ones.
    """
    if path.suffix not in FORMATS:
        raise OutputError(f"{path}: a comparison is written as {', '.join(FORMATS)}")


def as_csv(comparison: Comparison) -> str:
    """Return the cells, a row each, in full precision."""
    return cell_table(comparison).to_csv(index=False, lineterminator="\n")


def as_json(comparison: Comparison) -> str:
    """Return everything."""
    return json.dumps(comparison.as_dict(), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def as_markdown(comparison: Comparison) -> str:
    """Return everything as Markdown."""

    def table(title: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
        lines = [f"| {' | '.join(escape_markdown(text) for text in row)} |" for row in rows]
        return ["", f"## {title}", "", f"| {' | '.join(heads)} |", "|" + "---|" * len(heads), *lines]

    cells = [_cell(cell) for cell in _shown_cells(comparison)]
    lines = ["# Two reproductions side by side", "", *(f"* {escape_markdown(line)}" for line in _told(comparison))]
    lines += table("Cells", CELL_HEADS, cells)
    lines += table("Verdicts on the papers' claims", VERDICT_HEADS, _verdicts(comparison))
    lines += table("What differed in the making", CHANGE_HEADS, _changes(comparison))
    lines += table("Runs", RUN_HEADS, _runs(comparison))
    return "\n".join(lines) + "\n"


def as_html(comparison: Comparison) -> str:
    """Return everything as a page that needs nothing else."""

    def table(title: str, heads: Sequence[str], rows: Sequence[tuple[str, Sequence[str]]]) -> str:
        head = "".join(f"<th>{escape(text)}</th>" for text in heads)
        body = "\n".join(
            f'<tr class="{escape(css)}">' + "".join(f"<td>{escape(text)}</td>" for text in row) + "</tr>"
            for css, row in rows
        )
        return f"<h2>{title}</h2>\n<table><thead><tr>{head}</tr></thead><tbody>\n{body}\n</tbody></table>"

    told = "".join(f"<li>{escape(line)}</li>" for line in _told(comparison))
    cells = [(cell.outcome.replace(" ", "-"), _cell(cell)) for cell in _shown_cells(comparison)]
    parts = [
        table("Cells", CELL_HEADS, cells),
        table("Verdicts on the papers' claims", VERDICT_HEADS, [("", row) for row in _verdicts(comparison)]),
        table("What differed in the making", CHANGE_HEADS, [("", row) for row in _changes(comparison)]),
        table("Runs", RUN_HEADS, [("", row) for row in _runs(comparison)]),
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        f"<title>Two reproductions</title><style>{STYLE}</style></head><body>\n"
        f"<h1>Two reproductions side by side</h1>\n<ul>{told}</ul>\n" + "\n".join(parts) + "\n</body></html>\n"
    )


FORMATS: dict[str, Callable[[Comparison], str]] = {
    ".csv": as_csv,
    ".json": as_json,
    ".md": as_markdown,
    ".html": as_html,
}

"""Tables as files: CSV with one row per cell, LaTeX (booktabs) and Markdown with one row per row of the table."""

import re
from collections.abc import Iterator, Sequence
from itertools import chain

from recount.report.exhibits import Sheet
from recount.report.numbers import percent
from recount.report.tables import CHOICES, Cell, TableView
from recount.results.files import csv_text, escape_markdown

CELL_COLUMNS = (
    "paper", "table", "row", "label", "system", "variant", "benchmark", "measured_on", "metric", "published",
    "published_source",
    "published_chosen_on_test", "value", "ci_low", "ci_high", "sd", "seeds", "n", "difference", "best_constant",
    "selection", "status", "reason",
)  # fmt: skip
LATEX_PREAMBLE = r"% \usepackage{booktabs} \usepackage[T1]{fontenc} \usepackage{textcomp} \usepackage{graphicx}"
LATEX_TABLE = rf"""%{LATEX_PREAMBLE}
\begin{{table}}
  \caption{{%s}}
  \resizebox{{\linewidth}}{{!}}{{%%
  \begin{{tabular}}{{%s}}
    %s
  \end{{tabular}}}}
\end{{table}}
"""
LATEX_SPECIAL = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", '"': r"\textquotedbl{}", "−": r"\ensuremath{-}", "±": r"\ensuremath{\pm}",
    "×": r"\ensuremath{\times}", "–": "--", "—": "---", "…": r"\ldots{}", "‘": "`", "’": "'", "“": "``", "”": "''",
    "≤": r"\ensuremath{\leq}", "≥": r"\ensuremath{\geq}", "÷": r"\ensuremath{\div}",
    "→": r"\ensuremath{\rightarrow}", "λ": r"\ensuremath{\lambda}", "σ": r"\ensuremath{\sigma}", "\u00a0": "~",
    "\u00ad": r"\-", "\u202f": r"\,", "\n": " ",
}  # fmt: skip


def escape_latex(text: str) -> str:
    """Return ``text`` so that LaTeX prints it as it is; a character that pdfLaTeX does not know, by its number."""
    known = re.compile("[ -~\u00a1-\u00ff]")  # ASCII and what T1 and textcomp have
    return "".join(LATEX_SPECIAL.get(c) or (c if known.match(c) else f"[U+{ord(c):04X}]") for c in text)


def as_csv(table: TableView) -> str:
    """Return the table with one line per cell, numbers in full precision."""
    lines = [
        [table.paper, table.name, row.key, row.label, row.system, row.variant, *_csv_cell(cell)]
        for row in table.rows
        for cell in row.cells
    ]
    return csv_text(CELL_COLUMNS, lines)


def _csv_cell(cell: Cell) -> list[object]:
    printed, column = cell.published, cell.column
    return [
        column.benchmark, column.stand_in, column.metric,
        *((printed.text, printed.source, printed.chosen_on_test) if printed else ("", "", "")),
        cell.value, cell.low, cell.high, cell.sd, " ".join(cell.seeds), cell.n, cell.difference, column.constant,
        cell.selection, cell.status, " · ".join(filter(None, [cell.reason.text, cell.reason.log])),
    ]  # fmt: skip


def table_files(table: TableView) -> dict[str, str]:
    """Return a paper's table as CSV, LaTeX and Markdown; the last two as printed, with a warning where it belongs."""
    parts = [table.title, table.caption]
    if table.why_not_comparable:
        parts.append(f"Not comparable with the published numbers: {table.why_not_comparable}")
    caption = " ".join(part if part.endswith(".") else f"{part}." for part in parts if part)
    heads = _heads(table)
    rows = [[row.label, *_printed(row.cells), row.status] for row in table.rows]
    return {"csv": as_csv(table), **_for_print(caption, heads, rows, "l" + "r" * (len(heads) - 3) + "ll")}


def _heads(table: TableView) -> list[str]:
    heads = ["System"]
    for column in table.columns:
        printed, measured = f"{column.head} published", f"{column.head} measured on {column.used}"
        if len({entry.benchmark for entry in table.columns}) > 1:
            printed = f"{column.benchmark} {printed}"
        heads += [measured] if column.extra else [printed, measured]
        heads += [f"{column.head} difference"] if column.comparable and not column.extra else []
    return [*heads, "Seeds", "Selection", "Status"]


def _printed(cells: Sequence[Cell]) -> Iterator[str]:
    for cell in cells:
        column = cell.column
        spread = f" ± {column.shown(cell.sd, cell.value)}" if cell.sd else ""
        bounds = column.interval(cell.low, cell.high, cell.value)
        measured = f"{column.shown(cell.value)}{spread}" + (f" ({bounds})" if bounds else "")
        if not column.extra:
            yield cell.published.shown if cell.published else "–"
        yield cell.status if cell.value is None else measured
        if column.comparable and not column.extra:
            yield "–" if cell.difference is None else f"{column.signed(cell.difference)} ({percent(cell.relative)})"
    yield str(len(cells[0].seeds) or "–")
    yield CHOICES.get(cells[0].selection, "–")


def sheet_files(sheet: Sheet) -> dict[str, str]:
    """Return a sheet as CSV (numbers in full precision, ends of intervals in columns of their own), LaTeX, Markdown."""
    heads = list(sheet.file_heads)
    texts = [[f"{c.shown} ({c.small})" if c.small else c.shown for c in line.cells] for line in sheet.lines]
    with_ends = [any(line.cells[n].ends for line in sheet.lines) for n in range(len(heads))]
    columns = [[head, f"{head} low", f"{head} high"] if with_ends[n] else [head] for n, head in enumerate(heads)]
    values = []
    for line in sheet.lines:
        groups = [["" if c.empty else c.value, *((c.ends or ("", "")) if with_ends[n] else ())]
                  for n, c in enumerate(line.cells)]  # fmt: skip
        values.append(list(chain.from_iterable(groups)))
    table = csv_text(list(chain.from_iterable(columns)), values)
    return {"csv": table, **_for_print(sheet.title, heads, texts, sheet.alignment)}


def _for_print(caption: str, heads: Sequence[str], rows: Sequence[Sequence[str]], alignment: str) -> dict[str, str]:
    """Return a table of texts as LaTeX and Markdown; a column is aligned l, r or w (wide: its text wraps)."""
    head, *body = (" & ".join(map(escape_latex, row)) + r" \\" for row in [heads, *rows])
    lines = "\n    ".join([r"\toprule", head, r"\midrule", *body, r"\bottomrule"])
    latex = LATEX_TABLE % (escape_latex(caption), alignment.replace("w", "p{6cm}"), lines)
    ruler = "|" + "".join("--:|" if kind == "r" else ":--|" for kind in alignment)
    head, *body = (f"| {' | '.join(map(escape_markdown, row))} |" for row in [heads, *rows])
    return {"tex": latex, "md": "\n".join([f"**{escape_markdown(caption)}**", "", head, ruler, *body, ""])}

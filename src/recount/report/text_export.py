"""The tables of the sections on prompts as files: CSV in full precision, LaTeX and Markdown as the page shows them."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from recount.papers.t2icount import RealTable
from recount.report.export import latex_table, markdown_table
from recount.report.numbers import number
from recount.report.text_guided import MapRow, PromptRow
from recount.report.text_section import TextSection

Value = str | float | int


@dataclass(frozen=True)
class Sheet:
    """A table on its way to a file: what it is called, what it says, and what stands in it, numbers as numbers."""

    file: str
    title: str
    heads: tuple[str, ...]
    rows: list[list[Value]]


def write_sheets(section: TextSection, paper: str, folder: Path) -> None:
    """Write every table of the sections into ``folder``, each as ``<file>.csv``, ``.tex`` and ``.md``."""
    for sheet in sheets(section, paper):
        texts = [[_text(value) for value in row] for row in sheet.rows]
        columns = "".join("l" if isinstance(value, str) else "r" for value in sheet.rows[0])
        (folder / f"{sheet.file}.csv").write_text(_as_csv(sheet), encoding="utf-8")
        (folder / f"{sheet.file}.tex").write_text(latex_table(sheet.title, sheet.heads, texts, columns), "utf-8")
        (folder / f"{sheet.file}.md").write_text(markdown_table(sheet.title, sheet.heads, texts, columns), "utf-8")


def sheets(section: TextSection, paper: str) -> list[Sheet]:
    """Return the tables that the sections hold."""
    found = [_real(table, paper) for table in section.real]
    if section.prompts:
        found.append(_prompts(section.prompts, paper))
    if section.maps:
        found.append(_maps(section.maps, paper))
    return found


def _text(value: Value) -> str:
    return value if isinstance(value, str) else str(value) if isinstance(value, int) else number(value)


def _as_csv(sheet: Sheet) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(sheet.heads)
    for row in sheet.rows:
        writer.writerow("" if isinstance(value, float) and math.isnan(value) else value for value in row)
    return buffer.getvalue()


def _real(table: RealTable, paper: str) -> Sheet:
    heads = ["row", "kind"]
    for benchmark, metric in table.columns:
        heads += [f"{benchmark} {metric}", f"{benchmark} {metric} low", f"{benchmark} {metric} high"]
    rows: list[list[Value]] = []
    for row in table.rows:
        cells = [row.cells.get(place) for place in table.columns]
        values = [(math.nan,) * 3 if cell is None else (cell.value, cell.low, cell.high) for cell in cells]
        rows.append([row.label, row.kind, *(value for triple in values for value in triple)])
    title = f"{table.title}: published systems and predictors that look at no picture, on the real annotation."
    return Sheet(f"{paper}-real-{table.name}", title, tuple(heads), rows)


def _prompts(rows: Sequence[PromptRow], paper: str) -> Sheet:
    heads = (
        "system", "seeds", "selection", "pictures of pairs", "majority true", "majority counted", "minority true",
        "minority counted", "absent counted", "nearer to majority", "changes", "pictures", "NP", "NMN", "NMN low",
        "NMN high", "PCCN", "PCCN low", "PCCN high", "mosaic F", "mosaic recall", "mosaic precision",
    )  # fmt: skip
    content: list[list[Value]] = [
        [
            row.label, row.seeds, row.selection, row.pairs, *row.majority, *row.minority, row.absent, row.nearer,
            row.changed, row.pictures, row.np, row.nmn.value, row.nmn.low, row.nmn.high, row.pccn.value, row.pccn.low,
            row.pccn.high, row.f, row.recall, row.precision,
        ]
        for row in rows
    ]  # fmt: skip
    return Sheet(f"{paper}-prompts", "Does it read the prompt?", heads, content)


def _maps(rows: Sequence[MapRow], paper: str) -> Sheet:
    kinds = list(dict.fromkeys(kind for row in rows for kind in row.auc))
    heads = ("system", "benchmark", "pictures", *(f"AUC {kind}" for kind in kinds), "points reached", "other cells")
    content: list[list[Value]] = [
        [
            *(row.label, row.benchmark, row.pictures),
            *(row.auc.get(kind, math.nan) for kind in kinds),
            *(row.reached, row.elsewhere),
        ]
        for row in rows
    ]
    return Sheet(f"{paper}-maps", "Where attention and similarity lie.", heads, content)

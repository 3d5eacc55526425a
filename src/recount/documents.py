"""What a command says, in every form: for a terminal or a pipe, as text, JSON, CSV, Markdown or HTML."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

from pydantic_core import to_json
from rich.console import Console
from rich.table import Table
from rich.text import Text

from recount.errors import UserError, printable
from recount.results.files import csv_text, escape_markdown, write_text

WIDE = 10_000  # characters of a line in a pipe or file: nothing is folded


@dataclass(frozen=True)
class Sheet:
    """A table of texts."""

    title: str
    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    kinds: Sequence[str] = ()  # of each row: the key of a colour in a terminal, and its class in HTML


@dataclass(frozen=True)
class Document:
    """What a command says. ``content`` is all of it for programs, ``rows`` its main table in full precision."""

    title: str
    lines: Sequence[str]
    sheets: Sequence[Sheet]
    content: Any
    columns: Sequence[str]
    rows: Sequence[Sequence[object]]
    after: Sequence[str] = ()
    colours: tuple[tuple[str, str], ...] = ()  # kind of row -> colour in a terminal
    plain: Sequence[str] = ()  # what a terminal shows instead of lines and tables


def show(document: Document, console: Console) -> None:
    """Print a document for people."""

    def say(lines: Sequence[str]) -> None:
        for line in lines:
            console.print(Text(printable(line)), soft_wrap=not console.is_terminal)

    say(document.plain or document.lines)
    for sheet in () if document.plain else document.sheets:
        table = Table(*sheet.heads, title=sheet.title or None, title_justify="left")
        for column in table.columns:
            column.overflow = "fold"
        kinds = sheet.kinds or [""] * len(sheet.rows)
        for row, kind in zip(sheet.rows, kinds, strict=True):
            table.add_row(*(Text(printable(text)) for text in row), style=dict(document.colours).get(kind))
        if sheet.rows:
            console.print(table)
    say(document.after)


def _text(document: Document) -> str:
    stream = StringIO()
    show(document, Console(file=stream, width=WIDE, color_system=None))
    return "\n".join(line.rstrip() for line in stream.getvalue().splitlines()) + "\n"


def as_json(document: Document) -> str:
    """Return its content as JSON; NaN, which JSON does not have, is null."""
    return to_json(document.content, indent=1, inf_nan_mode="null").decode()


def _markdown(document: Document) -> str:
    lines = [f"# {escape_markdown(document.title)}", "", *(f"* {escape_markdown(line)}" for line in document.lines)]
    for sheet in (sheet for sheet in document.sheets if sheet.rows):
        lines += ["", *([f"## {escape_markdown(sheet.title)}", ""] if sheet.title else [])]
        lines += [f"| {' | '.join(map(escape_markdown, row))} |" for row in (sheet.heads, *sheet.rows)]
        lines.insert(len(lines) - len(sheet.rows), "|" + "---|" * len(sheet.heads))
    lines += ["", *(f"* {escape_markdown(line)}" for line in document.after)] if document.after else []
    return "\n".join(lines) + "\n"


def _html(document: Document) -> str:
    from jinja2 import Environment, StrictUndefined

    source = Path(__file__).with_suffix(".html.j2").read_text(encoding="utf-8")
    environment = Environment(autoescape=True, trim_blocks=True, keep_trailing_newline=True, undefined=StrictUndefined)
    return environment.from_string(source).render(document=document)


FORMATS: dict[str, Callable[[Document], str]] = {
    ".txt": _text,
    ".json": lambda document: as_json(document) + "\n",
    ".csv": lambda document: csv_text(document.columns, document.rows),
    ".md": _markdown,
    ".html": _html,
}


def check_suffix(path: Path | None) -> None:
    """Raise a UserError for a file of a form that there is not, before anything is computed."""
    if path is not None and path.suffix not in FORMATS:
        raise UserError(f"--output {path}: expected a file that ends in {', '.join(FORMATS)}")


def write(document: Document, path: Path) -> None:
    """Write a document in the form that the suffix names; the CSV has its main table."""
    check_suffix(path)
    write_text(path, FORMATS[path.suffix](document))


def terminal() -> Console:
    """Return the console of standard output; in a pipe lines are as long as they need to be."""
    return Console() if sys.stdout.isatty() else Console(width=WIDE)


def tell(document: Document, output: Path | None, *, json_wanted: bool = False) -> None:
    """Print a document, or its JSON, or write it into a file and print the file's name."""
    if output is not None:
        write(document, output)
    if json_wanted or output is not None:
        print(as_json(document) if json_wanted else output)
    else:
        show(document, terminal())

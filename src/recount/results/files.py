"""Files below results/: written whole or not at all, and read with one line that says what is wrong.

Every kind of file has a module beside this one. A CSV file is a dataclass of its row (``CsvTable``), and its header is
its schema: a column that is absent means an older recount, and one that is not known (a newer recount's) is left alone.
A JSON file is a pydantic model with a ``schema_version`` and a checksum over all its bytes (``JsonRecord``); what an
older recount wrote is read back to the version ``OLDEST``, and newer ones are refused. ``Made`` is the part of a record
that says what files were made from.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
import os
import re
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import fields, is_dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Self, TypeVar, get_type_hints
from zipfile import BadZipFile

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from recount.errors import MEND, UserError
from recount.results.reason import KINDS, Reason

if TYPE_CHECKING:
    import pandas as pd
    from filelock import FileLock
    from numpy.typing import NDArray

REASON_COLUMNS = ("reason_kind", "reason", "log")
RowType = TypeVar("RowType")
_CHECKSUM = re.compile(rb'"checksum": "[^"]*"')
# What spreadsheets take for a formula (OWASP, "CSV Injection"); an apostrophe before it says that it is text.
_FORMULA = re.compile(r"'*[=+\-@\t\r\n\uFF1D\uFF0B\uFF0D\uFF20]")
# As CSV files have them, and as tables for people do: +1.5 (12 %)
_NUMBER = re.compile(
    r"[+-]?(\d[\d\u202f]*\.?\d*|\.\d+)(e[+-]?\d+)?( \([\d.\u202f]+ %\))?|[+-]?inf|nan", re.ASCII | re.IGNORECASE
)

csv.field_size_limit(sys.maxsize)  # a cell may hold the points of a crowd


class SaveError(UserError):
    """A file could not be written; what was there before is intact."""


class ResultsError(UserError):
    """A file of results cannot be read: where, what is wrong with it, and what mends it ("": nothing in particular)."""

    def __init__(self, where: Path | str, what: str, mend: str = "") -> None:
        super().__init__(f"{where}: {what}{f'; {mend}' if mend else ''}")
        self.where, self.what, self.mend = Path(where), what, mend


def made_anew(step: str) -> str:
    """Return what mends a file that the command ``step`` writes ("": people do)."""
    return f"`{step}` makes it anew" if step else ""


def write_atomically(path: Path, write: Callable[[Path], Any]) -> None:
    """Have ``write`` fill a temporary file of the same suffix, flush it and move it to ``path``; else a SaveError.

    The file has the mode that the umask leaves to others, whatever the library that writes it thinks of them.
    """
    temporary = path.with_name(f".{os.getpid()}.{path.name[-40:]}")  # no longer than a name may be
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.touch()
        mode = temporary.stat().st_mode
        write(temporary)
        temporary.chmod(mode)
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
        _flush_folder(path.parent)
    except (OSError, RuntimeError) as error:
        # torch and safetensors report a full disk as a RuntimeError or as their own subclass of it
        what = str(error)
        if isinstance(error, OSError) and error.errno in MEND:
            what = f"{error.strerror}: {MEND[error.errno]}"
        raise SaveError(f"{path}: cannot be written: {what}; what was there before is unchanged") from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def _flush_folder(folder: Path) -> None:
    """Have the disk remember what a folder's files are called, where the system can do that."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def shared_lock(path: Path) -> FileLock:
    """Return a lock that every user of this machine may take: the umask of whoever comes first does not count."""
    from filelock import FileLock

    path.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(path, mode=0o666)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically, in UTF-8."""
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8", newline="\n"))


def as_text(text: str) -> str:
    """Return a cell's text so that no spreadsheet computes it: an apostrophe before what looks like a formula."""
    return f"'{text}" if is_formula(text) else text


def is_formula(text: str) -> bool:
    """Return whether a spreadsheet may take a cell for a formula (and not for a number)."""
    return _FORMULA.match(text) is not None and not _NUMBER.fullmatch(text)


def escape_markdown(text: str) -> str:
    """Return ``text`` so that a Markdown table cell shows it as it is: no cell borders, markup, HTML or formula."""
    line = " ".join(text.split())  # every kind of line break and tab, too
    escaped = "".join(f"\\{c}" if c in "\\`*_[]|~" else c for c in line)
    if is_formula(line):
        escaped = f"\\{escaped}"
    return escaped.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def from_text(cell: str) -> str:
    """Return what ``as_text`` was given."""
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell


def csv_text(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a CSV file: text is never a formula (``as_text``), numbers are numbers, None and NaN are empty."""
    lines: list[str] = []
    writer = csv.writer(SimpleNamespace(write=lines.append), lineterminator="\r\n")  # so that \r is quoted, too
    writer.writerows([_cell(value) for value in row] for row in [columns, *rows])
    return "".join(line.removesuffix("\r\n") + "\n" for line in lines)


def neutral(text: str) -> str:
    """Return a CSV file, whoever wrote it, without formulas; what is no CSV stays as it is."""
    try:
        head, *rows = csv.reader(io.StringIO(text, newline=""), strict=True)
    except (csv.Error, ValueError):
        return text
    return csv_text([*map(from_text, head)], ([*map(from_text, row)] for row in rows))


def _cell(value: object) -> object:
    return as_text(value) if isinstance(value, str) else number_text(value) if isinstance(value, float) else value


def write_rows(path: Path, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a CSV file (``csv_text``) atomically, with newlines as Unix has them."""
    write_text(path, csv_text(columns, rows))


def is_there(path: Path) -> bool:
    """Return whether there is a file; a ``ResultsError`` where a folder above it may not be looked into."""
    try:
        return path.is_file()
    except OSError as error:
        raise ResultsError(path, f"cannot be read: {error.strerror}") from None


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def text_digest(text: str) -> str:
    """Return the SHA-256 of a text in UTF-8."""
    return hashlib.sha256(text.encode()).hexdigest()


def number_text(value: float | None, nothing: str = "") -> str:
    """Return a number that reads back exactly; ``nothing`` for NaN and None."""
    if value is None or math.isnan(value):
        return nothing
    return str(value) if isinstance(value, int) else repr(float(value))


class CsvTable(Generic[RowType]):
    """A kind of CSV file: a column for each field of a dataclass, and three for a ``Reason``.

    Fields are of type str, int, float, int | None, float | None, or one ``Reason``. ``step`` is the command that writes
    it, for messages; "" where people write it. NaN is written as ``nothing``; where that is not "", an empty cell of a
    number is an error.
    """

    def __init__(self, row: type[RowType], step: str = "", nothing: str = "") -> None:
        assert is_dataclass(row)
        self.row, self.step, self.nothing = row, step, nothing
        hints = get_type_hints(row)
        self._types: dict[str, Any] = {field.name: hints[field.name] for field in fields(row)}
        names = [REASON_COLUMNS if kind is Reason else (name,) for name, kind in self._types.items()]
        self.columns = tuple(column for group in names for column in group)

    def write(self, path: Path, rows: Iterable[RowType]) -> None:
        """Write rows atomically; numbers read back exactly."""
        texts = (
            [value if isinstance(value, str) else number_text(value, self.nothing) for value in self._values(row)]
            for row in rows
        )
        write_rows(path, self.columns, texts)

    def _values(self, row: RowType) -> Iterator[str | float | None]:
        for name in self._types:
            value = getattr(row, name)
            yield from (value.kind, value.text, value.log) if isinstance(value, Reason) else (value,)

    def read(self, source: Path | bytes, where: str = "") -> list[RowType]:
        """Return the rows of a file, or of its content, which messages call ``where``; else a ``ResultsError``."""
        where = where or str(source)
        try:
            content = (source if isinstance(source, bytes) else source.read_bytes()).decode("utf-8")
            reader = csv.DictReader(io.StringIO(content), strict=True)
            there = reader.fieldnames or ()
            absent = [name for name in self.columns if name not in there]
            if absent:
                why = ": an older recount wrote it, or it is another file" if self.step else ""
                raise ResultsError(where, f"no column {', '.join(absent)}{why}", made_anew(self.step))
            return [self._row(row, where, reader.line_num) for row in reader]
        except (OSError, UnicodeDecodeError) as error:
            raise ResultsError(where, f"cannot be read: {getattr(error, 'strerror', error)}") from None
        except csv.Error as error:
            raise self._damaged(where, str(error)) from None

    def _row(self, row: Mapping[str, str], where: str, line: int) -> RowType:
        values: dict[str, Any] = {}
        for name, kind in self._types.items():
            if kind is Reason:
                if row["reason_kind"] not in KINDS:
                    what = f"line {line}: reason_kind = {row['reason_kind']!r}, which only a newer recount knows"
                    raise self._damaged(where, what)
                values[name] = Reason(row["reason_kind"], *(from_text(row[name] or "") for name in REASON_COLUMNS[1:]))
                continue
            text = row[name]
            try:
                values[name] = from_text(text) if kind is str and text is not None else self._number(text, kind)
            except (TypeError, ValueError):
                raise self._damaged(where, f"line {line}: {name} = {(text or '')[:80]!r} is not a number") from None
        return self.row(**values)

    def _number(self, text: str, kind: Any) -> float | int | None:
        if text == self.nothing == "":
            return math.nan if kind is float else None
        return int(text) if kind in (int, int | None) else float(text)

    def frame(self, source: Path | bytes, where: str = "") -> pd.DataFrame:
        """Return a file as a table (``as_frame``). Arguments and errors: ``read``."""
        return self.as_frame(self.read(source, where))

    def as_frame(self, rows: Iterable[RowType]) -> pd.DataFrame:
        """Return rows as a table, numbers as float and NaN where there is none."""
        import pandas as pd

        values = [[*self._values(row)] for row in rows]
        numbers = [name for name, kind in self._types.items() if kind not in (str, Reason)]
        return pd.DataFrame(values, columns=list(self.columns)).astype(dict.fromkeys(numbers, float))

    def empty(self) -> pd.DataFrame:
        """Return a table without rows."""
        return self.frame(",".join(self.columns).encode(), "nothing")

    def _damaged(self, where: str, what: str) -> ResultsError:
        return ResultsError(where, f"damaged: {what}", made_anew(self.step))


class Fields(BaseModel):
    """A part of a JSON file; what this recount does not know is kept."""

    model_config = ConfigDict(extra="allow")


class Made(Fields):
    """What files were made from, by SHA-256; the record that holds it lies beside them and checks itself."""

    content: dict[str, str] = Field(default_factory=dict)  # the files that were written, by name
    run: str = ""  # id of the training that was read
    models: dict[str, str] = Field(default_factory=dict)  # its models, by selection
    data: dict[str, str] = Field(default_factory=dict)  # data digests, by <data set>/<preparation>
    settings: str = ""  # how the model was read
    results: dict[str, str] = Field(default_factory=dict)  # other results, by path below results/<suite>
    code: str = ""  # of the step


class JsonRecord(Fields):
    """A kind of JSON file."""

    SCHEMA: ClassVar[int] = 1  # the version that this recount writes
    OLDEST: ClassVar[int] = 1  # the oldest that it reads
    STEP: ClassVar[str]  # the command that writes it, for messages

    schema_version: int = 0
    checksum: str = ""  # SHA-256 of the file with nothing in this place

    @classmethod
    def parse(cls, content: str | bytes, where: str) -> Self:
        """Return the record in the content of a file that messages call ``where``; its checksum must fit."""
        content = content.encode() if isinstance(content, str) else content
        try:
            version = JsonRecord.model_validate_json(content).schema_version
            cls._readable(version, where)  # first: an older record may lack fields
            record = cls.model_validate_json(content)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"]))
            what = f"{place}: {first['msg']}" if place else first["msg"]
            raise ResultsError(where, f"damaged: {what}", made_anew(cls.STEP)) from None
        found = hashlib.sha256(_CHECKSUM.sub(b'"checksum": ""', content, count=1)).hexdigest()
        if found != record.checksum:
            what = f"its checksum is {record.checksum[:12] or 'absent'}, and its content has {found[:12]}"
            raise ResultsError(where, f"damaged: {what}", made_anew(cls.STEP))
        return record

    @classmethod
    def _readable(cls, version: int, where: str) -> None:
        if version > cls.SCHEMA:
            what = f"schema_version = {version}: a newer recount wrote it, and this one reads up to {cls.SCHEMA}"
            raise ResultsError(
                where, what, f"update recount, or {made_anew(cls.STEP)}" if cls.STEP else "update recount"
            )
        if version < cls.OLDEST:
            what = "an older recount wrote it, which did not note what it was made from"
            raise ResultsError(where, f"schema_version = {version}: {what}", made_anew(cls.STEP))

    @classmethod
    def read(cls, path: Path) -> Self:
        """Return the record in a file. FileNotFoundError: there is none; ResultsError: damaged, unreadable or newer."""
        try:
            return cls.parse(path.read_bytes(), str(path))
        except FileNotFoundError:
            raise
        except OSError as error:
            raise ResultsError(path, f"cannot be read: {error.strerror}") from None

    def write(self, path: Path) -> None:
        """Write the record atomically; NaN, which JSON does not have, becomes null."""
        self.schema_version, self.checksum = self.SCHEMA, ""
        text = with_checksum(self.model_dump_json(indent=1) + "\n")
        self.checksum = json.loads(text)["checksum"]
        write_text(path, text)


def with_checksum(record: str) -> str:
    """Return the text of a record with the checksum that it must have."""
    bare = _CHECKSUM.sub(b'"checksum": ""', record.encode(), count=1).decode()
    return bare.replace('"checksum": ""', f'"checksum": "{text_digest(bare)}"', 1)


class MadeTables(JsonRecord):
    """What lies beside tables that were made from other results (``scores.made.json``)."""

    STEP: ClassVar[str] = "recount score"

    made: Made


def now() -> str:
    """Return the time in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def note_tables(path: Path, tables: Iterable[str], made: Made) -> None:
    """Write the record at ``path`` of files beside or below it, which were just made from what ``made`` says."""
    content = {name: file_digest(path.parent / name) for name in tables}
    MadeTables(made=made.model_copy(update={"content": content})).write(path)


def write_arrays(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write named arrays as a compressed .npz, atomically."""
    import numpy as np

    content: dict[str, Any] = dict(arrays)
    write_atomically(path, lambda temporary: np.savez_compressed(temporary, allow_pickle=False, **content))


def read_arrays(path: Path, step: str) -> dict[str, NDArray[Any]]:
    """Return the arrays in an .npz that the command ``step`` writes; none where there is no such file."""
    import numpy as np

    if not is_there(path):
        return {}
    try:
        with np.load(path, allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files}
    except PermissionError as error:
        raise ResultsError(path, f"cannot be read: {error.strerror}") from None
    except (OSError, EOFError, ValueError, BadZipFile, zlib.error) as error:
        raise ResultsError(path, f"damaged: {error}", made_anew(step)) from None

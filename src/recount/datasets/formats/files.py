"""What the readers of fetched files share: cards, texts, CSV, JSON and its shapes; every error names file and entry."""

import csv
import io
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, TypeVar

import yaml
from pydantic import Field, TypeAdapter, ValidationError

from recount.data.dataset import DataError, Dataset, RemoteFile, one_line, reason
from recount.data.health import Defects
from recount.fetching.file_lists import read_file_list, remote_file

Content = TypeVar("Content")
Number = Annotated[float, Field(allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0)]
Point = Annotated[list[Number], Field(min_length=2, max_length=2)]
Box = Annotated[list[Number], Field(min_length=4, max_length=4)]
_SHOWN, _LONGEST = 20, 500  # wrong values of one file; characters of a line


class Described(Dataset):
    """A data set whose title, licence, files, totals and the like stand in ``recount/datasets/cards/<name>.yaml``."""

    listed: ClassVar[bool] = False  # whether files stand in ``recount/datasets/files/<name>.tsv``, too
    optional: ClassVar[Sequence[str]] = ()  # paths of that list that it can do without
    remote_files: ClassVar[Sequence[Mapping[str, Any]]] = ()  # the fields of ``RemoteFile``; without urls: by hand only

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if hasattr(cls, "name"):
            card = Path(__file__).parents[1] / "cards" / f"{cls.name}.yaml"
            for key, value in yaml.safe_load(card.read_text(encoding="utf-8")).items():
                setattr(cls, key, value)

    def files(self) -> list[RemoteFile]:
        """Return the files of the list and of the card."""
        listed = read_file_list(self.name, optional=self.optional) if self.listed else []
        return listed + [remote_file(file) for file in self.remote_files]


def fetched(path: Path, dataset: str) -> Path:
    """Return ``path`` if it is there; else raise a ``DataError`` that says how to fetch ``dataset``."""
    if not path.exists():
        raise DataError(f"{path}: not found; `recount fetch {dataset}` gets it")
    return path


def read_text(path: Path, dataset: str) -> str:
    """Return the text of a file of ``dataset``; a ``DataError`` if it is missing or not UTF-8."""
    try:
        return fetched(path, dataset).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not a readable text ({error}); delete it and `recount fetch {dataset}`") from None


def text_lines(path: Path, dataset: str) -> Iterator[tuple[str, str]]:
    """Yield where each line stands that is not blank, and the line; errors as of ``read_text``.

    A line ends where "\\n" says so: strings may hold what Unicode calls line separators, too.
    """
    for number, line in enumerate(read_text(path, dataset).split("\n"), start=1):
        if line.strip(" \t"):
            yield f"{path}, line {number}", line.strip(" \t")


def csv_rows(path: Path, dataset: str, columns: Sequence[str]) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield where each row stands, and its cells by column; a ``DataError`` if ``columns`` are not all there."""
    reader = csv.DictReader(io.StringIO(read_text(path, dataset), newline=""), strict=True)
    try:
        for row in reader:
            where = f"{path}, line {reader.line_num}"
            if lacking := [name for name in columns if row.get(name) is None]:
                raise DataError(f"{where}: no {' and '.join(lacking)}; `recount fetch {dataset}` gets the file again")
            yield where, row
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.line_num}: not a readable CSV file: {error}") from None


def read_json(path: Path, dataset: str, shape: TypeAdapter[Content]) -> Content:
    """Return the content of a JSON file, which must have a shape; errors as of ``read_text`` and ``parsed``."""
    return parsed(read_text(path, dataset), str(path), shape)


def json_lines(
    path: Path, dataset: str, shape: TypeAdapter[Content], defects: Defects
) -> Iterator[tuple[str, Content]]:
    """Yield where a line stands and what it holds; errors as of ``read_text``, those of single lines in ``defects``."""
    for where, line in text_lines(path, dataset):
        with defects.collected(where):
            yield where, parsed(line, where, shape)


def parsed(text: str, where: str, shape: TypeAdapter[Content]) -> Content:
    """Return the content of JSON; a ``DataError`` names ``where`` it stands and every value of another shape."""
    try:
        content = json.loads(text, object_pairs_hook=_of_different_keys, parse_constant=_refused)
        return shape.validate_python(content, strict=True)
    except ValidationError as error:
        lines = [
            one_line(
                f"{where}: {_place(problem['loc'])}: {problem['msg']}, found {repr(problem['input'])[:60]}", _LONGEST
            )
            for problem in error.errors(include_url=False)
        ]
        more = [f"{where}: {len(lines) - _SHOWN:,} more like these"] if len(lines) > _SHOWN else []
        raise DataError("\n".join(lines[:_SHOWN] + more)) from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: not JSON: {reason(error)}; fetch it again") from None


def _of_different_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        twice = next(key for key, times in Counter(key for key, _ in pairs).items() if times > 1)
        raise ValueError(f"the key {twice!r} is there twice")
    return content


def _refused(constant: str) -> Any:
    raise ValueError(f"{constant} is no number")


def _place(location: Sequence[str | int]) -> str:
    return ".".join(f"entry {part}" if isinstance(part, int) else part for part in location) or "the whole"


def by_key(rows: Iterable[Any], key: str, where: object) -> dict[Any, Any]:
    """Return ``rows`` by their ``key``; a ``DataError`` names one that is there twice."""
    found: dict[Any, Any] = {}
    for row in rows:
        if found.setdefault(getattr(row, key), row) is not row:
            raise DataError(f"{where}: {type(row).__name__.strip('_')} with {key} {getattr(row, key)!r} is there twice")
    return found

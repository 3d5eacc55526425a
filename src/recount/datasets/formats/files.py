"""What the readers of fetched files share: cards, file lists, texts, JSON, JSON lines; every error names the file."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import yaml

from recount.data.dataset import DataError, Dataset, RemoteFile
from recount.fetching.file_lists import read_file_list, remote_file


class Described(Dataset):
    """A data set whose title, licence, files, totals and the like stand in ``recount/datasets/cards/<name>.yaml``."""

    listed: ClassVar[bool] = False  # whether files stand in ``recount/datasets/files/<name>.tsv``, too
    optional: ClassVar[Sequence[str]] = ()  # paths of that list that it can do without
    remote_files: ClassVar[Sequence[Mapping[str, Any]]] = ()  # the fields of ``RemoteFile``; without urls: by hand only

    def __init_subclass__(cls) -> None:
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
        return fetched(path, dataset).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not a readable text ({error}); delete it and `recount fetch {dataset}`") from None


def read_json(path: Path, dataset: str) -> Any:
    """Return the content of a JSON file; errors as of ``read_text``."""
    return parsed(read_text(path, dataset), str(path))


def json_lines(path: Path, dataset: str) -> Iterator[tuple[str, Any]]:
    """Yield where a line stands (for messages) and what it holds; errors as of ``read_text``."""
    for number, line in enumerate(read_text(path, dataset).splitlines(), start=1):
        if line.strip():
            where = f"{path}, line {number}"
            yield where, parsed(line, where)


def parsed(text: str, where: str) -> Any:
    """Return the content of JSON; a ``DataError`` names ``where`` it stands."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(f"{where}: not JSON: {error}; fetch it again") from None

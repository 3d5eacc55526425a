"""File lists that travel with the package: which files a data set has, with size, SHA-256 and addresses.

A list is ``recount/datasets/files/<name>.tsv``: comment lines (``#``: title, licence, homepage), a header, a file per
line. Addresses are separated by spaces and tried in order; ``shipped:<name>`` is a file that lies beside the lists, as
its licence lets it; a file without an address comes from the mirror or by hand.
"""

import csv
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from recount.data.dataset import RemoteFile

LISTS = Path(__file__).parents[1] / "datasets" / "files"
COLUMNS = ["path", "bytes", "sha256", "urls"]


def remote_file(stated: Mapping[str, Any]) -> RemoteFile:
    """Return the file that a YAML file describes."""
    fields: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in stated.items()
    }
    return RemoteFile(**fields)


def read_file_list(name: str, *, optional: Collection[str] = ()) -> list[RemoteFile]:
    """Return the files of the list called ``name``, in its order; the data set can do without ``optional`` paths."""
    source = LISTS / f"{name}.tsv"
    if not source.is_file():
        there = sorted(entry.stem for entry in LISTS.glob("*.tsv"))
        raise FileNotFoundError(f"no file list is called {name!r}; there are: {', '.join(there)}")
    lines = [line for line in source.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    rows = list(csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE))
    if not rows or rows[0] != COLUMNS:
        raise ValueError(f"{source}: the columns must be {' '.join(COLUMNS)}")
    wrong = [row for row in rows[1:] if len(row) != len(COLUMNS) or not row[1].isdigit()]
    if wrong:
        raise ValueError(f"{source}: not a line of {' '.join(COLUMNS)}: {wrong[0]}")
    unknown = sorted(set(optional) - {row[0] for row in rows[1:]})
    if unknown:
        raise ValueError(f"{source} has no file {', '.join(unknown)}")
    return [
        RemoteFile(path, tuple(urls.split()), sha256 or None, int(size), optional=path in optional)
        for path, size, sha256, urls in rows[1:]
    ]

"""Prepared data that a test wrote by hand: made complete with the digests that ``recount prepare`` writes."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from projects import csv_rows
from recount.data.index import COLUMNS
from recount.results.files import file_digest, write_rows
from recount.results.prepared import RAW, RAW_FILES, SUMMARY, RawFiles, Summary


def written(index: Path, rows: Iterable[Sequence[Any]]) -> Path:
    """Write an index.csv of rows (all columns but the digests) whose files lie beside it; ``complete`` it."""
    index.parent.mkdir(parents=True, exist_ok=True)
    write_rows(index, COLUMNS[:-3], ([str(value) for value in row] for row in rows))
    return complete(index)


def complete(index: Path) -> Path:
    """Add digests to an index.csv whose files lie beside it, and write summary.json and raw.csv; return ``index``."""
    rows = csv_rows(index)
    for row in rows:
        for kind in ("image", "points", "boxes"):
            path = index.parent / row[kind]
            row[f"{kind}_sha256"] = file_digest(path) if path.is_file() else ""
    write_rows(index, COLUMNS, ([row[name] for name in COLUMNS] for row in rows))
    return sealed(index)


def sealed(index: Path) -> Path:
    """Write summary.json and raw.csv for an index.csv as it is; return ``index``."""
    folder = index.parent
    RAW_FILES.write(folder / RAW, [])
    raw = RawFiles(folder="../../../raw", sha256=file_digest(folder / RAW))
    dataset, preparation = folder.parts[-2:]
    summary = Summary(dataset=dataset, preparation=preparation, data_digest=file_digest(index), raw=raw)
    summary.write(folder / SUMMARY)
    return index

"""Prepared data that a test wrote by hand: made complete with the digests that ``recount prepare`` writes."""

from __future__ import annotations

import csv
from pathlib import Path

from recount.data.index import COLUMNS
from recount.results.files import file_digest, write_rows
from recount.results.prepared import RAW, RAW_FILES, SUMMARY, RawFiles, Summary


def complete(index: Path) -> Path:
    """Add digests to an index.csv whose files lie beside it, and write summary.json and raw.csv; return ``index``."""
    folder = index.parent
    with index.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        for kind in ("image", "points", "boxes"):
            row[f"{kind}_sha256"] = file_digest(folder / row[kind]) if (folder / row[kind]).is_file() else ""
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

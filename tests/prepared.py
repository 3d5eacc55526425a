"""Prepared data that a test wrote by hand: made complete with the digests that ``recount prepare`` writes."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

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


def written_pictures(folder: Path, splits: Sequence[str], shift: int = 0) -> Path:
    """Write a picture with points for each of ``splits``, and their index; ``shift`` moves a point of the first."""
    for name in ("images", "points"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    rows = []
    for k, split in enumerate(splits):
        Image.fromarray(rng.integers(0, 256, (64, 64, 3), np.uint8)).save(folder / f"images/{k}.png")
        points = rng.uniform(0, 60, (k + 2, 2)).astype("<f4")
        points[0] += shift * (k == 0)
        np.save(folder / f"points/{k}.npy", points)
        rows.append([f"s{k}", split, f"images/{k}.png", "", k + 2, 64, 64, f"points/{k}.npy", "", ""])
    return written(folder / "index.csv", rows)

"""Reading ``index.csv``, the list of a prepared data set's samples.

Paths in it are relative to its folder and never lead out of it. A sample belongs to the split in its row and to the
lists that its attribute ``lists`` names (UCF-QNRF's train images are also in ``train_1081`` or ``held_out_120``); a
list is read like a split. A sample with the attribute ``hidden`` has NaN for a count: its truth is not public.
"""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from recount.data.arrays import load_npy
from recount.data.dataset import DataError
from recount.data.sample import Sample

COLUMNS = ("id", "split", "image", "prompt", "count", "width", "height", "points", "boxes", "attributes")
LISTS = "lists"
HIDDEN = "hidden"

csv.field_size_limit(sys.maxsize)


def read_index(path: Path, split: str | None = None) -> list[Sample]:
    """Return the samples of ``path`` in their order there, points and boxes loaded.

    Args:
        path: of an ``index.csv`` that ``prepare`` wrote.
        split: name of a split or of a list; None for all samples.

    Raises:
        DataError: the file is missing or not such an index, leads out of its folder, or has no sample of that split.
    """
    rows = _rows(path)
    chosen = []
    known: set[str] = set()
    for number, row in enumerate(rows, start=2):
        attributes = _attributes(row, path, number)
        memberships = {row["split"], *attributes.get(LISTS, ())}
        known |= memberships
        if split is None or split in memberships:
            chosen.append(_sample(row, attributes, split or row["split"], path, number))
    if split is not None and not chosen:
        raise DataError(f"{path}: no sample is in split {split!r}; there are: {', '.join(sorted(known)) or 'none'}")
    return chosen


def _rows(path: Path) -> list[dict[str, str]]:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            if tuple(reader.fieldnames or ()) != COLUMNS:
                raise DataError(f"{path}: the columns must be {', '.join(COLUMNS)}; found {reader.fieldnames}")
            return list(reader)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; `recount prepare DATASET PREPARATION` makes it") from None
    except (csv.Error, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not a readable CSV file: {error}; prepare the data set again") from None


def _attributes(row: dict[str, str], path: Path, number: int) -> dict[str, Any]:
    try:
        attributes = json.loads(row["attributes"] or "{}")
    except (json.JSONDecodeError, TypeError):
        attributes = None
    if not isinstance(attributes, dict):
        raise DataError(f"{path}, line {number}: attributes are not a JSON object; prepare the data set again")
    return attributes


def _sample(row: dict[str, str], attributes: dict[str, Any], split: str, path: Path, number: int) -> Sample:
    where = f"{path}, line {number} ({row['id']})"
    try:
        count, width, height = float(row["count"]), int(row["width"]), int(row["height"])
    except (TypeError, ValueError):
        raise DataError(f"{where}: count, width and height must be numbers; prepare the data set again") from None
    points = _array(row["points"], 2, path.parent, where)
    return Sample(
        id=row["id"],
        split=split,
        image=_inside(path.parent, row["image"], where) if row["image"] else None,
        points=np.zeros((0, 2), np.float32) if points is None else points,
        count=count,
        prompt=row["prompt"],
        width=width,
        height=height,
        boxes=_array(row["boxes"], 4, path.parent, where),
        attributes=attributes,
    )


def _array(relative: str, columns: int, folder: Path, where: str) -> np.ndarray | None:
    if not relative:
        return None
    file = _inside(folder, relative, where)
    array = load_npy(file)
    if array.ndim != 2 or array.shape[1] != columns:
        raise DataError(f"{where}: {file}: shape {array.shape}, expected (n, {columns}); prepare the data set again")
    return array.astype(np.float32, copy=False)


def _inside(folder: Path, relative: str, where: str) -> Path:
    parts = PurePosixPath(relative)
    if parts.is_absolute() or ".." in parts.parts or "\\" in relative:
        raise DataError(f"{where}: {relative!r} leads out of {folder}; paths must stay inside")
    return folder / parts

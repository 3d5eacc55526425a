"""Reading ``index.csv``, the list of a prepared data set's samples.

Paths in it are relative to its folder and never lead out of it. A sample belongs to the split in its row and to the
lists that its attribute ``lists`` names (UCF-QNRF's train images are also in ``train_1081`` or ``held_out_120``); a
list is read like a split. A sample with the attribute ``hidden`` has NaN for a count: its truth is not public. Each row
names the SHA-256 of its files: points and boxes are checked when the index is read, a picture when it is decoded.
"""

import csv
import io
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from recount.data.dataset import DataError
from recount.data.health import inside, load_npy
from recount.data.sample import LISTS, NO_POINTS, Sample
from recount.results.files import ResultsError, from_text
from recount.results.prepared import data_digest, prepare_again

COLUMNS = (
    *("id", "split", "image", "prompt", "count", "width", "height", "points", "boxes", "attributes"),
    *("image_sha256", "points_sha256", "boxes_sha256"),
)
_AGAIN = "prepare the data set again"

csv.field_size_limit(sys.maxsize)


def read_index(path: Path, split: str | None = None) -> list[Sample]:
    """Return the samples of a split or list (None: all) of an ``index.csv``, in its order, points and boxes loaded.

    A ``DataError`` if the file is missing, not such an index or not the one that was prepared (``data_digest``), if it
    leads out of its folder or lacks that split, or if points or boxes are not those that were prepared.
    """
    chosen = []
    known: set[str] = set()
    for number, row in enumerate(_rows(path), start=2):
        attributes = _attributes(row, path, number)
        memberships = {row["split"], *attributes.get(LISTS, ())}
        known |= memberships
        if split is None or split in memberships:
            where = f"{path}, line {number} ({row['id']})"
            chosen.append(_sample(row, attributes, split or row["split"], path.parent, where))
    if split is not None and not chosen:
        raise DataError(f"{path}: no sample is in split {split!r}; there are: {', '.join(sorted(known)) or 'none'}")
    return chosen


def read_truth(path: Path, split: str) -> dict[str, float]:
    """Return the true count of each sample of a split or list by its id, without its files; errors: ``read_index``."""
    truth = {}
    for number, row in enumerate(_rows(path), start=2):
        if split in {row["split"], *_attributes(row, path, number).get(LISTS, ())}:
            truth[row["id"]] = float(row["count"])
    return truth


def read_prompts(path: Path, split: str) -> set[str]:
    """Return what the samples of a split or list ask for; errors: ``read_index``."""
    rows = enumerate(_rows(path), start=2)
    return {row["prompt"] for n, row in rows if split in {row["split"], *_attributes(row, path, n).get(LISTS, ())}}


def named_files(path: Path) -> dict[Path, str]:
    """Return the digest of each picture, points and boxes file that an ``index.csv`` names; errors: ``read_index``."""
    kinds = ("image", "points", "boxes")
    rows = [(row, f"{path}, line {number} ({row['id']})") for number, row in enumerate(_rows(path), start=2)]
    return {
        inside(path.parent, row[kind], where): row[f"{kind}_sha256"]
        for row, where in rows
        for kind in kinds
        if row[kind]
    }


def _rows(path: Path) -> list[dict[str, str]]:
    if not path.is_file():
        raise DataError(f"{path}: no such file; {prepare_again(path.parent)}")
    try:
        data_digest(path)
        reader = csv.DictReader(io.StringIO(path.read_bytes().decode(), newline=""), strict=True)
        if tuple(reader.fieldnames or ()) != COLUMNS:
            raise DataError(f"{path}: the columns must be {', '.join(COLUMNS)}; found {reader.fieldnames}")
        return [{name: from_text(cell or "") for name, cell in row.items() if name} for row in reader]
    except ResultsError as error:
        raise DataError(str(error)) from None
    except (OSError, csv.Error, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not a readable CSV file: {error}; {_AGAIN}") from None


def _attributes(row: dict[str, str], path: Path, number: int) -> dict[str, Any]:
    try:
        attributes = json.loads(row["attributes"] or "{}")
    except (json.JSONDecodeError, TypeError):
        attributes = None
    if not isinstance(attributes, dict):
        raise DataError(f"{path}, line {number}: attributes are not a JSON object; {_AGAIN}")
    return attributes


def _sample(row: dict[str, str], attributes: dict[str, Any], split: str, folder: Path, where: str) -> Sample:
    try:
        count, width, height = float(row["count"]), int(row["width"]), int(row["height"])
    except (TypeError, ValueError):
        raise DataError(f"{where}: count, width and height must be numbers; {_AGAIN}") from None
    image = inside(folder, row["image"], where) if row["image"] else None
    points, boxes = (_array(row, key, columns, folder, where) for key, columns in (("points", 2), ("boxes", 4)))
    points = NO_POINTS if points is None else points
    row_id, prompt, sha256 = row["id"], row["prompt"], row["image_sha256"]
    return Sample(row_id, split, image, points, count, prompt, width, height, boxes, attributes, sha256)


def _array(row: dict[str, str], key: str, columns: int, folder: Path, where: str) -> np.ndarray | None:
    if not row[key]:
        return None
    file = inside(folder, row[key], where)
    array = load_npy(file, row[f"{key}_sha256"])
    if array.ndim != 2 or array.shape[1] != columns:
        raise DataError(f"{where}: {file}: shape {array.shape}, expected (n, {columns}); {_AGAIN}")
    return array.astype(np.float32, copy=False)

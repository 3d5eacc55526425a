"""FSC-147: 147 classes of everyday objects, classes disjoint between the splits.

Ranjan et al., "Learning To Count Everything", CVPR 2021 (cvlab-stonybrook/LearningToCountEverything@00ea188). 6,135
of the 6,146 listed pictures are in a split. Counts are numbers of points: 343,693 in all, where the literature says
343,818. Splits are `train`, `val`, `test`; `val_coco` and `test_coco` are lists of pictures of the latter two.

What can be fetched without asking are splits, classes, descriptions (FSC-147-D of niki-amini-naieni/CounTX@6e2af64)
and counts; then samples are annotation only, and have a count but no points. Put there by hand and used if present:

* `FSC147_384_V2.zip`: the pictures, 384 pixels high;
* `annotation_FSC147_384.json`: points and exemplar boxes;
* `gt_density_map_adaptive_384_VarV2/*.npy`: ready density maps. Attribute ``density_map`` names them, below
  ``resources/raw``, and ``density_map_sha256`` their bytes. Without them a system builds its own from the points and
  says by which kernel.
"""

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from recount.data.dataset import DataError
from recount.data.health import Defects
from recount.data.sample import LISTS, NO_POINTS, RawSample
from recount.datasets.formats.files import Described, read_json, read_text
from recount.results.files import file_digest

_PICTURES = "FSC147_384_V2.zip"
_PICTURE_FOLDERS = ("FSC147_384_V2/images_384_VarV2", "images_384_VarV2")
_POINTS = "annotation_FSC147_384.json"
_COUNTS = "fsc147_counts.csv"
_ALL_COUNTS = "dataset.csv"  # what the former is made from: columns file_name, prompt, truth, label
_SPLIT_LISTS = "data/Train_Test_Val_FSC_147.json"
_DENSITY_MAPS = "gt_density_map_adaptive_384_VarV2"


class Fsc147(Described):
    """6,135 pictures, 343,693 objects."""

    name = "fsc147"
    picture_folders = _PICTURE_FOLDERS
    splits = ("train", "val", "test", "val_coco", "test_coco")

    def read(self, raw: Path) -> Iterator[RawSample]:
        """Yield train, val and test, each in the order of its list."""
        lists = read_json(raw / _SPLIT_LISTS, self.name)
        classes = class_names(raw)
        descriptions = read_json(raw / "FSC-147-D.json", self.name)
        counts = listed_counts(raw)
        annotations = read_json(raw / _POINTS, self.name) if (raw / _POINTS).is_file() else None
        coco = {file: name for name in ("val_coco", "test_coco") for file in lists[name]}
        defects = Defects()
        for split in ("train", "val", "test"):
            for file in lists[split]:
                with defects.collected():
                    points, exemplars = _points(annotations, file) if annotations is not None else (NO_POINTS, {})
                    if annotations is not None and len(points) != counts[file]:
                        defects.add(f"{raw / _POINTS}: {file} has {len(points)} points, the count list {counts[file]}")
                    name, picture = Path(file).stem, picture_of(raw, file)
                    attributes: dict[str, Any] = {"description": descriptions[file]["text_description"]}
                    attributes |= ({LISTS: [coco[file]]} if file in coco else {}) | exemplars
                    if (density := raw / _DENSITY_MAPS / f"{name}.npy").is_file():
                        attributes["density_map"] = f"{raw.name}/{_DENSITY_MAPS}/{name}.npy"
                        attributes["density_map_sha256"] = file_digest(density)
                    yield RawSample(name, split, picture, points, counts[file], classes[file], attributes=attributes)
        defects.raise_if_any()


def picture_of(raw: Path, file: str) -> Path | None:
    """Return the path of an FSC-147 picture; None where the folder is not there, a ``DataError`` where it lacks it."""
    for folder in (raw / place for place in _PICTURE_FOLDERS):
        if folder.is_dir():
            if not (folder / file).is_file():
                raise DataError(f"{folder / file}: no such picture; unpack {_PICTURES} again")
            return folder / file
    return None


def class_names(raw: Path) -> dict[str, str]:
    """Return the annotated class of every FSC-147 picture, by file name."""
    path = raw / "data" / "ImageClasses_FSC147.txt"
    try:
        rows = [line.split("\t") for line in read_text(path, "fsc147").splitlines() if line]
        return {file: name for file, name in rows}  # noqa: C416 - unpacking checks that there are two columns
    except ValueError as error:
        raise DataError(f"{path}: not lines of file and class ({error}); `recount fetch fsc147` gets it") from None


def listed_counts(raw: Path) -> dict[str, int]:
    """Return the number of points of every FSC-147 picture, by file name."""
    path, file, count = raw / _COUNTS, "file", "count"
    if not path.is_file():
        path, file, count = raw / _ALL_COUNTS, "file_name", "truth"
    try:
        return {row[file]: int(row[count]) for row in csv.DictReader(read_text(path, "fsc147").splitlines())}
    except (KeyError, ValueError) as error:
        raise DataError(f"{path}: not a list of {file} and {count} ({error!r}); fetch fsc147 again") from None


def split_of_pictures(raw: Path) -> dict[str, str]:
    """Return the split (train, val, test) of every FSC-147 picture that is in one."""
    lists = read_json(raw / _SPLIT_LISTS, "fsc147")
    return {file: split for split in ("train", "val", "test") for file in lists[split]}


def _points(annotations: dict[str, Any], file: str) -> tuple[np.ndarray, dict[str, Any]]:
    """Return points [N, 2] and the exemplar boxes (x1 y1 x2 y2, from the first and third of four corners)."""
    try:
        entry = annotations[file]
        points = np.array(entry["points"], np.float32).reshape(-1, 2)
        corners = [[*box[0], *box[2]] for box in entry["box_examples_coordinates"]]
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise DataError(f"{_POINTS}: {file} has no readable entry ({error!r}); get the file again") from None
    return points, {"exemplars": corners}


DATASET = Fsc147()

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

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, Field, TypeAdapter

from recount.data.dataset import DataError
from recount.data.health import Defects, inside
from recount.data.sample import LISTS, NO_POINTS, RawSample
from recount.datasets.formats.files import Described, Point, csv_rows, read_json, text_lines
from recount.results.files import file_digest

_PICTURES = "FSC147_384_V2.zip"
_PICTURE_FOLDERS = ("FSC147_384_V2/images_384_VarV2", "images_384_VarV2")
_POINTS = "annotation_FSC147_384.json"
_COUNTS = "fsc147_counts.csv"
_ALL_COUNTS = "dataset.csv"  # what the former is made from: columns file_name, prompt, truth, label
_SPLIT_LISTS = "data/Train_Test_Val_FSC_147.json"
_CLASSES = "data/ImageClasses_FSC147.txt"
_DESCRIPTIONS = "FSC-147-D.json"
_DENSITY_MAPS = "gt_density_map_adaptive_384_VarV2"


class _Lists(BaseModel):
    train: list[str]
    val: list[str]
    test: list[str]
    val_coco: list[str]
    test_coco: list[str]


class _Description(BaseModel):
    text_description: str


class _Annotation(BaseModel):
    points: list[Point]
    box_examples_coordinates: list[Annotated[list[Point], Field(min_length=4, max_length=4)]]


_LISTS = TypeAdapter(_Lists)
_DESCRIBED = TypeAdapter(dict[str, _Description])
_ANNOTATED = TypeAdapter(dict[str, _Annotation])


class Fsc147(Described):
    """6,135 pictures, 343,693 objects."""

    name = "fsc147"
    picture_folders = _PICTURE_FOLDERS
    gives = frozenset({"points", "density", "boxes", "prompts"})
    splits = ("train", "val", "test", "val_coco", "test_coco")

    def read(self, raw: Path) -> Iterator[RawSample]:
        """Yield train, val and test, each in the order of its list."""
        defects = Defects()
        lists, classes, descriptions, counts, annotations = defects.gathered(
            lambda: split_lists(raw),
            lambda: class_names(raw),
            lambda: read_json(raw / _DESCRIPTIONS, self.name, _DESCRIBED),
            lambda: listed_counts(raw),
            lambda: read_json(raw / _POINTS, self.name, _ANNOTATED) if (raw / _POINTS).is_file() else None,
        )
        coco = {file: name for name in ("val_coco", "test_coco") for file in lists[name]}
        files = [file for split in ("train", "val", "test") for file in lists[split]]
        needed: dict[Path, Mapping[str, Any]] = {
            **{raw / _CLASSES: classes, raw / _DESCRIPTIONS: descriptions, _count_list(raw): counts},
            **({} if annotations is None else {raw / _POINTS: annotations}),
        }
        for path, content in needed.items():
            defects.expect(files, content, path)
        complete = set(files).intersection(*needed.values())
        for split in ("train", "val", "test"):
            for file in (file for file in lists[split] if file in complete):
                with defects.collected(f"{raw}: {file}"):
                    points, exemplars = _points(annotations, file) if annotations is not None else (NO_POINTS, {})
                    if annotations is not None and len(points) != counts[file]:
                        defects.add(f"{raw / _POINTS}: {file} has {len(points)} points, the count list {counts[file]}")
                    name, picture = Path(file).stem, picture_of(raw, file)
                    attributes: dict[str, Any] = {"description": descriptions[file].text_description}
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
            picture = inside(folder, file, "a list of FSC-147")
            if not picture.is_file():
                raise DataError(f"{picture}: no such picture; unpack {_PICTURES} again")
            return picture
    return None


def class_names(raw: Path) -> dict[str, str]:
    """Return the annotated class of every FSC-147 picture, by file name."""
    defects, found = Defects(), dict[str, str]()
    for where, line in text_lines(raw / _CLASSES, "fsc147"):
        file, *names = line.split("\t")
        if len(names) != 1 or found.setdefault(file, names[0]) != names[0]:
            defects.add(
                f"{where}: not a file and its class, or another class of {file}; `recount fetch fsc147` gets it"
            )
    defects.raise_if_any()
    return found


def listed_counts(raw: Path) -> dict[str, int]:
    """Return the number of points of every FSC-147 picture, by file name."""
    path = _count_list(raw)
    file, count = ("file", "count") if path.name == _COUNTS else ("file_name", "truth")
    defects, found = Defects(), dict[str, int]()
    for where, row in csv_rows(path, "fsc147", (file, count)):
        with defects.collected(where):
            if found.setdefault(row[file], int(row[count])) != int(row[count]):
                raise DataError(f"{where}: another {count} of {row[file]} than before")
    defects.raise_if_any()
    return found


def _count_list(raw: Path) -> Path:
    return raw / (_COUNTS if (raw / _COUNTS).is_file() else _ALL_COUNTS)


def split_lists(raw: Path) -> dict[str, list[str]]:
    """Return the lists of files: ``train``, ``val``, ``test``, ``val_coco``, ``test_coco``."""
    return read_json(raw / _SPLIT_LISTS, "fsc147", _LISTS).model_dump()


def split_of_pictures(raw: Path) -> dict[str, str]:
    """Return the split (train, val, test) of every FSC-147 picture that is in one."""
    lists = split_lists(raw)
    return {file: split for split in ("train", "val", "test") for file in lists[split]}


def _points(annotations: Mapping[str, _Annotation], file: str) -> tuple[np.ndarray, dict[str, Any]]:
    """Return points [N, 2] and the exemplar boxes (x1 y1 x2 y2, from the first and third of four corners)."""
    entry = annotations[file]
    corners = [[*box[0], *box[2]] for box in entry.box_examples_coordinates]
    return np.array(entry.points, np.float32).reshape(-1, 2), {"exemplars": corners}


DATASET = Fsc147()

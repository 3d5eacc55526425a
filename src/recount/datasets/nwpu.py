"""NWPU-Crowd: 5,109 photographs, among them some without people; the labels of the test split are hidden.

Wang et al., "NWPU-Crowd: A Large-Scale Benchmark for Crowd Counting and Localization", TPAMI 2020. Layout
``images_part1..5/0001.jpg``, ``mats/0001.mat`` (``annPoints``), ``train.txt``, ``val.txt``, ``test.txt`` (first field =
id). Test samples have the attribute ``hidden`` and NaN for a count: they can be predicted (lines "id count" for the
benchmark's server) and not be scored here.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from recount.data.dataset import DataError, Dataset, RemoteFile
from recount.data.defects import Defects
from recount.data.index import HIDDEN
from recount.data.sample import RawSample
from recount.data.size_rules import CSS_CCNN, DM_COUNT_NWPU, TRANSCROWD, by_name, clip_ebc
from recount.datasets.formats.mat import ann_points, find_folder, mat_points

_PARTS = 5
_IDS_PER_PART = 1000


class Nwpu(Dataset):
    """5,109 photographs, 0 to 20,033 heads each."""

    name = "nwpu"
    title = "NWPU-Crowd"
    homepage = "https://www.crowdbenchmark.com/nwpucrowd.html"
    licence = "Research use; the photographs come from the web"
    citation = "Wang et al., NWPU-Crowd: A Large-Scale Benchmark for Crowd Counting and Localization, TPAMI 2020"
    by_hand = (
        "Download images_part1.zip to images_part5.zip, mats.zip, train.txt, val.txt and test.txt by hand from "
        "https://www.crowdbenchmark.com/nwpucrowd.html and put them here under these names"
    )
    splits = ("train", "val", "test")
    preparations = by_name(clip_ebc(448, 3072), DM_COUNT_NWPU, CSS_CCNN, TRANSCROWD)
    totals = {  # noqa: RUF012 - declared ClassVar[Mapping] by the base class
        "train": {"images": 3109},
        "val": {"images": 500},
        "test": {"images": 1500},
    }

    def files(self) -> list[RemoteFile]:
        """Return archives and lists, all of which must be downloaded by hand."""
        archives = [*(f"images_part{part}" for part in range(1, _PARTS + 1)), "mats"]
        return [
            *(RemoteFile(f"{name}.zip", unpack=True) for name in archives),
            *(RemoteFile(f"{split}.txt") for split in self.splits),
        ]

    def read(self, raw: Path) -> Iterator[RawSample]:
        """Yield train, val and test in the order of the lists."""
        defects = Defects()
        how = f"{self.by_hand}. Licence: {self.licence}"
        for split in self.splits:
            with defects.collected():
                yield from self._read_split(raw, split, how, defects)
        defects.raise_if_any()

    def _read_split(self, raw: Path, split: str, how: str, defects: Defects) -> Iterator[RawSample]:
        for name in _ids(raw / f"{split}.txt", how):
            part = min(_PARTS, (int(name) - 1) // _IDS_PER_PART + 1)
            with defects.collected():
                picture = find_folder(raw, (f"images_part{part}",), how) / f"{name}.jpg"
                picture = picture if picture.exists() else picture.parent / picture.parent.name / picture.name
                if split == "test":
                    none = np.zeros((0, 2), np.float32)
                    yield RawSample(name, split, picture, none, math.nan, "people", attributes={HIDDEN: True})
                    continue
                folder = find_folder(raw, ("mats",), how)
                annotation = folder / f"{name}.mat"
                annotation = annotation if annotation.exists() else folder / "mats" / annotation.name
                points = mat_points(annotation, ann_points)
                yield RawSample(name, split, picture, points, len(points), prompt="people")


def _ids(file: Path, how: str) -> list[str]:
    if not file.is_file():
        raise DataError(f"{file}: no such file. {how}")
    names = [line.split()[0] for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    wrong = [name for name in names if not name.isdigit()]
    if wrong:
        raise DataError(f"{file}: each line must begin with an id such as 0001; found {wrong[0]!r}")
    return names


DATASET = Nwpu()

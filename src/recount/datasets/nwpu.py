"""NWPU-Crowd: 5,109 photographs, among them some without people; the labels of the test split are hidden.

Wang et al., "NWPU-Crowd: A Large-Scale Benchmark for Crowd Counting and Localization", TPAMI 2020. Layout
``images_part1..5/0001.jpg``, ``mats/0001.mat`` (``annPoints``), ``train.txt``, ``val.txt``, ``test.txt`` (first field =
id). Test samples have the attribute ``hidden`` and NaN for a count: they can be predicted (lines "id count" for the
benchmark's server) and not be scored here.
"""

import math
import re
from collections.abc import Iterator
from pathlib import Path

from recount.data.dataset import DataError
from recount.data.health import Defects
from recount.data.sample import HIDDEN, NO_POINTS, RawSample, people
from recount.data.size_rules import CSS_CCNN, DM_COUNT_NWPU, TRANSCROWD, by_name, clip_ebc
from recount.datasets.formats.files import Described, text_lines
from recount.datasets.formats.mat import find_folder, mat_points

_ID = re.compile(r"[0-9]{4}")


class Nwpu(Described):
    """5,109 photographs, 0 to 20,033 heads each."""

    name = "nwpu"
    splits = ("train", "val", "test")
    preparations = by_name(clip_ebc(448, 3072), DM_COUNT_NWPU, CSS_CCNN, TRANSCROWD)

    def read(self, raw: Path) -> Iterator[RawSample]:
        """Yield train, val and test in the order of the lists."""
        defects = Defects()
        for split in self.splits:
            with defects.collected():
                if not (raw / f"{split}.txt").is_file():
                    raise DataError(f"{raw / f'{split}.txt'}: no such file. {self.by_hand}. Licence: {self.licence}")
                for where, line in text_lines(raw / f"{split}.txt", self.name):
                    with defects.collected(where):
                        name = line.split()[0]
                        if not _ID.fullmatch(name):
                            raise DataError(f"{where}: must begin with an id such as 0001; found {name!r}")
                        yield self._sample(raw, name, split)
        defects.raise_if_any()

    def _sample(self, raw: Path, name: str, split: str) -> RawSample:
        part = min(5, (int(name) - 1) // 1000 + 1)  # five folders, of 1,000 ids except the last
        picture = _twice(find_folder(raw, (f"images_part{part}",), self), f"{name}.jpg")
        if split == "test":
            return RawSample(name, split, picture, NO_POINTS, math.nan, "people", attributes={HIDDEN: True})
        annotation = _twice(find_folder(raw, ("mats",), self), f"{name}.mat")
        return people(name, split, picture, mat_points(annotation, "annPoints"))


def _twice(folder: Path, name: str) -> Path:
    """Return where a file lies: some archives unpack into a folder of the folder's own name."""
    return folder / name if (folder / name).exists() else folder / folder.name / name


DATASET = Nwpu()

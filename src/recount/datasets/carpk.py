"""CARPK: car parks from a drone. Hsieh et al., "Drone-based Object Counting by Spatially Regularized Regional Proposal
Network", ICCV 2017.

Two sources of the same boxes: the original folder (by hand, with the pictures), whose lines are x1 y1 x2 y2 and a
class number; and zhiyuanyou/SAFECount@1471f45's JSON lines (no pictures), whose boxes are **y1 x1 y2 x2**. Without
the original folder every sample is annotation only. The count is the number of boxes; the literature's total of
89,777 is 3 more.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from pydantic import BaseModel, TypeAdapter

from recount.data.dataset import DataError, reason
from recount.data.health import Defects, inside
from recount.data.sample import RawSample, boxed
from recount.datasets.formats.files import Box, Described, json_lines, text_lines


class _Entry(BaseModel):
    filename: str
    boxes: list[Box]


_ENTRY = TypeAdapter(_Entry)


class Carpk(Described):
    """1,448 pictures of 1280x720 pixels with 89,774 cars."""

    name = "carpk"
    picture_folders = ("CARPK_devkit/data/Images",)
    gives = frozenset({"points", "boxes", "prompts"})
    splits = ("train", "test")

    def read(self, raw: Path) -> Iterator[RawSample]:
        """Yield the pictures of both splits, from the original folder where it is there."""
        original = raw / "CARPK_devkit" / "data"
        by_hand = original.is_dir()
        defects = Defects()
        for split in self.splits:
            with defects.collected():
                for name, boxes in _original(original, split, defects) if by_hand else _json_lines(raw, split, defects):
                    yield boxed(name, split, original / "Images" / f"{name}.png" if by_hand else None, boxes, "cars")
        defects.raise_if_any()


def _original(folder: Path, split: str, defects: Defects) -> Iterator[tuple[str, np.ndarray]]:
    for where, name in text_lines(folder / "ImageSets" / f"{split}.txt", "carpk"):
        with defects.collected(where):
            yield name, _boxes(inside(folder / "Annotations", f"{name}.txt", where))


def _boxes(path: Path) -> np.ndarray:
    """Return the boxes [N, 4] of lines ``x1 y1 x2 y2 class``."""
    boxes = []
    for where, line in text_lines(path, "carpk"):
        try:
            x1, y1, x2, y2 = (float(text) for text in line.split()[:4])
        except ValueError as error:
            raise DataError(f"{where}: not x1 y1 x2 y2 class ({reason(error)}); unpack the archive again") from None
        boxes.append([x1, y1, x2, y2])
    return np.array(boxes, np.float32).reshape(-1, 4)


def _json_lines(raw: Path, split: str, defects: Defects) -> Iterator[tuple[str, np.ndarray]]:
    for _, entry in json_lines(raw / "data" / "CARPK_devkit" / f"{split}.json", "carpk", _ENTRY, defects):
        boxes = np.array(entry.boxes, np.float32).reshape(-1, 4)
        yield Path(entry.filename).stem, boxes[:, [1, 0, 3, 2]]  # rows come first in this source


DATASET = Carpk()

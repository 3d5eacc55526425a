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

from recount.data.dataset import DataError
from recount.data.health import Defects
from recount.data.sample import RawSample, boxed
from recount.datasets.formats.files import Described, json_lines, read_text


class Carpk(Described):
    """1,448 pictures of 1280x720 pixels with 89,774 cars."""

    name = "carpk"
    picture_folders = ("CARPK_devkit/data/Images",)
    splits = ("train", "test")

    def read(self, raw: Path) -> Iterator[RawSample]:
        """Yield the pictures of both splits, from the original folder where it is there."""
        original = raw / "CARPK_devkit" / "data"
        by_hand = original.is_dir()
        defects = Defects()
        for split in self.splits:
            with defects.collected():
                for name, boxes in _original(original, split) if by_hand else _json_lines(raw, split):
                    yield boxed(name, split, original / "Images" / f"{name}.png" if by_hand else None, boxes, "cars")
        defects.raise_if_any()


def _original(folder: Path, split: str) -> Iterator[tuple[str, np.ndarray]]:
    for name in read_text(folder / "ImageSets" / f"{split}.txt", "carpk").split():
        path = folder / "Annotations" / f"{name}.txt"
        try:
            lines = [line.split() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
            yield name, np.array([[float(x) for x in line[:4]] for line in lines], np.float32).reshape(-1, 4)
        except (OSError, ValueError) as error:
            raise DataError(f"{path}: not lines of x1 y1 x2 y2 class ({error}); unpack the archive again") from None


def _json_lines(raw: Path, split: str) -> Iterator[tuple[str, np.ndarray]]:
    for where, entry in json_lines(raw / "data" / "CARPK_devkit" / f"{split}.json", "carpk"):
        try:
            boxes = np.array(entry["boxes"], np.float32).reshape(-1, 4)
            yield Path(entry["filename"]).stem, boxes[:, [1, 0, 3, 2]]  # rows come first in this source
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"{where}: not an entry of boxes ({error!r}); fetch it again") from None


DATASET = Carpk()

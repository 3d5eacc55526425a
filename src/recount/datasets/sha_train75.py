"""The first 75 photographs of ShanghaiTech part A's training split, with an own split into 50 and 25.

Zhang et al., "Single-Image Crowd Counting via Multi-Column Convolutional Neural Network", CVPR 2016; files from
MassimoClementi/CV-Crowd-Counting@f148dc8. Numbers on this set are not ShanghaiTech A numbers: its test photographs are
training photographs there.
"""

from collections.abc import Iterator
from pathlib import Path

from recount.data.health import Defects
from recount.data.sample import RawSample, people
from recount.data.size_rules import CSS_CCNN, TRANSCROWD, by_name, clip_ebc, longest_edge
from recount.datasets.formats.files import Described, fetched
from recount.datasets.formats.mat import SHANGHAITECH, annotated_pictures

_FIRST_TEST = 51
_FIRST_HELD_OUT = 41  # of the training photographs, for models that are selected on held-out ones


class ShaTrain75(Described):
    """75 web photographs of crowds with 38,123 heads, 88 to 2,348 each; 5 are grey."""

    name = "sha_train75"
    splits = ("train", "test", "train_40", "held_out_10")
    preparations = by_name(
        clip_ebc(448, 4096),
        CSS_CCNN,
        TRANSCROWD,
        longest_edge("longest_512", 512, 16, "longest edge 512, multiples of 16: a small size for the open suite"),
    )

    def read(self, raw: Path) -> Iterator[RawSample]:
        """Yield IMG_1 to IMG_75."""
        folder = fetched(raw / "MixedDataset" / "train_data", self.name)
        defects = Defects()
        pairs = annotated_pictures(folder / "images", folder / "ground_truth", SHANGHAITECH, defects)
        for number, picture, points in pairs:
            split = "train" if number < _FIRST_TEST else "test"
            lists = ["train_40" if number < _FIRST_HELD_OUT else "held_out_10"] if split == "train" else None
            yield people(picture.stem, split, picture, points, lists)
        defects.raise_if_any()


DATASET = ShaTrain75()

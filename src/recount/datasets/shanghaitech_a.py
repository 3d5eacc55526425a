"""ShanghaiTech part A: web photographs of crowds.

Zhang et al., "Single-Image Crowd Counting via Multi-Column Convolutional Neural Network", CVPR 2016. The test split
has 78,970 heads in one public edition of the annotations (FIDTM) and 78,862 in another (SAFECount), so no total of
points is enforced: summary.json says how many the copy in use has.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from recount.data.dataset import Dataset, RemoteFile
from recount.data.defects import Defects
from recount.data.sample import RawSample
from recount.data.size_rules import CSS_CCNN, TRANSCROWD, by_name, clip_ebc
from recount.datasets.formats.mat import find_folder, image_info_points, mat_points, matched_pairs


class ShanghaiTech(Dataset):
    """What parts A and B have in common."""

    part: str
    homepage = "https://github.com/desenzhou/ShanghaiTechDataset"
    licence = (
        "Repository: BSD 2-Clause. The photographs show people and their rights are not stated: local research use "
        "only, do not publish them"
    )
    citation = "Zhang et al., Single-Image Crowd Counting via Multi-Column Convolutional Neural Network, CVPR 2016"
    by_hand = (
        "Download ShanghaiTech.zip by hand from https://github.com/desenzhou/ShanghaiTechDataset or "
        "https://www.kaggle.com/datasets/tthien/shanghaitech and put it here under that name; it holds "
        "part_A/{train_data,test_data}/{images,ground-truth} and part_B alike"
    )
    splits = ("train", "test")
    preparations = by_name(clip_ebc(448, 4096), CSS_CCNN, TRANSCROWD)

    def files(self) -> list[RemoteFile]:
        """Return the archive, which must be downloaded by hand (both parts read the same one)."""
        return [RemoteFile("ShanghaiTech.zip", unpack=True)]

    def read(self, raw: Path) -> Iterator[RawSample]:
        """Yield train and test, each in the order of the numbers in the file names."""
        names = (f"part_{self.part}", f"part_{self.part}_final")
        part = find_folder(raw, names, f"{self.by_hand}. Licence: {self.licence}")
        defects = Defects()
        for split in self.splits:
            yield from self._read_split(part / f"{split}_data", split, defects)
        defects.raise_if_any()

    def _read_split(self, folder: Path, split: str, defects: Defects) -> Iterator[RawSample]:
        with defects.collected():
            annotations = find_folder(folder, ("ground-truth", "ground_truth"), self.by_hand)
            pictures = find_folder(folder, ("images",), self.by_hand)
            pairs = matched_pairs(pictures, annotations, r"IMG_(\d+)\.jpg", r"GT_IMG_(\d+)\.mat", defects)
            for _, picture, annotation in pairs:
                with defects.collected():
                    points = mat_points(annotation, image_info_points)
                    yield RawSample(f"{split}_{picture.stem}", split, picture, points, len(points), prompt="people")


class ShanghaiTechA(ShanghaiTech):
    """482 web photographs of dense crowds."""

    name = "shanghaitech_a"
    part = "A"
    title = "ShanghaiTech part A"
    totals = {"train": {"images": 300}, "test": {"images": 182}}  # noqa: RUF012 - declared ClassVar by the base class


DATASET = ShanghaiTechA()

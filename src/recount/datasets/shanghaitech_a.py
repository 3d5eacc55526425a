"""ShanghaiTech part A: web photographs of crowds.

Zhang et al., "Single-Image Crowd Counting via Multi-Column Convolutional Neural Network", CVPR 2016. The test split
has 78,970 heads in one public edition of the annotations (FIDTM) and 78,862 in another (SAFECount), so no total of
points is enforced: summary.json says how many the copy in use has.
"""

from collections.abc import Iterator
from pathlib import Path

from recount.data import size_rules as rules
from recount.data.health import Defects
from recount.data.sample import RawSample, people
from recount.datasets.formats.files import Described
from recount.datasets.formats.mat import SHANGHAITECH, annotated_pictures, find_folder


class ShanghaiTech(Described):
    """What parts A and B have in common."""

    part: str
    splits = ("train", "test")
    preparations = rules.by_name(
        *(rules.clip_ebc(448, 4096), rules.DM_COUNT_SHANGHAITECH, rules.CSS_CCNN, rules.TRANSCROWD),
        *(rules.C3_SHANGHAITECH, rules.CROWDCLIP_SHANGHAITECH),
    )

    def read(self, raw: Path) -> Iterator[RawSample]:
        """Yield train and test, each in the order of the numbers in the file names."""
        part = find_folder(raw, (f"part_{self.part}", f"part_{self.part}_final"), self)
        defects = Defects()
        for split in self.splits:
            with defects.collected():
                folder = part / f"{split}_data"
                annotations = find_folder(folder, ("ground-truth", "ground_truth"), self)
                pictures = find_folder(folder, ("images",), self)
                for _, picture, points in annotated_pictures(pictures, annotations, SHANGHAITECH, defects):
                    yield people(f"{split}_{picture.stem}", split, picture, points)
        defects.raise_if_any()


class ShanghaiTechA(ShanghaiTech):
    """482 web photographs of dense crowds."""

    name = "shanghaitech_a"
    part = "A"


DATASET = ShanghaiTechA()

"""UCF-QNRF: large web photographs of dense crowds.

Idrees et al., "Composition Loss for Counting, Density Map Estimation and Localization in Dense Crowds", ECCV 2018.
Layout ``{Train,Test}/img_0001.jpg`` with ``img_0001_ann.mat`` (``annPoints``, x and y). The lists of DM-Count@cc5f213
(the same bytes as Bayesian-Crowd-Counting@5f10bfc) divide Train into 1,081 and 120 images. The literature counts
1,251,642 points; summary.json says how many the copy in use has. Some JPEGs lack their end and are read leniently.
"""

from collections.abc import Iterator
from pathlib import Path

from recount.data import size_rules as rules
from recount.data.health import Defects
from recount.data.sample import RawSample, people
from recount.datasets.formats import mat
from recount.datasets.formats.files import Described, text_lines

_LIST_FILES = {"train_1081": "qnrf_train.txt", "held_out_120": "qnrf_val.txt"}


class UcfQnrf(Described):
    """1,535 photographs, 49 to 12,865 heads each."""

    name = "ucf_qnrf"
    splits = ("train", "test", "train_1081", "held_out_120")
    preparations = rules.by_name(
        *(rules.clip_ebc(448, 2048), rules.DM_COUNT_QNRF, rules.C3_QNRF),
        *(rules.CSS_CCNN, rules.CSS_CCNN_STAGE1_QNRF, rules.TRANSCROWD, rules.CROWDCLIP_QNRF),
    )

    def read(self, raw: Path) -> Iterator[RawSample]:
        """Yield train and test, each in the order of the numbers in the file names."""
        defects, lists = Defects(), dict[str, set[str]]()
        for name, file in _LIST_FILES.items():
            if (raw / file).exists():
                with defects.collected():
                    lists[name] = {line for _, line in text_lines(raw / file, self.name)}
        for split in ("train", "test"):
            with defects.collected():
                folder = mat.find_folder(raw, (split.capitalize(),), self)
                for name, pictures in lists.items() if split == "train" else ():
                    for file in sorted(pictures - {path.name for path in folder.iterdir()}):
                        defects.add(f"{folder / file}: the list {name} names it, but there is no such picture")
                for _, picture, points in mat.annotated_pictures(folder, folder, mat.UCF_QNRF, defects):
                    own = [name for name, pictures in lists.items() if split == "train" and picture.name in pictures]
                    yield people(f"{split}_{picture.stem}", split, picture, points, own)
        defects.raise_if_any()


DATASET = UcfQnrf()

"""BCCD: blood smears with boxes of red cells, white cells and platelets.

Shenggan/BCCD_Dataset@d272fb1. A row is a pair of picture and class, also where the class does not occur (count 0): "red
blood cells" (the majority in nearly every picture), "white blood cells" and "platelets". Two boxes have no area; their
cells are counted, and the boxes stay as they are. `*_majority` has the red cells, `*_minority` the two other classes,
`*_white_blood_cells` and `*_platelets` one each.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from defusedxml import ElementTree

from recount.data.dataset import DataError
from recount.data.health import Defects
from recount.data.sample import LISTS, RawSample, boxed
from recount.data.size_rules import by_name, longest_edge
from recount.datasets.formats.files import Described, fetched, read_text

_PROMPTS = {"RBC": "red blood cells", "WBC": "white blood cells", "Platelets": "platelets"}
_LISTS = {"RBC": ["majority"], "WBC": ["minority", "white_blood_cells"], "Platelets": ["minority", "platelets"]}
_SPLITS = ("train", "val", "test")


class Bccd(Described):
    """364 micrographs of 640x480 pixels, three rows each."""

    name = "bccd"
    splits = _SPLITS + tuple(
        f"{split}_{name}" for split in _SPLITS for name in ("majority", "minority", "white_blood_cells", "platelets")
    )
    preparations = by_name(
        longest_edge("longest_128", 128, 32, "128 x 96 pixels: cells are about as large as in the procedural scenes")
    )

    def read(self, raw: Path) -> Iterator[RawSample]:
        """Yield three rows per picture, in the order of the split files."""
        folder = fetched(raw / "BCCD", self.name)
        defects = Defects()
        for split in _SPLITS:
            for name in read_text(folder / "ImageSets" / "Main" / f"{split}.txt", self.name).split():
                with defects.collected():
                    boxes = _boxes(folder / "Annotations" / f"{name}.xml")
                    counts = {_PROMPTS[kind]: len(own) for kind, own in boxes.items()}
                    for kind, own in boxes.items():
                        attributes = {"counts": counts, LISTS: [f"{split}_{own_list}" for own_list in _LISTS[kind]]}
                        picture = folder / "JPEGImages" / f"{name}.jpg"
                        yield boxed(f"{name}_{kind}", split, picture, own, _PROMPTS[kind], attributes)
        defects.raise_if_any()


def _boxes(path: Path) -> dict[str, np.ndarray]:
    """Return the boxes [N, 4] (x1 y1 x2 y2) of each class in a Pascal VOC file."""
    found: dict[str, list[list[float]]] = {kind: [] for kind in _PROMPTS}
    try:
        for thing in ElementTree.parse(path).iter("object"):
            edges = [float(thing.findtext(f"bndbox/{name}", "")) for name in ("xmin", "ymin", "xmax", "ymax")]
            found[thing.findtext("name", "")].append(edges)
    except (OSError, ElementTree.ParseError, KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path}: not a readable BCCD annotation ({error!r}); fetch the data set again") from None
    return {kind: np.array(edges, np.float32).reshape(-1, 4) for kind, edges in found.items()}


DATASET = Bccd()

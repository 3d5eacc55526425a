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

from recount.data.dataset import DataError, reason
from recount.data.health import Defects, inside
from recount.data.sample import LISTS, RawSample, boxed
from recount.data.size_rules import by_name, longest_edge
from recount.datasets.formats.files import Described, fetched, text_lines

_PROMPTS = {"RBC": "red blood cells", "WBC": "white blood cells", "Platelets": "platelets"}
_LISTS = {"RBC": ["majority"], "WBC": ["minority", "white_blood_cells"], "Platelets": ["minority", "platelets"]}
_SPLITS = ("train", "val", "test")


class Bccd(Described):
    """364 micrographs of 640x480 pixels, three rows each."""

    name = "bccd"
    gives = frozenset({"points", "boxes", "prompts"})
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
            with defects.collected():
                for where, name in text_lines(folder / "ImageSets" / "Main" / f"{split}.txt", self.name):
                    with defects.collected(where):
                        boxes = _boxes(inside(folder / "Annotations", f"{name}.xml", where))
                        counts = {_PROMPTS[kind]: len(own) for kind, own in boxes.items()}
                        for kind, own in boxes.items():
                            attributes = {"counts": counts, LISTS: [f"{split}_{own_list}" for own_list in _LISTS[kind]]}
                            picture = folder / "JPEGImages" / f"{name}.jpg"
                            yield boxed(f"{name}_{kind}", split, picture, own, _PROMPTS[kind], attributes)
        defects.raise_if_any()


def _boxes(path: Path) -> dict[str, np.ndarray]:
    """Return the boxes [N, 4] (x1 y1 x2 y2) of each class in a Pascal VOC file."""
    found: dict[str, list[list[float]]] = {kind: [] for kind in _PROMPTS}
    where = str(path)
    try:
        for number, thing in enumerate(ElementTree.parse(path).iter("object"), start=1):
            where = f"{path}, object {number}"
            edges = [float(thing.findtext(f"bndbox/{name}", "")) for name in ("xmin", "ymin", "xmax", "ymax")]
            found[thing.findtext("name", "")].append(edges)
    except Exception as error:  # the parser, or an entry that is missing or of another type
        what = f"not a readable BCCD annotation ({type(error).__name__}: {reason(error)})"
        raise DataError(f"{where}: {what}; fetch the data set again") from None
    return {kind: np.array(edges, np.float32).reshape(-1, 4) for kind, edges in found.items()}


DATASET = Bccd()

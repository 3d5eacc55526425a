"""dice6: 250 photographs of six-sided dice, with a box and the upward face of each die.

nell-byler/dice_detection@aa69c12. A row is a pair of picture and face that occurs in it: prompts like "dice showing
four pips", counts of at least 1. The majority face of a picture is the most frequent one, if no other is as frequent;
each face that is less frequent than the most frequent is a minority. Benchmarks take either: `test_majority`,
`test_minority`; `test` has all rows.
"""

from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np

from recount.data.health import Defects
from recount.data.pictures import decoded
from recount.data.sample import LISTS, RawSample, boxed
from recount.data.size_rules import by_name, longest_edge
from recount.datasets.formats.files import Described, fetched
from recount.datasets.formats.tfrecord import Values, example, records
from recount.scenes import shapes as scenes


class Dice6(Described):
    """250 photographs, 1,795 dice."""

    name = "dice6"
    gives = frozenset({"points", "boxes", "prompts"})
    splits = ("train", "test", "train_majority", "train_minority", "test_majority", "test_minority")
    preparations = by_name(
        longest_edge("longest_192", 192, 32, "192 pixels: dice are about as large as in the procedural scenes")
    )

    def read(self, raw: Path) -> Iterator[RawSample]:
        """Yield the rows of the training and the test record."""
        defects = Defects()
        for split in ("train", "test"):
            with defects.collected():
                path = fetched(raw / "tfrecords" / f"{split}.record", self.name)
                for number, payload in enumerate(records(path)):
                    with defects.collected(where := f"{path}, record {number}"):
                        yield from _rows(example(payload), split, number, where)
        defects.raise_if_any()


def _rows(features: dict[str, Values], split: str, number: int, where: str) -> Iterator[RawSample]:
    picture = partial(decoded, features["image/encoded"][0], where)  # type: ignore[arg-type]
    size = np.array([features["image/width"][0], features["image/height"][0]] * 2, np.float32)
    edges = [np.asarray(features[f"image/object/bbox/{name}"], np.float32) for name in ("xmin", "ymin", "xmax", "ymax")]
    boxes = np.stack(edges, axis=1) * size
    faces = np.asarray(features["image/object/class/label"], int)
    counts = Counter(faces.tolist())
    most = max(counts.values())
    unique = list(counts.values()).count(most) == 1
    for face in sorted(counts):
        own = boxes[faces == face]
        groups = [f"{split}_minority"] if counts[face] < most else [f"{split}_majority"] * unique
        attributes = {
            "file": features["image/filename"][0].decode(),  # type: ignore[union-attr]
            "counts": {scenes.DICE[key - 1]: value for key, value in sorted(counts.items())},
            LISTS: groups,
        }
        yield boxed(f"{split}_{number:03d}_{face}", split, picture, own, scenes.DICE[face - 1], attributes)


DATASET = Dice6()

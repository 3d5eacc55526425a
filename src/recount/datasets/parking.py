"""Procedural car parks from above: the embedded stand-in of CARPK. Nothing is downloaded.

20 training and 40 test pictures of 144x96 pixels. As in CARPK the two splits are different lots: those of the test
split are fuller, so a constant learnt on the training split is poor.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from recount.data.dataset import Drawn
from recount.data.sample import RawSample
from recount.datasets import shapes
from recount.scenes import shapes as scenes
from recount.scenes.car_parks import parking_scene

_SEED = 20_149
_PICTURES = {"train": 20, "test": 40}
_FULLNESS = {"train": (0.1, 0.5), "test": (0.2, 0.95)}


class Parking(Drawn):
    """60 car parks; the prompt is "cars"."""

    name = "parking"
    title = "Car parks from above (procedural)"
    gives = frozenset({"points", "boxes", "prompts"})
    splits = tuple(_PICTURES)
    totals = {split: {"images": number} for split, number in _PICTURES.items()}  # noqa: RUF012

    def read(self, raw: Path) -> Iterator[RawSample]:
        """Yield the pictures of both splits."""
        for number, (split, pictures) in enumerate(_PICTURES.items()):
            for index in range(pictures):
                rng = np.random.default_rng([_SEED, number, index])
                scene = parking_scene(rng, shapes.WIDTHS[1], shapes.HEIGHT, rng.uniform(*_FULLNESS[split]))
                yield shapes.sample_of(f"{split}_{index:02d}", split, scene, scenes.CARS, {})


DATASET = Parking()

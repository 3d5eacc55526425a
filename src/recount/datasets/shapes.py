"""Procedural scenes of coloured shapes: the embedded stand-in of FSC-147. Nothing is downloaded.

240 training, 40 validation and 80 test pictures, 96 pixels high and 96 to 144 wide, with 2-4 classes each: one
majority (5 to 18 things), which the prompt names ("red stars"), and minorities of fewer than half of it. As in
FSC-147 the classes of the splits are disjoint, so test prompts are combinations of colour and shape that training
never showed. Also as there, "cars" is a training class: every 15th training picture is a car park.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from recount.data.dataset import Drawn
from recount.data.sample import RawSample
from recount.scenes import shapes as scenes
from recount.scenes.car_parks import parking_scene

HEIGHT = 96
WIDTHS = (96, 144)
MAJORITY = (5, 18)
MINORITY = (1, 6)
_SEED = 20_147
_PICTURES = {"train": 240, "val": 40, "test": 80}
_CAR_PARK_EVERY = 15


def sample_of(sample_id: str, split: str, scene: scenes.Scene, prompt: str, attributes: dict[str, Any]) -> RawSample:
    """Return the sample that counts ``prompt`` in ``scene``; its attributes name all classes and their counts."""
    points, attributes = scene.points(prompt), {"counts": scene.counts()} | attributes
    return RawSample(sample_id, split, scene.render, points, len(points), prompt, scene.boxes(prompt), attributes)


class Shapes(Drawn):
    """360 scenes; the prompt names the majority class."""

    name = "shapes"
    title = "Coloured shapes on clutter (procedural), prompts name the majority class"
    gives = frozenset({"points", "boxes", "prompts"})
    splits = tuple(_PICTURES)
    totals = {split: {"images": number} for split, number in _PICTURES.items()}  # noqa: RUF012

    def read(self, raw: Path) -> Iterator[RawSample]:
        """Yield the pictures of every split; they are painted when their function is called."""
        for number, (split, pictures) in enumerate(_PICTURES.items()):
            for index in range(pictures):
                rng = np.random.default_rng([_SEED, number, index])
                width = int(rng.integers(WIDTHS[0], WIDTHS[1] + 1))
                if split == "train" and index % _CAR_PARK_EVERY == 0:
                    scene, prompt = parking_scene(rng, width, HEIGHT, rng.uniform(0.15, 0.9)), scenes.CARS
                else:
                    counts = scenes.majority_and_minorities(rng, scenes.shape_classes(split), MAJORITY, MINORITY)
                    scene, prompt = scenes.shapes_scene(rng, counts, width, HEIGHT), next(iter(counts))
                yield sample_of(f"{split}_{index:03d}", split, scene, prompt, {})


DATASET = Shapes()

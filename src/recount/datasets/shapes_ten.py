"""Captioned scenes with two to ten coloured shapes: the embedded stand-in for CountCLIP's data and CountBench.

Training pairs come in the fixed order of CountCLIP's merged set, four captions without a number and then one that
counts, and the counting ones are as unbalanced as there (1353, 427, 182, 64, 35, 15, 11, 6, 8 for two to ten, at a
third). The test pairs are balanced. Nothing is downloaded. Its numbers say nothing about CountBench.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from recount.data.dataset import Drawn
from recount.data.sample import HIDDEN, NO_POINTS, RawSample
from recount.scenes.captions import NUMBER_WORDS, draw_shapes, sentence, vague_quantity

_SEED = 20_241
_TRAINING = {2: 451, 3: 142, 4: 61, 5: 21, 6: 12, 7: 5, 8: 4, 9: 2, 10: 3}
_PER_NUMBER = {"held_out": 10, "test": 20}
_NOT_COUNTING_PER_COUNTING = 4
_VAGUE = 0.5  # of the captions without a number word


class ShapesTen(Drawn):
    """3,505 training pairs, 701 of which count; 90 held-out and 180 test pairs, all of which count."""

    name = "shapes_ten"
    title = "Captioned scenes of two to ten coloured shapes"
    gives = frozenset({"prompts"})
    splits = ("train", *_PER_NUMBER)
    totals = {  # noqa: RUF012 - declared ClassVar[Mapping] by the base class
        "train": {"samples": 3505},
        "held_out": {"samples": 90, "count": 540},
        "test": {"samples": 180, "count": 1080},
    }

    def read(self, raw: Path) -> Iterator[RawSample]:
        """Yield training, held-out and test pairs; pictures are drawn when their function is called."""
        counting = [number for number, times in _TRAINING.items() for _ in range(times)]
        for group, number in enumerate(np.random.default_rng([_SEED, 0]).permutation(counting)):
            for place in range(_NOT_COUNTING_PER_COUNTING):
                yield _not_counting(f"train_{group:03d}_{place}", np.random.default_rng([_SEED, 1, group, place]))
            rng = np.random.default_rng([_SEED, 1, group, _NOT_COUNTING_PER_COUNTING])
            yield _counting(f"train_{group:03d}_{_NOT_COUNTING_PER_COUNTING}", "train", int(number), rng)
        for place, (split, times) in enumerate(_PER_NUMBER.items(), start=2):
            for number in _TRAINING:
                for index in range(times):
                    rng = np.random.default_rng([_SEED, place, number, index])
                    yield _counting(f"{split}_{number:02d}_{index:02d}", split, number, rng)


def _not_counting(name: str, rng: np.random.Generator) -> RawSample:
    """Return a pair whose caption names no number, so that its true count is not asked for."""
    shapes = draw_shapes(rng)
    quantity = vague_quantity(shapes.counts[shapes.main], rng) if rng.random() < _VAGUE else ""
    caption = sentence(shapes, quantity, rng)
    attributes = {HIDDEN: True, "counting": False}
    return RawSample(name, "train", shapes.scene.render, NO_POINTS, np.nan, caption, attributes=attributes)


def _counting(name: str, split: str, number: int, rng: np.random.Generator) -> RawSample:
    shapes = draw_shapes(rng, number=number)
    caption = sentence(shapes, NUMBER_WORDS[number - 1], rng)
    attributes = {"counting": True, "class": shapes.main, "caption": "templated"}
    points, boxes = shapes.scene.points(shapes.main), shapes.scene.boxes(shapes.main)
    return RawSample(name, split, shapes.scene.render, points, number, caption, boxes, attributes)


DATASET = ShapesTen()

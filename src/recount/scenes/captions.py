"""Captioned pictures of coloured shapes, two to ten of a kind: for the tiny CLIP's pretraining and for ``shapes_ten``.

A scene shows some objects of a main class and, in some scenes, one to three of a second class, on plain ground, of
about one size and without overlap, so that a million parameters that train for minutes can see how many there are.
Captions name the classes with no quantity, a vague one ("a few"), or a number word.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from recount.scenes import shapes as scenes

NUMBER_WORDS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
OPENINGS = ("", "a photo of", "a picture of", "a drawing of")
VAGUE: Mapping[str, tuple[int, int]] = {  # the numbers that a vague quantity is used for
    "a pair of": (2, 2),
    "a few": (2, 4),
    "some": (1, 10),
    "several": (4, 7),
    "many": (7, 10),
    "lots of": (8, 10),
}
VOCABULARY = (
    *scenes.COLOURS,
    *scenes.SHAPES,
    *("a", "and", "photo", "picture", "drawing", "of", "pair", "few", "some", "several", "many", "lots"),
    *NUMBER_WORDS,
)
CLASSES = tuple(f"{colour} {shape}" for colour in scenes.COLOURS for shape in scenes.SHAPES)

EDGE = 60  # pixels of a scene's side
MOST = 10
_CELLS = 4  # objects stand in different cells of a grid of so many rows and columns
_JITTER = 2.0  # pixels from the middle of a cell
_DIAMETERS = (11.0, 13.0)
_PAINT_SPREAD = 11.0
_SECOND_CLASS = 0.2  # share of the scenes that have one


@dataclass(frozen=True, slots=True)
class Shapes:
    """A scene and how many objects it shows of each class, the main one first."""

    scene: scenes.Scene
    counts: dict[str, int]

    @property
    def main(self) -> str:
        """Return the main class."""
        return next(iter(self.counts))


def draw_shapes(rng: np.random.Generator, main: str | None = None, number: int | None = None) -> Shapes:
    """Return a scene of ``number`` objects of class ``main`` (None: one to ten, evenly; any class)."""
    chosen = [CLASSES[int(index)] for index in rng.permutation(len(CLASSES))[:2]]
    main = main or chosen[0]
    counts = {main: number or int(rng.integers(1, MOST + 1))}
    if rng.random() < _SECOND_CLASS and chosen[1] != main:
        counts[chosen[1]] = int(rng.integers(1, 4))
    labels = [label for label, times in counts.items() for _ in range(times)]
    cells = rng.permutation(_CELLS**2)[: len(labels)]
    things = tuple(_thing(rng, label, int(cell)) for label, cell in zip(labels, cells, strict=True))
    ground = rng.uniform(90, 180) + rng.normal(0, 8, 3) + rng.normal(0, 3, (EDGE, EDGE, 1))
    return Shapes(scenes.Scene(EDGE, EDGE, ground.astype(np.float32), things), counts)


def _thing(rng: np.random.Generator, label: str, cell: int) -> scenes.Thing:
    side = EDGE / _CELLS
    x, y = (side * (place + 0.5) + rng.uniform(-_JITTER, _JITTER) for place in divmod(cell, _CELLS))
    paint = scenes.jittered(rng, scenes.COLOURS[label.split(maxsplit=1)[0]], _PAINT_SPREAD)
    return scenes.Thing(label, x, y, rng.uniform(*_DIAMETERS), rng.uniform(0, 2 * np.pi), paint)


def vague_quantity(number: int, rng: np.random.Generator) -> str:
    """Return a vague quantity that is used for ``number``."""
    fitting = [word for word, (least, most) in VAGUE.items() if least <= number <= most]
    return fitting[int(rng.integers(len(fitting)))]


def sentence(shapes: Shapes, quantity: str, rng: np.random.Generator) -> str:
    """Return a caption: an opening, the main class after ``quantity`` ("" for none), and often the second class."""
    main, *others = shapes.counts
    names = [f"{quantity} {main}".strip()]
    names += [name for name in others if rng.random() < 0.7]
    rng.shuffle(names)
    return " ".join([OPENINGS[int(rng.integers(len(OPENINGS)))], " and ".join(names)]).strip()

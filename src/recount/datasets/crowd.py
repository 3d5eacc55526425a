"""Drawn street and stadium crowds: the embedded set of suite mini. Nothing is downloaded.

48 training, 12 held-out and 36 test pictures with 5 to 800 heads, evenly spread over the logarithm of the count within
each split. Kind of place, size of the picture and light are drawn independently of the count. Edges are multiples of 32
between 224 and 448 pixels, as CLIP-EBC's preprocessing would make them. Its numbers say nothing about photographs.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np

from recount.data.dataset import Drawn
from recount.data.sample import RawSample
from recount.data.size_rules import by_name, forced
from recount.scenes.crowds import draw, plan

_SEED = 20_240
_PICTURES = {"train": 48, "held_out": 12, "test": 36}
_FEWEST, _MOST = 5, 800
_MULTIPLE = 32  # pixels, unit of both edges
_WIDTHS = (7, 14)
_HEIGHTS = (7, 11)


class Crowd(Drawn):
    """96 drawn crowds with exact head centres."""

    name = "crowd"
    title = "Drawn street and stadium crowds"
    splits = tuple(_PICTURES)
    preparations = by_name(forced("transcrowd", 384, 256, "TransCrowd's rule at a third of its size"))
    totals = {split: {"images": number} for split, number in _PICTURES.items()}  # noqa: RUF012

    def read(self, raw: Path) -> Iterator[RawSample]:
        """Yield the pictures of every split; they are drawn when their function is called."""
        for number, (split, pictures) in enumerate(_PICTURES.items()):
            rng = np.random.default_rng([_SEED, number])
            for index, count in enumerate(_counts(pictures, rng)):
                kind: Literal["street", "stadium"] = "stadium" if rng.random() < 0.35 else "street"
                width, height = (_MULTIPLE * int(rng.integers(low, high + 1)) for low, high in (_WIDTHS, _HEIGHTS))
                scene = plan(kind, count, (width, height), (_SEED, number, index))
                name, heads = f"{split}_{index:02d}", scene.heads[:, :2].astype(np.float32)
                yield RawSample(name, split, partial(draw, scene), heads, count, "people", attributes={"scene": kind})


def _counts(pictures: int, rng: np.random.Generator) -> list[int]:
    """Return counts spread evenly over the logarithm, in random order."""
    share = (np.arange(pictures) + rng.random(pictures)) / pictures
    counts = _FEWEST * (_MOST / _FEWEST) ** share
    return [int(count) for count in rng.permutation(np.round(counts))]


DATASET = Crowd()

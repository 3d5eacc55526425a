"""Procedural scenes whose prompt names a minority class: the embedded stand-in of FSC-147-S. Nothing is downloaded.

80 pictures as in `shapes`, of its test classes only, none of them a picture of `shapes`. A prompt-blind counter that
answers the majority is far off here; a constant is not, so its row stands beside every result.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from recount.data.dataset import Drawn
from recount.data.sample import RawSample
from recount.datasets import shapes
from recount.scenes import shapes as scenes

_SEED = 20_148
_PICTURES = 80
_MAJORITY = (11, 18)


class ShapesMinority(Drawn):
    """80 scenes; the prompt names one of the minority classes."""

    name = "shapes_minority"
    title = "Coloured shapes on clutter (procedural), prompts name a minority class"
    gives = frozenset({"points", "boxes", "prompts"})
    splits = ("test",)
    totals = {"test": {"images": _PICTURES}}  # noqa: RUF012

    def read(self, raw: Path) -> Iterator[RawSample]:
        """Yield the pictures; ``majority_class`` and ``majority_count`` say what the picture mostly shows."""
        for index in range(_PICTURES):
            rng = np.random.default_rng([_SEED, index])
            width = int(rng.integers(shapes.WIDTHS[0], shapes.WIDTHS[1] + 1))
            counts = scenes.majority_and_minorities(rng, scenes.shape_classes("test"), _MAJORITY, shapes.MINORITY)
            scene = scenes.shapes_scene(rng, counts, width, shapes.HEIGHT)
            majority, *minorities = counts
            prompt = minorities[int(rng.integers(len(minorities)))]
            blind = {"majority_class": majority, "majority_count": counts[majority]}
            yield shapes.sample_of(f"test_{index:03d}", "test", scene, prompt, blind)


DATASET = ShapesMinority()

"""A pool of small made-up pictures with points, as training code sees a data set."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recount.data.sample import Sample


class TinyPool:
    """Pictures of coloured noise with a bright dot at each point.

    Args:
        sizes: (height, width) of each picture.
        points: of each picture, [N, 2]; None: 7 at random places.
        prompts: one for each picture, in turns.
    """

    def __init__(
        self, sizes: Sequence[tuple[int, int]], points: Sequence[Any] | None = None, prompts: Sequence[str] = ("",)
    ) -> None:
        rng = np.random.default_rng(5)
        self.pictures, self.samples = [], []
        for number, (height, width) in enumerate(sizes):
            places = rng.uniform(0, (width - 1, height - 1), (7, 2)) if points is None else points[number]
            places = np.asarray(places, np.float32).reshape(-1, 2)
            picture = rng.integers(0, 200, (3, height, width)).astype(np.uint8)
            for x, y in places.clip(0, (width - 1, height - 1)).astype(int):
                picture[:, y, x] = 255
            self.pictures.append(torch.from_numpy(picture))
            prompt = prompts[number % len(prompts)]
            self.samples.append(Sample(f"picture{number}", "train", None, places, len(places), prompt, width, height))

    def image(self, index: int) -> Tensor:
        """Return a copy of picture ``index``."""
        return self.pictures[index].clone()

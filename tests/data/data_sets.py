"""A small data set made by a test, in memory and on disk."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from recount.data.dataset import Dataset
from recount.data.sample import RawSample
from recount.data.size_rules import DM_COUNT_QNRF, TRANSCROWD, by_name, clip_ebc


class Given(Dataset):
    """Yields the samples it was given."""

    name = "given"
    title = "A data set made by a test"
    licence = "none"
    splits = ("train", "test", "some")
    preparations = by_name(clip_ebc(64, 128), DM_COUNT_QNRF, TRANSCROWD)

    def __init__(self, samples: Iterable[RawSample]) -> None:
        self.samples = list(samples)

    def read(self, raw: Path) -> Iterable[RawSample]:
        """Yield the samples."""
        return self.samples


def photograph(path: Path, size: tuple[int, int] = (96, 64), mode: str = "RGB", seed: int = 0) -> Path:
    """Write a picture of smooth noise and return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).convert(mode).save(path)
    return path


def sample(path: Path | None, points: object = ((10.0, 20.0), (30.5, 40.25)), **more: object) -> RawSample:
    """Return a sample with the name of ``path`` for an id."""
    array = np.asarray(points, np.float32).reshape(-1, 2)
    values = {"id": path.stem if path else "none", "split": "train", "count": len(array), **more}
    return RawSample(image=path, points=array, **values)  # type: ignore[arg-type]

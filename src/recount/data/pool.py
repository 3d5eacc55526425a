"""The training samples in memory: each picture is decoded once, as far as the memory budget goes."""

import mmap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recount.data.dataset import DataError
from recount.data.pictures import load_image
from recount.data.sample import Sample

_CHANNELS = 3


class ImagePool:
    """The ``Pool`` of ``systems.base``: samples, and their pictures from a cache of uint8 pixels.

    The cache is anonymous shared memory (not /dev/shm, whose size containers limit): loader processes that are forked
    share it, so that a picture is decoded once, whoever asks first; spawned processes each fill their own. Its pages
    take memory only when they are filled. Pictures that do not fit are decoded each time.
    """

    samples: Sequence[Sample]

    def __init__(self, samples: Sequence[Sample], cache_mb: float) -> None:
        """Plan a cache of ``cache_mb`` MB (10**6 bytes) for the first pictures that fit; samples may share one."""
        self.samples = samples
        self.cache_mb = cache_mb
        self._offsets = _planned(samples, int(cache_mb * 1_000_000))
        size = sum(width * height * _CHANNELS for _, width, height in self._offsets.values())
        self.planned_mb = size / 1_000_000
        self._pixels = np.frombuffer(mmap.mmap(-1, max(size, 1)), dtype=np.uint8)
        self._filled = np.frombuffer(mmap.mmap(-1, max(len(self._offsets), 1)), dtype=np.uint8)
        self._places = {path: place for place, path in enumerate(self._offsets)}

    def __len__(self) -> int:
        return len(self.samples)

    def __reduce__(self) -> tuple[Any, ...]:
        return ImagePool, (self.samples, self.cache_mb)

    def image(self, index: int) -> Tensor:
        """Return the picture of sample ``index``, uint8 [3, H, W] RGB; the caller may change it."""
        sample = self.samples[index]
        if sample.image is None:
            raise DataError(f"{sample.id}: only its annotation is here, not its picture; it cannot be trained on")
        if sample.image not in self._offsets:
            return _decoded(sample, sample.image)
        start, width, height = self._offsets[sample.image]
        place = self._places[sample.image]
        cached = self._pixels[start : start + width * height * _CHANNELS].reshape(_CHANNELS, height, width)
        if not self._filled[place]:
            cached[:] = _decoded(sample, sample.image).numpy()
            self._filled[place] = 1  # after the pixels: another process that looks in between decodes for itself
        return torch.from_numpy(cached.copy())


def _planned(samples: Sequence[Sample], budget: int) -> dict[Path, tuple[int, int, int]]:
    """Return path -> (first byte, width, height) of the pictures that the cache holds."""
    offsets: dict[Path, tuple[int, int, int]] = {}
    start = 0
    for sample in samples:
        size = sample.width * sample.height * _CHANNELS
        if sample.image is not None and sample.image not in offsets and start + size <= budget:
            offsets[sample.image] = (start, sample.width, sample.height)
            start += size
    return offsets


def _decoded(sample: Sample, path: Path) -> Tensor:
    image = load_image(path, sample.image_sha256)
    if tuple(image.shape[1:]) != (sample.height, sample.width):
        raise DataError(
            f"{path}: {image.shape[2]} x {image.shape[1]} pixels, but the index says {sample.width} x {sample.height}; "
            "prepare the data set again"
        )
    return image

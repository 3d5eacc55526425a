"""T2ICount's training pictures: a picture with its density and which pixels are of the prompt's class.

Checked against datasets/dataset.py of cha15yq/T2ICount@289d3fb (golden cases ``transform_*``, ``mosaic*``).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from recount.augmentation.text_guided import Pictures
from recount.data.health import load_npy
from recount.data.needs import READY_MAP
from recount.data.pictures import resize_like_pillow
from recount.data.sample import Sample
from recount.errors import UserError
from recount.settings.base import Strict

ENLARGED = 0.5  # share of the samples that are enlarged


class SampleKinds(Strict):
    """The shares of the three kinds of training samples."""

    own: float = Field(0.5, ge=0, le=1)
    other_prompt: float = Field(0.25, ge=0, le=1)
    mosaic: float = Field(0.25, ge=0, le=1)


@dataclass(frozen=True, slots=True)
class Canvas:
    """A picture on its way to an example: image uint8 [3, H, W], density [H, W], own (1 or 0) [H, W]."""

    image: Tensor
    density: Tensor
    own: Tensor

    def cut(self, top: int, left: int, side: int) -> "Canvas":
        """Return the square of ``side`` pixels whose upper left corner is (top, left)."""
        rows, columns = slice(top, top + side), slice(left, left + side)
        return Canvas(self.image[:, rows, columns], self.density[rows, columns], self.own[rows, columns])

    def random_cut(self, side: int, rng: np.random.Generator) -> "Canvas":
        """Return a square of ``side`` pixels at a random place."""
        height, width = self.density.shape
        return self.cut(int(rng.integers(height - side + 1)), int(rng.integers(width - side + 1)), side)

    def enlarged(self, scale: float) -> "Canvas":
        """Return it enlarged: picture bicubic, density cubic over the nominal scale^2 (as coded), own nearest."""
        height, width = int(scale * self.density.shape[0]), int(scale * self.density.shape[1])
        resize = partial(F.interpolate, size=(height, width))
        return Canvas(
            resize_like_pillow(self.image, (height, width), "bicubic"),
            resize(self.density[None, None], mode="bicubic", align_corners=False)[0, 0] / scale**2,
            resize(self.own[None, None], mode="nearest")[0, 0],
        )


def mosaic(tiles: Sequence[Canvas]) -> Canvas:
    """Return four equally large tiles on one canvas: top left, top right, bottom left, bottom right."""
    layers = [[getattr(tile, name) for tile in tiles] for name in ("image", "density", "own")]
    return Canvas(*(torch.cat([torch.cat(each[:2], -1), torch.cat(each[2:], -1)], -2) for each in layers))


def training_maps(canvas: Canvas, stride: int, mirror: bool) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the image uint8 [3, H, W] and "density" (summed per cell) and "own" (every stride-th), [1, h, w]."""
    cells = canvas.density.unflatten(0, (-1, stride)).unflatten(-1, (-1, stride)).sum(dim=(1, 3))
    maps = {"density": cells.float()[None], "own": canvas.own[::stride, ::stride].float()[None]}
    image = canvas.image
    if mirror:
        image, maps = image.flip(-1), {name: value.flip(-1) for name, value in maps.items()}
    return image, maps


def density_from_points(points: np.ndarray, width: int, height: int, sigma: float | Literal["adaptive"]) -> Tensor:
    """Return a density map [H, W], float64, whose sum is the number of points inside the picture.

    "adaptive" is what the FSC-147 paper says of its ready maps, whose code is not public (Ranjan et al., CVPR 2021):
    the window is the mean distance of the points to their nearest neighbour, sigma a quarter of it, here at least 1
    pixel. A single point has a window of a quarter of the picture's shorter side. The kernel is cut at two sigma and
    reflected at the border.
    """
    from scipy.ndimage import gaussian_filter
    from scipy.spatial import cKDTree

    impulses = np.zeros((height, width))
    inside = points[(points[:, 0] >= 0) & (points[:, 0] < width) & (points[:, 1] >= 0) & (points[:, 1] < height)]
    if not len(inside):
        return torch.from_numpy(impulses)
    np.add.at(impulses, (inside[:, 1].astype(int), inside[:, 0].astype(int)), 1.0)
    if sigma == "adaptive":
        window = min(width, height) / 4
        if len(inside) > 1:
            window = float(cKDTree(inside).query(inside, k=2)[0][:, 1].mean())
        sigma = max(window / 4, 1.0)
    return torch.from_numpy(gaussian_filter(impulses, sigma, truncate=2.0))


def density_of(sample: Sample, width: int, height: int, sigma: float | Literal["adaptive"]) -> Tensor:
    """Return the ready density map of a sample where its data set has one, else one built from its points."""
    ready = sample.attributes.get(READY_MAP)
    if ready is None:
        return density_from_points(sample.points, width, height, sigma)
    assert sample.image is not None  # <resources>/data/<data set>/<preparation>/images/<file>
    path = sample.image.parents[4] / "raw" / ready
    density = load_npy(path, sample.attributes.get("density_map_sha256", ""), sample.image.parents[1])
    if density.shape != (height, width):
        raise UserError(f"{path}: the density map is {density.shape}, the picture of {sample.id} {(height, width)}")
    return torch.from_numpy(density.astype(np.float64))


@dataclass(slots=True)
class PromptedCrops:
    """Half own prompts, a quarter prompts of another training picture, a quarter mosaics; then enlarge, crop, mirror.

    Data sets that have several prompts per picture (FSC-147 has one) know the truth of a drawn prompt: it is used
    instead of an empty target.
    """

    crop: int  # side, pixels
    tile: int  # side of a mosaic's tiles, pixels
    largest_scale: float  # of enlarging
    sigma: float | Literal["adaptive"]  # of densities that are built from points, pixels
    stride: int  # pixels per cell of the maps
    kinds: SampleKinds
    rows: dict[tuple[Path | None, str], int] = field(default_factory=dict)  # of (picture, prompt), filled when needed

    def __call__(self, index: int, pool: Pictures, rng: np.random.Generator) -> tuple[Tensor, str, dict[str, Tensor]]:
        """Return a crop uint8 [3, crop, crop] of sample ``index``, its prompt, and its maps."""
        shares = (self.kinds.own, self.kinds.other_prompt, self.kinds.mosaic)
        kind = rng.choice(("own", "other_prompt", "mosaic"), p=shares)
        prompt = pool.samples[index].prompt
        if kind == "other_prompt":
            prompt = pool.samples[int(rng.integers(len(pool.samples)))].prompt
        canvas = self._mosaic(index, pool, rng) if kind == "mosaic" else self._canvas(index, prompt, pool)
        if rng.random() < ENLARGED:
            canvas = canvas.enlarged(1 + rng.random() * (self.largest_scale - 1))
        image, maps = training_maps(canvas.random_cut(self.crop, rng), self.stride, bool(rng.random() < 0.5))
        return image, prompt, maps

    def _mosaic(self, index: int, pool: Pictures, rng: np.random.Generator) -> Canvas:
        others = [row for row in range(len(pool.samples)) if row != index] or [index]
        rows = [index, *(int(row) for row in rng.choice(others, 3, replace=len(others) < 3))]
        prompt = pool.samples[index].prompt
        tiles = [self._canvas(row, prompt, pool).random_cut(self.tile, rng) for row in rows]
        return mosaic([tiles[int(place)] for place in rng.permutation(4)])

    def _canvas(self, index: int, prompt: str, pool: Pictures) -> Canvas:
        """Return picture ``index`` with the truth for ``prompt``: its own, that of another row, or none."""
        sample, image = pool.samples[index], pool.image(index)
        height, width = image.shape[-2:]
        if min(height, width) < self.crop:
            raise UserError(
                f"{sample.id}: the picture is {width}x{height} pixels, T2ICount cuts squares of {self.crop}: prepare "
                "the data set at a size whose shorter side is at least that"
            )
        if sample.prompt != prompt:
            if not self.rows:
                self.rows = {(each.image, each.prompt): row for row, each in enumerate(pool.samples)}
            row = self.rows.get((sample.image, prompt))
            if row is None:
                return Canvas(image, torch.zeros(height, width, dtype=torch.float64), torch.zeros(height, width))
            sample = pool.samples[row]
        return Canvas(image, density_of(sample, width, height, self.sigma), torch.ones(height, width))

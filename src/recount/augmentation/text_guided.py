"""Training crops as CounTR makes them: mosaics of four crops, or noise, colour, blur and affine, or a plain crop.

CLIP-Count, VLCounter and CounTX took the chain over with numbers of their own. Checked against
niki-amini-naieni/CounTX@6e2af64 and songrise/CLIP-Count@ba57fd0 (util/FSC147.py), Seunggu0305/VLCounter@6321e06
(tools/dataset/datasets.py); golden cases ``mosaic_self``, ``mosaic_cross``, ``plain_crop`` of ``countx.json``.

Lengths in pixels are those of a window of 384; for another window they are scaled with it.

Deviation: the affine transform is scipy's, with picture and dots in the same coordinates (imgaug's differ by half a
pixel).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import cos, radians, sin, tan
from typing import Any, Literal, Protocol

import numpy as np
import torch
from pydantic import Field
from scipy.ndimage import affine_transform, gaussian_filter
from torch import Tensor
from torch.nn import functional

from recount.augmentation.countr_protocol import dot_pixels, impulses, training_size
from recount.data.pictures import resize_like_pillow
from recount.data.sample import Sample
from recount.nn.precision import as_floats
from recount.settings.base import Strict

FULL_WINDOW = 384  # the window that lengths below are given for
BLEND = (10, 20)  # half width of a seam
SELF_SIDES = (150, 384)  # of the crops of one picture
CROSS_SIDES = (250, 384)  # of the crops of several pictures
OWN_PLACE_SURE = 0.75  # probability that the picture itself is certainly among the four
ROTATION = 15.0  # degrees
SHEAR = 10.0  # degrees
SCALE = (0.8, 1.2)
TRANSLATION = 0.2  # of each edge
NOISE = 0.1  # standard deviation
BLUR_KERNEL = (7, 9)
FILLS = ("constant", "nearest", "mirror", "reflect", "grid-wrap")  # scipy's names of what imgaug's "ALL" draws from


class CountrAugmentation(Strict):
    """How training crops are made. The defaults are CounTX's, which are CounTR's."""

    mosaic: float = Field(0.25, ge=0, le=1, description="probability of a mosaic")
    jitter: float = Field(0.15, ge=0, le=1, description="probability of noise, colour, blur, affine and flips")
    mosaic_kind: Literal["by_count", "self"] = Field(
        "by_count", description="by_count: of the picture itself from self_from dots on, else of several pictures"
    )
    self_from: int = Field(70, ge=0)
    mosaic_jitter: bool = Field(
        False, description="colour jitter in mosaics: none as released (CLIP-Count computes it and drops it)"
    )
    mosaic_antialias: bool = Field(
        False, description="of resizing the crops of a mosaic; off in the authors' torchvision, 0.11, for tensors"
    )
    colour: tuple[float, float, float, float] = Field(
        (0.25, 0.15, 0.15, 0.15), description="brightness, contrast, saturation, hue"
    )
    affine_fill: Literal["black", "drawn"] = Field("black", description="drawn: one of imgaug's five modes each time")
    horizontal_flip: float = Field(0.5, ge=0, le=1, description="only together with the jitter")
    vertical_flip: float = Field(0.0, ge=0, le=1, description="only together with the jitter")
    sigma: float = Field(1.0, gt=0, description="of the density, pixels; applied after the crop")


COUNTX = CountrAugmentation()
CLIP_COUNT = CountrAugmentation(
    mosaic=0.3,
    jitter=0.2,
    mosaic_kind="self",
    colour=(0.3, 0.15, 0.2, 0.2),
    affine_fill="drawn",
    vertical_flip=0.5,
)
VLCOUNTER = CountrAugmentation(mosaic=0.0, jitter=0.4, sigma=3.0)


class Pictures(Protocol):
    """The training samples and their pictures."""

    samples: Sequence[Sample]

    def image(self, index: int) -> Tensor:
        """Return the picture of sample ``index``, uint8 [3, H, W]."""


@dataclass(frozen=True, slots=True)
class Dotted:
    """A picture [3, H, W], uint8 or float32 in [0, 1], and the pixels (x, y) of its dots, int64 [N, 2]."""

    image: Tensor
    dots: np.ndarray

    @property
    def size(self) -> tuple[int, int]:
        """Return (height, width)."""
        return int(self.image.shape[1]), int(self.image.shape[2])

    def cut(self, top: int, left: int, side: int) -> "Dotted":
        """Return a square of the picture, with the dots in it."""
        moved = self.dots - (left, top)
        inside = ((moved >= 0) & (moved < side)).all(axis=1)
        return Dotted(self.image[:, top : top + side, left : left + side], moved[inside])

    def random_cut(self, side: int, rng: np.random.Generator) -> "Dotted":
        """Return a square at a random place."""
        height, width = self.size
        return self.cut(int(rng.integers(height - side + 1)), int(rng.integers(width - side + 1)), side)

    def flipped(self, axis: Literal[0, 1]) -> "Dotted":
        """Return it mirrored left-right (axis 1) or top-bottom (axis 0)."""
        dots = self.dots.copy()
        dots[:, 1 - axis] = self.size[axis] - 1 - dots[:, 1 - axis]
        return Dotted(self.image.flip(axis + 1), dots)


def dotted(image: Tensor, points: np.ndarray, window: int) -> Dotted:
    """Return a picture uint8 [3, H, W] with points [N, 2] at the size it is trained at, still of bytes."""
    old = (int(image.shape[1]), int(image.shape[2]))
    new = training_size(*old, window)
    return Dotted(resize_like_pillow(image, new, "bilinear"), dot_pixels(points, old, new))


def affine_matrix(size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Return a random affine matrix [3, 3] of pixel coordinates (x, y, 1) about the centre of a picture of ``size``."""
    height, width = size
    angle = radians(rng.uniform(-ROTATION, ROTATION))
    shear = radians(rng.uniform(-SHEAR, SHEAR))
    scale = rng.uniform(*SCALE)
    move = rng.uniform(-TRANSLATION, TRANSLATION, 2) * (width, height)
    turn = np.array([[cos(angle), -sin(angle)], [sin(angle), cos(angle)]])
    linear = scale * turn @ np.array([[1.0, tan(shear)], [0.0, 1.0]])
    centre = np.array([(width - 1) / 2, (height - 1) / 2])
    matrix = np.eye(3)
    matrix[:2, :2] = linear
    matrix[:2, 2] = centre + move - linear @ centre
    return matrix


def transformed(picture: Dotted, matrix: np.ndarray, fill: str) -> Dotted:
    """Return picture and dots under ``matrix`` [3, 3] of (x, y, 1); ``fill`` is scipy's mode for what comes in."""
    back = np.linalg.inv(matrix)[[1, 0, 2]][:, [1, 0, 2]]  # rows before columns, as arrays are indexed
    channels = [
        affine_transform(channel, back[:2, :2], offset=back[:2, 2], order=1, mode=fill)
        for channel in picture.image.numpy()
    ]
    moved = np.rint(picture.dots @ matrix[:2, :2].T + matrix[:2, 2]).astype(np.int64)
    height, width = picture.size
    inside = ((moved >= 0) & (moved < (width, height))).all(axis=1)
    return Dotted(torch.from_numpy(np.stack(channels)), moved[inside])


def resized_crop(crop: Dotted, side: int, *, antialias: bool) -> Dotted:
    """Return a square crop at another size, as floats; coordinates of dots are truncated."""
    old, image = crop.size[0], as_floats(crop.image)
    if old == side:
        return Dotted(image, crop.dots)
    image = functional.interpolate(image[None], (side, side), mode="bilinear", antialias=antialias)[0]
    return Dotted(image, np.minimum(np.trunc(crop.dots * (side / old)).astype(np.int64), side - 1))


def stitched(crops: Sequence[Dotted], blend: int) -> Dotted:
    """Return four crops on one canvas, blended over ``blend`` pixels on both sides of the seams.

    The crops come top left, bottom left, top right, bottom right; each has half the canvas plus twice ``blend`` pixels.
    """
    half = crops[0].size[0] - 2 * blend
    images = [as_floats(crop.image) for crop in crops]
    strips = [_joined(images[first], images[first + 1], blend, axis=1) for first in (0, 2)]
    image = _joined(strips[0], strips[1], blend, axis=2)
    inner = [Dotted(crop.image, crop.dots - blend).cut(0, 0, half).dots for crop in crops]
    dots = [own + corner for own, corner in zip(inner, ((0, 0), (0, half), (half, 0), (half, half)), strict=True)]
    return Dotted(image, np.concatenate(dots))


def _joined(first: Tensor, second: Tensor, blend: int, axis: Literal[1, 2]) -> Tensor:
    """Return the inner parts of two pictures side by side along ``axis``, with a soft seam."""
    length = first.shape[axis]
    half = length - 2 * blend
    joined = torch.cat([first.narrow(axis, blend, half), second.narrow(axis, blend, half)], dim=axis)
    for step in range(blend):
        foreign, own = (blend - step) / (2 * blend), (blend + step) / (2 * blend)
        seams = ((half + step, first, length - 1 - blend + step), (half - 1 - step, second, blend - step))
        for place, other, line in seams:
            joined.narrow(axis, place, 1).mul_(own).add_(foreign * other.narrow(axis, line, 1))
    return joined.clamp(0, 1)


@dataclass(frozen=True, slots=True)
class CountrCrops:
    """Makes one training crop of ``window`` pixels per sample: what the three systems' example makers call.

    Colour, blur and noise are drawn from torch's generator, everything else from the generator that is passed in.
    """

    window: int
    augmentation: CountrAugmentation

    def __call__(self, index: int, pool: Any, rng: np.random.Generator) -> tuple[Tensor, dict[str, Tensor], float]:
        """Return a crop [3, window, window], its "density" [1, window, window] per pixel, and its count.

        The crop is float32 in [0, 1], or uint8 where it is only cut.
        """
        own = self._of_pool(index, pool)
        branch = rng.random()
        if branch < self.augmentation.mosaic:
            crop = self._mosaic(index, own, pool, rng)
        else:
            if branch < self.augmentation.mosaic + self.augmentation.jitter:
                own = self._jittered(own, rng)
            crop = own.random_cut(self.window, rng)
        dots = impulses(crop.dots, self.window, self.window)
        # scipy's defaults: mass is reflected at the border, so none is lost
        target = torch.from_numpy(gaussian_filter(dots, self.augmentation.sigma))[None]
        return crop.image, {"density": target}, float(target.sum())

    def _of_pool(self, index: int, pool: Pictures) -> Dotted:
        return dotted(pool.image(index), pool.samples[index].points, self.window)

    def _coloured(self, image: Tensor) -> Tensor:
        from torchvision.transforms.v2 import ColorJitter

        return ColorJitter(*self.augmentation.colour)(image)

    def _jittered(self, picture: Dotted, rng: np.random.Generator) -> Dotted:
        from torchvision.transforms.v2 import GaussianBlur

        image = (as_floats(picture.image) + NOISE * torch.randn(picture.image.shape)).clamp(0, 1)
        image = GaussianBlur(BLUR_KERNEL)(self._coloured(image))
        matrix = affine_matrix(picture.size, rng)
        fill = "constant" if self.augmentation.affine_fill == "black" else FILLS[int(rng.integers(len(FILLS)))]
        moved = transformed(Dotted(image, picture.dots), matrix, fill)
        if rng.random() < self.augmentation.horizontal_flip:
            moved = moved.flipped(1)
        return moved.flipped(0) if rng.random() < self.augmentation.vertical_flip else moved

    def _mosaic(self, index: int, own: Dotted, pool: Pictures, rng: np.random.Generator) -> Dotted:
        narrow, wide = (self._scaled(pixels) for pixels in BLEND)
        blend = int(rng.integers(narrow, wide + 1))
        alone = self.augmentation.mosaic_kind == "self" or len(own.dots) >= self.augmentation.self_from
        pictures = [own] * 4 if alone else self._neighbours(index, own, pool, rng)
        low, high = (self._scaled(side) for side in (SELF_SIDES if alone else CROSS_SIDES))
        crops = []
        for picture in pictures:
            side = int(rng.integers(low, high + 1))
            edge, antialias = self.window // 2 + 2 * blend, self.augmentation.mosaic_antialias
            crop = resized_crop(picture.random_cut(side, rng), edge, antialias=antialias)
            crops.append(Dotted(self._coloured(crop.image), crop.dots) if self.augmentation.mosaic_jitter else crop)
        return stitched(crops, blend)

    def _scaled(self, pixels: int) -> int:
        return round(pixels * self.window / FULL_WINDOW)

    def _neighbours(self, index: int, own: Dotted, pool: Pictures, rng: np.random.Generator) -> list[Dotted]:
        """Return the picture and three others; dots count only in pictures of the same class."""
        place = int(rng.integers(4 if rng.random() < OWN_PLACE_SURE else 5))  # 4: not placed
        pictures = []
        for corner in range(4):
            other = int(rng.integers(len(pool.samples)))
            if corner == place:
                pictures.append(own)
                continue
            picture = self._of_pool(other, pool)
            same = pool.samples[other].prompt == pool.samples[index].prompt
            pictures.append(picture if same else Dotted(picture.image, picture.dots[:0]))
        return pictures

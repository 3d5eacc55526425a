"""Augmentation of crowd photographs: a random crop brought to one size, flip, colour jitter, blur, salt and pepper.

``random_block_crop`` is DM-Count's and FFNet's crop; the rest is CLIP-EBC's chain, which GigaCount took over with other
numbers. Checked against Yiming-M/CLIP-EBC@b52a594 and AdamHermes/GigaCount@d57191e (golden cases
``flip``, ``crop_*``, ``gaussian_blur_axes`` of ``crowd_eval.json``).

Deviation: a crop is cut from the 8-bit picture before it is turned into floats, so that several crops of one picture
cost one decoding; the values are the same.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from recount.nn.bins import block_counts
from recount.nn.precision import as_floats

BLUR_KERNEL = 5
BLUR_SIGMA = (0.1, 5.0)
JITTER = 0.1  # brightness, contrast and saturation
SALT_AND_PEPPER = 1e-3  # share of the values that turn to 1, and of those that turn to 0


@dataclass(frozen=True, slots=True)
class CrowdAugmentation:
    """How training crops are made. The defaults are GigaCount's released code; the last four are probabilities."""

    crops: int = 2  # per picture and epoch
    crop_scale: tuple[float, float] = (0.8, 1.0)  # edge of the crop over the input size; above 1 zooms out (CLIP-EBC)
    clamp: bool = True  # to [0, 1] after each bicubic resize (GigaCount; CLIP-EBC does not)
    hue: float = 0.2  # by a slip of the released code; CLIP-EBC has 0
    # vertical: sigma 0.1 along x, 5 along y, as the released code blurs; isotropic: ~ U(0.1, 5)
    blur_kind: Literal["vertical", "isotropic"] = "vertical"
    flip: float = 0.5
    jitter: float = 0.2
    blur: float = 0.2
    salt_and_pepper: float = 0.5

    def without_photometric(self) -> "CrowdAugmentation":
        """Return the arm "no augmentation": crop and flip stay, colour, blur and noise go."""
        return replace(self, jitter=0.0, blur=0.0, salt_and_pepper=0.0)


def resize(image: Tensor, points: Tensor, height: int, width: int, *, clamp: bool) -> tuple[Tensor, Tensor]:
    """Resize a picture [3, H, W] (bicubic, antialiased) and scale its points [N, 2] per axis."""
    old_height, old_width = image.shape[1:]
    if (height, width) == (old_height, old_width):
        return image, points
    resized = functional.interpolate(
        image[None], size=(height, width), mode="bicubic", align_corners=False, antialias=True
    )[0]
    factors = points.new_tensor([width / old_width, height / old_height])
    return resized.clamp(0, 1) if clamp else resized, points * factors


def enlarge_to(image: Tensor, points: Tensor, edge: int, *, clamp: bool) -> tuple[Tensor, Tensor]:
    """Return the picture upscaled so that a square of ``edge`` pixels fits (aspect kept, one pixel extra as coded)."""
    height, width = image.shape[1:]
    if height >= edge and width >= edge:
        return image, points
    ratio = max(edge / height, edge / width)
    return resize(as_floats(image), points, int(height * ratio) + 1, int(width * ratio) + 1, clamp=clamp)


def crop(image: Tensor, points: Tensor, top: int, left: int, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Return a rectangle of a picture, and the points in [0, width) x [0, height) of it."""
    moved = points - points.new_tensor([left, top])
    inside = (moved >= 0).all(dim=1) & (moved[:, 0] < width) & (moved[:, 1] < height)
    return image[:, top : top + height, left : left + width], moved[inside]


def random_block_crop(
    image: Tensor,
    points: Tensor,
    size: int,
    block: int,
    rng: np.random.Generator,
    *,
    flips: Callable[[float], bool],
    flip_rule: Literal["width", "width_minus_one"],
) -> tuple[Tensor, Tensor, Tensor]:
    """Return DM-Count's random square crop: picture, points in [0, size] (both ends), and the counts of its blocks.

    Where ``flips`` says so of a number drawn from [0, 1), all are mirrored, and x becomes the width (less one) minus x;
    the counts are made before, as mirrored points would round differently.
    """
    top, left = int(rng.integers(0, image.shape[1] - size + 1)), int(rng.integers(0, image.shape[2] - size + 1))
    piece = image[:, top : top + size, left : left + size]
    points = points - points.new_tensor([left, top])
    points = points[((points >= 0) & (points <= size)).all(dim=1)]
    blocks = block_counts(points, size, size, block, coincident="add", rounding="half_even")
    if not flips(rng.random()):
        return piece, points, blocks
    edge = size if flip_rule == "width" else size - 1
    return piece.flip(2), torch.stack([edge - points[:, 0], points[:, 1]], dim=1), blocks.flip(2)


def crop_and_resize(
    image: Tensor, points: Tensor, top: int, left: int, edge: int, size: int, *, clamp: bool
) -> tuple[Tensor, Tensor]:
    """Return a square crop brought to ``size``: float picture [3, size, size], points clamped to [0, size - 1]."""
    piece, inside = crop(image, points, top, left, edge, edge)
    piece, inside = resize(as_floats(piece), inside, size, size, clamp=clamp)
    return piece, inside.clamp(0, size - 1)


def flip(image: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
    """Mirror a picture horizontally; x becomes width - 1 - x, clamped to the picture."""
    width = image.shape[2]
    mirrored = torch.stack([width - 1 - points[:, 0], points[:, 1]], dim=1)
    return image.flip(2), mirrored.clamp(min=0)


def blur(image: Tensor, sigma_x: float, sigma_y: float) -> Tensor:
    """Blur a float picture with a 5 x 5 Gaussian of different width along x and y, pixels."""
    from torchvision.transforms.v2 import functional as transforms

    return transforms.gaussian_blur(image, [BLUR_KERNEL, BLUR_KERNEL], [sigma_x, sigma_y])


def salt_and_pepper(image: Tensor, noise: Tensor) -> Tensor:
    """Return the picture with 1 where ``noise`` (uniform in [0, 1), same shape) is tiny, 0 where it is nearly 1."""
    return image.masked_fill(noise < SALT_AND_PEPPER, 1.0).masked_fill(noise > 1 - SALT_AND_PEPPER, 0.0)


def _photometric(image: Tensor, augmentation: CrowdAugmentation, rng: np.random.Generator) -> Tensor:
    from torchvision.transforms.v2 import ColorJitter

    if rng.random() < augmentation.jitter:
        image = ColorJitter(JITTER, JITTER, JITTER, augmentation.hue)(image)
    if rng.random() < augmentation.blur:
        vertical = augmentation.blur_kind == "vertical"
        image = blur(image, *(BLUR_SIGMA if vertical else (float(rng.uniform(*BLUR_SIGMA)),) * 2))
    if rng.random() < augmentation.salt_and_pepper:
        image = salt_and_pepper(image, torch.rand(image.shape))
    return image


def augmented_crop(
    image: Tensor, points: Tensor, size: int, augmentation: CrowdAugmentation, rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Return a random training crop, float32 [3, size, size], of a picture (uint8 or float [3, H, W]), and its points.

    The order of the colour jitter and the noise are drawn from torch's generator, everything else from ``rng``.
    """
    edge = int(size * rng.uniform(*augmentation.crop_scale))
    image, points = enlarge_to(image, points, edge, clamp=augmentation.clamp)
    top = int(rng.integers(0, image.shape[1] - edge + 1))
    left = int(rng.integers(0, image.shape[2] - edge + 1))
    piece, inside = crop_and_resize(image, points, top, left, edge, size, clamp=augmentation.clamp)
    if rng.random() < augmentation.flip:
        piece, inside = flip(piece, inside)
    return _photometric(piece, augmentation, rng), inside

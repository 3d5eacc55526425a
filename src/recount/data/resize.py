"""Resizing a picture in memory the way OpenCV does, for systems that resize when they read a picture."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import interpolate


def resize_like_opencv(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Return an 8-bit picture at another size: bilinear, no antialiasing, rounded to 1/255.

    Args:
        image: float [3, H, W] in [0, 1].
        size: (height, width).
    """
    if tuple(image.shape[-2:]) == size:
        return image
    scaled = interpolate(image[None], size, mode="bilinear", align_corners=False)[0]  # (3, height, width)
    return (scaled * 255).round().clamp(0, 255) / 255

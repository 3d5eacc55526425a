"""Density maps of dots blurred by a Gaussian of fixed width."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def gaussian_kernel(size: int, sigma: float) -> Tensor:
    """Return a one-dimensional Gaussian of odd length, float32 [size], that sums to 1."""
    places = torch.arange(size, dtype=torch.float64) - size // 2
    weights = torch.exp(-places.square() / (2 * sigma**2))
    return (weights / weights.sum()).float()


def blurred(dots: Tensor, size: int, sigma: float) -> Tensor:
    """Return MCNN's density map: dots [1, H, W] blurred by a size x size Gaussian; what falls outside is lost."""
    kernel = gaussian_kernel(size, sigma).to(dots)
    margin = size // 2
    along_x = functional.conv2d(dots[None], kernel.view(1, 1, 1, -1), padding=(0, margin))
    return functional.conv2d(along_x, kernel.view(1, 1, -1, 1), padding=(margin, 0))[0]

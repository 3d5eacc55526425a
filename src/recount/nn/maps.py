"""Small functions of maps: Gaussian blur, cutting into equal rectangles, the random mask of a loss."""

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


def cut_grid(images: Tensor, rows: int, columns: int) -> Tensor:
    """Return the cells [B, rows * columns, C, h, w] of images [B, C, H, W], row by row; a rest is left out."""
    height, width = images.shape[2] // rows, images.shape[3] // columns
    grid = images[:, :, : rows * height, : columns * width]
    grid = grid.unflatten(3, (columns, width)).unflatten(2, (rows, height))  # (B, C, rows, h, columns, w)
    return grid.permute(0, 2, 4, 1, 3, 5).flatten(1, 2)


def kept_pixels(density: Tensor, share: float, seed: int) -> Tensor:
    """Return the mask [H, W] of CounTR's loss, of which ``share`` are ones, in the type of ``density`` [B, 1, H, W].

    CounTX and CLIP-Count took it over. It is one for the whole batch, as released: parts, which have its ``seed``, too.
    The processor draws it, so that cards have the same.
    """
    return (torch.rand(density.shape[-2:], generator=torch.Generator().manual_seed(seed)) < share).to(density)

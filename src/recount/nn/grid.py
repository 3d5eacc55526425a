"""Cutting pictures into equal rectangles."""

from __future__ import annotations

from torch import Tensor


def cut_grid(images: Tensor, rows: int, columns: int) -> Tensor:
    """Return the cells [B, rows * columns, C, h, w] of images [B, C, H, W], row by row; a rest is left out."""
    height, width = images.shape[2] // rows, images.shape[3] // columns
    grid = images[:, :, : rows * height, : columns * width]
    grid = grid.unflatten(3, (columns, width)).unflatten(2, (rows, height))  # (B, C, rows, h, columns, w)
    return grid.permute(0, 2, 4, 1, 3, 5).flatten(1, 2)

"""The random mask of CounTR's loss, which CounTX and CLIP-Count took over: the pixels whose error counts in a step."""

from __future__ import annotations

import torch
from torch import Tensor


def kept_pixels(density: Tensor, share: float, seed: int) -> Tensor:
    """Return a mask [H, W] of zeros and ones in the type of ``density`` [B, 1, H, W]; ``share`` of it are ones.

    It is one for the whole batch, as released: parts of a batch, which have its ``seed``, get the same.
    """
    generator = torch.Generator(density.device).manual_seed(seed)
    return (torch.rand(density.shape[-2:], device=density.device, generator=generator) < share).to(density)

"""Sliding windows: where they start, and how their maps are put together again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Windows:
    """How a system cuts an evaluation image into windows.

    Attributes:
        height, width: of a window, pixels.
        stride: pixels between window starts; the last window is shifted back to end at the border.
        stitch: how overlaps are put together: "average", "halving" (CounTX, VLCounter), "sigmoid" (CLIP-Count).
        batch: windows per forward pass, at most.
    """

    height: int
    width: int
    stride: int
    stitch: Literal["average", "halving", "sigmoid"] = "average"
    batch: int = 16

"""How CLIP-Count, VLCounter and CounTX look at a picture and its dots: the geometry and density of CounTR's protocol.

Checked against songrise/CLIP-Count@ba57fd0 (util/FSC147.py), Seunggu0305/VLCounter@6321e06 (tools/dataset/datasets.py)
and niki-amini-naieni/CounTX@6e2af64 (util/FSC147.py); golden cases ``evaluation_map`` and ``plain_crop``.

A picture as high as the window keeps its height, and its width goes down to a multiple of 16. FSC-147 is prepared like
that, so for its pictures nothing else ever happens. Any other picture is brought to the window's height first
(evaluation) or its shorter edge to the window's (training). For evaluation VLCounter's and CounTX's scripts for CARPK
resize tensors, which their torchvision 0.11 does without antialiasing (inferred from the version).
"""

from typing import Literal

import numpy as np
from torch import Tensor
from torch.nn import functional

from recount.data.sample import Sample

DENSITY_SCALE = 60.0  # the networks are trained on 60 times the density
CELL = 16  # widths are multiples of it
CarpkWidth = Literal[682, 683]  # of CARPK's 1280 x 720 at height 384: scaled widths are cut off or rounded


def _multiple_of_cell(length: int) -> int:
    return CELL * (length // CELL)


def evaluation_size(height: int, width: int, window: int, carpk_width: CarpkWidth) -> tuple[int, int]:
    """Return (height, width) at which a picture is evaluated with windows of height ``window``."""
    if height == window:
        return window, _multiple_of_cell(width)
    scaled = window * width / height
    return window, max(int(scaled) if carpk_width == 682 else round(scaled), 1)


def training_size(height: int, width: int, window: int) -> tuple[int, int]:
    """Return (height, width) of a training picture: its shorter edge is the window's, its longer a multiple of 16."""
    if height <= width:
        return window, max(_multiple_of_cell(window * width // height), window)
    return max(_multiple_of_cell(window * height // width), window), window


def resized_without_antialias(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Return a float picture [3, H, W] at ``size`` (height, width), bilinear as torchvision 0.11 resized tensors."""
    return functional.interpolate(image[None], size, mode="bilinear", align_corners=False)[0]


def dot_pixels(points: np.ndarray, old: tuple[int, int], new: tuple[int, int]) -> np.ndarray:
    """Return the pixels (x, y) of dots in a picture resized from ``old`` to ``new`` (height, width), int64 [N, 2]."""
    factors = np.array([new[1] / old[1], new[0] / old[0]])
    pixels = np.trunc(np.asarray(points, np.float64).reshape(-1, 2) * factors).astype(np.int64)
    return pixels.clip(0, (new[1] - 1, new[0] - 1))


def impulses(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """Return a map float32 [H, W] that is 1 at each pixel (x, y) and else 0: dots of one pixel merge."""
    canvas = np.zeros((height, width), np.float32)
    canvas[pixels[:, 1], pixels[:, 0]] = 1
    return canvas


def is_car_park(sample: Sample) -> bool:
    """Return whether a sample is of CARPK or its stand-in, for which the three authors have scripts of their own."""
    return sample.prompt == "cars" and sample.boxes is not None  # FSC-147 also asks for cars, but has no boxes

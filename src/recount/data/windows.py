"""Sliding windows: where they start, and how their maps are put together again.

Five rules, each checked against outputs of the official code (tests/data/test_windows.py):

* ``average`` — GigaCount, CLIP-EBC (Yiming-M/CLIP-EBC@b52a594), TransCrowd: overlapping cells are averaged.
* ``average_pixels`` — T2ICount (cha15yq/T2ICount@289d3fb utils/tools.py): each map is enlarged bilinearly to pixels and
  divided by the pixels of a cell, then overlapping pixels are averaged. Windows need not start at a cell's edge. Even
  where they do, the sum differs a little from ``average``, because enlarging smears mass over the seams.
* ``average_corners`` — FFNet (erdongsanshi/FFNet@77a29ba test_image_patch.py): the same, enlarged with aligned corners,
  which does not keep a map's sum either.
* ``halving`` — CounTX (niki-amini-naieni/CounTX@6e2af64), VLCounter (Seunggu0305/VLCounter@6321e06): from left to
  right, columns that are already covered become (old + new) / 2. Three-fold overlap has the weights 1/4, 1/4 and 1/2.
* ``sigmoid`` — CLIP-Count (songrise/CLIP-Count@ba57fd0 util/misc.py): black columns are added on the right up to the
  next multiple of the stride (a whole stride where the width is one already), windows start every stride, and the
  overlap is blended by sigmoid(linspace(-3, 3)); the added columns are cut off afterwards.

Deviation: where a side is shorter than the window, the image is padded with black at the right and the bottom, and the
cells that lie wholly in the padding are cut off. The official codes fail there (negative starts).
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Stitch = Literal["average", "average_pixels", "average_corners", "halving", "sigmoid"]
Fit = Literal["shift", "resize", "zero_pad"]

SIGMOID_REACH = 3.0  # CLIP-Count blends by sigmoid(linspace(-3, 3, overlap))


@dataclass(frozen=True, slots=True)
class Windows:
    """How a system cuts an evaluation image into windows; a ``ValueError`` if that cannot work."""

    height: int  # of a window, pixels
    width: int
    stride: int | tuple[int, int]  # pixels between window starts, or (down, across); the last ends at the border
    stitch: Stitch = "average"  # how overlaps are put together; see the module's docstring
    batch: int = 16  # windows per forward pass, at most
    # What is done first with an image that windows do not cover exactly: nothing ("shift": the last window moves back),
    # or CLIP-EBC's options "resize" and "zero_pad" to the nearest (next) size of window + n strides
    fit: Fit = "shift"

    def __post_init__(self) -> None:
        down, across = self.strides
        if min(self.height, self.width, down, across, self.batch) < 1:
            raise ValueError(f"height, width, stride and batch of windows must be at least 1: {self}")
        if down > self.height or across > self.width:
            raise ValueError(f"the stride must not exceed the window, or pixels are left out: {self}")
        if self.stitch == "sigmoid" and self.width % across:
            raise ValueError(f"stitch 'sigmoid' needs a width that is a multiple of the stride: {self}")

    @property
    def strides(self) -> tuple[int, int]:
        """Return the strides (down, across)."""
        return (self.stride, self.stride) if isinstance(self.stride, int) else self.stride


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the windows of one image lie: its size, the padded canvas, the starts of rows and columns, in pixels."""

    height: int
    width: int
    canvas_height: int
    canvas_width: int
    rows: tuple[int, ...]
    columns: tuple[int, ...]

    @property
    def corners(self) -> list[tuple[int, int]]:
        """Return (top, left) of every window, row by row."""
        return [(top, left) for top in self.rows for left in self.columns]


def window_starts(length: int, window: int, stride: int) -> tuple[int, ...]:
    """Return the starts of the windows that cover ``length`` pixels; the last is shifted back to end at the border."""
    count = math.ceil(max(length - window, 0) / stride) + 1
    return tuple(max(min(index * stride, length - window), 0) for index in range(count))


def layout(height: int, width: int, windows: Windows) -> Layout:
    """Return where the windows of an image of ``height`` x ``width`` pixels lie."""
    down, across = windows.strides
    if windows.stitch in {"halving", "sigmoid"} and height > windows.height:
        raise ValueError(
            f"stitch {windows.stitch!r} works across only, but an image of {height} x {width} (height x width) is "
            f"higher than the window of {windows.height}; the system's prepare_image must bring images to that height"
        )
    added = across - width % across if windows.stitch == "sigmoid" else 0
    canvas_height, canvas_width = max(height, windows.height), max(width + added, windows.width)
    rows = window_starts(canvas_height, windows.height, down)
    columns = window_starts(canvas_width, windows.width, across)
    return Layout(height, width, canvas_height, canvas_width, rows, columns)


def fitted_size(height: int, width: int, windows: Windows) -> tuple[int, int]:
    """Return (height, width) after ``windows.fit`` (EBC datasets/transforms.py, Resize2Multiple, ZeroPad2Multiple)."""
    if windows.fit == "shift":
        return height, width
    whole = round if windows.fit == "resize" else math.ceil  # of the number of strides; round is half to even
    down, across = windows.strides
    return (
        windows.height + max(whole((height - windows.height) / down), 0) * down,
        windows.width + max(whole((width - windows.width) / across), 0) * across,
    )


def fit(image: Tensor, windows: Windows) -> Tensor:
    """Return ``image`` [3, H, W] resized (bicubic, antialiased) or zero-padded as ``windows.fit`` says."""
    height, width = image.shape[-2:]
    size = fitted_size(height, width, windows)
    if size == (height, width):
        return image
    if windows.fit == "resize":
        return F.interpolate(image[None], size, mode="bicubic", align_corners=False, antialias=True)[0]
    return F.pad(image, (0, size[1] - width, 0, size[0] - height))


def cut(image: Tensor, windows: Windows) -> Tensor:
    """Return the windows [n, 3, height, width] of ``image`` [3, H, W], row by row."""
    height, width = image.shape[-2:]
    place = layout(height, width, windows)
    image = F.pad(image, (0, place.canvas_width - place.width, 0, place.canvas_height - place.height))
    return torch.stack(
        [image[:, top : top + windows.height, left : left + windows.width] for top, left in place.corners]
    )


def stitch(maps: Tensor, height: int, width: int, windows: Windows) -> Tensor:
    """Put the density maps of the windows of an image of ``height`` x ``width`` pixels together.

    ``maps`` [n, 1, h, w] are objects per cell, in the order of ``cut``; a cell is window / h pixels high. Returns
    float32 [1, 1, ceil(height / cell), ceil(width / cell)]; with "average_pixels" or "average_corners" a cell is
    a pixel.
    """
    place = layout(height, width, windows)
    if len(maps) != len(place.corners):
        raise ValueError(f"{len(maps)} maps for {len(place.corners)} windows of an image of {height} x {width}")
    maps = maps.float()
    if windows.stitch in ("average_pixels", "average_corners"):
        down, across = windows.height / maps.shape[-2], windows.width / maps.shape[-1]
        return _averaged(_enlarged(maps, windows) / (down * across), place)[..., :height, :width]
    cells = _in_cells(place, maps, windows)
    canvas = _averaged(maps, cells) if windows.stitch == "average" else _blended(maps, cells, windows.stitch)
    return canvas[..., : cells.height, : cells.width]


def stitch_intensities(maps: Tensor, height: int, width: int, windows: Windows) -> Tensor:
    """Put maps of intensities (similarities, attention) together as ``stitch`` does, float32 [1, 1, height, width].

    Maps are enlarged to pixels and not divided by the pixels of a cell: nobody sums them.
    """
    canvas = _averaged(_enlarged(maps.float(), windows), layout(height, width, windows))
    return canvas[..., :height, :width]


def _enlarged(maps: Tensor, windows: Windows) -> Tensor:
    corners = windows.stitch == "average_corners"
    return F.interpolate(maps, (windows.height, windows.width), mode="bilinear", align_corners=corners)


def _in_cells(place: Layout, maps: Tensor, windows: Windows) -> Layout:
    """Return the layout with cells as its unit."""
    down, across = windows.height / maps.shape[-2], windows.width / maps.shape[-1]
    height, width = place.canvas_height, place.canvas_width
    for starts, cell, side in ((place.rows, down, f"height of {height}"), (place.columns, across, f"width of {width}")):
        if wrong := [start for start in starts if start % cell]:
            raise ValueError(
                f"the window that starts at pixel {wrong[0]} does not start at the edge of a cell of {cell:g} pixels: "
                f"the image's {side} is not a multiple of it; prepare the data set with a size rule that makes it one"
            )
    rows = tuple(int(start / down) for start in place.rows)
    columns = tuple(int(start / across) for start in place.columns)
    canvas = (math.ceil(height / down), math.ceil(width / across))
    return Layout(math.ceil(place.height / down), math.ceil(place.width / across), *canvas, rows, columns)


def _averaged(maps: Tensor, place: Layout) -> Tensor:
    canvas = maps.new_zeros(1, 1, place.canvas_height, place.canvas_width)
    covered = torch.zeros_like(canvas)
    height, width = maps.shape[-2:]
    for window, (top, left) in zip(maps, place.corners, strict=True):
        canvas[..., top : top + height, left : left + width] += window
        covered[..., top : top + height, left : left + width] += 1
    return canvas / covered


def _blended(maps: Tensor, place: Layout, rule: Stitch) -> Tensor:
    canvas = maps.new_zeros(1, 1, place.canvas_height, place.canvas_width)
    covered, width = 0, maps.shape[-1]
    for window, left in zip(maps, place.columns, strict=True):
        overlap = covered - left
        ramp = torch.linspace(-SIGMOID_REACH, SIGMOID_REACH, overlap, device=maps.device)  # (overlap,)
        new: Tensor | float = torch.sigmoid(ramp) if rule == "sigmoid" else 0.5
        canvas[..., left:covered] = (1 - new) * canvas[..., left:covered] + new * window[..., :overlap]
        canvas[..., covered : left + width] = window[..., overlap:]
        covered = left + width
    return canvas

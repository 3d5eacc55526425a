"""Rules that turn a published picture and its points into what a method trains on. Sizes are (width, height) in pixels.

Each rule is what a released preprocessing script does: new size, filter, points outside, points that coincide, how
the picture is saved. New sizes agree with the scripts for every case of the golden file ``crowd_eval.json``. Checked
against Yiming-M/CLIP-EBC@b52a594 (preprocess.py), cvlab-stonybrook/DM-Count@cc5f213 (preprocess/),
gjy3035/C-3-Framework@f8e21fa (datasets/QNRF), val-iisc/css-ccnn@0d5691b (crowd_dataset.py),
dk-liang/TransCrowd@e4fe7ec (data/), dk-liang/CrowdCLIP@4751f65 (configs/base_cfgs/data_cfg/datasets/qnrf).

Deviations: the scripts resize with OpenCV or MATLAB; here the same filters without and with antialiasing come from
torch and Pillow (grey values differ by rounding). A point left of or above the picture is outside for TransCrowd and
CrowdCLIP; their scripts index an array with the negative number and so move that head to the opposite border.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

Size = tuple[int, int]


@dataclass(frozen=True, slots=True)
class SizeRule:
    """How a picture and its points are prepared."""

    name: str  # of the folder of the prepared data set
    new_size: Callable[[int, int], Size]  # (width, height) -> (width, height)
    resample: Literal["bicubic", "bilinear"] = "bicubic"
    keep_outside: bool = True  # whether points outside the picture are kept or dropped
    source: str = ""  # where the rule comes from
    antialias: bool = False  # whether the filter widens when it shrinks (MATLAB, Pillow) or not (OpenCV)
    encoding: Literal["source", "png", "jpeg75", "jpeg95"] = "png"  # "source" keeps the published file's bytes
    closed: bool = True  # whether a point at x = width or y = height is inside
    merge_coincident: bool = False  # whether heads on one pixel of the prepared picture count as one (a 0/1 dot map)
    patches: int = 1  # along an edge: heads count in whole patches alone, not in what is left over at right and bottom
    point_offset: float = 0.0  # added to x and y first (-1: the method takes them for MATLAB indices)
    # (width, height) -> factors of x and y; None: new edge / old edge
    point_scale: Callable[[int, int], tuple[float, float]] | None = None

    def scale(self, size: Size) -> tuple[float, float]:
        """Return the factors by which x and y of a picture of ``size`` are multiplied."""
        if self.point_scale is not None:
            return self.point_scale(*size)
        new = self.new_size(*size)
        return new[0] / size[0], new[1] / size[1]


@dataclass(frozen=True, slots=True)
class PlacedPoints:
    """Points in the prepared picture, and what became of the others."""

    points: np.ndarray  # float32 [N, 2], x and y in pixels of the prepared picture
    outside: int  # how many lie outside the picture (they are in ``points`` only if the rule keeps them)
    coincident: int  # how many are at exactly the place of an earlier one
    merged: int  # how many the rule removed because an earlier one has their pixel


def place_points(rule: SizeRule, points: np.ndarray, size: Size | None) -> PlacedPoints:
    """Return ``points`` [N, 2] of a picture of ``size`` in the prepared picture, filtered as ``rule`` says.

    Without a picture (``size`` None) they stay as they are.
    """
    if size is None:
        points = points.astype(np.float32)
        return PlacedPoints(points, outside=0, coincident=len(points) - len(np.unique(points, axis=0)), merged=0)
    shifted = np.asarray(points, dtype=np.float64).reshape(-1, 2) + rule.point_offset
    below = shifted <= size if rule.closed else shifted < size
    inside = ((shifted >= 0) & below).all(axis=1)
    outside = int((~inside).sum())
    coincident = len(shifted) - len(np.unique(shifted, axis=0))
    kept = (shifted if rule.keep_outside else shifted[inside]) * rule.scale(size)
    merged = 0
    if rule.merge_coincident:
        _, first = np.unique(np.trunc(kept), axis=0, return_index=True)
        merged = len(kept) - len(first)
        kept = kept[np.sort(first)]
    if rule.patches > 1:
        whole = np.array(rule.new_size(*size)) // rule.patches * rule.patches
        in_patches = (kept < whole).all(axis=1)
        outside, kept = outside + int((~in_patches).sum()), kept[in_patches]
    return PlacedPoints(kept.astype(np.float32), outside, coincident, merged)


ORIGINAL_SIZE = SizeRule(
    "original", lambda width, height: (width, height), source="pictures as published", encoding="source"
)


def clip_ebc(minimum: int, maximum: int, base: int = 32) -> SizeRule:
    """Return the rule of CLIP-EBC (and GigaCount): edges in [minimum, maximum], multiples of ``base``.

    Where the aspect ratio makes that impossible the maximum is given up. Both edges are rounded even if the picture
    needs no scaling, so its aspect changes slightly. Points are kept wherever they are.
    """

    def new_size(width: int, height: int) -> Size:
        limit: float = maximum if max(width, height) * minimum <= min(width, height) * maximum else math.inf
        short, long = min(width, height), max(width, height)
        ratio = minimum / short if short < minimum else min(1.0, limit / long)
        wide, high = (round(edge * ratio / base) * base for edge in (width, height))
        return int(max(minimum, min(limit, wide))), int(max(minimum, min(limit, high)))

    source = f"CLIP-EBC preprocess.py, edges {minimum} to {maximum}, multiples of {base}"
    return SizeRule("clip_ebc", new_size, source=source, encoding="jpeg95")


def _dm_count_qnrf_ratio(width: int, height: int) -> float:
    short = min(width, height)
    return max(512, min(2048, short)) / short


def _dm_count_qnrf_size(width: int, height: int) -> Size:
    ratio = _dm_count_qnrf_ratio(width, height)
    return round(width * ratio), round(height * ratio)


DM_COUNT_QNRF = SizeRule(
    "dm_count",
    _dm_count_qnrf_size,
    # The script hands over the bicubic flag in the position of another argument, so OpenCV's default acts.
    resample="bilinear",
    keep_outside=False,
    source="DM-Count preprocess_dataset_qnrf.py: shorter edge in 512 to 2048, points outside dropped",
    encoding="jpeg75",
    point_scale=lambda width, height: (_dm_count_qnrf_ratio(width, height),) * 2,
)


def _dm_count_nwpu_size(width: int, height: int) -> Size:
    minimum, maximum, base = 384, 1920, 16
    ratio = maximum / max(width, height)
    if int(height * ratio / base) * base < minimum:
        ratio = minimum / height
    if int(width * ratio / base) * base < minimum:
        ratio = minimum / width
    wide, high = (min(max(int(edge * ratio / base) * base, minimum), maximum) for edge in (width, height))
    return wide, high


DM_COUNT_NWPU = SizeRule(
    "dm_count",
    _dm_count_nwpu_size,
    resample="bilinear",
    keep_outside=False,
    source="DM-Count preprocess_dataset_nwpu.py: longest edge 1920, both down to multiples of 16, at least 384",
    encoding="jpeg75",
)


DM_COUNT_SHANGHAITECH = replace(ORIGINAL_SIZE, name="dm_count", source="DM-Count reads ShanghaiTech as published")


def longest_edge(name: str, pixels: int, base: int, source: str) -> SizeRule:
    """Return the rule that brings the longest edge to ``pixels`` and rounds both (half up) to multiples of ``base``."""

    def new_size(width: int, height: int) -> Size:
        ratio = pixels / max(width, height)
        wide, high = (max(base, math.floor(edge * ratio / base + 0.5) * base) for edge in (width, height))
        return wide, high

    return SizeRule(name, new_size, antialias=True, source=source, encoding="jpeg75")


C3_QNRF = longest_edge("c3", 1024, 16, "C-3-Framework preapre_QNRF.m: longest edge 1024, multiples of 16")
C3_SHANGHAITECH = replace(ORIGINAL_SIZE, name="c3", source="crowdcount-mcnn reads ShanghaiTech as published")


def css_ccnn(name: str, maximum: int, multiple: int) -> SizeRule:
    """Return the rule of CSS-CCNN's reader: shorter edge at least 224, longer at most ``maximum``, rounded up.

    A very long picture falls below 224 again. Points are read as MATLAB indices (minus 1); those outside are dropped.
    """
    minimum = 224

    def scaled(size: Size, edge: int, reference: int) -> Size:
        return int(size[0] * edge / reference + 0.5), int(size[1] * edge / reference + 0.5)

    def new_size(width: int, height: int) -> Size:
        if min(width, height) < minimum:
            width, height = scaled((width, height), minimum, min(width, height))
        if max(width, height) > maximum:
            width, height = scaled((width, height), maximum, max(width, height))
        return -(-width // multiple) * multiple, -(-height // multiple) * multiple

    source = f"CSS-CCNN crowd_dataset.py: edges {minimum} to {maximum}, up to multiples of {multiple}"
    return SizeRule(name, new_size, "bilinear", False, source, closed=False, point_offset=-1.0)


CSS_CCNN = css_ccnn("css_ccnn", 1024, 8)
CSS_CCNN_STAGE1_QNRF = css_ccnn("css_ccnn_stage1", 768, 4)


def forced(name: str, long: int, short: int, source: str) -> SizeRule:
    """Return TransCrowd's rule: every picture ``long`` x ``short``, upright or lying; heads from a 0/1 dot map."""

    def new_size(width: int, height: int) -> Size:
        return (long, short) if width >= height else (short, long)

    return SizeRule(name, new_size, "bilinear", False, source, encoding="jpeg95", closed=False, merge_coincident=True)


def _crowdclip_ratio(width: int, height: int) -> float:
    # as coded: only where one edge is the longer one, so that a square stays however large it is
    longest = max(width, height)
    return 2048 / longest if width != height and longest >= 2048 else 1.0


def _crowdclip_size(width: int, height: int) -> Size:
    ratio = _crowdclip_ratio(width, height)
    return round(width * ratio), round(height * ratio)


CROWDCLIP_QNRF = SizeRule(
    "crowdclip",
    _crowdclip_size,
    resample="bilinear",
    keep_outside=False,
    source="CrowdCLIP preprocess_qnrf.py: longer edge at most 2048; truth: a 0/1 dot map, in 4 x 4 whole patches",
    encoding="jpeg95",
    closed=False,
    merge_coincident=True,
    patches=4,
    point_scale=lambda width, height: (_crowdclip_ratio(width, height),) * 2,
)


CROWDCLIP_SHANGHAITECH = replace(
    ORIGINAL_SIZE,
    name="crowdclip",
    source="CrowdCLIP preprocess_sha.py: as published; truth: a 0/1 dot map, in 3 x 3 whole patches",
    keep_outside=False,
    closed=False,
    merge_coincident=True,
    patches=3,
)


TRANSCROWD = forced("transcrowd", 1152, 768, "TransCrowd predataset_qnrf.py: forced to 1152 x 768, 0/1 dot map")


def by_name(*rules: SizeRule) -> dict[str, SizeRule]:
    """Return ``rules`` by name, with "original" first."""
    return {rule.name: rule for rule in (ORIGINAL_SIZE, *rules)}

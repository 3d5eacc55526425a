"""Counting as classification of blocks: bins and anchors, block counts, class prompts, and the losses over blocks.

Ma et al., "CLIP-EBC" (arXiv 2403.09281) and the GigaCount article, equations (2) to (4). Numbers checked against
Yiming-M/CLIP-EBC@b52a594 and AdamHermes/GigaCount@d57191e (golden cases ``bin_assignment``, ``prompts``, ``dot_maps``,
``hybrid_loss_*``, ``dace_*``). ``ebc_bins.json`` holds CLIP-EBC's published bins and anchors.

Deviation: the sentence of a finite range ("dynamic" and "coarse" bins) raises in the released code; here it is the one
that its authors meant.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional

Granularity = Literal["fine", "dynamic", "coarse"]
AnchorKind = Literal["average", "middle", "recomputed"]
PromptStyle = Literal["word", "number", "paper"]
Coincident = Literal["set", "add"]
Rounding = Literal["truncate", "half_even"]


@dataclass(frozen=True, slots=True)
class Bins:
    """Closed integer intervals of block counts, the last one open, and the count that each stands for.

    Attributes:
        intervals: (low, high) per bin; high is infinite in the last.
        anchors: the count that a bin contributes to the density, one per bin.
    """

    intervals: tuple[tuple[float, float], ...]
    anchors: tuple[float, ...]

    def __len__(self) -> int:
        return len(self.intervals)

    def with_last_anchor(self, value: float) -> Bins:
        """Return the same bins with another anchor for the open one."""
        return Bins(self.intervals, (*self.anchors[:-1], value))

    def classes(self, counts: Tensor) -> Tensor:
        """Return each block count's class, int64 of the same shape: GigaCount (2), CLIP-EBC's integer-valued bins.

        It is the last bin that contains the count, else 0.
        """
        result = torch.zeros_like(counts, dtype=torch.int64)
        for index, (low, high) in enumerate(self.intervals):
            result = torch.where((counts >= low) & (counts <= high), index, result)
        return result


@cache
def _published() -> list[dict[str, Any]]:
    return json.loads(resources.files("recount.nn").joinpath("ebc_bins.json").read_text(encoding="utf-8"))["entries"]


def published_bins(
    dataset: str, block: int, truncation: int, granularity: Granularity = "fine", anchors: AnchorKind = "average"
) -> Bins:
    """Return CLIP-EBC's bins for a data set.

    Args:
        dataset: "qnrf", "sha", "shb", "nwpu" or "jhu".
        block: edge of a block in pixels: 8, 16 or 32.
        truncation: counts from here on share the last bin.
        granularity: how the finite bins grow.
        anchors: "average" as published; "middle" of the interval; "recomputed" averages at the image size that the
            preprocessing really uses (the published averages where those are right already).

    Raises:
        ValueError: there is no such entry; the message lists those there are.
    """
    wanted = (dataset, block, truncation, granularity)
    for entry in _published():
        if (entry["dataset"], entry["block"], entry["truncation"], entry["granularity"]) == wanted:
            chosen = entry["anchors"].get(anchors, entry["anchors"]["average"])
            return Bins(tuple((float(low), float(high)) for low, high in entry["bins"]), tuple(map(float, chosen)))
    known = ", ".join(f"{e['dataset']}/{e['block']}/{e['truncation']}/{e['granularity']}" for e in _published())
    raise ValueError(
        f"no bins for {'/'.join(map(str, wanted))} (data set/block/truncation/granularity); there are {known}"
    )


# ------------------------------------------------------------------------------------------------------------ targets


def dot_map(
    points: Tensor, height: int, width: int, *, coincident: Coincident = "set", rounding: Rounding = "truncate"
) -> Tensor:
    """Return the map [1, height, width] that counts the points in each pixel, float32.

    Args:
        points: [N, 2], x and y in pixels; points outside move to the border.
        height, width: of the map.
        coincident: "set": points of one pixel count once (CLIP-EBC, GigaCount); "add": each counts (DM-Count).
        rounding: "truncate" (CLIP-EBC, GigaCount) or "half_even" (DM-Count).
    """
    whole = (points.round() if rounding == "half_even" else points.trunc()).long()
    pixels = whole[:, 1].clamp(0, height - 1) * width + whole[:, 0].clamp(0, width - 1)
    dots = torch.bincount(pixels, minlength=height * width).float()
    return (dots.clamp(max=1) if coincident == "set" else dots).view(1, height, width)


def block_counts(
    points: Tensor,
    height: int,
    width: int,
    block: int,
    *,
    coincident: Coincident = "set",
    rounding: Rounding = "truncate",
) -> Tensor:
    """Return the number of points in each block, float32 [1, height // block, width // block].

    Args: as ``dot_map``; ``block`` is the edge of a block and divides height and width.
    """
    dots = dot_map(points, height, width, coincident=coincident, rounding=rounding)
    return dots.view(1, height // block, block, width // block, block).sum(dim=(2, 4))


# ------------------------------------------------------------------------------------------------------------ prompts


def prompt(low: float, high: float, style: PromptStyle = "word") -> str:
    """Return the sentence for a bin.

    Args:
        low, high: the interval; high may be infinite.
        style: "word" ("There are two people."), "number" ("There are 2 people."), or "paper", the sentence of the
            GigaCount article ("There are 2 people in the image"; its reading for an open bin is ours).
    """
    if style == "paper":
        amount = f"more than {int(low)}" if high == math.inf else str(int(low))
        if low != high != math.inf:
            amount = f"between {int(low)} and {int(high)}"
        return f"There are {amount} people in the image"
    if high == 0:
        return f"There is {'no' if style == 'word' else 0} person."
    first = _number(low, style)
    if low == high:
        return f"There is {first} person." if low == 1 else f"There are {first} people."
    if high == math.inf:
        return f"There are more than {first} people."
    return f"There are between {first} and {_number(high, style)} people."


def _number(value: float, style: PromptStyle) -> str:
    if style == "number":
        return str(int(value))
    from num2words import num2words  # the released code's inflect says the same, and takes seconds to import

    return str(num2words(int(value)))


def prompts(bins: Bins, style: PromptStyle = "word") -> list[str]:
    """Return one sentence per bin."""
    return [prompt(low, high, style) for low, high in bins.intervals]


# ------------------------------------------------------------------------------------------------------------- losses


def expectation(logits: Tensor, anchors: Tensor) -> Tensor:
    """Return the density map [B, 1, h, w]: the expectation of anchors [K] under softmax of logits [B, K, h, w].

    CLIP-EBC's density map; GigaCount, section 3.2.
    """
    return (logits.softmax(dim=1) * anchors.view(1, -1, 1, 1)).sum(dim=1, keepdim=True)


def cross_entropy(logits: Tensor, classes: Tensor) -> Tensor:
    """Return the mean over images of the cross-entropy summed over blocks: GigaCount (3).

    Args:
        logits: [B, K, h, w].
        classes: int64 [B, h, w].
    """
    return functional.cross_entropy(logits, classes, reduction="sum") / len(logits)


def probability_loss(logits: Tensor, classes: Tensor) -> Tensor:
    """Return the mean over images of the squared distance of softmax to one-hot, over bins and blocks: GigaCount (4).

    Its 1/N is one over the batch size.

    Args:
        logits: [B, K, h, w].
        classes: int64 [B, h, w].
    """
    truth = functional.one_hot(classes, logits.shape[1]).movedim(-1, 1)  # (B, K, h, w)
    return (logits.softmax(dim=1) - truth).square().sum() / len(logits)


def block_error(density: Tensor, target: Tensor, power: Literal[1, 2]) -> Tensor:
    """Return the mean over images of the absolute (1) or squared (2) error, summed over the blocks [B, 1, h, w]."""
    return (density - target).abs().pow(power).sum() / len(density)

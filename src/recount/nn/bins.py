"""Counting as classification of blocks: bins and anchors, block counts, class prompts, and the losses over blocks.

Ma et al., "CLIP-EBC" (arXiv 2403.09281) and the GigaCount article, equations (2) to (4). Numbers checked against
Yiming-M/CLIP-EBC@b52a594 and AdamHermes/GigaCount@d57191e (golden cases ``bin_assignment``, ``prompts``, ``dot_maps``,
``hybrid_loss_*``, ``dace_*``). ``ebc_bins.json`` holds CLIP-EBC's published bins and anchors.

Deviation: the sentence of a finite range ("dynamic" and "coarse" bins) raises in the released code; here it is the one
that its authors meant.
"""

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
    """Closed integer intervals of block counts, the last one open, and the count that each stands for."""

    intervals: tuple[tuple[float, float], ...]  # (low, high); high is infinite in the last
    anchors: tuple[float, ...]  # what a block of the bin contributes to the density

    def __len__(self) -> int:
        return len(self.intervals)

    def with_last_anchor(self, value: float) -> "Bins":
        """Return the same bins with another anchor for the open one."""
        return Bins(self.intervals, (*self.anchors[:-1], value))

    def classes(self, counts: Tensor) -> Tensor:
        """Return each count's class, the last of the integer-valued bins that contains it, else 0: GigaCount (2)."""
        result = torch.zeros_like(counts, dtype=torch.int64)
        for index, (low, high) in enumerate(self.intervals):
            result = torch.where((counts >= low) & (counts <= high), index, result)
        return result


@cache
def _published() -> dict[str, dict[str, Any]]:
    text = resources.files("recount.nn").joinpath("ebc_bins.json").read_text(encoding="utf-8")
    names = ("dataset", "block", "truncation", "granularity")
    return {"/".join(str(entry[name]) for name in names): entry for entry in json.loads(text)["entries"]}


def published_bins(
    dataset: str, block: int, truncation: int, granularity: Granularity = "fine", anchors: AnchorKind = "average"
) -> Bins:
    """Return CLIP-EBC's bins for a data set, for blocks of 8, 16 or 32 pixels. Counts from ``truncation`` on share one.

    Anchors are "average" as published; the "middle" of the interval; or averages "recomputed" at the real image size.
    """
    wanted = f"{dataset}/{block}/{truncation}/{granularity}"
    entry = _published().get(wanted)
    if entry is None:
        raise ValueError(
            f"no bins for {wanted} (data set/block/truncation/granularity); there are {', '.join(_published())}"
        )
    chosen = entry["anchors"].get(anchors, entry["anchors"]["average"])
    return Bins(tuple((float(low), float(high)) for low, high in entry["bins"]), tuple(map(float, chosen)))


def dot_map(
    points: Tensor, height: int, width: int, *, coincident: Coincident = "set", rounding: Rounding = "truncate"
) -> Tensor:
    """Return the map [1, height, width] of how many points [N, 2] (x, y in pixels) are in each pixel, float32.

    Points outside move to the border; those of one pixel count once ("set") or each ("add").
    """
    whole = (points.round() if rounding == "half_even" else points.trunc()).long()
    pixels = whole[:, 1].clamp(0, height - 1) * width + whole[:, 0].clamp(0, width - 1)
    dots = torch.bincount(pixels, minlength=height * width).float()
    return (dots.clamp(max=1) if coincident == "set" else dots).view(1, height, width)


def block_counts(points: Tensor, height: int, width: int, block: int, **rules: Any) -> Tensor:
    """Return the number of points in each block, float32 [1, height // block, width // block]; rules of ``dot_map``."""
    dots = dot_map(points, height, width, **rules)
    return dots.view(1, height // block, block, width // block, block).sum(dim=(2, 4))


def prompt(low: float, high: float, style: PromptStyle = "word") -> str:
    """Return the sentence for a bin, whose end may be infinite; "paper" is the GigaCount article's style."""
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


def expectation(logits: Tensor, anchors: Tensor) -> Tensor:
    """Return the density map [B, 1, h, w]: the expectation of anchors [K] under softmax of logits [B, K, h, w]."""
    return (logits.softmax(dim=1) * anchors.view(1, -1, 1, 1)).sum(dim=1, keepdim=True)


def cross_entropy(logits: Tensor, classes: Tensor) -> Tensor:
    """Return cross-entropy, a sum over blocks and mean over images: GigaCount (3). Classes are int64 [B, h, w]."""
    return functional.cross_entropy(logits, classes, reduction="sum") / len(logits)


def probability_loss(logits: Tensor, classes: Tensor) -> Tensor:
    """Return the squared distance of softmax to one-hot, a sum over blocks and mean over images: GigaCount (4)."""
    truth = functional.one_hot(classes, logits.shape[1]).movedim(-1, 1)  # (B, K, h, w)
    return (logits.softmax(dim=1) - truth).square().sum() / len(logits)


def block_error(density: Tensor, target: Tensor, power: Literal[1, 2]) -> Tensor:
    """Return the mean over images of the absolute (1) or squared (2) error, summed over the blocks [B, 1, h, w]."""
    return (density - target).abs().pow(power).sum() / len(density)

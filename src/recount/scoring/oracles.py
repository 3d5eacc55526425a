"""What the annotation itself scores in the form in which systems are taught it: the floor under every error.

Two forms lose something, whatever the network (both as CLIP-EBC and GigaCount make their targets, ``nn.bins``):

* ``dot_map``: points are rounded down to pixels of the prepared picture, those outside move to its border, and points
  of one pixel count once. A density map that spreads each point's mass inside the picture has the same sum.
* ``block_bins``: each block's count of that map (with ``coincident_points: add``, of the points) is replaced by the
  anchor of its bin, as a network that classifies every block without a mistake predicts. All blocks from the truncation
  on get the last anchor.

A network can be better than its own floor only where its mistakes cancel what the form loses. Systems that regress a
number, and those that answer with one of ten captions, have no such floor.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from recount.data.sample import Sample
from recount.metrics import Floats

BIN_SETTINGS = ("bins_of", "block", "truncation", "granularity", "anchors", "last_anchor", "coincident_points")


def dot_map_counts(samples: Sequence[Sample]) -> Floats:
    """Return the sum of each picture's dot map."""
    return np.array([float(len(np.unique(_pixels(sample), axis=0))) for sample in samples])


def block_bins_counts(samples: Sequence[Sample], settings: Mapping[str, Any]) -> Floats:
    """Return what a system predicts that classifies blocks into bins without mistakes; ValueError: no such bins."""
    from recount.nn.bins import published_bins

    names = ("block", "truncation", "granularity", "anchors")
    bins = published_bins(settings["bins_of"], **{name: settings[name] for name in names})
    if settings.get("last_anchor") is not None:
        bins = bins.with_last_anchor(settings["last_anchor"])
    lows, anchors = np.array([low for low, _ in bins.intervals]), np.array(bins.anchors)
    result = []
    for sample in samples:
        pixels = _pixels(sample)
        if settings["coincident_points"] != "add":
            pixels = np.unique(pixels, axis=0)
        _, counts = np.unique(pixels // settings["block"], axis=0, return_counts=True)
        classes = np.searchsorted(lows, counts, side="right") - 1
        empty = -(-sample.height // settings["block"]) * -(-sample.width // settings["block"]) - len(counts)
        result.append(float(anchors[classes].sum() + anchors[0] * empty))
    return np.array(result)


def _pixels(sample: Sample) -> np.ndarray:
    """Return the pixel of each point, int64 [n, 2]."""
    return np.clip(np.trunc(sample.points).astype(np.int64), 0, (sample.width - 1, sample.height - 1))

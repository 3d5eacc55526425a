"""Samples from points and boxes, as several data sets give them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from recount.data.index import LISTS
from recount.data.sample import RawSample


def people(name: str, split: str, picture: Path, heads: np.ndarray, lists: list[str] | None = None) -> RawSample:
    """Return a crowd photograph with its heads [N, 2]; ``lists`` names the lists it is also in."""
    attributes = {LISTS: lists} if lists else {}
    return RawSample(name, split, picture, heads, len(heads), "people", attributes=attributes)


def boxed(
    name: str,
    split: str,
    picture: Path | Callable[[], Image.Image] | None,
    boxes: np.ndarray,
    prompt: str,
    attributes: Mapping[str, Any] | None = None,
) -> RawSample:
    """Return a sample that counts ``boxes`` [N, 4] (x1 y1 x2 y2); its points are their centres."""
    points = ((boxes[:, :2] + boxes[:, 2:]) / 2).astype(np.float32)
    return RawSample(name, split, picture, points, len(boxes), prompt, boxes, dict(attributes or {}))

"""What one annotated image is, before and after preparation. No torch in this module."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

NO_POINTS = np.zeros((0, 2), np.float32)


@dataclass(frozen=True, slots=True)
class RawSample:
    """One annotated image as its data set gives it, in the image's own pixels.

    Attributes:
        id: unique within the data set, safe as a file name.
        split: name of the split as the data set's authors use it.
        image: path of the picture, a function that makes it (procedural sets), or None (annotation only).
        points: float32 [N, 2], x and y in pixels of the picture; empty where only a count is known.
        count: the true count; the number of points unless the data set says otherwise.
        prompt: what is counted, as text ("" for a class-agnostic or one-class data set).
        boxes: float32 [M, 4], x1 y1 x2 y2 in pixels, or None.
        attributes: JSON-serialisable extras (class names, captions, the number a caption names, ...).
    """

    id: str
    split: str
    image: Path | Callable[[], Image.Image] | None
    points: np.ndarray
    count: float
    prompt: str = ""
    boxes: np.ndarray | None = None
    attributes: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Sample:
    """One prepared sample, a row of ``index.csv``.

    Attributes: as in ``RawSample``, but ``image`` is the path of the prepared picture (None: annotation only), points
    and boxes are in its pixels, and ``width`` and ``height`` are its size.
    """

    id: str
    split: str
    image: Path | None
    points: np.ndarray
    count: float
    prompt: str
    width: int
    height: int
    boxes: np.ndarray | None = None
    attributes: dict[str, Any] = field(default_factory=dict)

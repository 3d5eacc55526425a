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
    """One annotated image as its data set gives it, in the image's own pixels."""

    id: str  # unique within the data set, safe as a file name
    split: str  # as the data set's authors use it
    image: Path | Callable[[], Image.Image] | None  # a file, a function that makes it, or None (annotation only)
    points: np.ndarray  # float32 [N, 2], x and y in pixels of the picture; empty where only a count is known
    count: float  # the true count; the number of points unless the data set says otherwise
    prompt: str = ""  # what is counted, as text ("" for a class-agnostic or one-class data set)
    boxes: np.ndarray | None = None  # float32 [M, 4], x1 y1 x2 y2 in pixels
    attributes: dict[str, Any] = field(default_factory=dict)  # JSON-serialisable extras (class names, captions, ...)


@dataclass(frozen=True, slots=True)
class Sample:
    """One prepared sample, a row of ``index.csv``: as a ``RawSample``, but points and boxes are in pixels of ``image``.

    ``image`` is the path of the prepared picture (None: annotation only), ``width`` and ``height`` are its size.
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

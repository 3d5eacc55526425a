"""What one annotated image is, before and after preparation. No torch in this module."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

Need = Literal["points", "density", "boxes", "prompts"]  # beside pictures: density is a ready density map
NO_POINTS = np.zeros((0, 2), np.float32)
# Attributes with a meaning of their own: the lists that a sample is also in, and that its truth is not public
LISTS, HIDDEN = "lists", "hidden"
ORIGINAL_COUNT = "original_count"  # where the preparation changed the count


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
    attributes: dict[str, Any] | None = None,
) -> RawSample:
    """Return a sample that counts ``boxes`` [N, 4] (x1 y1 x2 y2); its points are their centres."""
    points = ((boxes[:, :2] + boxes[:, 2:]) / 2).astype(np.float32)
    return RawSample(name, split, picture, points, len(boxes), prompt, boxes, dict(attributes or {}))


@dataclass(frozen=True, slots=True)
class Sample:
    """One prepared sample, a row of ``index.csv``: a ``RawSample`` with points and boxes in pixels of ``image``."""

    id: str
    split: str
    image: Path | None  # the prepared picture, of ``width`` x ``height`` pixels; None: annotation only
    points: np.ndarray
    count: float
    prompt: str
    width: int
    height: int
    boxes: np.ndarray | None = None
    attributes: dict[str, Any] = field(default_factory=dict)
    image_sha256: str = ""  # of the picture's file; "" if nobody wrote it down

    @property
    def original_count(self) -> float:
        """Return the count before the preparation dropped or merged points: the same one for every method."""
        return float(self.attributes.get(ORIGINAL_COUNT, self.count))

"""What the editions of CountBench share: an item is a picture, a caption and the number from two to ten that it names.

CountBench has 540 items, 60 for each number, but the pictures are web addresses. Each edition is what somebody could
still download: their items are scored with their own n and never put together. Items without a picture stay in the
index in split ``missing``, so that they are counted and listed.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from PIL import Image

from recount.data.dataset import DataError
from recount.data.pictures import read_picture
from recount.data.sample import NO_POINTS, RawSample

NUMBERS = range(2, 11)
ITEMS = 540
TEST, MISSING = "test", "missing"
LICENCE = "none stated: third-party web pictures and captions; research use, do not publish them"
CITATION = "Paiss et al., Teaching CLIP to Count to Ten, ICCV 2023"


def item(index: int, number: int, caption: str, picture: Path | Callable[[], Image.Image] | None) -> RawSample:
    """Return item ``index`` of CountBench; without a picture it belongs to split ``missing``.

    Raises:
        DataError: the number is none of two to ten.
    """
    if number not in NUMBERS:
        raise DataError(f"CountBench item {index}: number {number}; it must be one of 2 to 10")
    attributes = {"counting": True, "caption": "human"}
    split = MISSING if picture is None else TEST
    return RawSample(f"item{index:03d}", split, picture, NO_POINTS, number, caption, attributes=attributes)


def usable(path: Path) -> Path | None:
    """Return ``path`` if a picture can be decoded from it (grey filled in where a JPEG's end is missing), else None."""
    try:
        read_picture(path, lenient=True)
    except DataError:
        return None
    return path

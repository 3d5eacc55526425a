"""Captions and the numbers from two to ten that they name: CountCLIP's rule, and what editions of CountBench share.

The rule is checked against count_set_gen.ipynb of SforAiDl/CountCLIP@a15672d (golden case ``filter``).

An item of CountBench is a picture, a caption and the number that it names. There are 540, 60 for each number, but the
pictures are web addresses, and each edition is what somebody could still download. Its items are scored with their own
n and never put together with another edition's. Items without a picture stay in the index in split ``missing``.
"""

import logging
import re
from collections.abc import Callable
from pathlib import Path

from PIL import Image

from recount.data.dataset import DataError
from recount.data.pictures import read_picture
from recount.data.sample import NO_POINTS, RawSample

log = logging.getLogger(__name__)

NUMBERS = {"two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9, "ten": 10}
_WORD = re.compile(rf"\b({'|'.join(NUMBERS)})\b", re.IGNORECASE)
ITEMS = 540
TEST, MISSING = "test", "missing"


def number_in_caption(caption: str) -> int | None:
    """Return the largest number, two to ten, that a caption names as a whole word in any case, or None."""
    return max((NUMBERS[word.lower()] for word in _WORD.findall(caption)), default=None)


def item(
    index: int,
    number: float,
    caption: str,
    picture: Path | Callable[[], Image.Image] | None,
    where: object = "CountBench",
) -> RawSample:
    """Return item ``index`` of CountBench, listed in ``where``; without a picture it belongs to split ``missing``."""
    if number not in NUMBERS.values():
        raise DataError(f"{where}, item {index}: number {number}; it must be one of 2 to 10")
    attributes = {"counting": True, "caption": "human"}
    split = MISSING if picture is None else TEST
    return RawSample(f"item{index:03d}", split, picture, NO_POINTS, number, caption, attributes=attributes)


def usable(path: Path) -> Path | None:
    """Return ``path`` if a picture can be decoded from it (grey filled in where a JPEG's end is missing), else None."""
    if not path.exists():
        return None
    try:
        read_picture(path, lenient=True)
    except DataError as error:
        log.warning("%s; the item has no picture", error)
        return None
    return path

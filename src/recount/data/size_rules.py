"""Rules that turn an image's size into the size it is prepared at. Sizes are (width, height) in pixels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class SizeRule:
    """How a picture is resized when a data set is prepared.

    Attributes:
        name: names the folder of the prepared data set.
        new_size: (width, height) -> (width, height).
        resample: the filter of the resize.
        keep_outside: whether points outside the picture are kept (True) or dropped (False).
        source: where the rule comes from.
    """

    name: str
    new_size: Callable[[int, int], tuple[int, int]]
    resample: Literal["bicubic", "bilinear"] = "bicubic"
    keep_outside: bool = True
    source: str = ""


def _same(width: int, height: int) -> tuple[int, int]:
    return width, height


ORIGINAL_SIZE = SizeRule("original", _same, source="pictures as published")

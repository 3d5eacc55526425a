"""The filter that made CountCLIP's training set out of LAION-400M: address rules, caption rule, detector check.

Follows count_set_gen.ipynb of SforAiDl/CountCLIP@a15672d (golden case ``filter``): an address must hold a known picture
extension and is cut after it; a caption must hold one of the whole words two to ten, and its number is the largest; a
picture is kept if the class of which YOLOv8n finds most has exactly that many boxes. The class is not compared with the
caption's noun.

``UltralyticsDetector`` needs the optional extra ``detector`` (ultralytics, AGPL-3.0). Any other detector that counts
boxes per class does.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from PIL import Image

from recount.errors import UserError

FIRST_ROW, LAST_ROW = 2_000_000, 4_000_000
"""The rows of LAION-400M's first part (part-00000, 12,933,524 rows) that the authors kept."""

EXTENSIONS = (".bmp", ".dng", ".jpeg", ".jpg", ".mpo", ".png", ".tif", ".tiff", ".webp", ".pfm")
NUMBERS = {"two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9, "ten": 10}
_WORD = re.compile(rf"\b({'|'.join(NUMBERS)})\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A row of LAION whose caption and address pass: the picture is not looked at yet."""

    url: str
    caption: str
    number: int


class Detector(Protocol):
    """Finds objects in a picture."""

    def boxes_per_class(self, image: Image.Image) -> dict[str, int]:
        """Return how many boxes of each class are found in an RGB picture."""


def number_in_caption(caption: str) -> int | None:
    """Return the largest number, two to ten, that a caption names as a whole word in any case, or None."""
    return max((NUMBERS[word.lower()] for word in _WORD.findall(caption)), default=None)


def kept_urls(url: str) -> list[str]:
    """Return an address cut after each known extension it holds, in the extensions' order; case-sensitive.

    Several for ``.tiff``, which holds ``.tif``, and for addresses with two extensions: the authors' list has each.
    """
    return [url[: url.index(extension) + len(extension)] for extension in EXTENSIONS if extension in url]


def candidates(rows: Iterable[tuple[str, str]]) -> Iterator[Candidate]:
    """Yield the candidates among (address, caption) rows, in their order."""
    for url, caption in rows:
        number = number_in_caption(caption)
        if number is not None:
            yield from (Candidate(kept, caption, number) for kept in kept_urls(url))


def confirmed(candidate: Candidate, image: Image.Image, detector: Detector) -> bool:
    """Return whether the most frequent class in the picture has as many boxes as the caption says."""
    return max(detector.boxes_per_class(image).values(), default=0) == candidate.number


class UltralyticsDetector:
    """YOLO at ultralytics' default thresholds, as the authors ran it."""

    def __init__(self, weights: str = "yolov8n.pt") -> None:
        """Load the network.

        Args:
            weights: a name that ultralytics downloads, or a path.

        Raises:
            UserError: ultralytics is not installed.
        """
        try:
            from ultralytics import YOLO  # type: ignore[import-not-found]
        except ModuleNotFoundError:
            raise UserError(
                "the detector check of the LAION filter needs ultralytics (AGPL-3.0): install recount[detector]"
            ) from None
        self._network: Any = YOLO(weights)

    def boxes_per_class(self, image: Image.Image) -> dict[str, int]:
        """Return how many boxes of each class are found."""
        found = self._network(image, verbose=False)[0]
        return dict(Counter(found.names[int(index)] for index in found.boxes.cls.tolist()))

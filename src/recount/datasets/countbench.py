"""CountBench with the pictures that its addresses still deliver: edition "url540".

Paiss et al., "Teaching CLIP to Count to Ten", ICCV 2023. CountBench.json of
teaching-clip-to-count/teaching-clip-to-count.github.io@2c573a8 lists 540 addresses with captions and numbers (538
different ones). An issue there counts 63 dead ones in February 2023. ``recount fetch`` tries each; the dead ones
are in its manifest under ``missing`` and in the index in split ``missing``.
"""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from pydantic import BaseModel, TypeAdapter

from recount.data.dataset import DataError, RemoteFile, reason
from recount.data.sample import RawSample
from recount.datasets.formats import captions as items
from recount.datasets.formats.files import Described, read_json

PER_NUMBER = 60
_LIST = "CountBench.json"
_SUFFIXES = {".jpg", ".jpeg", ".png", ".gif", ".webp", ".bmp"}


class _Item(BaseModel):
    image_url: str
    text: str
    number: int


_ITEMS = TypeAdapter(list[_Item])


class CountBench(Described):
    """540 captions, 60 for each number from two to ten, with as many pictures as can still be had."""

    name = "countbench"
    gives = frozenset({"prompts"})
    splits = (items.TEST, items.MISSING)

    def listed_files(self, raw: Path) -> list[RemoteFile]:
        """Return a file per item; all are optional, since many addresses are dead."""
        return [
            RemoteFile(_picture(index, row["image_url"]), urls=(row["image_url"],), optional=True)
            for index, row in enumerate(read_items(raw / _LIST))
        ]

    def read(self, raw: Path) -> Iterator[RawSample]:
        """Yield the items in the list's order, those without a usable picture in split ``missing``."""
        for index, row in enumerate(read_items(raw / _LIST)):
            picture = items.usable(raw / _picture(index, row["image_url"]))
            yield items.item(index, row["number"], row["text"], picture, raw / _LIST)


def _picture(index: int, url: str) -> str:
    try:
        suffix = PurePosixPath(urlsplit(url).path).suffix.lower()
    except ValueError as error:
        raise DataError(f"{_LIST}, item {index}: {url!r} is no address: {reason(error)}") from None
    return f"pictures/item{index:03d}{suffix if suffix in _SUFFIXES else '.jpg'}"


def read_items(path: Path) -> list[dict[str, Any]]:
    """Return the rows of CountBench.json: ``image_url``, ``text`` and ``number``."""
    rows = [row.model_dump() for row in read_json(path, "countbench", _ITEMS)]
    if Counter(row["number"] for row in rows) != dict.fromkeys(items.NUMBERS.values(), PER_NUMBER):
        raise DataError(f"{path}: {len(rows)} rows; CountBench has {PER_NUMBER} for each number from 2 to 10")
    return rows


DATASET = CountBench()

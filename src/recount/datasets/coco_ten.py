"""Forty openly licensed COCO photographs with a class that occurs two to ten times: captions that count real things.

Lin et al., "Microsoft COCO", ECCV 2014; files at pinned commits of three repositories (recount's file list). A
picture and a class with two to ten boxes make a counting pair with a templated caption ("a photo of three dogs"),
marked so in ``attributes.caption``; a human caption whose largest number word is the number of boxes of a class that it
names makes another, marked ``human``. A class with a crowd region in a picture has no exact count there and makes
none. Human captions without a number word are the pairs that do not count, four before each counting one in training.

Results on this set are not CountBench results: always give n. Pictures with the numbers eight to ten are in the
training split, since lambda "log" needs every number there.
"""

import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from itertools import chain, count, cycle, islice, zip_longest
from pathlib import Path

import numpy as np
from pydantic import BaseModel, TypeAdapter

from recount.data.health import Defects, inside
from recount.data.sample import HIDDEN, NO_POINTS, RawSample, boxed
from recount.datasets.formats.captions import NUMBERS, number_in_caption
from recount.datasets.formats.files import Box, Described, by_key, read_json

_ANNOTATIONS = "instances_coco_ten.json"
_NOT_COUNTING_PER_COUNTING = 4
_RARE_FROM = 8  # pictures with a class of at least so many objects are for training
_WORD_OF = {number: word for word, number in NUMBERS.items()}
_IRREGULAR = {"person": "people", "wine glass": "wine glasses", "sheep": "sheep", "knife": "knives", "mouse": "mice"}


class _Named(BaseModel):
    id: int
    name: str


class _Annotation(BaseModel):
    image_id: int
    category_id: int
    bbox: Box
    iscrowd: int


class _Record(BaseModel):
    id: int
    license: int
    path: str
    flickr_url: str


class _Caption(BaseModel):
    id: int
    image_id: int
    caption: str


class _Content(BaseModel):
    categories: list[_Named]
    licenses: list[_Named]
    images: list[_Record]
    annotations: list[_Annotation]
    captions: list[_Caption]


_CONTENT = TypeAdapter(_Content)


@dataclass
class _Picture:
    """A photograph: boxes [n, 4] by class (x1 y1 x2 y2) without classes that have crowds, captions, whom to credit."""

    id: int
    path: Path
    boxes: dict[str, np.ndarray]
    captions: list[_Caption]
    credit: dict[str, str]

    @property
    def counted(self) -> dict[str, np.ndarray]:
        return {name: boxes for name, boxes in self.boxes.items() if 2 <= len(boxes) <= 10}


class CocoTen(Described):
    """40 photographs; 69 pairs of picture and class with two to ten boxes; 170 human captions for 34 pictures."""

    name = "coco_ten"
    gives = frozenset({"prompts"})
    splits = ("train", "test")

    def read(self, raw: Path) -> Iterator[RawSample]:
        """Yield training pairs in the order of CountCLIP's set (four without a number, one with), then test pairs."""
        pictures = _pictures(read_json(raw / _ANNOTATIONS, self.name, _CONTENT), raw)
        rare = [picture for picture in pictures if any(len(boxes) >= _RARE_FROM for boxes in picture.counted.values())]
        common = [picture for picture in pictures if picture not in rare]
        training, test = rare + common[::2], common[1::2]
        counting = [pair for picture in training for pair in _counting(picture, "train")]
        in_turn = chain.from_iterable(zip_longest(*map(_not_counting, training)))  # captions of a picture lie far apart
        plain = cycle([pair for pair in in_turn if pair is not None])
        number = count()
        for pair in counting:
            for other in islice(plain, _NOT_COUNTING_PER_COUNTING):
                yield replace(other, id=f"{other.id}_{next(number)}")
            yield pair
        for picture in test:
            yield from _counting(picture, "test")


def _pictures(content: _Content, raw: Path) -> list[_Picture]:
    path, defects = raw / _ANNOTATIONS, Defects()
    categories, licences, records = (
        by_key(rows, "id", path) for rows in (content.categories, content.licenses, content.images)
    )
    boxes: dict[int, dict[str, list[list[float]]]] = defaultdict(lambda: defaultdict(list))
    crowds = set()
    for number, entry in enumerate(content.annotations):
        with defects.collected(f"{path}: annotations.entry {number}"):
            x, y, width, height = entry.bbox
            name = categories[entry.category_id].name
            boxes[records[entry.image_id].id][name].append([x, y, x + width, y + height])
            if entry.iscrowd:
                crowds.add((entry.image_id, name))
    pictures = []
    for key, record in sorted(records.items()):
        where = f"{path}: image {key}"
        with defects.collected(where):
            exact = {name: np.array(rows, np.float32) for name, rows in boxes[key].items() if (key, name) not in crowds}
            captions = [entry for entry in content.captions if entry.image_id == key]
            credit = {"licence": licences[record.license].name, "flickr_url": record.flickr_url}
            pictures.append(_Picture(key, inside(raw, record.path, where), exact, captions, credit))
    defects.raise_if_any()
    return pictures


@cache
def plural(name: str) -> str:
    """Return the plural of a COCO class name."""
    import inflect

    return _IRREGULAR.get(name) or str(inflect.engine().plural_noun(name))


def _counting(picture: _Picture, split: str) -> Iterator[RawSample]:
    """Yield the counting pairs of a picture: a templated caption per class, and human ones that count rightly."""
    number_of = {name: len(boxes) for name, boxes in picture.counted.items()}
    for name, number in number_of.items():
        caption = f"a photo of {_WORD_OF[number]} {plural(name)}"
        yield _pair(picture, f"of_{name.replace(' ', '_')}", split, name, caption, "templated")
    for entry in picture.captions:
        for name, number in number_of.items():
            if number_in_caption(entry.caption) == number and _names(entry.caption, name):
                yield _pair(picture, f"said_{entry.id}", split, name, entry.caption.strip(), "human")
                break


def _names(caption: str, name: str) -> bool:
    words = {"person": "person|people|men|women|man|woman|boys|girls|children|kids|persons|adults"}.get(
        name, f"{re.escape(name)}|{re.escape(plural(name))}"
    )
    return re.search(rf"\b({words})\b", caption, re.IGNORECASE) is not None


def _pair(picture: _Picture, suffix: str, split: str, name: str, caption: str, kind: str) -> RawSample:
    attributes = {"counting": True, "class": name, "caption": kind} | picture.credit
    return boxed(f"{picture.id:012d}_{suffix}", split, picture.path, picture.boxes[name], caption, attributes)


def _not_counting(picture: _Picture) -> Iterator[RawSample]:
    """Yield the pairs of a picture's captions without a number; each use of one appends its number to the id."""
    attributes = {"counting": False, "caption": "human", HIDDEN: True} | picture.credit
    for entry in picture.captions:
        if number_in_caption(entry.caption) is None:
            name, caption = f"{picture.id:012d}_plain_{entry.id}", entry.caption.strip()
            yield RawSample(name, "train", picture.path, NO_POINTS, np.nan, caption, attributes=attributes)


DATASET = CocoTen()

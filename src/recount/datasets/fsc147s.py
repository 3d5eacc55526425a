"""FSC-147-S: pictures of FSC-147 whose prompt names a minority object.

From the T2ICount authors (cha15yq/T2ICount@289d3fb). Two versions that must never be mixed, as two splits: `v1`, 196
entries, behind the paper's tables; `v2`, 230 entries, behind the released script and README. 186 pictures are in both.
More than half are training pictures of FSC-147; `v1_test` and `v2_test` are the entries whose picture is a test picture
there (45 and 51).

The pictures are FSC-147's: they are taken from ``fsc147`` beside this data set's folder if that has been fetched, else
samples are annotation only. The same holds for the splits `v1_test` and `v2_test` and for the attributes
``majority_class`` and ``majority_count`` (what a perfect counter that ignores the prompt would answer).
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field, TypeAdapter

from recount.data.health import Defects
from recount.data.sample import LISTS, NO_POINTS, RawSample
from recount.datasets import fsc147
from recount.datasets.formats.files import Count, Described, read_json

_FILES = {"v1": "asset/FSC-147-S-v1.json", "v2": "FSC-147-S.json"}
_OF_PICTURES = (fsc147.split_of_pictures, fsc147.class_names, fsc147.listed_counts)


class _Entry(BaseModel):
    label: str = Field(alias="class")
    count: Count


_ENTRIES = TypeAdapter(dict[str, _Entry])


class Fsc147S(Described):
    """196 (v1) and 230 (v2) entries of one prompt and one count each."""

    name = "fsc147s"
    gives = frozenset({"prompts"})
    splits = ("v1", "v2", "v1_test", "v2_test")

    def read(self, raw: Path) -> Iterator[RawSample]:
        """Yield v1, then v2."""
        pictures, defects = raw.parent / self.pictures_of, Defects()
        there = pictures.is_dir()
        splits, classes, counts, *versions = defects.gathered(
            *(partial(read, pictures) if there else dict for read in _OF_PICTURES),
            *(partial(read_json, raw / file, self.name, _ENTRIES) for file in _FILES.values()),
        )
        for (version, file), entries in zip(_FILES.items(), versions, strict=True):
            for picture, entry in entries.items():
                with defects.collected(f"{raw / file}: {picture}"):
                    attributes: dict[str, Any] = {}
                    if splits.get(picture) == "test":
                        attributes[LISTS] = [f"{version}_test"]
                    if picture in classes:
                        attributes |= {"majority_class": classes[picture], "majority_count": counts[picture]}
                    name, path = f"{version}_{Path(picture).stem}", fsc147.picture_of(pictures, picture)
                    yield RawSample(name, version, path, NO_POINTS, entry.count, entry.label, attributes=attributes)
        defects.raise_if_any()


DATASET = Fsc147S()

"""FSC-147-S: pictures of FSC-147 whose prompt names a minority object.

From the T2ICount authors (cha15yq/T2ICount@289d3fb). Two versions that must never be mixed, as two splits: `v1`, 196
entries, behind the paper's tables; `v2`, 230 entries, behind the released script and README. 186 pictures are in both.
More than half are training pictures of FSC-147; `v1_test` and `v2_test` are the entries whose picture is a test picture
there (45 and 51).

The pictures are FSC-147's: they are taken from ``fsc147`` beside this data set's folder if that has been fetched, else
samples are annotation only. The same holds for the splits `v1_test` and `v2_test` and for the attributes
``majority_class`` and ``majority_count`` (what a perfect counter that ignores the prompt would answer).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from recount.data.dataset import DataError, Dataset, RemoteFile
from recount.data.index import LISTS
from recount.data.sample import RawSample
from recount.datasets import fsc147
from recount.fetching.file_lists import read_file_list

_FILES = {"v1": "asset/FSC-147-S-v1.json", "v2": "FSC-147-S.json"}


class Fsc147S(Dataset):
    """196 (v1) and 230 (v2) entries of one prompt and one count each."""

    name = "fsc147s"
    title = "FSC-147-S: minority objects in FSC-147 pictures"
    homepage = "https://github.com/cha15yq/T2ICount"
    licence = "None stated (annotation lists of the T2ICount repository); the rights of the photographs are not stated"
    citation = "Qian et al., T2ICount: Enhancing Cross-modal Understanding for Zero-Shot Counting, CVPR 2025"
    by_hand = "The pictures are those of fsc147: fetch that data set (its pictures by hand) to have them here too"
    pictures_of = "fsc147"
    splits = ("v1", "v2", "v1_test", "v2_test")
    totals = {  # noqa: RUF012 - declared ClassVar[Mapping] by the base class
        "v1": {"samples": 196, "count": 903},
        "v2": {"samples": 230, "count": 911},
    }

    def files(self) -> list[RemoteFile]:
        """Return both annotation files."""
        return read_file_list(self.name)

    def read(self, raw: Path) -> Iterator[RawSample]:
        """Yield v1, then v2."""
        pictures = raw.parent / self.pictures_of
        splits, classes, counts = ({}, {}, {}) if not pictures.is_dir() else _of_fsc147(pictures)
        for version, file in _FILES.items():
            for name, entry in _entries(raw / file):
                attributes: dict[str, Any] = {}
                if splits.get(name) == "test":
                    attributes[LISTS] = [f"{version}_test"]
                if name in classes:
                    attributes |= {"majority_class": classes[name], "majority_count": counts[name]}
                yield RawSample(
                    id=f"{version}_{Path(name).stem}",
                    split=version,
                    image=fsc147.picture_of(pictures, name),
                    points=np.zeros((0, 2), np.float32),
                    count=entry["count"],
                    prompt=entry["class"],
                    attributes=attributes,
                )


def _of_fsc147(raw: Path) -> tuple[dict[str, str], dict[str, str], dict[str, int]]:
    return fsc147.split_of_pictures(raw), fsc147.class_names(raw), fsc147.listed_counts(raw)


def _entries(path: Path) -> list[tuple[str, dict[str, Any]]]:
    try:
        return list(json.loads(path.read_text(encoding="utf-8")).items())
    except (OSError, ValueError, AttributeError) as error:
        raise DataError(f"{path}: not a readable JSON file ({error}); `recount fetch fsc147s` gets it") from None


DATASET = Fsc147S()

"""What a suite takes of the network and of disks, before anything is fetched.

Sizes that a data set or weights state are taken as they are. The others are estimates: of pictures by their pixels, of
weights by the network that reads them.
"""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from recount import datasets
from recount.data.dataset import Dataset, RemoteFile, Source
from recount.rehearsal.costs import sizes_counted
from recount.rehearsal.generated import OTHER, SIZES
from recount.settings.project import Project, Run, Split

# Bytes of a pixel. "source": UCF-QNRF's 4,552,702,871 bytes over its 1,535 pictures of 2902 x 2013 pixels on average;
# the others are means of 80 photographs (40 of ShanghaiTech A, 40 of COCO) saved as ``data.pictures.save`` does.
PER_PIXEL = {"source": 0.51, "png": 1.63, "jpeg75": 0.21, "jpeg95": 0.42}
DENSITY = 4  # bytes of a pixel of a ready density map, float32


@dataclass(frozen=True)
class Prepared:
    """A data set as it is prepared."""

    name: str  # <data set>/<preparation>
    bytes: int  # about; 0: its pictures keep their bytes, and are linked
    there: bool


def prepared(project: Project, split: Split) -> Prepared:
    """Return about how many bytes the pictures take that a data set's preparation writes."""
    source = datasets.load(split.dataset)
    rule = source.preparations[split.preparation]
    width, height = rule.new_size(*SIZES.get(source.name, OTHER))
    written = 0 if rule.encoding == "source" else pictures(source) * width * height * PER_PIXEL[rule.encoding]
    there = (project.root / project.index(split)).is_file()
    return Prepared(f"{split.dataset}/{split.preparation}", 0 if source.embedded else round(written), there)


def standing(place: Path) -> Path:
    """Return a place on a disk, or the nearest folder above it that is there."""
    return next(path for path in (place, *place.parents) if os.path.exists(path))  # noqa: PTH110 - no error where closed


def pictures(source: Dataset) -> int:
    """Return how many pictures a data set declares to have, in its splits or in all; lists within splits aside."""
    numbers = {split: totals.get("images", totals.get("samples", 0)) for split, totals in source.totals.items()}
    parts = [numbers.get(split, 0) for split in ("train", "val", "test")]
    return int(numbers.get("all", sum(parts)) or max(numbers.values(), default=0))


def undeclared(source: Source, files: Iterable[RemoteFile], readers: Iterable[int]) -> int:
    """Return about how many bytes those files have that state none; ``readers``: bytes of the models that read them."""
    silent = [file for file in files if file.bytes is None]
    if not silent:
        return 0
    if not isinstance(source, Dataset):
        return min(readers, default=0)
    width, height = SIZES.get(source.name, OTHER)
    each = PER_PIXEL["source"] + (DENSITY if "density" in source.gives else 0)
    return round(pictures(source) * width * height * each)


def of_training(project: Project, run: Run) -> tuple[int, int, int]:
    """Return the bytes of a training's state and of a model, and how many it leaves: the last one, and those chosen."""
    state, model = sizes_counted(run) or _sizes_built(project, run)
    return (0 if run.checkpoint else state), model, max(len(run.learnt_from), 1)


def _sizes_built(project: Project, run: Run) -> tuple[int, int]:
    from recount import systems  # loads PyTorch, as the next
    from recount.training.cost import planned_bytes

    return planned_bytes(project, run) if run.system in systems.names() else (0, 0)  # not installed: trains nothing

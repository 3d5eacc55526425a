"""Samples for a rehearsal where a benchmark's own are absent: recount's drawn scenes at the size of its pictures.

They go through the data set's own preparation, so that training reads them as it would read the real ones.
"""

from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image

from recount import datasets
from recount.data.dataset import Dataset, Drawn
from recount.data.index import read_index
from recount.data.prepare import prepare
from recount.data.sample import HIDDEN, RawSample, Sample
from recount.settings.project import Project, Split
from recount.settings.suite import Kind

# (width, height). Crowds: average sizes by Wang et al., "NWPU-Crowd" (TPAMI 2021), table 1. CARPK: its one size.
SIZES = {
    "ucf_qnrf": (2902, 2013),
    "shanghaitech_a": (868, 589),
    "shanghaitech_b": (1024, 768),
    "nwpu": (3209, 2191),
    "carpk": (1280, 720),
}
DRAWN = "drawn"  # their split
OTHER = (512, 384)  # a photograph of 4 : 3; FSC-147's are distributed 384 pixels high
SCENES: dict[Kind, str] = {"crowd": "crowd", "text": "shapes", "captions": "shapes_ten"}
PICTURES = 8  # of crowds and of text-guided counting
GROUP = 5  # captions: four pairs that do not count, and one that does


class Enlarged(Drawn):
    """Drawn scenes of a kind, under the name and with the preparations of the data set that they stand for."""

    def __init__(self, real: Dataset, kind: Kind) -> None:
        self.name, self.real, self.kind = real.name, real, kind
        self.title = f"drawn scenes of the size of {real.name}"
        # on the instance, as nowhere else: one class stands for many data sets
        self.splits, self.preparations = (DRAWN,), real.preparations  # type: ignore[misc]

    def read(self, raw: Path) -> Iterator[RawSample]:
        """Yield the scenes, drawn anew as JPEG files below ``raw``: photographs are decoded in training, too."""
        for sample in _some(self.real if self.real.embedded else datasets.load(SCENES[self.kind]), self.kind):
            drawn = replace(sample, split=DRAWN)
            yield drawn if self.real.embedded else self._enlarged(drawn, raw / f"{sample.id}.jpg")

    def _enlarged(self, sample: RawSample, file: Path) -> RawSample:
        assert callable(sample.image)
        picture, (width, height) = sample.image().convert("RGB"), SIZES.get(self.name, OTHER)
        scale = np.array([width / picture.width, height / picture.height], np.float32)
        points, boxes = sample.points * scale, None if sample.boxes is None else sample.boxes * np.tile(scale, 2)
        picture = picture.resize((width, height), Image.Resampling.BILINEAR)
        file.parent.mkdir(parents=True, exist_ok=True)
        picture.save(file, quality=90)
        attributes = {key: value for key, value in sample.attributes.items() if key in (HIDDEN, "counting")}
        return replace(sample, image=file, points=points, boxes=boxes, attributes=attributes)


def _some(scenes: Dataset, kind: Kind) -> list[RawSample]:
    if kind != "captions":
        return list(islice(iter(scenes.read(Path())), PICTURES))
    training = [sample for sample in scenes.read(Path()) if sample.split == "train"]
    groups = [training[start : start + GROUP] for start in range(0, len(training), GROUP)]
    first = {group[-1].count: group for group in reversed(groups)}  # every number from two to ten is there once
    return [sample for group in first.values() for sample in group]


def generated(split: Split, kind: Kind, folder: Path) -> list[Sample]:
    """Return drawn samples that stand for ``split``, prepared below ``folder`` if they are not there yet."""
    index = folder / "data" / split.dataset / split.preparation / "index.csv"
    if not index.is_file():
        index = prepare(
            Enlarged(datasets.load(split.dataset), kind), split.preparation, folder / "raw", folder / "data"
        )
    return read_index(index)


def kind_of(project: Project, split: Split) -> Kind:
    """Return what is counted on a split: the kind of the benchmarks that it stands for."""
    stand_ins, benchmarks = project.stand_ins, project.benchmarks
    return next(benchmarks[name].kind for name, entry in stand_ins.items() if entry.dataset == split.dataset)

"""What does a count-by-caption system's answer follow: its picture, its caption, the objects or what is behind them?

CLIP tuned on counterfactual captions learns from which numbers the captions name, too. So one thing is kept and another
changed: the caption beside a picture of another number, the picture with that one's caption, the counted objects alone
on plain ground, and the picture without them. The plain ground is the median colour outside the objects' boxes. This is
a check of recount's own; no paper prints it.

Captions that have lost their number word are left out: their nine variants are equal, so nothing is asked. Without
boxes it is not known where the objects are.
"""

import random
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from recount.data.sample import Sample
from recount.errors import UserError
from recount.prediction.prompt_tests import DRAWING_SEED
from recount.prediction.samples import Asking, LoadImage
from recount.results.prompt_tests import AnswersPicture, Counterfactuals
from recount.systems.base import System

KEPT = ("own", "caption", "picture", "objects", "background")


def askable(system: System, samples: Sequence[Sample]) -> list[Sample] | str:
    """Return the samples whose nine captions differ, or why there is nothing to change."""
    asking = [sample for sample in samples if sample.count > 0]
    chosen = [sample for sample in asking if len(set(system.prompt_of(sample).split("\n"))) > 1]
    return chosen if partners(chosen) else "no two pictures of different numbers have captions that name them"


def partners(samples: Sequence[Sample]) -> list[tuple[Sample, Sample]]:
    """Return samples with another one of another picture and number, drawn; those that have none are left out."""
    generator = random.Random(DRAWING_SEED)
    found = []
    for sample in samples:
        others = [other for other in samples if other.count != sample.count and other.image != sample.image]
        found += [(sample, generator.choice(others))] if others else []
    return found


def in_boxes(sample: Sample, height: int, width: int) -> Tensor | None:
    """Return which pixels [H, W] lie in the boxes of a sample's objects; None: unknown, or nothing lies outside."""
    if sample.boxes is None or len(sample.boxes) != sample.count:
        return None
    mask = torch.zeros(height, width, dtype=torch.bool)
    for left, top, right, bottom in np.asarray(sample.boxes, dtype=np.float64).tolist():
        columns, rows = (int(left), max(int(np.ceil(right)), 0)), (int(top), max(int(np.ceil(bottom)), 0))
        mask[max(rows[0], 0) : rows[1], max(columns[0], 0) : columns[1]] = True
    return mask if mask.any() and not mask.all() else None


def on_plain_ground(picture: Tensor, erased: Tensor, objects: Tensor) -> Tensor:
    """Return a picture uint8 [3, H, W] with the pixels ``erased`` in the median colour outside the ``objects``."""
    colour = picture[:, ~objects].median(dim=1).values
    return torch.where(erased, colour[:, None, None], picture)


def counterfactuals(asking: Asking, samples: Sequence[Sample]) -> Counterfactuals:
    """Return what a system answers of ``askable`` samples when captions, objects or backgrounds change.

    Raises:
        UserError: the system does not choose among captions.
    """
    chosen = partners(samples)
    asked: list[Sample] = []
    shown: dict[str, tuple[Sample, str]] = {}  # whose picture, and what is kept of it
    for sample, other in chosen:
        plain = in_boxes(sample, sample.height, sample.width) is not None
        for kept in KEPT if plain else KEPT[:3]:
            asked.append(replace(other if kept == "picture" else sample, id=f"{sample.id}/{kept}"))
            shown[asked[-1].id] = (other if kept == "caption" else sample, kept)
    answers = {}
    for result in asking.predict(asked, _loader(asking.load_image, shown)):
        if result.scores is None:
            raise UserError("counterfactuals need a system that chooses among captions, and this one counts")
        answers[result.sample.id] = result.count
    found = [
        AnswersPicture(
            id=sample.id,
            beside=other.id,
            true=float(sample.count),
            **{kept: answers.get(f"{sample.id}/{kept}") for kept in KEPT},
        )
        for sample, other in chosen
    ]
    stays = {
        kept: [getattr(row, kept) == row.own for row in found if getattr(row, kept) is not None] for kept in KEPT[1:]
    }
    return Counterfactuals(stays={kept: float(np.mean(same)) for kept, same in stays.items() if same}, pictures=found)


def _loader(load: LoadImage, shown: dict[str, tuple[Sample, str]]) -> LoadImage:
    def picture(sample: Sample) -> Tensor:
        of, kept = shown[sample.id]
        whole = load(of)
        if kept not in ("objects", "background"):
            return whole
        objects = in_boxes(of, *whole.shape[1:])
        assert objects is not None
        return on_plain_ground(whole, objects if kept == "background" else ~objects, objects)

    return picture

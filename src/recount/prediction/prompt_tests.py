"""Does a text-guided system read its prompt? PrACo's negative-prompt and mosaic tests, and prompts swapped in pairs.

Ciampi et al., "Mind the Prompt: A Novel Benchmark for Prompt-based Class-Agnostic Counting" (arXiv 2409.15953). Numbers
checked against ciampluca/PrACo@438a968 (benchmark/benchmark.py, statistics_extractor.py; golden cases ``praco.json``).

* Negative prompts: every picture with every class of its split. A class that a picture is known to show besides its own
  (attribute ``counts``) is left out. PrACo's list of 38 such pictures of FSC-147, which its statistics leave out if one
  asks for it, is in ``prompt_tests_praco.json``, beside the order of the classes that its drawing of mosaics goes by.
* Mosaics: above a picture of the class that is asked for, below one of another class; what is counted in the lower half
  is wrong. The localised variants compare the halves cell by cell.
* Pairs: a picture's majority and minority class, as in T2ICount's Figure 1; and how many pictures change their count
  when the prompt changes at all, which is none for a system that is blind to it.

As released, the mean of the mosaics' count recall includes the picture's own class with a recall of 1, precision and F
leave it out; here the localised recalls leave it out as well.

Decisions: where nothing is predicted, precision is undefined and left out of its mean, and F is 0. Descriptions of a
picture are not used: a prompt is a class name, or what the system's ``prompt_of`` makes of it.
"""

import json
import math
import random
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import ArrayLike
from PIL import Image
from torch import Tensor

from recount.data.sample import Sample
from recount.errors import UserError
from recount.metrics import MAE, RMSE, Floats
from recount.prediction.samples import Asking, LoadImage
from recount.results.prompt_tests import MosaicScore, NegativePicture, NegativePrompts, PairPicture, Pairs
from recount.systems.base import System

DECIMALS = 2  # PrACo rounds predictions
DRAWING_SEED = 123
CHANGED = 0.01  # a count that changes by more than this share of itself has changed
DEPTHS = (1, 2, 3)
_PRACO = json.loads(Path(__file__).with_name("prompt_tests_praco.json").read_text(encoding="utf-8"))
CLASS_ORDER = {name: place for place, name in enumerate(_PRACO["classes"])}
SEVERAL_CLASSES = frozenset(_PRACO["several_classes"])  # ids of FSC-147's pictures


def negative_scores(true: Floats, own: np.ndarray, predicted: Floats) -> dict[str, float]:
    """Return the scores of the negative-prompt test from true counts [n] and predicted ones [n, classes].

    ``own`` [n] is the place of each picture's class; left out classes are NaN. ``np`` is the mean of prediction over
    truth for the right prompt (1 is ideal), ``nmn`` for the mean over wrong prompts (0 is ideal; about ``np`` if the
    prompt is ignored). ``pccn`` is the share of pictures, per cent, counted nearer to the truth with the right prompt
    than with wrong ones. ``mae`` and ``rmse`` are with the right prompt.
    """
    right, wrong = _right_and_wrong(predicted.round(DECIMALS), own)  # not clipped at 0, as released
    nearer = np.abs(right - true) < np.abs(wrong - true)
    return {
        "np": float((right / true).mean()),
        "nmn": float((wrong / true).mean()),
        "pccn": 100 * float(nearer.mean()),
        "mae": MAE(true, right),
        "rmse": RMSE(true, right),
    }


def _right_and_wrong(predicted: Floats, own: np.ndarray) -> tuple[Floats, Floats]:
    """Return each picture's count with its own class, and the mean of those with the others, [n] each."""
    others, rows = predicted.copy(), np.arange(len(own))
    others[rows, own] = np.nan
    return predicted[rows, own], np.nanmean(others, axis=1)


def mosaic_scores(true: Floats, own: np.ndarray, upper: Floats, lower: Floats) -> Floats:
    """Return count recall, precision and F of each picture, means over classes, [n, 3].

    ``true`` [n] are counts of the upper pictures, and ``own`` [n] is the place of each one's class, a column that is
    ignored. ``upper`` and ``lower`` [n, classes of the lower picture] are what is counted in the halves with the upper
    picture's class; NaN where a class is left out.
    """
    above, below = upper.round(DECIMALS).clip(min=0), lower.round(DECIMALS).clip(min=0)
    found = np.minimum(above, true[:, None])
    return _averaged(found, true[:, None], above + below, own, own_recall=1.0)


def _averaged(found: Floats, true: Floats, counted: Floats, own: np.ndarray, own_recall: float = math.nan) -> Floats:
    """Return means [n, 3] over classes from [n, classes]; ``own_recall`` is the own class's, and NaN leaves it out."""
    recall = found / true
    with np.errstate(invalid="ignore", divide="ignore"):
        precision = np.where(counted > 0, found / counted, np.nan)
        f = np.where(found > 0, 2 * recall * precision / (recall + precision), 0.0)
    f = np.where(np.isnan(counted), np.nan, f)
    each = np.stack([recall, precision, f], axis=-1)
    each[np.arange(len(own)), own] = (own_recall, np.nan, np.nan)
    return np.stack([_mean_of_known(rows) for rows in each])


def mean_score(per_picture: Floats) -> MosaicScore:
    """Return the means of recall, precision and F over pictures."""
    recall, precision, f = _mean_of_known(per_picture).tolist()
    return MosaicScore(recall=recall, precision=precision, f=f)


def _mean_of_known(rows: Floats) -> Floats:
    """Return the mean of each column over what is not NaN; NaN for a column of nothing else."""
    known = ~np.isnan(rows)
    number = known.sum(axis=0)
    return np.where(number > 0, np.where(known, rows, 0).sum(axis=0) / np.maximum(number, 1), np.nan)


def localised_counts(density: Tensor, points: np.ndarray, depth: int) -> tuple[float, float]:
    """Return what is found and what is counted too much on a collage, in 2^depth x 2^depth cells of each half.

    What was asked for is in the upper half of the ``density`` [1, h, w], at ``points`` [N, 2], shares of the collage.
    """
    cells = 2**depth
    half = density.shape[1] // 2
    halves = density[0, :half], density[0, half:]
    counted = np.concatenate([_cell_sums(part, cells) for part in halves])  # (2 * cells, cells)
    there = np.zeros_like(counted)
    rows = np.minimum((points[:, 1] * 2 * cells).astype(int), cells - 1)
    columns = np.minimum((points[:, 0] * cells).astype(int), cells - 1)
    np.add.at(there, (rows, columns), 1)
    counted = counted.clip(min=0)
    return float(np.minimum(counted, there).sum()), float((counted - there).clip(min=0).sum())


def _cell_sums(density: Tensor, cells: int) -> Floats:
    """Return sums over cells x cells parts of nearly equal size, [cells, cells]."""
    values = density.double().cpu().numpy()
    for axis in (0, 1):
        values = np.stack([part.sum(axis) for part in np.array_split(values, cells, axis)], axis)
    return values


def collage(upper: Tensor, lower: Tensor) -> Tensor:
    """Return two pictures uint8 [3, H, W] one above the other, squeezed to the smaller height and half of it."""
    height = min(upper.shape[1], lower.shape[1])
    size = (height, height // 2)  # Pillow's order: the collage is as wide as it is high
    parts = [Image.fromarray(picture.permute(1, 2, 0).numpy()).resize(size) for picture in (upper, lower)]
    return torch.cat([torch.from_numpy(np.array(part)).permute(2, 0, 1) for part in parts], dim=1)


def drawn_partners(samples: Sequence[Sample], classes: Sequence[str]) -> list[list[int | None]]:
    """Return, for each picture and each class, which picture of that class goes below it; None for its own class."""
    generator = random.Random(DRAWING_SEED)
    places = {name: [index for index, sample in enumerate(samples) if sample.prompt == name] for name in classes}
    return [
        [None if name == sample.prompt else generator.choice(places[name]) for name in classes] for sample in samples
    ]


def as_prompted(sample: Sample, prompt: str) -> Sample:
    """Return the sample asked for another class: without its description and what belongs to one data set alone."""
    return replace(sample, prompt=prompt, boxes=None, attributes={})


def _classes_of(samples: Sequence[Sample]) -> list[str]:
    names = {sample.prompt for sample in samples}
    classes = sorted(names, key=lambda name: (CLASS_ORDER.get(name, len(CLASS_ORDER)), name))
    if len(classes) < 2:
        raise UserError(f"prompt tests need two classes, but every picture asks for {', '.join(classes)!r}")
    if empty := [sample.id for sample in samples if sample.count <= 0]:
        raise UserError(f"prompt tests need pictures that show their class; these have a count of 0: {empty[:5]}")
    return classes


def shows(sample: Sample, name: str) -> bool:
    """Return whether a picture is known to show a class besides its own."""
    return name != sample.prompt and bool(sample.attributes.get("counts", {}).get(name, 0))


def remembering(load: LoadImage) -> LoadImage:
    """Return a loader that remembers the last picture: samples of one picture follow each other."""
    last: dict[Path | None, Tensor] = {}

    def picture(sample: Sample) -> Tensor:
        nonlocal last
        if sample.image is None or sample.image not in last:
            last = {sample.image: load(sample)}
        return last[sample.image]

    return picture


def _own_and_true(samples: Sequence[Sample], classes: Sequence[str]) -> tuple[np.ndarray, Floats]:
    """Return the place of each sample's class, and its count."""
    own = np.array([classes.index(sample.prompt) for sample in samples])
    return own, np.array([sample.count for sample in samples], np.float64)


@dataclass(frozen=True, slots=True)
class _Collage:
    place: tuple[int, int]  # picture and class in the tables
    upper: Sample
    lower: Sample
    asked: Sample
    points: np.ndarray  # of the upper picture, as shares of the collage


def _collages(samples: Sequence[Sample], classes: Sequence[str], without: Collection[str]) -> Iterator[_Collage]:
    """Yield the collages, but not below pictures ``without``; those known to show both classes are left out."""
    for row, partners in enumerate(drawn_partners(samples, classes)):
        sample = samples[row]
        if sample.id in without:
            continue
        points = sample.points / (sample.width, 2 * sample.height)
        for column, other in enumerate(partners):
            if other is None or shows(sample, classes[column]) or shows(samples[other], sample.prompt):
                continue
            edge = min(sample.height, samples[other].height)
            asked = as_prompted(sample, sample.prompt)
            asked = replace(asked, id=f"{sample.id}/{column}", width=edge, height=2 * (edge // 2))
            yield _Collage((row, column), sample, samples[other], asked, points)


def known_counts(sample: Sample) -> dict[str, float]:
    """Return the classes of a sample's picture and their counts, as far as its data set says them."""
    counts = {str(name): float(count) for name, count in sample.attributes.get("counts", {}).items()}
    if "majority_class" in sample.attributes:
        counts[str(sample.attributes["majority_class"])] = float(sample.attributes["majority_count"])
    return counts | {sample.prompt: float(sample.count)}


def majority_of(sample: Sample) -> str:
    """Return the class of which a sample's picture shows most."""
    counts = known_counts(sample)
    return max(counts, key=counts.__getitem__)


def majority_and_minority(asking: Asking, samples: Sequence[Sample]) -> list[PairPicture]:
    """Predict each picture for its prompt, its majority class, and a class of the others that it does not show."""
    counts, majorities = [known_counts(sample) for sample in samples], [majority_of(sample) for sample in samples]
    bare = [sample.id for sample, majority in zip(samples, majorities, strict=True) if majority == sample.prompt]
    if bare:
        raise UserError(f"these samples do not name a class with more objects than their prompt's: {bare[:5]}")
    generator = random.Random(DRAWING_SEED)
    classes = sorted({name for known in counts for name in known})
    choices = [[name for name in classes if not known.get(name)] for known in counts]
    absents = [generator.choice(names) if names else "" for names in choices]  # "": there is none
    asked = [
        as_prompted(sample, prompt)
        for sample, majority, absent in zip(samples, majorities, absents, strict=True)
        for prompt in (majority, sample.prompt, absent)
        if prompt
    ]
    results = asking.predict(asked, remembering(asking.load_image))
    return [
        PairPicture(
            id=sample.id,
            majority=majority,
            majority_true=known[majority],
            majority_predicted=next(results).count,
            minority=sample.prompt,
            minority_true=float(sample.count),
            minority_predicted=next(results).count,
            absent=absent,
            absent_predicted=next(results).count if absent else math.nan,
        )
        for sample, known, majority, absent in zip(samples, counts, majorities, absents, strict=True)
    ]


def changed_share(first: ArrayLike, second: ArrayLike) -> float:
    """Return the share of pictures whose count differs by more than 1 % between two prompts."""
    one, two = np.asarray(first, np.float64), np.asarray(second, np.float64)
    return float((np.abs(one - two) > CHANGED * np.abs(one)).mean())


def spread(samples: Sequence[Sample], pictures: int | None) -> list[Sample]:
    """Return at most so many samples, evenly spread over all; None: all."""
    if pictures is None or pictures >= len(samples):
        return list(samples)
    return [samples[int(place)] for place in np.linspace(0, len(samples) - 1, pictures)]


def usable(samples: Sequence[Sample]) -> list[Sample]:
    """Return the samples that show their class and lack another one that is asked for: for these a prompt is wrong."""
    showing = [sample for sample in samples if sample.count > 0]
    classes = {sample.prompt for sample in showing}
    return [s for s in showing if any(name != s.prompt and not shows(s, name) for name in classes)]


def negative_prompts(asking: Asking, samples: Sequence[Sample], without: Collection[str] = ()) -> NegativePrompts:
    """Return the negative-prompt test of ``usable`` samples, but those with ids ``without``.

    The classes are those that all of them ask for.
    """
    _refuse_mute(asking.system)
    classes = _classes_of(samples)
    samples = [sample for sample in samples if sample.id not in without]
    wanted = [
        (row, column, as_prompted(sample, name))
        for row, sample in enumerate(samples)
        for column, name in enumerate(classes)
        if not shows(sample, name)
    ]
    predicted = np.full((len(samples), len(classes)), np.nan)
    results = asking.predict([sample for *_, sample in wanted], remembering(asking.load_image))
    for (row, column, _), result in zip(wanted, results, strict=True):
        predicted[row, column] = result.count
    own, true = _own_and_true(samples, classes)
    other = [_another_count(row, place) for row, place in zip(predicted, own, strict=True)]
    right, wrong = _right_and_wrong(predicted, own)
    return NegativePrompts(
        **negative_scores(true, own, predicted),
        prompt_swap=changed_share(right, other),
        pictures=[
            NegativePicture(id=sample.id, prompt=sample.prompt, true=float(count), right=float(one), wrong=float(mean))
            for sample, count, one, mean in zip(samples, true, right, wrong, strict=True)
        ],
    )


def mosaics(asking: Asking, samples: Sequence[Sample], without: Collection[str] = ()) -> dict[str, MosaicScore]:
    """Return "count", and the localised "depth_1" to "depth_3", of ``usable`` samples above one of each other class.

    Samples ``without`` (ids) are not scored. They are drawn for the lower half all the same, as released.
    """
    _refuse_mute(asking.system)
    classes = _classes_of(samples)
    jobs = {job.asked.id: job for job in _collages(samples, classes, without)}
    last = remembering(asking.load_image)

    def picture(sample: Sample) -> Tensor:
        return collage(last(jobs[sample.id].upper), asking.load_image(jobs[sample.id].lower))

    empty = np.full((len(samples), len(classes)), np.nan)  # NaN where there is no collage
    upper, lower = empty.copy(), empty.copy()
    found, excess = ({depth: empty.copy() for depth in DEPTHS} for _ in range(2))
    for result in asking.predict([job.asked for job in jobs.values()], picture, keep_density=True):
        if result.density is None:
            raise UserError("mosaic tests need a density map, and this system predicts counts by caption")
        job, density = jobs[result.sample.id], result.density
        half, place = density.shape[1] // 2, job.place
        upper[place], lower[place] = float(density[:, :half].sum()), float(density[:, half:].sum())
        for depth in DEPTHS:
            found[depth][place], excess[depth][place] = localised_counts(density, job.points, depth)
    own, true = _own_and_true(samples, classes)
    scores = {"count": mosaic_scores(true, own, upper, lower)}
    for depth in DEPTHS:
        scores[f"depth_{depth}"] = _averaged(found[depth], true[:, None], found[depth] + excess[depth], own)
    scored = np.array([sample.id not in without for sample in samples])
    return {name: mean_score(per_picture[scored]) for name, per_picture in scores.items()}


def pairs(asking: Asking, samples: Sequence[Sample]) -> Pairs:
    """Return counts for the majority, the minority and an absent class: their means, and each picture's."""
    _refuse_mute(asking.system)
    found = majority_and_minority(asking, samples)
    columns = {
        name: np.array([getattr(pair, name) for pair in found])
        for name in ("majority_true", "majority_predicted", "minority_true", "minority_predicted", "absent_predicted")
    }
    asked = columns["minority_predicted"]
    to_majority = np.abs(asked - columns["majority_true"]) < np.abs(asked - columns["minority_true"])
    known = {name: values[~np.isnan(values)] for name, values in columns.items()}
    return Pairs(
        means={name: float(values.mean()) for name, values in known.items() if len(values)},
        minority_mae=MAE(columns["minority_true"], asked),
        nearer_to_majority=float(to_majority.mean()),
        prompt_swap=changed_share(columns["majority_predicted"], asked),
        pictures=found,
    )


def _refuse_mute(system: System) -> None:
    if not system.text_guided:
        raise UserError("prompt tests are for systems that are told what to count")


def _another_count(predicted: Floats, own: int) -> float:
    """Return the count for the next class after the own one that the picture was asked for."""
    if not (others := [count for count in np.roll(predicted, -own)[1:] if not math.isnan(count)]):
        raise UserError("a picture shows every class of the benchmark, so no prompt is wrong")
    return others[0]

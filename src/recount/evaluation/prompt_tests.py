"""Does a text-guided system read its prompt? PrACo's negative-prompt and mosaic tests, and prompts swapped in pairs.

Ciampi et al., "Mind the Prompt: A Novel Benchmark for Prompt-based Class-Agnostic Counting" (arXiv 2409.15953). Numbers
checked against ciampluca/PrACo@438a968 (benchmark/benchmark.py, statistics_extractor.py; golden cases ``praco.json``).

* Negative prompts: every picture with every class of its split. A class that a picture is known to show besides its own
  (attribute ``counts``) is left out; PrACo has a list of such pictures to exclude.
* Mosaics: above a picture of the class that is asked for, below one of another class; what is counted in the lower half
  is wrong. The localised variants compare the halves cell by cell.
* Pairs: a picture's majority and minority class, as in T2ICount's Figure 1; and how many pictures change their count
  when the prompt changes at all, which is none for a system that is blind to it.

As released, the mean of the mosaics' count recall includes the picture's own class with a recall of 1, precision and F
leave it out; here the localised recalls leave it out as well.

Decisions: where nothing is predicted, precision is undefined and left out of its mean, and F is 0. Descriptions of a
picture are not used: a prompt is a class name, or what the system's ``prompt_of`` makes of it.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from recount.data.sample import Sample
from recount.errors import UserError
from recount.evaluation.files import write_atomically
from recount.evaluation.metrics import MAE, RMSE, Floats
from recount.evaluation.predict import LoadImage, Predicted, predict_samples
from recount.systems.base import System

DECIMALS = 2  # PrACo rounds predictions
DRAWING_SEED = 123
CHANGED = 0.01  # a count that changes by more than this share of itself has changed
DEPTHS = (1, 2, 3)


class PromptTestError(UserError):
    """A benchmark cannot be used for prompt tests; the message says why."""


# --------------------------------------------------------------------------------------------------- negative prompts


@dataclass(frozen=True, slots=True)
class NegativeTable:
    """Predictions of every picture with every class.

    Attributes:
        true: counts of the pictures' own classes, [n].
        own: place of each picture's own class among the columns, [n].
        predicted: [n, classes]; NaN where a class is left out.
    """

    true: Floats
    own: np.ndarray
    predicted: Floats


@dataclass(frozen=True, slots=True)
class NegativeScores:
    """What the negative-prompt test measures.

    Attributes:
        np: mean of prediction over truth for the right prompt; 1 is ideal.
        nmn: the same for the mean over wrong prompts; 0 is ideal, and about ``np`` if the prompt is ignored.
        pccn: share of pictures, percent, whose prediction is nearer to the truth with the right prompt than with wrong
            ones.
        mae, rmse: with the right prompt.
    """

    np: float
    nmn: float
    pccn: float
    mae: float
    rmse: float


def negative_scores(table: NegativeTable) -> NegativeScores:
    """Return the scores of the negative-prompt test."""
    rounded, rows = table.predicted.round(DECIMALS), np.arange(len(table.true))
    right = rounded[rows, table.own]
    others = rounded.copy()
    others[rows, table.own] = np.nan
    wrong = np.nanmean(others, axis=1)  # not clipped at 0, as released
    nearer = np.abs(right - table.true) < np.abs(wrong - table.true)
    return NegativeScores(
        np=float((right / table.true).mean()),
        nmn=float((wrong / table.true).mean()),
        pccn=100 * float(nearer.mean()),
        mae=MAE(table.true, right),
        rmse=RMSE(table.true, right),
    )


# ------------------------------------------------------------------------------------------------------------- mosaics


@dataclass(frozen=True, slots=True)
class MosaicScores:
    """Count recall, precision and F: means over classes, then over pictures.

    Attributes:
        recall, precision, f: over pictures.
        per_picture: [n, 3] recall, precision and F of each picture.
    """

    recall: float
    precision: float
    f: float
    per_picture: Floats


def mosaic_scores(true: Floats, own: np.ndarray, upper: Floats, lower: Floats) -> MosaicScores:
    """Return the scores of the mosaic test.

    Args:
        true: counts of the upper pictures, [n].
        own: place of each picture's own class, [n]; that column is ignored.
        upper: counted in the upper half with the upper picture's class, [n, classes of the lower picture]; NaN where a
            class is left out.
        lower: counted in the lower half.
    """
    above, below = upper.round(DECIMALS).clip(min=0), lower.round(DECIMALS).clip(min=0)
    found = np.minimum(above, true[:, None])
    return _averaged(found, true[:, None], above + below, own, own_recall=1.0)


def _averaged(
    found: Floats, true: Floats, counted: Floats, own: np.ndarray, own_recall: float = math.nan
) -> MosaicScores:
    """Return scores from what was found, is there and was counted, [n, classes] each.

    ``own_recall`` goes into the mean in place of the own class; NaN leaves it out.
    """
    recall = found / true
    with np.errstate(invalid="ignore", divide="ignore"):
        precision = np.where(counted > 0, found / counted, np.nan)
        f = np.where(found > 0, 2 * recall * precision / (recall + precision), 0.0)
    f = np.where(np.isnan(counted), np.nan, f)
    each = np.stack([recall, precision, f], axis=-1)
    each[np.arange(len(own)), own] = (own_recall, np.nan, np.nan)
    per_picture = np.stack([_mean_of_known(rows) for rows in each])
    mean_recall, mean_precision, mean_f = _mean_of_known(per_picture).tolist()
    return MosaicScores(mean_recall, mean_precision, mean_f, per_picture)


def _mean_of_known(rows: Floats) -> Floats:
    """Return the mean of each column over what is not NaN; NaN for a column of nothing else."""
    known = ~np.isnan(rows)
    number = known.sum(axis=0)
    return np.where(number > 0, np.where(known, rows, 0).sum(axis=0) / np.maximum(number, 1), np.nan)


def localised_counts(density: Tensor, points: np.ndarray, depth: int) -> tuple[float, float]:
    """Return what is found and what is counted too much on a collage, cell by cell.

    Args:
        density: of the collage, [1, h, w]; the upper half holds what was asked for.
        points: true places in the upper half, [N, 2], x and y as shares of the collage.
        depth: each half has 2^depth x 2^depth cells.
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
        parts = np.array_split(values, cells, axis=axis)
        values = np.stack([part.sum(axis=axis) for part in parts], axis=axis)
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


# --------------------------------------------------------------------------------------------------------- the running


def as_prompted(sample: Sample, prompt: str) -> Sample:
    """Return the sample asked for another class: without its description and what belongs to one data set alone."""
    return replace(sample, prompt=prompt, boxes=None, attributes={})


def classes_of(samples: Sequence[Sample]) -> list[str]:
    """Return the classes that a benchmark asks for, sorted.

    Raises:
        PromptTestError: there are fewer than two, so no prompt is wrong; or a picture shows nothing.
    """
    classes = sorted({sample.prompt for sample in samples})
    if len(classes) < 2:
        raise PromptTestError(f"prompt tests need two classes, but every picture asks for {', '.join(classes)!r}")
    empty = [sample.id for sample in samples if sample.count <= 0]
    if empty:
        raise PromptTestError(f"prompt tests need pictures that show their class; these have a count of 0: {empty[:5]}")
    return classes


def shows(sample: Sample, name: str) -> bool:
    """Return whether a picture is known to show a class besides its own."""
    return name != sample.prompt and bool(sample.attributes.get("counts", {}).get(name, 0))


class _LastPicture:
    """Loads pictures, and remembers the last one: a picture's samples follow each other."""

    def __init__(self, load: LoadImage) -> None:
        self.load = load
        self.last: tuple[Path | None, Tensor] | None = None

    def __call__(self, sample: Sample) -> Tensor:
        if self.last is None or self.last[0] != sample.image or sample.image is None:
            self.last = (sample.image, self.load(sample))
        return self.last[1]


def negative_table(
    system: System, samples: Sequence[Sample], load_image: LoadImage, *, device: torch.device | str = "cpu"
) -> NegativeTable:
    """Predict every picture with every class of the benchmark."""
    classes = classes_of(samples)
    wanted = [
        (row, column, as_prompted(sample, name))
        for row, sample in enumerate(samples)
        for column, name in enumerate(classes)
        if not shows(sample, name)
    ]
    predicted = np.full((len(samples), len(classes)), np.nan)
    results = predict_samples(system, [sample for *_, sample in wanted], _LastPicture(load_image), device=device)
    for (row, column, _), result in zip(wanted, results, strict=True):
        predicted[row, column] = result.count
    own = np.array([classes.index(sample.prompt) for sample in samples])
    return NegativeTable(np.array([sample.count for sample in samples], np.float64), own, predicted)


@dataclass(frozen=True, slots=True)
class MosaicTable:
    """What was counted on the collages.

    Attributes:
        true, own: as in ``NegativeTable``.
        upper, lower: counts of the halves, [n, classes]; NaN where there is no collage.
        found, excess: by depth, [n, classes]: ``localised_counts``.
    """

    true: Floats
    own: np.ndarray
    upper: Floats
    lower: Floats
    found: dict[int, Floats]
    excess: dict[int, Floats]

    def scores(self) -> dict[str, MosaicScores]:
        """Return the scores by name: "count", and "depth_1" to "depth_3" for the localised ones."""
        scored = {"count": mosaic_scores(self.true, self.own, self.upper, self.lower)}
        for depth, found in self.found.items():
            counted = found + self.excess[depth]
            scored[f"depth_{depth}"] = _averaged(found, self.true[:, None], counted, self.own)
        return scored


def mosaic_table(
    system: System, samples: Sequence[Sample], load_image: LoadImage, *, device: torch.device | str = "cpu"
) -> MosaicTable:
    """Count on every picture's collages with a picture of each other class."""
    classes = classes_of(samples)
    jobs = list(_collages(samples, classes))
    below = {job.sample.id: samples[job.lower] for job in jobs}
    above = {job.sample.id: samples[job.row] for job in jobs}
    last = _LastPicture(load_image)

    def picture(sample: Sample) -> Tensor:
        return collage(last(above[sample.id]), load_image(below[sample.id]))

    shape = (len(samples), len(classes))
    upper, lower = np.full(shape, np.nan), np.full(shape, np.nan)
    found, excess = ({depth: np.full(shape, np.nan) for depth in DEPTHS} for _ in range(2))
    results = predict_samples(system, [job.sample for job in jobs], picture, device=device, keep_maps=True)
    for job, result in zip(jobs, results, strict=True):
        density = _density_of(result)
        half, place = density.shape[1] // 2, (job.row, job.column)
        upper[place], lower[place] = float(density[:, :half].sum()), float(density[:, half:].sum())
        for depth in DEPTHS:
            found[depth][place], excess[depth][place] = localised_counts(density, job.points, depth)
    own = np.array([classes.index(sample.prompt) for sample in samples])
    true = np.array([sample.count for sample in samples], np.float64)
    return MosaicTable(true, own, upper, lower, found, excess)


@dataclass(frozen=True, slots=True)
class _Collage:
    row: int
    column: int
    lower: int  # which picture goes below
    sample: Sample
    points: np.ndarray  # of the upper picture, as shares of the collage


def _collages(samples: Sequence[Sample], classes: Sequence[str]) -> Iterator[_Collage]:
    """Yield the collages; those whose pictures are known to show both classes are left out."""
    for row, partners in enumerate(drawn_partners(samples, classes)):
        sample = samples[row]
        points = sample.points / (sample.width, 2 * sample.height)
        for column, other in enumerate(partners):
            if other is None or shows(sample, classes[column]) or shows(samples[other], sample.prompt):
                continue
            edge = min(sample.height, samples[other].height)
            prompted = replace(
                as_prompted(sample, sample.prompt), id=f"{sample.id}/{column}", width=edge, height=2 * (edge // 2)
            )
            yield _Collage(row, column, other, prompted, points)


def _density_of(result: Predicted) -> Tensor:
    if result.density is None:
        raise PromptTestError("mosaic tests need a density map, and this system predicts counts by caption")
    return result.density


# --------------------------------------------------------------------------------------------------------------- pairs


@dataclass(frozen=True, slots=True)
class Pair:
    """Majority and minority of one picture: prompts, truths, and what a system counted."""

    id: str
    majority: str
    majority_true: float
    majority_predicted: float
    minority: str
    minority_true: float
    minority_predicted: float


def majority_and_minority(
    system: System, samples: Sequence[Sample], load_image: LoadImage, *, device: torch.device | str = "cpu"
) -> list[Pair]:
    """Predict each picture for its prompt and for its majority class.

    Args:
        system: to be asked.
        samples: with attributes ``majority_class`` and ``majority_count`` (FSC-147-S and its stand-in).
        load_image: as for ``predict_samples``.
        device: where the network runs.

    Raises:
        PromptTestError: a sample does not say what its majority is.
    """
    bare = [sample.id for sample in samples if "majority_class" not in sample.attributes]
    if bare:
        raise PromptTestError(f"these samples do not say what the majority of their picture is: {bare[:5]}")
    asked = [
        as_prompted(sample, prompt)
        for sample in samples
        for prompt in (str(sample.attributes["majority_class"]), sample.prompt)
    ]
    counts = [result.count for result in predict_samples(system, asked, _LastPicture(load_image), device=device)]
    return [
        Pair(
            id=sample.id,
            majority=str(sample.attributes["majority_class"]),
            majority_true=float(sample.attributes["majority_count"]),
            majority_predicted=majority,
            minority=sample.prompt,
            minority_true=float(sample.count),
            minority_predicted=minority,
        )
        for sample, majority, minority in zip(samples, counts[::2], counts[1::2], strict=True)
    ]


def changed_share(first: Sequence[float], second: Sequence[float]) -> float:
    """Return the share of pictures whose count differs by more than 1 % between two prompts."""
    one, two = np.asarray(first, np.float64), np.asarray(second, np.float64)
    return float((np.abs(one - two) > CHANGED * np.abs(one)).mean())


# ---------------------------------------------------------------------------------------------------------------- all


def run_prompt_tests(
    system: System,
    samples: Sequence[Sample],
    load_image: LoadImage,
    *,
    pictures: int | None = None,
    device: torch.device | str = "cpu",
) -> dict[str, Any]:
    """Return the scores of all prompt tests of a text-guided system on a benchmark, as JSON has them.

    Args:
        system: to be tested.
        samples: of the benchmark; its classes are those of all of them.
        load_image: as for ``predict_samples``.
        pictures: only so many pictures, evenly spread; None: all. The costs grow with pictures times classes.
        device: where the network runs.

    Raises:
        PromptTestError: the benchmark has one class only, a picture without its class, or the system no density.
    """
    if not system.text_guided:
        raise PromptTestError("prompt tests are for systems that are told what to count")
    if pictures is not None and pictures < len(samples):
        samples = [samples[int(place)] for place in np.linspace(0, len(samples) - 1, pictures)]
    negative = negative_table(system, samples, load_image, device=device)
    rows = np.arange(len(samples))
    other = np.array([_another_class(row, own) for row, own in zip(negative.predicted, negative.own, strict=True)])
    swapped = changed_share(list(negative.predicted[rows, negative.own]), list(negative.predicted[rows, other]))
    mosaics = mosaic_table(system, samples, load_image, device=device).scores()
    return {
        "pictures": len(samples),
        "classes": len(classes_of(samples)),
        "prompt_swap": swapped,
        "negative": asdict(negative_scores(negative)),
        "mosaic": {
            name: {"recall": scores.recall, "precision": scores.precision, "f": scores.f}
            for name, scores in mosaics.items()
        },
    }


def _another_class(predicted: Floats, own: int) -> int:
    """Return the next class after the own one that the picture was asked for."""
    for step in range(1, len(predicted)):
        place = (own + step) % len(predicted)
        if not math.isnan(predicted[place]):
            return place
    raise PromptTestError("a picture shows every class of the benchmark, so no prompt is wrong")


def write_prompt_tests(scores: dict[str, Any], path: Path) -> None:
    """Write the scores as JSON; NaN, which JSON does not have, becomes null."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items()}
        return None if isinstance(value, float) and math.isnan(value) else value

    text = json.dumps(plain(scores), indent=1) + "\n"
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))

"""What predictors that look at no picture score on the real annotations that T2ICount's tables are about.

FSC-147 (val, test, and test without the two pictures that decide its RMSE), FSC-147-S (v1, v2) and CARPK (test). Only
counts and prompts are needed, so these are real numbers wherever the annotation files are, without pictures or a GPU.
Checked against golden case ``real_count_lists`` of ``trivial_baselines.json``.

Some rows are oracles, and marked as such: they use the counts they are tested on. The *prompt-blind perfect counter*
answers, on FSC-147-S, what FSC-147 annotates for the picture: as well as a system can do that counts without a mistake
and does not read its prompt.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from recount import datasets
from recount.data.dataset import DataError
from recount.data.sample import RawSample
from recount.metrics import MAE, NAE, RMSE, SRE, Floats, Metric
from recount.results.files import write_rows
from recount.scoring.statistics import CONFIDENCE, RANDOM_SEED, RESAMPLES

log = logging.getLogger(__name__)

SCORED = (MAE, RMSE, NAE, SRE)
DOMINANT = ("1123", "7611")  # FSC-147 test pictures with 3,701 and 2,560 objects: 65.6 % of the squared counts
RESAMPLES_AT_ONCE = 1000

Statistic = Literal["mean", "median"]
STATISTICS: tuple[Statistic, ...] = ("mean", "median")
COLUMNS = ("dataset", "split", "predictor", "label", "oracle", "metric", "value", "ci_low", "ci_high", "n")


@dataclass(frozen=True, slots=True)
class Predictor:
    """Predictions that no picture was looked at for.

    Attributes:
        name: short and stable.
        label: for people.
        counts: what it predicts for each sample.
        oracle: whether it uses the counts it is tested on.
    """

    name: str
    label: str
    counts: Floats
    oracle: bool = False


@dataclass(frozen=True, slots=True)
class Trivial:
    """One metric of one predictor on one benchmark, with its 95 % interval over pictures."""

    dataset: str
    split: str
    predictor: str
    label: str
    oracle: bool
    metric: str
    value: float
    ci_low: float
    ci_high: float
    n: int


def trivial_rows(raw: Path) -> list[Trivial]:
    """Return every row whose annotation files are there.

    Args:
        raw: the folder of fetched data sets, with ``fsc147``, ``fsc147s`` and ``carpk`` in it.
    """
    reference = _read(raw, "fsc147", "train")
    if not reference:
        return []
    rows = [row for split in ("val", "test") for row in _fsc147(_read(raw, "fsc147", split), reference, split)]
    for version in ("v1", "v2"):
        samples = _read(raw, "fsc147s", version)
        rows += _scored("fsc147s", version, samples, _for_fsc147s(samples, reference)) if samples else []
    cars = _read(raw, "carpk", "test")
    rows += _scored("carpk", "test", cars, _for_carpk(cars, _read(raw, "carpk", "train"), reference)) if cars else []
    return rows


def write_trivial_rows(rows: Iterable[Trivial], path: Path) -> None:
    """Write ``trivial_rows`` as a CSV file."""
    write_rows(path, COLUMNS, [[_text(getattr(row, column)) for column in COLUMNS] for row in rows])


def _text(value: object) -> str:
    return repr(float(value)) if isinstance(value, float) else str(value)


def _read(raw: Path, name: str, split: str) -> list[RawSample]:
    """Return a split's samples; none, with a message, where the annotation is not there."""
    try:
        return [sample for sample in datasets.load(name).read(raw / name) if sample.split == split]
    except DataError as error:
        log.warning("no trivial rows of %s/%s on the real annotation: %s", name, split, error)
        return []


# ---------------------------------------------------------------------------------------------------------- predictors


def _counts(samples: Iterable[RawSample]) -> Floats:
    return np.array([sample.count for sample in samples], dtype=np.float64)


def _constant(name: str, label: str, value: float, size: int, *, oracle: bool = False) -> Predictor:
    return Predictor(name, f"{label} ({value:.4g})", np.full(size, float(value)), oracle)


def _constants(samples: Sequence[RawSample], reference: Sequence[RawSample]) -> list[Predictor]:
    own, seen, size = _counts(samples), _counts(reference), len(samples)
    return [
        Predictor("zero", "always 0", np.zeros(size)),
        Predictor("one", "always 1", np.ones(size)),
        _constant("fsc147_train_mean", "mean of FSC-147 train", float(seen.mean()), size),
        _constant("fsc147_train_median", "median of FSC-147 train", float(np.median(seen)), size),
        _constant("best_constant_mae", "best constant for MAE", float(np.median(own)), size, oracle=True),
        _constant("best_constant_rmse", "best constant for RMSE", float(own.mean()), size, oracle=True),
    ]


def _statistic(counts: Sequence[float] | Floats, name: Statistic) -> float:
    return float(np.mean(counts) if name == "mean" else np.median(counts))


def _per_class(
    samples: Sequence[RawSample], reference: Sequence[RawSample], statistic: Literal["mean", "median"]
) -> Floats:
    """Return the statistic of the reference's samples of each sample's class, else of the whole reference.

    Class names are compared without regard to capitals.
    """
    by_class: dict[str, list[float]] = {}
    for sample in reference:
        by_class.setdefault(sample.prompt.lower(), []).append(sample.count)
    fallback = _counts(reference)
    return np.array([_statistic(by_class.get(sample.prompt.lower(), fallback), statistic) for sample in samples])


def _for_fsc147(samples: Sequence[RawSample], reference: Sequence[RawSample]) -> list[Predictor]:
    return [
        *_constants(samples, reference),
        *(
            Predictor(
                f"class_{statistic}",
                f"{statistic} of the picture's class in this set",
                _per_class(samples, samples, statistic),
                oracle=True,
            )
            for statistic in STATISTICS
        ),
    ]


def _fsc147(samples: Sequence[RawSample], reference: Sequence[RawSample], split: str) -> list[Trivial]:
    """Return the rows of a split, and of the test split those without its two dominant pictures."""
    if not samples:
        return []
    rows = _scored("fsc147", split, samples, _for_fsc147(samples, reference))
    if split == "test":
        rest = [sample for sample in samples if sample.id not in DOMINANT]
        rows += _scored("fsc147", "test_without_1123_7611", rest, _constants(rest, reference))
    return rows


def _for_fsc147s(samples: Sequence[RawSample], reference: Sequence[RawSample]) -> list[Predictor]:
    blind = np.array([sample.attributes["majority_count"] for sample in samples], dtype=np.float64)
    size = len(samples)
    return [
        *_constants(samples, reference),
        Predictor("two", "always 2", np.full(size, 2.0)),
        Predictor("three", "always 3", np.full(size, 3.0)),
        *(
            Predictor(
                f"train_class_{statistic}",
                f"{statistic} of the prompt's class in FSC-147 train, else of all of it",
                _per_class(samples, reference, statistic),
            )
            for statistic in STATISTICS
        ),
        Predictor("prompt_blind", "perfect counter that ignores the prompt", blind, oracle=True),
    ]


def _for_carpk(
    samples: Sequence[RawSample], train: Sequence[RawSample], reference: Sequence[RawSample]
) -> list[Predictor]:
    own, size = _counts(train), len(samples)
    cars = _counts(sample for sample in reference if sample.prompt == "cars")
    return [
        *_constants(samples, reference),
        _constant("carpk_train_mean", "mean of CARPK train", float(own.mean()), size),
        _constant("carpk_train_median", "median of CARPK train", float(np.median(own)), size),
        _constant("fsc147_cars_mean", "mean of the cars in FSC-147 train", float(cars.mean()), size),
        _constant("fsc147_cars_median", "median of the cars in FSC-147 train", float(np.median(cars)), size),
    ]


# ------------------------------------------------------------------------------------------------------------- scoring


def _scored(dataset: str, split: str, samples: Sequence[RawSample], predictors: Sequence[Predictor]) -> list[Trivial]:
    true = _counts(samples)
    every = [(predictor, metric) for predictor in predictors for metric in SCORED]
    contributions = np.stack([metric.of_images(true, predictor.counts) for predictor, metric in every])
    lows, highs = _intervals(contributions, [metric for _, metric in every])
    return [
        Trivial(
            dataset,
            split,
            predictor.name,
            predictor.label,
            predictor.oracle,
            metric.name,
            metric(true, predictor.counts),
            float(low),
            float(high),
            len(samples),
        )
        for (predictor, metric), low, high in zip(every, lows, highs, strict=True)
    ]


def _intervals(contributions: Floats, metrics: Sequence[Metric]) -> tuple[Floats, Floats]:
    """Return the ends of percentile intervals over pictures, all rows resampled with the same pictures.

    Args:
        contributions: [rows, pictures].
        metrics: of each row.
    """
    pictures = contributions.shape[1]
    means = np.concatenate([contributions @ weights.T for weights in _resampled(pictures)], axis=1)
    values = np.stack([metric.of_mean(row) for metric, row in zip(metrics, means, strict=True)])
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(values, [tail, 1 - tail], axis=1)
    return low, high


def _resampled(pictures: int) -> Iterator[Floats]:
    """Yield how often each picture is drawn, as shares, [resamples, pictures]."""
    rng = np.random.default_rng(RANDOM_SEED)
    for _ in range(RESAMPLES // RESAMPLES_AT_ONCE):
        yield rng.multinomial(pictures, np.full(pictures, 1 / pictures), RESAMPLES_AT_ONCE) / pictures

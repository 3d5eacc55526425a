"""Three files of T2ICount's evidence, computed from annotations alone: no picture and no GPU is needed.

``trivial_on_real_annotation``: what predictors that look at no picture score on the benchmarks of the paper's tables.
Oracles use the counts they are tested on. The *prompt-blind perfect counter* answers, on FSC-147-S, what FSC-147
annotates for the picture: as well as a system can do that counts without a mistake and does not read its prompt.
Golden case: ``real_count_lists`` of ``trivial_baselines.json``.

``clip_count_unread_prompts``: how many prompts CLIP-Count's text defect touches. songrise/CLIP-Count@ba57fd0 inserts
two learned vectors after the start token, but reads the text out where the end token stood before. With CLIP's causal
attention a name of one token is therefore not read at all, and a longer name loses its last token. Golden case:
``one_token_names`` of ``clip_count.json``.

``annotation``: in how many pictures of FSC-147-S, which are annotated with a second class, FSC-147's own prompt names
the class that has more objects.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from recount import datasets
from recount.data.dataset import DataError
from recount.data.sample import RawSample
from recount.metrics import MAE, NAE, RMSE, SRE, Floats, Metric
from recount.scoring.statistics import RANDOM_SEED, RESAMPLES, interval_of, wilson

TRIVIAL = "trivial_on_real_annotation"
UNREAD = "clip_count_unread_prompts"
ANNOTATION = "annotation"
SCORED = (MAE, RMSE, NAE, SRE)
DOMINANT = ("1123", "7611")  # FSC-147 test pictures with 3,701 and 2,560 objects: 65.6 % of the squared counts
RESAMPLES_AT_ONCE = 1000


def _read(raw: Path, name: str, *splits: str) -> list[list[RawSample]]:
    try:
        samples = list(datasets.load(name).read(raw / name))
    except DataError as error:
        raise DataError(f"{error}\nThis evidence is computed from {name}: run `recount fetch {name}` first") from None
    found = [[sample for sample in samples if sample.split == split] for split in splits]
    for split, mine in zip(splits, found, strict=True):
        if not mine:
            raise DataError(f"{raw / name}: no sample is in split {split}; run `recount fetch {name}` again")
    return found


class _Predictor(NamedTuple):
    name: str
    label: str
    counts: Floats
    oracle: bool = False  # uses the counts it is tested on


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
    """Return the rows of ``trivial_on_real_annotation.csv`` from the folder of fetched data sets."""
    train, val, test = _read(raw, "fsc147", "train", "val", "test")
    own_cars, cars = _read(raw, "carpk", "train", "test")
    rest = [sample for sample in test if sample.id not in DOMINANT]
    rows = _scored("fsc147", "val", val, [*_constants(val, train), *_per_class(val, val, "class")])
    rows += _scored("fsc147", "test", test, [*_constants(test, train), *_per_class(test, test, "class")])
    rows += _scored("fsc147", "test_without_1123_7611", rest, _constants(rest, train))
    for version, samples in zip(("v1", "v2"), _read(raw, "fsc147s", "v1", "v2"), strict=True):
        rows += _scored("fsc147s", version, samples, [*_constants(samples, train), *_for_fsc147s(samples, train)])
    return rows + _scored("carpk", "test", cars, [*_constants(cars, train), *_for_carpk(cars, own_cars, train)])


def _counts(samples: Iterable[RawSample]) -> Floats:
    return np.array([sample.count for sample in samples], dtype=np.float64)


def _mean_and_median(name: str, label: str, counts: Floats, size: int) -> list[_Predictor]:
    found = {"mean": float(counts.mean()), "median": float(np.median(counts))}
    return [_Predictor(f"{name}_{k}", f"{k} of {label} ({v:.4g})", np.full(size, v)) for k, v in found.items()]


def _constants(samples: Sequence[RawSample], train: Sequence[RawSample]) -> list[_Predictor]:
    own, size = _counts(samples), len(samples)
    best = {"MAE": float(np.median(own)), "RMSE": float(own.mean())}
    return [
        *(_Predictor("zero", "always 0", np.zeros(size)), _Predictor("one", "always 1", np.ones(size))),
        *_mean_and_median("fsc147_train", "FSC-147 train", _counts(train), size),
        *(
            _Predictor(f"best_constant_{k.lower()}", f"best constant for {k} ({v:.4g})", np.full(size, v), oracle=True)
            for k, v in best.items()
        ),
    ]


def _per_class(samples: Sequence[RawSample], reference: Sequence[RawSample], name: str) -> Iterator[_Predictor]:
    by_class: dict[str, list[float]] = {}
    for sample in reference:
        by_class.setdefault(sample.prompt.lower(), []).append(sample.count)
    groups = [by_class.get(sample.prompt.lower()) for sample in samples]
    own = samples is reference
    words = "of the picture's class in this set" if own else "of the prompt's class in FSC-147 train, else of all of it"
    for statistic, function in (("mean", np.mean), ("median", np.median)):
        counts = np.array([float(function(_counts(reference) if group is None else group)) for group in groups])
        yield _Predictor(f"{name}_{statistic}", f"{statistic} {words}", counts, own)


def _for_fsc147s(samples: Sequence[RawSample], train: Sequence[RawSample]) -> Iterator[_Predictor]:
    yield _Predictor("two", "always 2", np.full(len(samples), 2.0))
    yield _Predictor("three", "always 3", np.full(len(samples), 3.0))
    yield from _per_class(samples, train, "train_class")
    blind = np.array([sample.attributes["majority_count"] for sample in samples], dtype=np.float64)
    yield _Predictor("prompt_blind", "perfect counter that ignores the prompt", blind, oracle=True)


def _for_carpk(cars: Sequence[RawSample], own: Sequence[RawSample], train: Sequence[RawSample]) -> list[_Predictor]:
    other = _counts(sample for sample in train if sample.prompt == "cars")
    of_others = _mean_and_median("fsc147_cars", "the cars in FSC-147 train", other, len(cars))
    return [*_mean_and_median("carpk_train", "CARPK train", _counts(own), len(cars)), *of_others]


def _scored(dataset: str, split: str, samples: Sequence[RawSample], predictors: Sequence[_Predictor]) -> list[Trivial]:
    true, rows = _counts(samples), []
    every = [(predictor, metric) for predictor in predictors for metric in SCORED]
    contributions = np.stack([metric.of_images(true, predictor.counts) for predictor, metric in every])
    ends = _intervals(contributions, [metric for _, metric in every])
    for ((name, label, counts, oracle), metric), (low, high) in zip(every, ends, strict=True):
        scored = metric(true, counts), low, high, len(samples)
        rows.append(Trivial(dataset, split, name, label, oracle, metric.name, *scored))
    return rows


def _intervals(contributions: Floats, metrics: Sequence[Metric]) -> list[tuple[float, float]]:
    """Return percentile intervals over pictures of contributions [rows, pictures], resampled with the same pictures."""
    pictures, rng = contributions.shape[1], np.random.default_rng(RANDOM_SEED)
    share = np.full(pictures, 1 / pictures)
    drawn = (rng.multinomial(pictures, share, RESAMPLES_AT_ONCE) for _ in range(RESAMPLES // RESAMPLES_AT_ONCE))
    means = np.concatenate([contributions @ (times / pictures).T for times in drawn], axis=1)
    return [interval_of(metric.of_mean(row)) for metric, row in zip(metrics, means, strict=True)]


@dataclass(frozen=True, slots=True)
class _Unread:
    """How many samples and names a benchmark has, and how many of them are one token, so that nothing of it is read."""

    dataset: str
    split: str
    prompts: int
    unread: int
    names: int
    unread_names: int
    told_apart: int  # names that are left when each loses its last token


def unread_rows(raw: Path) -> list[_Unread]:
    """Return the rows of ``clip_count_unread_prompts.csv`` from the folder of fetched data sets."""
    splits = {"fsc147": ("train", "val", "test"), "fsc147s": ("v1", "v2")}
    return [
        unread_of(name, split, samples)
        for name, wanted in splits.items()
        for split, samples in zip(wanted, _read(raw, name, *wanted), strict=True)
    ]


def unread_of(dataset: str, split: str, samples: Sequence[RawSample]) -> _Unread:
    """Return what the defect does to the prompts of these samples."""
    from open_clip.tokenizer import SimpleTokenizer

    tokenizer = SimpleTokenizer()
    names = {prompt: tuple(tokenizer.encode(prompt)) for prompt in dict.fromkeys(s.prompt for s in samples)}
    unread = sum(len(names[sample.prompt]) == 1 for sample in samples)
    unread_names = sum(len(ids) == 1 for ids in names.values())
    told_apart = len({ids[:-1] for ids in names.values()})
    return _Unread(dataset, split, len(samples), unread, len(names), unread_names, told_apart)


@dataclass(frozen=True, slots=True)
class _Annotated:
    """A quantity of a benchmark's annotation, with its 95 % interval over pictures."""

    metric: str
    dataset: str
    split: str
    value: float
    ci_low: float
    ci_high: float
    n: int


def annotation_rows(raw: Path) -> list[_Annotated]:
    """Return the rows of ``annotation.csv`` from the folder of fetched data sets."""
    rows = []
    for version, samples in zip(("v1", "v2"), _read(raw, "fsc147s", "v1", "v2"), strict=True):
        share = sum(sample.attributes["majority_count"] > sample.count for sample in samples) / len(samples)
        where = "prompt_names_majority", "fsc147s", version
        rows.append(_Annotated(*where, share, *wilson(share, len(samples)), len(samples)))
    return rows

"""What ``recount test-prompts`` found, picture by picture, as evidence for claims about prompts and maps."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from recount.metrics import Floats
from recount.results.prompt_tests import BenchmarkTests, MapsPicture, NegativePicture, NotTested, PromptTests
from recount.results.reason import Missing
from recount.scoring.measured import read_or_say

SIMILARITY = "S2"
ATTENTION = "attention"
BASE = "maps_before_training"  # the pretrained network's
DECIMALS = 2  # PrACo rounds predictions

Values = dict[str, dict[str, tuple[float, float]]]  # map or "" -> picture -> numerator, denominator


def read_record(path: Path) -> PromptTests:
    """Return a run's prompt tests; ``Missing`` where there are none, or the file is damaged."""
    return read_or_say(path, PromptTests.read, lambda: Missing("not run", "its prompt tests were not run"))


def picture_values(record: PromptTests, benchmark: str, metric: str) -> Values:
    """Return a quantity of each picture, by map where there are several; its mean is a ratio of sums."""
    test, values_of = QUANTITIES[metric]
    tests: BenchmarkTests | None = record.benchmarks.get(benchmark)
    tested = getattr(tests, test) if tests is not None else None
    if tested is None:
        raise Missing("not run", f"no {test.replace('_', ' ')} were tested on {benchmark}")
    if isinstance(tested, NotTested):
        raise Missing("undefined", tested.not_tested)
    try:
        found = values_of(tested.pictures)
    except KeyError as error:
        raise Missing("undefined", f"the prompt tests do not say its {metric}: there is no map {error}") from None
    known = {
        name: {picture: pair for picture, pair in values.items() if all(map(math.isfinite, pair))}
        for name, values in found.items()
    }
    if not known or not all(known.values()):
        raise Missing("undefined", f"no picture has a {metric}")
    return known


def aligned(values: Sequence[Mapping[str, tuple[float, float]]]) -> tuple[Floats, Floats]:
    """Return numerators and denominators [seeds, n] over the pictures that all seeds have."""
    common = [name for name in values[0] if all(name in other for other in values)]
    if not common:
        raise Missing("undefined", "its seeds were tested on different pictures")
    pairs = np.array([[seed[name] for name in common] for seed in values], dtype=np.float64)
    return pairs[..., 0], pairs[..., 1]


def _pccn(pictures: Sequence[NegativePicture]) -> Values:
    def nearer(row: NegativePicture) -> float:
        return 100.0 * (abs(round(row.right, DECIMALS) - row.true) < abs(row.wrong - row.true))

    return {"": {row.id: (nearer(row), 1.0) for row in pictures}}


def _nmn(pictures: Sequence[NegativePicture]) -> Values:
    return {"": {row.id: (row.wrong / row.true, 1.0) for row in pictures}}


def _reached(pictures: Sequence[MapsPicture]) -> Values:
    return {"": {row.id: (math.nan if row.reached is None else row.reached, row.points) for row in pictures}}


def _attention_auc(pictures: Sequence[MapsPicture]) -> Values:
    return {"": {row.id: (row.auc[ATTENTION], 1.0) for row in pictures}}


def _similarity_gain(pictures: Sequence[MapsPicture]) -> Values:
    maps = [name for name in pictures[0].auc if name.startswith(ATTENTION)]
    return {name: {row.id: (row.auc[SIMILARITY] - row.auc[name], 1.0) for row in pictures} for name in maps}


#: quantity -> the test that holds it, and how it follows from the test's pictures
QUANTITIES: Mapping[str, tuple[str, Callable[[Sequence], Values]]] = {
    "pccn": ("negative_prompts", _pccn),
    "nmn": ("negative_prompts", _nmn),
    "attention_reached": ("maps", _reached),
    "attention_auc": ("maps", _attention_auc),
    "base_attention_reached": (BASE, _reached),
    "base_attention_auc": (BASE, _attention_auc),
    "similarity_gain": ("maps", _similarity_gain),
}

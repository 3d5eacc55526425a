"""What ``recount test-prompts`` found, picture by picture, as evidence for claims about prompts and maps."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from recount.metrics import Floats
from recount.results.prompt_tests import AnswersPicture, MapsPicture, NegativePicture, NotTested, PromptTests
from recount.results.reason import Missing

SIMILARITY = "S2"
ATTENTION = "attention"
BASE = "maps_before_training"  # the pretrained network's
DECIMALS = 2  # PrACo rounds predictions

Pairs = dict[str, tuple[float, float]]  # map or "" -> numerator, denominator of a picture
Values = dict[str, dict[str, tuple[float, float]]]  # the same by map, then by picture


def picture_values(record: PromptTests, benchmark: str, metric: str) -> Values:
    """Return a quantity of each picture, by map where there are several; its mean is a ratio of sums."""
    test, of_picture = QUANTITIES[metric]
    tests = record.benchmarks.get(benchmark)
    tested = getattr(tests, test) if tests is not None else None
    if tested is None:
        raise Missing("not run", f"no {test.replace('_', ' ')} were tested on {benchmark}")
    if isinstance(tested, NotTested):
        raise Missing("undefined", tested.not_tested)
    found: Values = {}
    try:
        for row in tested.pictures:
            for name, pair in of_picture(row).items():
                known = found.setdefault(name, {})
                if all(map(math.isfinite, pair)):
                    known[row.id] = pair
    except KeyError as error:
        raise Missing("undefined", f"the prompt tests do not say its {metric}: there is no map {error}") from None
    if not found or not all(found.values()):
        raise Missing("undefined", f"no picture has a {metric}")
    return found


def aligned(values: Sequence[Mapping[str, tuple[float, float]]]) -> tuple[Floats, Floats]:
    """Return numerators and denominators [seeds, n] over the pictures that all seeds have."""
    common = [name for name in values[0] if all(name in other for other in values)]
    if not common:
        raise Missing("undefined", "its seeds were tested on different pictures")
    pairs = np.array([[seed[name] for name in common] for seed in values], dtype=np.float64)
    return pairs[..., 0], pairs[..., 1]


def _nearer(row: NegativePicture) -> Pairs:
    return {"": (100.0 * (abs(round(row.right, DECIMALS) - row.true) < abs(row.wrong - row.true)), 1.0)}


def _reached(row: MapsPicture) -> Pairs:
    return {"": (math.nan if row.reached is None else row.reached, row.points)}


def _attention_auc(row: MapsPicture) -> Pairs:
    return {"": (row.auc[ATTENTION], 1.0)}


def _similarity_gain(row: MapsPicture) -> Pairs:
    return {name: (row.auc[SIMILARITY] - row.auc[name], 1.0) for name in row.auc if name.startswith(ATTENTION)}


def _stays_more(row: AnswersPicture, kept: str, other: str) -> Pairs:
    """Return whether the answer stays with one thing kept, less whether it does with another; NaN where not asked."""
    answers = [getattr(row, name) for name in (kept, other)]
    known = None not in answers
    return {"": (float(answers[0] == row.own) - float(answers[1] == row.own) if known else math.nan, 1.0)}


#: quantity -> the test that holds it, and what a picture of it adds
QUANTITIES: Mapping[str, tuple[str, Callable[[Any], Pairs]]] = {
    "pccn": ("negative_prompts", _nearer),
    "nmn": ("negative_prompts", lambda row: {"": (row.wrong / row.true, 1.0)}),
    "attention_reached": ("maps", _reached),
    "attention_auc": ("maps", _attention_auc),
    "base_attention_reached": (BASE, _reached),
    "base_attention_auc": (BASE, _attention_auc),
    "similarity_gain": ("maps", _similarity_gain),
    "picture_over_caption": ("counterfactuals", lambda row: _stays_more(row, "picture", "caption")),
    "objects_over_background": ("counterfactuals", lambda row: _stays_more(row, "objects", "background")),
}

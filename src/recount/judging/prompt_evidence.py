"""What ``recount test-prompts`` found, picture by picture, as evidence for claims about prompts and maps.

Reads ``results/<suite>/prompt_tests/<system>/<variant>/seed<k>.json``; what is in it stands in
``prompt_tests`` and ``localisation``.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from recount.metrics import Floats
from recount.scoring.score import Missing

SIMILARITY = "S2"
ATTENTION = "attention"
BASE = "maps_before_training"  # the pretrained network's
DECIMALS = 2  # PrACo rounds predictions

Record = Mapping[str, Any]
Values = dict[str, dict[str, tuple[float, float]]]  # map or "" -> picture -> numerator, denominator


def read_record(path: Path) -> Record:
    """Return the content of a run's file of prompt tests.

    Raises:
        Missing: there is none, or it is damaged.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise Missing("its prompt tests were not run") from None
    except (OSError, json.JSONDecodeError) as error:
        raise Missing(f"{path.name} is damaged ({error!r}): delete it and run again") from None
    if not isinstance(content, dict) or "selection" not in content or "benchmarks" not in content:
        raise Missing(f"{path.name} is damaged: delete it and run again")
    return content


def picture_values(record: Record, benchmark: str, metric: str) -> Values:
    """Return a quantity of each picture, by map where there are several; its mean is a ratio of sums.

    Raises:
        Missing: it was not tested on this benchmark, with the reason.
    """
    test, values_of = QUANTITIES[metric]
    tested = record["benchmarks"].get(benchmark, {}).get(test)
    if tested is None:
        raise Missing(f"no {test.replace('_', ' ')} were tested on {benchmark}")
    if "not_tested" in tested:
        raise Missing(str(tested["not_tested"]))
    try:
        found = values_of(tested["pictures"])
    except (KeyError, TypeError) as error:
        raise Missing(f"the prompt tests do not say its {metric} ({error!r}): run them again") from None
    known = {
        name: {picture: pair for picture, pair in values.items() if all(map(math.isfinite, pair))}
        for name, values in found.items()
    }
    if not known or not all(known.values()):
        raise Missing(f"no picture has a {metric}")
    return known


def is_trained(metric: str) -> bool:
    """Return whether a quantity depends on a run's training."""
    return QUANTITIES[metric][0] != BASE


def aligned(values: Sequence[Mapping[str, tuple[float, float]]]) -> tuple[Floats, Floats]:
    """Return numerators and denominators [seeds, n] over the pictures that all seeds have.

    Raises:
        Missing: there is no such picture.
    """
    common = [name for name in values[0] if all(name in other for other in values)]
    if not common:
        raise Missing("its seeds were tested on different pictures")
    pairs = np.array([[seed[name] for name in common] for seed in values], dtype=np.float64)
    return pairs[..., 0], pairs[..., 1]


def _pccn(pictures: Sequence[Record]) -> Values:
    def nearer(row: Record) -> float:
        right, wrong = round(row["right"], DECIMALS), row["wrong"]
        return 100.0 * (abs(right - row["true"]) < abs(wrong - row["true"]))

    return {"": {row["id"]: (nearer(row), 1.0) for row in pictures}}


def _nmn(pictures: Sequence[Record]) -> Values:
    return {"": {row["id"]: (row["wrong"] / row["true"], 1.0) for row in pictures}}


def _reached(pictures: Sequence[Record]) -> Values:
    return {"": {row["id"]: (float(row["reached"]), float(row["points"])) for row in pictures}}


def _attention_auc(pictures: Sequence[Record]) -> Values:
    return {"": {row["id"]: (_number(row["auc"][ATTENTION]), 1.0) for row in pictures}}


def _similarity_gain(pictures: Sequence[Record]) -> Values:
    maps = [name for name in pictures[0]["auc"] if name.startswith(ATTENTION)]
    return {
        name: {row["id"]: (_number(row["auc"][SIMILARITY]) - _number(row["auc"][name]), 1.0) for row in pictures}
        for name in maps
    }


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)


#: quantity -> the test that holds it, and how it follows from the test's pictures
QUANTITIES: Mapping[str, tuple[str, Callable[[Sequence[Record]], Values]]] = {
    "pccn": ("negative_prompts", _pccn),
    "nmn": ("negative_prompts", _nmn),
    "attention_reached": ("maps", _reached),
    "attention_auc": ("maps", _attention_auc),
    "base_attention_reached": (BASE, _reached),
    "base_attention_auc": (BASE, _attention_auc),
    "similarity_gain": ("maps", _similarity_gain),
}

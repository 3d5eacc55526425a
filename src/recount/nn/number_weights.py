"""How much a counting pair weighs by its number's frequency (CountCLIP's lambda); without torch, for the report."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

from recount.errors import UserError

Weighting = Literal["const", "norm", "modal", "log"]

NUMBERS = (2, 3, 4, 5, 6, 7, 8, 9, 10)
WORDS = ("two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
WORD_OF = dict(zip(NUMBERS, WORDS, strict=True))


def lambdas(weighting: Weighting, counts: Mapping[int, int]) -> dict[int, float]:
    """Return lambda of each number from how many counting pairs have it (equations 3 to 6, lambda 0 = 1).

    ``modal`` divides the count of two, whichever number is the most frequent; ``log`` divides by the largest of the
    double logarithms, not by their range: both as coded.

    Raises:
        UserError: ``log`` is not defined for these counts.
    """
    total = sum(counts.values())
    there = [number for number in NUMBERS if counts.get(number, 0)]
    match weighting:
        case "const":
            return dict.fromkeys(there, 1.0)
        case "norm":
            return {number: 1 - counts[number] / total for number in there}
        case "modal":
            return {number: counts.get(2, 0) / counts[number] for number in there}
        case "log":
            return _log_lambdas(counts, total)


def _log_lambdas(counts: Mapping[int, int], total: int) -> dict[int, float]:
    absent = [number for number in NUMBERS if not counts.get(number, 0)]
    if absent:
        raise UserError(
            f"weighting log: the training set has no counting pair for {', '.join(WORD_OF[n] for n in absent)}; the "
            "formula needs every number from two to ten. Choose another weighting or training set"
        )
    sigma = {number: math.log2(math.log2(total / counts[number])) for number in NUMBERS}
    least, most = min(sigma.values()), max(sigma.values())
    return {number: 1 + (value - least) / most for number, value in sigma.items()}

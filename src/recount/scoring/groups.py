"""Counts in groups: bins and terciles of the true count, and the confusion of answers that are one of a few numbers."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

COUNT_BINS = ((1, 10), (11, 50), (51, 200), (201, None))  # specs of the text-guided baselines; 0 is a bin of its own


def confusion(true: ArrayLike, predicted: ArrayLike, numbers: Sequence[int]) -> NDArray[np.int64]:
    """Return how often true number i (row) was answered with number j (column); ValueError for a foreign count."""
    pairs = np.stack([np.asarray(true, dtype=np.float64), np.asarray(predicted, dtype=np.float64)])
    place = {float(number): index for index, number in enumerate(numbers)}
    if foreign := sorted({float(value) for value in pairs.ravel()} - set(place)):
        raise ValueError(f"counts {foreign[:5]} are not among the numbers {list(numbers)}")
    matrix = np.zeros((len(numbers), len(numbers)), np.int64)
    np.add.at(matrix, tuple([place[value] for value in row] for row in pairs.tolist()), 1)
    return matrix


def count_bins(true: ArrayLike) -> list[str]:
    """Return the bin of each true count: "0", "1-10", "11-50", "51-200" or ">200"; fractions go to the next bin up."""
    edges = [0, *(high for _, high in COUNT_BINS if high is not None)]
    names = ["0", *(f"{low}-{high}" if high is not None else f">{low - 1}" for low, high in COUNT_BINS)]
    return [names[index] for index in np.searchsorted(edges, np.asarray(true, dtype=np.float64), side="left")]


def terciles(true: ArrayLike) -> list[str]:
    """Return the tercile of each true count ("low", "middle", "high"); equal counts are always in the same one."""
    values = np.asarray(true, dtype=np.float64)
    edges = np.quantile(values, [1 / 3, 2 / 3])
    return [("low", "middle", "high")[index] for index in np.searchsorted(edges, values, side="left")]

"""Errors of predicted counts, each as a mean over images, so that intervals and tests can be computed for all alike.

MAE and RMSE as the papers print them (GigaCount calls RMSE "MSE" once, T2ICount's code always); NAE and SRE with
max(true count, 1) in the denominator, as PrACo and FamNet's successors do, so that an image without objects counts with
its plain error; accuracy and mean absolute deviation of count-by-caption systems as CountCLIP's notebook.

A prediction that is not finite makes every metric over it NaN: leaving it out would flatter the system.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

COUNT_BINS = ((1, 10), (11, 50), (51, 200), (201, None))  # specs of the text-guided baselines; 0 is a bin of its own


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric that is ``root`` or identity of a mean of per-image contributions.

    Attributes:
        name: as in scores.csv and in a paper.yaml.
        title: for people.
        contribution: (true [..., n], predicted [..., n]) -> contribution of each image [..., n].
        root: whether the metric is the square root of the mean.
        better: whether low or high values are good.
    """

    name: str
    title: str
    contribution: Callable[[Floats, Floats], Floats]
    root: bool = False
    better: Literal["low", "high"] = "low"

    def of_mean(self, mean: Floats) -> Floats:
        """Return the metric of mean contributions."""
        return np.sqrt(mean) if self.root else mean

    def __call__(self, true: ArrayLike, predicted: ArrayLike) -> float:
        """Return the metric of two lists of counts; NaN if a prediction is NaN.

        Raises:
            ValueError: the lists are empty or of different lengths.
        """
        true, predicted = _checked(true, predicted)
        return float(self.of_mean(self.contribution(true, predicted).mean()))


def _checked(true: ArrayLike, predicted: ArrayLike) -> tuple[Floats, Floats]:
    true, predicted = np.asarray(true, dtype=np.float64), np.asarray(predicted, dtype=np.float64)
    if true.ndim != 1 or true.shape != predicted.shape or not true.size:
        raise ValueError(
            f"a metric needs two equally long, non-empty lists; shapes are {true.shape}, {predicted.shape}"
        )
    return true, predicted


def _absolute(true: Floats, predicted: Floats) -> Floats:
    return np.abs(predicted - true)


def _squared(true: Floats, predicted: Floats) -> Floats:
    return (predicted - true) ** 2


def _relative(true: Floats, predicted: Floats) -> Floats:
    return np.abs(predicted - true) / np.maximum(true, 1)


def _relative_squared(true: Floats, predicted: Floats) -> Floats:
    return (predicted - true) ** 2 / np.maximum(true, 1)


def _correct(true: Floats, predicted: Floats) -> Floats:
    return np.where(np.isnan(predicted), np.nan, predicted == true)


MAE = Metric("mae", "MAE", _absolute)
RMSE = Metric("rmse", "RMSE", _squared, root=True)
NAE = Metric("nae", "NAE", _relative)
SRE = Metric("sre", "SRE", _relative_squared, root=True)
ACCURACY = Metric("accuracy", "Accuracy (share)", _correct, better="high")
MEAN_ABSOLUTE_DEVIATION = Metric("mean_absolute_deviation", "Mean absolute deviation", _absolute)

METRICS: Mapping[str, Metric] = MappingProxyType(
    {metric.name: metric for metric in (MAE, RMSE, NAE, SRE, ACCURACY, MEAN_ABSOLUTE_DEVIATION)}
)


def confusion(true: ArrayLike, predicted: ArrayLike, numbers: Sequence[int]) -> NDArray[np.int64]:
    """Return how often true number i (row) was answered with number j (column).

    Raises:
        ValueError: a true or predicted count is not one of ``numbers``.
    """
    true, predicted = _checked(true, predicted)
    place = {float(number): index for index, number in enumerate(numbers)}
    foreign = sorted({float(value) for value in np.concatenate([true, predicted])} - set(place))
    if foreign:
        raise ValueError(f"counts {foreign[:5]} are not among the numbers {list(numbers)}")
    matrix = np.zeros((len(numbers), len(numbers)), np.int64)
    np.add.at(matrix, ([place[value] for value in true], [place[value] for value in predicted]), 1)
    return matrix


def recall_and_f1(matrix: NDArray[np.int64]) -> tuple[Floats, Floats]:
    """Return recall and F1 of each number from a confusion matrix; 0 where a number neither occurs nor is answered."""
    hits, occurring, answered = np.diag(matrix), matrix.sum(axis=1), matrix.sum(axis=0)
    recall = hits / np.maximum(occurring, 1)
    return recall, 2 * hits / np.maximum(occurring + answered, 1)


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

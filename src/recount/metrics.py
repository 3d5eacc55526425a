"""Every metric once: its id, how it is shown, which way is better, and what each image contributes.

Errors of predicted counts are means over images of contributions, so that intervals and tests can be computed for all
alike. MAE and RMSE as the papers print them (GigaCount calls RMSE "MSE" once, T2ICount's code always); NAE and SRE with
max(true count, 1) in the denominator, as PrACo and FamNet's successors do, so that an image without objects counts with
its plain error; accuracy and mean absolute deviation of count-by-caption systems as CountCLIP's notebook.

A prediction that is not finite makes every metric over it NaN: leaving it out would flatter the system.

Importing this module loads no numpy: the settings check ids against it.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike, NDArray

Floats: TypeAlias = "NDArray[np.float64]"
#: what a metric is computed from: predicted counts, the answers of a count-by-caption system, a run's cost, what papers
#: print of theirs (ends of a range, millions), or prompt tests
Family = Literal["counts", "captions", "cost", "printed", "prompts"]


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric and how it is shown. Where it has a ``contribution``, it is ``root`` or identity of their mean."""

    name: str  # its id, as in scores.csv and in a paper.yaml
    label: str  # in a column head
    title: str  # what it is, in words
    family: Family
    better: Literal["low", "high"] | None = "low"  # None where neither is good
    contribution: Callable[[Floats, Floats], Floats] | None = None  # (true, predicted) -> of each image, all [..., n]
    root: bool = False  # it is the square root of the mean

    @property
    def scored(self) -> bool:
        """Whether it is computed from predictions, so that a constant predictor says what it is worth."""
        return self.family in ("counts", "captions")

    def of_images(self, true: ArrayLike, predicted: ArrayLike) -> Floats:
        """Return the contribution of each image, in the shape of ``predicted``; a metric without any is a TypeError."""
        import numpy as np

        if self.contribution is None:
            raise TypeError(f"{self.name} is not a mean over images")
        return self.contribution(np.asarray(true, dtype=np.float64), np.asarray(predicted, dtype=np.float64))

    def of_mean(self, mean: Floats) -> Floats:
        """Return the metric of mean contributions."""
        import numpy as np

        return np.sqrt(mean) if self.root else np.abs(mean) if self.name == "bias" else mean

    def __call__(self, true: ArrayLike, predicted: ArrayLike) -> float:
        """Return the metric of two lists of counts, not empty and equally long; NaN if a prediction is NaN."""
        import numpy as np

        shapes = np.shape(true), np.shape(predicted)
        if len(shapes[0]) != 1 or shapes[0] != shapes[1] or not shapes[0][0]:
            raise ValueError(f"a metric needs two equally long, non-empty lists; shapes are {shapes[0]}, {shapes[1]}")
        return float(self.of_mean(self.of_images(true, predicted).mean()))

    @property
    def is_share(self) -> bool:
        """Whether it is a share of right answers, which people read as per cent."""
        return self.scored and self.better == "high"

    def wrong(self, value: float) -> float:
        """Return what is wrong, lower always being better: an error itself, of a share of right answers the rest."""
        return 1 - value if self.is_share else value

    @property
    def best(self) -> str:
        """Return what the best value is: the lowest or the highest."""
        return "highest" if self.better == "high" else "lowest"


def _correct(true: Floats, predicted: Floats) -> Floats:
    import numpy as np

    return np.where(np.isnan(predicted), np.nan, predicted == true)


_CONTRIBUTIONS: Mapping[str, Callable[[Floats, Floats], Floats]] = {
    "mae": lambda true, predicted: abs(predicted - true),
    "rmse": lambda true, predicted: (predicted - true) ** 2,
    "nae": lambda true, predicted: abs(predicted - true) / true.clip(min=1),
    "sre": lambda true, predicted: (predicted - true) ** 2 / true.clip(min=1),
    "bias": lambda true, predicted: predicted - true,
    "accuracy": _correct,
    "mean_absolute_deviation": lambda true, predicted: abs(predicted - true),
}


def _listed() -> Iterator[Metric]:
    """Yield the metrics in metrics.tsv."""
    with Path(__file__).with_suffix(".tsv").open(encoding="utf-8", newline="") as stream:
        for row in csv.DictReader(stream, delimiter="\t"):
            fields: dict[str, Any] = {**row, "better": row["better"] or None}
            yield Metric(**fields, contribution=_CONTRIBUTIONS.get(row["name"]), root=row["name"] in ("rmse", "sre"))


ALL: Mapping[str, Metric] = MappingProxyType({metric.name: metric for metric in _listed()})
BIAS = ALL["bias"]
#: means over images, so that they have intervals and tests
METRICS = MappingProxyType({name: m for name, m in ALL.items() if m.contribution is not None and m is not BIAS})
COSTS = MappingProxyType({name: metric for name, metric in ALL.items() if metric.family == "cost"})
QUANTITIES = MappingProxyType({name: metric for name, metric in ALL.items() if metric.family == "prompts"})
MAE, RMSE, NAE, SRE, ACCURACY, MEAN_ABSOLUTE_DEVIATION = METRICS.values()
#: accuracy over the images whose true number is between these
RECALLS = MappingProxyType({"recall_2_to_6": (2, 6), "recall_7_to_10": (7, 10)})
LARGE_NUMBERS = RECALLS["recall_7_to_10"]
#: of any values, whatever is true: for what is a mean over images but no error
MEAN = Metric("mean", "Mean", "mean over images", "prompts", None, lambda _, values: values)


def metric(name: str) -> Metric:
    """Return a metric; one that is not known keeps its own name, for what only a published.csv has."""
    words = name.replace("_", " ")
    return ALL.get(name) or Metric(name, words, words, "printed", None)

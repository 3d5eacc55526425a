"""Intervals of RMSE, whose squared errors have heavy tails: the method that covered best on data like these.

Four methods are known: the percentile and the BCa bootstrap, the jackknife's t interval, and the studentised bootstrap
of the log of the mean square. ``root_intervals.tsv`` has how often each covered the truth where 95 % is said: simulated
on log-normal absolute errors, by the number of images and the standard deviation of the log of the error (``make
simulate``). An interval is made by the method that covered best at the nearest such place, and says what that coverage
was.
"""

import csv
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from scipy import special, stats

from recount.metrics import Floats

TABLE = Path(__file__).with_suffix(".tsv")
TAIL = 0.025
Drawn = tuple[Floats, Floats]  # means of resamples, and their studentised deviations on the log scale


def resampled(squares: Floats, resamples: int, rng: np.random.Generator) -> Drawn:
    """Return the mean square of each resample [resamples], and (log m* - log m) / its standard error."""
    drawn = squares[rng.integers(0, len(squares), (resamples, len(squares)))]
    means, mean = drawn.mean(axis=1), squares.mean()
    with np.errstate(divide="ignore", invalid="ignore"):
        error = drawn.std(axis=1, ddof=1) / np.sqrt(len(squares)) / means
        return means, np.where(error > 0, np.log(means / mean) / error, 0.0)


def percentile(squares: Floats, drawn: Drawn) -> tuple[float, float]:
    """Return the percentile interval."""
    low, high = np.sqrt(np.quantile(drawn[0], [TAIL, 1 - TAIL]))
    return float(low), float(high)


def bca(squares: Floats, drawn: Drawn) -> tuple[float, float]:
    """Return Efron's bias-corrected and accelerated interval."""
    n, means = len(squares), drawn[0]
    left = (squares.sum() - squares) / (n - 1)
    away = np.sqrt(left).mean() - np.sqrt(left)
    spread = float((away**2).sum()) ** 1.5
    acceleration = float((away**3).sum()) / (6 * spread) if spread else 0.0
    below = np.clip((means < squares.mean()).mean(), 0.5 / len(means), 1 - 0.5 / len(means))
    bias, z = float(special.ndtri(below)), special.ndtri(np.array([TAIL, 1 - TAIL]))
    shifted = special.ndtr(bias + (bias + z) / (1 - acceleration * (bias + z)))
    low, high = np.sqrt(np.quantile(means, np.clip(shifted, 0, 1)))
    return float(low), float(high)


def jackknife(squares: Floats, drawn: Drawn) -> tuple[float, float]:
    """Return the t interval with the jackknife's standard error."""
    n, value = len(squares), float(np.sqrt(squares.mean()))
    left = np.sqrt((squares.sum() - squares).clip(min=0) / (n - 1))
    half = float(stats.t.ppf(1 - TAIL, n - 1) * np.sqrt((n - 1) / n * ((left - left.mean()) ** 2).sum()))
    return max(value - half, 0.0), value + half


def studentised(squares: Floats, drawn: Drawn) -> tuple[float, float]:
    """Return the studentised bootstrap interval, made on the log of the mean square."""
    mean = squares.mean()
    error = squares.std(ddof=1) / np.sqrt(len(squares)) / mean
    with np.errstate(over="ignore"):  # of a few images, one of which carries all, the upper end is unbounded
        ends = np.exp((np.log(mean) - np.quantile(drawn[1], [1 - TAIL, TAIL]) * error) / 2)
    return float(ends[0]), float(ends[1])


METHODS: Mapping[str, Callable[[Floats, Drawn], tuple[float, float]]] = {
    "percentile": percentile, "bca": bca, "jackknife": jackknife, "studentised": studentised,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class RootInterval:
    """The ends of an interval, how it was made, and how often that way covered the truth on data like these."""

    low: float
    high: float
    method: str
    coverage: float


@cache
def _table() -> list[tuple[float, float, str, float]]:
    with TABLE.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream, delimiter="\t"))
    return [(float(row["images"]), float(row["log_sd"]), row["method"], float(row["coverage"])) for row in rows]


def best_method(images: int, log_sd: float) -> tuple[str, float]:
    """Return the method with the highest coverage at the nearest simulated place, and that coverage."""
    table = _table()
    size = min({entry[0] for entry in table}, key=lambda at: abs(np.log(at / images)))
    spread = min({entry[1] for entry in table}, key=lambda at: (abs(at - min(log_sd, 9.0)), at))
    place = size, spread
    _, _, method, coverage = max((entry for entry in table if entry[:2] == place), key=lambda entry: entry[3])
    return method, coverage


def upper_spread(squares: Floats) -> float:
    """Return the standard deviation of the log of the error that its median and upper tenth would have if log-normal.

    The upper half alone makes an RMSE: errors near zero have long logs and no weight.
    """
    median, high = np.quantile(squares, [0.5, 0.9])
    return float(np.log(high / median) / 2 / special.ndtri(0.9)) if median > 0 else float("inf")


def root_interval(squares: Floats, resamples: int, rng: np.random.Generator) -> RootInterval:
    """Return the 95 % interval of the root of the mean of at least two squares that are not all equal."""
    method, coverage = best_method(len(squares), upper_spread(squares))
    means, deviations = zip(
        *(resampled(squares, size, rng) for size in np.diff(np.linspace(0, resamples, 11).astype(int))), strict=True
    )
    low, high = METHODS[method](squares, (np.concatenate(means), np.concatenate(deviations)))
    return RootInterval(low, high, method, coverage)

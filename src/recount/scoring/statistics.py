"""How sure a number is: intervals over images, spread over seeds, paired comparisons, influence of single images.

Every metric here is a mean of per-image contributions, or the root of one (``metrics.Metric``). So one set of
resampling weights serves all systems on a benchmark, and resampling is a matrix product instead of a loop.

Intervals are 95 % percentile intervals of 10,000 resamples. Percentile rather than BCa: BCa is undefined where all
errors are equal, and the same rule must serve one system, differences, and differences over seeds. The RMSE of one
system is the exception: with heavy tails percentile intervals cover far less than they say (``root_intervals``).
Seeds are fixed, so a number is the same whenever it is computed.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from recount.metrics import MAE, Floats, Metric
from recount.scoring.root_intervals import root_interval

RESAMPLES = 10_000
PERMUTATIONS = 10_000
CONFIDENCE = 0.95
Z = float(stats.norm.ppf(1 - (1 - CONFIDENCE) / 2))
RANDOM_SEED = 20240229
CELLS_PER_CHUNK = 4_000_000  # of a resampling matrix: 32 MB of float64


@dataclass(frozen=True, slots=True)
class Interval:
    """A value and its 95 % interval; the interval is NaN where it cannot be computed (a single image)."""

    value: float
    low: float = np.nan
    high: float = np.nan
    coverage: float = np.nan  # simulated, of an interval of a root of a mean, where 95 % is said
    method: str = ""  # by which such an interval was made

    def columns(self) -> dict[str, Any]:
        """Return it as the columns of a CSV."""
        return {"value": self.value, "ci_low": self.low, "ci_high": self.high}


def bootstrap(metric: Metric, true: ArrayLike, predicted: ArrayLike) -> Interval:
    """Return a metric with its interval over images; ValueError as the metric raises.

    Scipy's percentile bootstrap; of a root of a mean (RMSE) what covers best on such data (``root_intervals``).
    """
    value = metric(true, predicted)
    contributions = metric.of_images(true, predicted)
    if len(contributions) < 2 or not np.isfinite(contributions).all():
        return Interval(value)
    if np.ptp(contributions) == 0:
        return Interval(value, value, value)
    if metric.root:
        found = root_interval(contributions, RESAMPLES, np.random.default_rng(RANDOM_SEED))
        return Interval(value, found.low, found.high, found.coverage, found.method)
    result = stats.bootstrap(
        (contributions,),
        lambda sample, axis: metric.of_mean(sample.mean(axis=axis)),
        n_resamples=RESAMPLES,
        batch=max(CELLS_PER_CHUNK // len(contributions), 1),
        confidence_level=CONFIDENCE,
        method="percentile",
        vectorized=True,
        random_state=np.random.default_rng(RANDOM_SEED),
    )
    return Interval(value, float(result.confidence_interval.low), float(result.confidence_interval.high))


def mean_and_sd(values: Sequence[float]) -> tuple[float, float]:
    """Return the mean and the sample standard deviation (NaN for fewer than two values) over seeds."""
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else float("nan")


def _weights(rng: np.random.Generator, resamples: int, size: int) -> Floats:
    """Return how often each of ``size`` items is drawn with replacement, as a share [resamples, size]."""
    drawn = rng.integers(0, size, (resamples, size)) + size * np.arange(resamples)[:, None]
    return np.bincount(drawn.ravel(), minlength=resamples * size).reshape(resamples, size) / size


def weights_over(images: int) -> Iterator[Floats]:
    """Yield the resampling weights of so many images, ``RESAMPLES`` rows in parts that fit into memory."""
    rng = np.random.default_rng(RANDOM_SEED)
    chunk = max(CELLS_PER_CHUNK // images, 1)
    for start in range(0, RESAMPLES, chunk):
        yield _weights(rng, min(chunk, RESAMPLES - start), images)


def _resampled(metric: Metric, contributions: Sequence[Floats], seed: int) -> Floats:
    """Return resampled metrics of arms [arms, resamples]: images shared, seeds in pairs where all have as many."""
    rng, images = np.random.default_rng(seed), contributions[0].shape[1]
    paired_seeds = len({len(arm) for arm in contributions}) == 1
    chunk = max(CELLS_PER_CHUNK // images, 1)
    chunks = []
    for start in range(0, RESAMPLES, chunk):
        size = min(chunk, RESAMPLES - start)
        weights = _weights(rng, size, images)
        shared: Floats | None = None
        values = []
        for arm in contributions:
            if shared is None or not paired_seeds:
                shared = _weights(rng, size, len(arm))
            per_seed = metric.of_mean(weights @ arm.T)  # (resamples, seeds)
            values.append((per_seed * shared).sum(axis=1))
        chunks.append(np.stack(values))
    return np.concatenate(chunks, axis=1)


def _seeds_by_images(metric: Metric, true: ArrayLike, predicted: ArrayLike) -> Floats:
    true = np.asarray(true, dtype=np.float64)
    predicted = np.atleast_2d(np.asarray(predicted, dtype=np.float64))
    if predicted.shape[1:] != true.shape or not true.size:
        raise ValueError(f"{len(true)} true counts, but predictions of shape {predicted.shape} (seeds, images)")
    return metric.of_images(np.broadcast_to(true, predicted.shape), predicted)


def interval_of(samples: Floats) -> tuple[float, float]:
    """Return the 95 % percentile interval of resampled values; NaN where a value is not finite."""
    if not np.isfinite(samples).all():
        return np.nan, np.nan
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(samples, [tail, 1 - tail])
    return float(low), float(high)


def bootstrap_over_seeds(metric: Metric, true: ArrayLike, predicted: ArrayLike) -> Interval:
    """Return the mean over seeds of a metric of [seeds, n], with an interval that resamples seeds and images."""
    contributions = _seeds_by_images(metric, true, predicted)
    value = float(metric.of_mean(contributions.mean(axis=1)).mean())
    if contributions.shape[1] < 2 or not np.isfinite(contributions).all():
        return Interval(value)
    return Interval(value, *interval_of(_resampled(metric, [contributions], RANDOM_SEED)[0]))


@dataclass(frozen=True, slots=True)
class Difference(Interval):
    """Metric of a minus metric of b over the same images."""

    p_value: float = np.nan  # two-sided, of swapping a and b within images


def paired_difference(metric: Metric, true: ArrayLike, a: ArrayLike, b: ArrayLike) -> Difference:
    """Compare two systems on the same images, with one or several seeds each.

    ``true`` is [n], ``a`` and ``b`` are predictions [n] or [seeds, n]; ValueError: not the same n. Images are resampled
    jointly for both. With several seeds these are the second level: drawn in pairs where both systems have as many (run
    k of a and run k of b share their seed), else independently.
    """
    first, second = _seeds_by_images(metric, true, a), _seeds_by_images(metric, true, b)
    value = float(metric.of_mean(first.mean(axis=1)).mean() - metric.of_mean(second.mean(axis=1)).mean())
    if first.shape[1] < 2 or not (np.isfinite(first).all() and np.isfinite(second).all()):
        return Difference(value)
    arms = _resampled(metric, [first, second], RANDOM_SEED)
    return Difference(value, *interval_of(arms[0] - arms[1]), p_value=_permutation_test(metric, first, second))


def _permutation_test(metric: Metric, a: Floats, b: Floats) -> float:
    """Return the two-sided p value of "a and b are exchangeable within images", by 10,000 random swaps.

    The observed assignment counts as one of the draws, so the smallest possible p value is 1 / 10,001. With several
    seeds, the mean contribution of an image over seeds is swapped. a, b: contributions [seeds, n].
    """
    first, second = a.mean(axis=0), b.mean(axis=0)
    level_a, level_b = (float(metric.of_mean(arm.mean())) for arm in (first, second))
    observed, tolerance = abs(level_a - level_b), 1e-12 * max(level_a, level_b)  # ties are as extreme as the observed
    total, difference, images = first.sum() + second.sum(), first - second, len(first)
    rng = np.random.default_rng(RANDOM_SEED)
    chunk = max(CELLS_PER_CHUNK // images, 1)
    extreme = 0
    for start in range(0, PERMUTATIONS, chunk):
        signs = rng.integers(0, 2, (min(chunk, PERMUTATIONS - start), images), dtype=np.int8) * 2.0 - 1
        gap = signs @ difference  # sum of a minus sum of b after the swaps
        means = np.clip(np.stack([total + gap, total - gap]) / (2 * images), 0, None)
        swapped = metric.of_mean(means)
        extreme += int((np.abs(swapped[0] - swapped[1]) >= observed - tolerance).sum())
    return (extreme + 1) / (PERMUTATIONS + 1)


def wilson(share: float, n: int) -> tuple[float, float]:
    """Return Wilson's 95 % interval of a share of n images."""
    centre, half = share + Z * Z / (2 * n), Z * np.sqrt(share * (1 - share) / n + Z * Z / (4 * n * n))
    return float((centre - half) / (1 + Z * Z / n)), float((centre + half) / (1 + Z * Z / n))


def holm(p_values: ArrayLike) -> Floats:
    """Return p values adjusted for their number by Holm's step-down rule; NaN stays NaN and is not counted."""
    p_values = np.asarray(p_values, dtype=np.float64)
    adjusted = np.full_like(p_values, np.nan)
    known = np.flatnonzero(~np.isnan(p_values))
    order = known[np.argsort(p_values[known], kind="stable")]
    steps = p_values[order] * (len(order) - np.arange(len(order)))
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1)
    return adjusted


@dataclass(frozen=True, slots=True)
class Calibration:
    """How predicted counts follow true ones."""

    bias: Interval  # mean of predicted minus true
    slope: Interval  # of the least-squares line of predicted over true counts; below 1: large ones are underestimated
    intercept: float  # of that line


def calibration(true: ArrayLike, predicted: ArrayLike) -> Calibration:
    """Return bias and slope with their intervals over images; the slope is NaN where all true counts are equal."""
    MAE(true, predicted)  # refuses lists that are empty or of different lengths
    t, p = np.asarray(true, dtype=np.float64), np.asarray(predicted, dtype=np.float64)
    whole = np.full((1, len(t)), 1 / len(t))
    bias, slope = float((p - t).mean()), float(_slopes(whole, t, p)[0])
    intercept = float(p.mean() - slope * t.mean())
    if len(t) < 2:
        return Calibration(Interval(bias), Interval(slope), intercept)
    parts = [(_slopes(weights, t, p), weights @ (p - t)) for weights in weights_over(len(t))]
    slopes, biases = map(np.concatenate, zip(*parts, strict=True))
    slopes = slopes[np.isfinite(slopes)]
    limits = interval_of(slopes) if np.isfinite(slope) else (np.nan, np.nan)
    return Calibration(Interval(bias, *interval_of(biases)), Interval(slope, *limits), intercept)


def _slopes(weights: Floats, t: Floats, p: Floats) -> Floats:
    """Return the slopes of p over t under each row of weights [resamples, n]; NaN where t does not vary."""
    t, p = t - t.mean(), p - p.mean()  # centred, or the differences of large squares lose their digits
    mean_t = weights @ t
    variance = weights @ t**2 - mean_t**2
    covariance = weights @ (t * p) - mean_t * (weights @ p)
    varies = variance > 1e-12 * max(float((t**2).mean()), 1e-300)
    return np.where(varies, covariance / np.where(varies, variance, 1), np.nan)


@dataclass(frozen=True, slots=True)
class Influence:
    """What each image does to MAE and RMSE; arrays [n] in the order given."""

    share_of_squared_error: Floats  # 0 everywhere if there is no error at all
    mae_without: Floats  # without that image alone; NaN for a single image
    rmse_without: Floats
    mae_effect: Floats  # with all images minus without that one
    rmse_effect: Floats


def influence(true: ArrayLike, predicted: ArrayLike) -> Influence:
    """Return the influence of every image on MAE and RMSE; ValueError where a prediction is not finite."""
    mae = MAE(true, predicted)
    absolute = MAE.of_images(true, predicted)
    if not np.isfinite(absolute).all():
        raise ValueError("influence needs finite predictions")
    squared, images = absolute**2, len(absolute)
    total = squared.sum()
    with np.errstate(invalid="ignore"):  # 0 / 0 is NaN for a single image
        mae_without = (absolute.sum() - absolute) / (images - 1)
        rmse_without = np.sqrt(np.clip(total - squared, 0, None) / (images - 1))
    rmse = np.sqrt(total / images)
    share = squared / total if total else np.zeros_like(squared)
    return Influence(share, mae_without, rmse_without, mae - mae_without, rmse - rmse_without)


def rmse_without_largest(true: ArrayLike, predicted: ArrayLike, images: int) -> float:
    """Return RMSE without the ``images`` images of largest error; NaN if none is left."""
    squared = np.sort(MAE.of_images(true, predicted) ** 2)
    rest = squared[: len(squared) - images]
    return float(np.sqrt(rest.mean())) if len(rest) else float("nan")


def best_constant(true: ArrayLike) -> float:
    """Return the constant with the smallest MAE on ``true``, its median: the oracle that looks at the answers."""
    return float(np.median(np.asarray(true, dtype=np.float64)))

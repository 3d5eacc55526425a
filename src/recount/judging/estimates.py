"""From predictions to the numbers that the rules need: levels by seed, the scale on which seeds scatter, jackknives.

Images are drawn, too: the variance of an effect over them is the jackknife's, of the whole paired statistic with one
image left out, (n - 1) / n times the sum of squared deviations. For MAE and accuracy that is exactly the variance of
the mean of paired per-image differences of seed means. Its third moment is - ((n - 1) / n)³ times the sum of cubes.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from scipy import special

from recount.judging.arms import Arm, Arms, Evidence, is_fixed
from recount.judging.verdicts import Pool, SeedArm
from recount.metrics import ACCURACY, ALL, RECALLS, Floats, Metric
from recount.results.reason import Missing
from recount.scoring.measured import dominant


def metric_on(name: str, *arms: Arm) -> tuple[Metric, tuple[Arm, ...]]:
    """Return a metric and the arms on the images that it is about: recalls are accuracies over some true numbers."""
    if name not in RECALLS:
        return ALL[name], arms
    low, high = RECALLS[name]
    inside = (arms[0].true >= low) & (arms[0].true <= high)
    ids = [sample for sample, wanted in zip(arms[0].ids, inside, strict=True) if wanted]
    if not ids:
        raise Missing("undefined", f"no image shows {low} to {high}")
    return ACCURACY, tuple(arm.on(ids) for arm in arms)


def scaled(metric: Metric, levels: Sequence[float], n: int) -> tuple[tuple[float, ...], float]:
    """Return a metric with each seed on the scale on which seeds scatter, and the derivative of their mean by it.

    Errors scatter on the log scale (derivative: their mean m; no error at all counts as half an error in one image);
    shares on the logit scale (m (1 - m)), where 0 and all right count as half an image.
    """
    values, mean = np.asarray(levels, dtype=np.float64), float(np.mean(levels))
    if metric.is_share:
        values = np.clip(values, 0.5 / n, 1 - 0.5 / n)
        return tuple(special.logit(values).tolist()), mean * (1 - mean)
    if not values.all():
        if values.any():
            raise Missing("undefined", "it makes no error with one seed and some with another, which has no log")
        return (math.log(0.5 / n),) * len(values), 0.0  # as half an error in one image
    return tuple(np.log(values).tolist()), mean


def of_rounding(n: int, slope: float) -> float:
    """Return the variance of a share's logit from rounding it to 1/n; ``slope``: its mean times the rest of 1."""
    return 1 / (12 * max(n * slope, 0.5 * (1 - 0.5 / n)) ** 2)


@dataclass(frozen=True, slots=True)
class Leveled:
    """An arm's metric: with each seed, and with each seed and one image left out."""

    arm: Arm
    metric: Metric
    levels: Floats  # [seeds]
    without: Floats  # [seeds, n]; NaN for a single image

    @classmethod
    def of(cls, metric: Metric, arm: Arm) -> "Leveled":
        """Compute both from the arm's predictions."""
        contributions = metric.of_images(np.broadcast_to(arm.true, arm.predicted.shape), arm.predicted)
        return cls.of_contributions(metric, arm, contributions)

    @classmethod
    def of_contributions(cls, metric: Metric, arm: Arm, contributions: Floats) -> "Leveled":
        """Compute both from what each image contributes [seeds, n]."""
        total, n = contributions.sum(axis=1, keepdims=True), contributions.shape[1]
        with np.errstate(invalid="ignore", divide="ignore"):
            rest = total - contributions
            without = metric.of_mean((np.clip(rest, 0, None) if metric.root else rest) / (n - 1))
        return cls(arm, metric, np.asarray(metric.of_mean(total[:, 0] / n)), np.where(n > 1, without, np.nan))

    @property
    def mean(self) -> float:
        """Return the mean over seeds."""
        return float(self.levels.mean())

    def seed_arm(self, weight: float) -> Iterator[SeedArm]:
        """Yield the arm's part in the variance over seeds, where its training is random.

        ``weight``: the derivative of the effect by this arm's mean.
        """
        if self.arm.seeds:
            values, slope = scaled(self.metric, self.levels.tolist(), len(self.arm.ids))
            yield SeedArm(self.arm.name, values, weight * slope, self.drawn_anew(weight))

    def drawn_anew(self, weight: float) -> float:
        """Return what one more seed draws anew of the variance over images: the scatter of images from seed to seed."""
        seeds, n = self.without.shape
        if seeds < 2 or n < 2:
            return 0.0
        own = self.without - self.without.mean(axis=1, keepdims=True)
        return weight**2 * (n - 1) / n * float(own.var(axis=0, ddof=1).sum())


def jackknife(without: Floats) -> float:
    """Return the variance of a statistic over images from its values with one of n left out; NaN for one image."""
    n = len(without)
    if n < 2 or not np.isfinite(without).all():
        return math.nan
    return float((n - 1) / n * ((without - without.mean()) ** 2).sum())


def third_moment(without: Floats) -> float:
    """Return the third central moment of a statistic over images; 0 where the jackknife knows nothing."""
    n = len(without)
    known = n > 1 and np.isfinite(without).all()
    return float(-(((n - 1) / n) ** 3) * ((without - without.mean()) ** 3).sum()) if known else 0.0


def over_images(effect: Callable[[Floats, Floats], Floats], better: Leveled, worse: Leveled) -> tuple[float, float]:
    """Return the jackknife variance and third moment of an effect of the means over seeds of two arms, paired."""
    with np.errstate(divide="ignore", invalid="ignore"):
        without = effect(better.without.mean(axis=0), worse.without.mean(axis=0))
    return jackknife(without), third_moment(without)


def of_shares(effect: float, without: Floats) -> float:
    """Return the variance over images of a paired difference of shares, which is not 0 where all images agree.

    Agresti and Min's: as if two more images had been seen, half of one right with each arm alone.
    """
    n = len(without)
    d = n * effect - (n - 1) * without  # of each image
    return float((d @ d + 1 - d.sum() ** 2 / (n + 2)) / (n + 2) ** 2) if n > 1 else math.nan


def dominated(metric: Metric, arm: Arm) -> Iterator[str]:
    """Yield what must be said of an error that one image carries."""
    heavy = dominant(metric, arm.ids, arm.true, arm.predicted) if metric.root else ""
    if heavy:
        yield f"{arm.name}: {heavy}"


class Pools:
    """How the runs of this suite scatter over seeds, by system, benchmark, metric and selection."""

    def __init__(self, arms: Arms) -> None:
        self.arms, self.measurements = arms, arms.measurements
        self._of_system = cache(self._scattering)

    def _scattering(self, system: str, where: tuple[str, str, str, Evidence]) -> dict[str, tuple[str, float, int]]:
        """Return name, variance and degrees of freedom of each evaluation of a system with several seeds."""
        benchmark, metric_name, selection, evidence = where
        found: dict[str, tuple[str, float, int]] = {}
        for (owner, variant), runs in self.measurements.runs.items():
            name = f"{owner}/{variant}"
            if owner != system or is_fixed(runs[0]) or len(runs) < 2 or runs[0].evaluation_id in found:
                continue
            try:
                arm = self.arms.arm(name, benchmark, selection, evidence)
                metric, (arm,) = metric_on(metric_name, arm)
                values, _ = scaled(metric, arm.levels(metric).tolist(), len(arm.ids))
            except Missing:
                continue
            if len(values) > 1:
                found[runs[0].evaluation_id] = name, float(np.var(values, ddof=1)), len(values) - 1
        return found

    def of(self, names: Sequence[str], benchmark: str, metric: str, selection: str, evidence: Evidence) -> Pool:
        """Return the scatter of the other variants of these arms' systems, and the widest of any system here."""
        where = benchmark, metric, selection, evidence
        own = {self.arms.runs(name)[0].evaluation_id for name in names}
        systems = dict.fromkeys(name.partition("/")[0] for name in names)
        others = [
            entry for system in systems for key, entry in self._of_system(system, where).items() if key not in own
        ]
        if others:
            df = sum(entry[2] for entry in others)
            variance = sum(entry[1] * entry[2] for entry in others) / df
            return Pool(variance, df, tuple(entry[0] for entry in others))
        every = {system for system, _ in self.measurements.runs}
        known = [entry for system in sorted(every) for entry in self._of_system(system, where).values()]
        widest = max(known, key=lambda entry: entry[1], default=None)
        return Pool(widest=None if widest is None else (widest[1], widest[2], widest[0]))

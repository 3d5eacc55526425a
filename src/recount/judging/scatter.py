"""How much an effect scatters from seed to seed: whose variances count, with how many degrees of freedom.

Pure functions over numbers or arrays; the rules that decide by them are in ``verdicts.py``.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import special

Floats: TypeAlias = NDArray[np.float64]
Numbers: TypeAlias = Floats | float

POOLS_ABOVE = 0.5  # p of the F test that lets other variants join the own arms
DRAWN_ABOVE = 0.4  # that of what runs draw anew on the images, which is never more than how runs scatter


def pooled(
    own: Numbers, own_df: Numbers, other: Numbers, other_df: Numbers, above: float = POOLS_ABOVE
) -> tuple[Floats, Floats, Floats]:
    """Return the variance over seeds, its degrees of freedom, and the p value of "the own arms scatter no more".

    The others join if p > ``above``; p is NaN where there are no others, or none of one's own to test them against.
    """
    own, own_df, other, other_df = (np.asarray(value, dtype=np.float64) for value in (own, own_df, other, other_df))
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(other > 0, own / other, np.where(own > 0, np.inf, 0.0))
        p = np.where((own_df > 0) & (other_df > 0), special.fdtrc(own_df, other_df, ratio), np.nan)
        joint = (own_df * own + other_df * other) / (own_df + other_df)
    joins = p > above
    return np.where(joins, joint, own), np.where(joins, own_df + other_df, own_df), p


@dataclass(frozen=True, slots=True)
class Scatter:
    """The variance over seeds of a claim's own arms, estimated twice: as one that all share, and of each apart."""

    shared: Floats
    shared_df: float
    apart: Floats
    apart_df: Floats

    @property
    def variance(self) -> Floats:
        """Return the larger one."""
        return np.maximum(self.shared, self.apart)

    @property
    def df(self) -> Floats:
        """Return the smaller number of degrees of freedom."""
        return np.minimum(self.shared_df, self.apart_df)


def own_scatter(variances: Sequence[Numbers] | Floats, seeds: Sequence[int], weights: Sequence[float]) -> Scatter:
    """Return the scatter of arms with two seeds or more, each with its variance over k seeds and its w.

    Shared: sum((k - 1) s²) / sum(k - 1). Apart: sum(w² s² / k) / sum(w² / k), with Welch's degrees of freedom
    sum(w² s² / k)² / sum((w² s² / k)² / (k - 1)). Of one arm both are the same; without any there is none, with 0.
    """
    if not seeds:
        return Scatter(np.zeros(()), 0.0, np.zeros(()), np.zeros(()))
    s2, (k, w) = np.asarray(variances, dtype=np.float64), np.asarray([seeds, weights], dtype=np.float64)
    df, parts = float((k - 1).sum()), s2.T * w**2 / k  # the arms are last
    below = (parts**2 / (k - 1)).sum(axis=-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        apart = np.where(below > 0, parts.sum(axis=-1) / (w**2 / k).sum(), 0.0)
        welch_df = np.where(below > 0, parts.sum(axis=-1) ** 2 / below, df)
    return Scatter(s2.T @ (k - 1) / df, df, apart, welch_df)


def counted_once(seeds: Numbers, images: Numbers, anew: Numbers) -> tuple[Floats, Floats]:
    """Return the parts of seeds and images in an effect's variance, without what runs draw anew on images twice.

    What one run errs on one image and the next does not is behind the scatter of the runs' means, and behind that of
    the images' means: of two crossed random factors the variance of the mean is MS_runs + MS_images - MS_both. It is
    taken from the images; and the seeds' part, which holds it, is at least as large.
    """
    return np.maximum(seeds, anew), np.maximum(np.asarray(images) - anew, 0.0)


def welch(seeds: Numbers, seeds_df: Numbers, images: Numbers, images_df: Numbers) -> tuple[Floats, Floats]:
    """Return the variance of an effect from both parts, and Satterthwaite's degrees of freedom (infinite for none)."""
    seeds, images = np.asarray(seeds, dtype=np.float64), np.asarray(images, dtype=np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        parts = [np.where(part > 0, part**2 / df, 0.0) for part, df in ((seeds, seeds_df), (images, images_df))]
        df = np.where(parts[0] + parts[1] > 0, (seeds + images) ** 2 / (parts[0] + parts[1]), np.inf)
    return seeds + images, df

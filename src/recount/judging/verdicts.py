"""When a claim holds: the rules as pure functions, from estimates and their spread to a decision.

Version 2.4 (``RULES``). Every function that decides takes numbers or arrays, so that ``judge``, the estimate of what
would decide (``needed``) and the simulations of error and power (``tests/judging/simulate.py``) all run the same lines.

Two sources of chance are told apart: another training run (seeds) and other pictures like these (images).

* A comparison, a ratio or a share is an ``effect``; a claim says in which ``region`` it lies. The variance of the
  effect is s² * sum(w² / k) + (variance over images). s is the standard deviation over seeds of the log of the metric
  (of the logit of a share), k the seeds of an arm, w the effect's derivative by that log: the metric's mean for a
  difference, 1 for a log ratio, m (1 - m) for a share. Images: the jackknife of the paired statistic. The degrees of
  freedom of the sum are Satterthwaite's. The claim holds if the interval of Student's t lies in the region, and every
  random arm has three seeds (or two, with six degrees of freedom behind s); it does not hold if the interval lies
  outside. What each run draws anew on each image is in both parts, and counts once (``counted_once``).
* s is that of the claim's own arms. Other variants of the same systems join it if the own arms do not scatter more than
  they: one-sided F test, p > 0.5 (``pooled``). With p > 0.2, as first designed, three seeds of arms that scatter 1.5 to
  2 times as much decided 7 % of all claims without an effect, two seeds 11 %; with 0.5 both stay at 5 %.
* Two arms need not scatter alike: the larger of two estimates of s², the smaller of their degrees of freedom, of which
  one is Welch's (``own_scatter``). A test of whether they do, before, gains little and errs more (docs/verdicts.md).
* From three seeds on, what each run draws anew on each image joins s² first, as one more estimate of it with n - 1
  degrees of freedom, if the own arms do not scatter more than it explains: one-sided F test, p > 0.4.
* Student's t knows no skewness. Where the images' differences are skewed to the side opposite to the effect, t counts
  as less, by Hall's transformation (``shortened``).
* A printed number P is one more draw of the same recipe on the same images, so images play no part (``reaches``):
  reached, if the upper limit of the seeds' mean is not above P and a margin; missed, if the lower limit is above it and
  P lies outside the prediction interval of another run.
* One seed leans at most.
* Seeds are added until it is decided: ``NOMINAL`` has the level of each look that keeps all looks together at 5 %.
* A claim of several parts holds if every part does, each at the full level (intersection-union), and does not hold if
  one part does not after Holm's correction over the parts.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special, stats

from recount.judging.scatter import (
    DRAWN_ABOVE,
    POOLS_ABOVE,
    Floats,
    Numbers,
    Scatter,
    counted_once,
    own_scatter,
    pooled,
    welch,
)
from recount.scoring.statistics import holm

RULES = "2.4"  # version; of RULES_SINCE
Decided = Literal["holds", "leans for", "undecided", "leans against", "does not hold", "not tested"]
Side = Literal["for", "against", ""]

ALPHA = 0.05
LEANS = 0.10  # two-sided: 5 % on the side to which it leans
SKEWED = 2.5  # times the skewness of the images seen; simulated with 20 to 334 images (``make simulate``)
MIN_SEEDS, TWO_SEEDS_DF = 3, 6  # three seeds; or two, where so many degrees of freedom are behind s
ASSUMED_SD = 0.10  # of the log metric over seeds, where nothing was measured
MARGIN_SHARE = 0.10  # of a printed number, where the claim has no margin of its own
#: two-sided level of each look that keeps the error of all looks together at 5 %, by the number of looks; simulated
#: with shared images, at 3, 5, 8, 12, 16, 20, 25 and 30 seeds (``tests/judging/levels.py``)
NOMINAL = (0.05, 0.027, 0.0195, 0.015, 0.0127, 0.0112, 0.0101, 0.0091)
PLANNED_LOOKS = (3, 5, 8)
POWER = 0.8
DRAWS = 800  # of the rule, for each number of seeds that might decide
MOST_SEEDS = 30
TRIED_SEEDS = (2, 3, 4, 5, 6, 8, 10, 12, 15, 20, 25, MOST_SEEDS)
CODES: dict[int, Decided] = {
    2: "holds", 1: "leans for", 0: "undecided", -1: "leans against", -2: "does not hold"
}  # fmt: skip


def nominal_level(looks: int) -> float:
    """Return the two-sided level of each of so many looks; beyond the table, 5 % shared out by Bonferroni."""
    return NOMINAL[looks - 1] if looks <= len(NOMINAL) else min(NOMINAL[-1], ALPHA / looks)


# --------------------------------------------------------------------------------- the rules, over numbers or arrays


def may_decide(fewest: Numbers, df: Numbers) -> NDArray[np.bool_]:
    """Return whether a claim may hold: three seeds in each random arm, or two and six degrees of freedom behind s."""
    fewest, df = np.asarray(fewest), np.asarray(df)
    return (fewest >= MIN_SEEDS) | ((fewest == 2) & (df >= TWO_SEEDS_DF))


def inside(effect: Numbers, region: tuple[float, float]) -> Floats:
    """Return how far an effect lies inside a region (negative: outside), measured to the nearest finite end."""
    return np.minimum(np.asarray(effect) - region[0], region[1] - np.asarray(effect))


def shortened(t: Numbers, skewness: Numbers) -> Floats:
    """Return t, moved towards 0 where the skewness of the effect points the other way; never across.

    P. Hall's (1992) t + g t² / 3 + g² t³ / 27 + g / 6 for a mean of skewness g. g is ``SKEWED`` times the skewness of
    the images seen, for few images of a heavy-tailed kind show less than their kind has. Away from 0 nothing is moved.
    """
    t = np.asarray(t, dtype=np.float64)
    size, g = np.abs(t), SKEWED * np.sign(t) * skewness
    with np.errstate(invalid="ignore", over="ignore"):
        moved = size + g * size**2 / 3 + g**2 * size**3 / 27 + g / 6
    return np.sign(t) * np.clip(np.where(g < 0, moved, size), 0, size)


def p_of(distance: Numbers, variance: Numbers, df: Numbers, third: Numbers = 0.0) -> Floats:
    """Return the two-sided p value of Student's t; without any variance 0, or 1 at the limit itself.

    ``third``: the third central moment of the distance.
    """
    distance, variance = np.asarray(distance, dtype=np.float64), np.asarray(variance, dtype=np.float64)
    there = np.where(variance > 0, variance, 1.0)
    t = np.abs(shortened(distance / np.sqrt(there), third / there**1.5))
    t = np.where(variance > 0, t, np.where(distance == 0, 0.0, np.inf))
    df = np.minimum(np.asarray(df, dtype=np.float64), 1e9)  # stdtr knows no infinite df
    return np.where(np.isnan(variance), np.nan, 2 * special.stdtr(df, -t))


def sides(distance: Numbers, p: Numbers, level: Numbers, decides: NDArray[np.bool_] | bool) -> NDArray[np.int64]:
    """Return 2 (holds), 1 (leans for), 0, -1 or -2: decided at the level, or leaning where seeds are too few."""
    p, size = np.asarray(p), np.where(np.asarray(distance) > 0, 1, -1)
    found: NDArray[np.int64] = np.where(decides, 2 * size * (p <= level), size * (p <= LEANS))
    return found


def t_quantile(level: Numbers, df: Numbers) -> Floats:
    """Return Student's quantile, so that 1 - level of it lies within plus and minus that."""
    df = np.minimum(np.asarray(df, dtype=np.float64), 1e9)
    return np.where(df > 0, special.stdtrit(np.maximum(df, 1e-9), 1 - np.asarray(level) / 2), np.nan)


@dataclass(frozen=True, slots=True)
class Reached:
    """Where the mean of a recipe's runs lies against a printed number, on a scale on which more is worse."""

    code: NDArray[np.int64]
    better: NDArray[np.bool_]  # than printed, by more than the margin
    equivalent: NDArray[np.bool_]  # within the margin on both sides (two one-sided tests)
    compatible: NDArray[np.bool_]  # the printed number is inside the prediction interval
    upper: Floats  # one-sided limits of the mean
    lower: Floats
    predicted_low: Floats  # ends of the prediction interval of another run
    predicted_high: Floats


def reaches(
    mean: Numbers, variance: Numbers, df: Numbers, seeds: Numbers, limits: tuple[float, float, float], level: float,
    best: tuple[int, float] | None = None,
) -> Reached:  # fmt: skip
    """Hold the mean of ``seeds`` runs against ``limits``: printed less margin, printed, printed and margin.

    All on a scale (log, or minus logit) on which more is worse. ``best``: N and the standard deviation from epoch to
    epoch on that scale, where the printed number is the best of N epochs on the test images and these runs are not.
    """
    mean, seeds = np.asarray(mean, dtype=np.float64), np.asarray(seeds, dtype=np.float64)
    low, printed, high = limits
    error = np.sqrt(np.asarray(variance, dtype=np.float64) / seeds)
    one_sided, two_sided = t_quantile(2 * level, df), t_quantile(level, df)
    upper, lower = mean + one_sided * error, mean - one_sided * error
    spread = error * np.sqrt(seeds + 1)  # s * sqrt(1 + 1 / k)
    ends = mean - two_sided * spread, mean + two_sided * spread
    compatible = (ends[0] <= printed) & (printed <= ends[1])
    far = mean - t_quantile(LEANS, df) * spread > high
    if best is not None:
        nobody_asks = np.full_like(mean, np.nan)
        ends = _best_predicted(mean, spread, df, level, best) if mean.ndim == 0 else (nobody_asks, nobody_asks)
        below = _best_below(printed, mean, spread, df, best)
        compatible = (below >= level / 2) & (below <= 1 - level / 2)
        far = _best_below(high, mean, spread, df, best) < LEANS / 2
    decides = may_decide(seeds, df)
    missed = (lower > high) & ~compatible
    # one run leans against only if its own prediction interval, one-sided, excludes the printed number and its margin
    leans = np.where(upper <= high, 1, np.where(far, -1, 0))
    code = np.where(decides, np.where(upper <= high, 2, np.where(missed, -2, 0)), leans)
    with np.errstate(invalid="ignore"):
        equivalent = (upper <= high) & (lower >= low)
        better = mean + two_sided * error < low
    return Reached(code, better, equivalent, compatible, upper, lower, ends[0], ends[1])


# ------------------------------------------------------------------------------------------ the evidence of one part


@dataclass(frozen=True, slots=True)
class SeedArm:
    """An arm with random training: its metric with each seed, on the scale on which seeds scatter."""

    name: str
    scaled: tuple[float, ...]  # log, logit or plain metric of each seed
    weight: float  # derivative of the effect by that
    anew: float = 0.0  # of the effect's variance over images, what each of its runs draws anew


@dataclass(frozen=True, slots=True)
class Pool:
    """What is known of the scatter over seeds beyond the claim's own arms."""

    variance: float = 0.0
    df: float = 0.0
    over: tuple[str, ...] = ()  # the variants it is of
    widest: tuple[float, float, str] | None = None  # variance, df and variant of the system that scatters most here


@dataclass(frozen=True, slots=True)
class Number:
    """A printed number that a claim says is reached; the limits on the scale on which more is worse."""

    published: float
    margin: float  # in the metric's units
    limits: tuple[float, float, float]  # of published less margin, published, published and margin; on the scale
    share: bool  # the scale is minus the logit; else the log
    best_of: int = 0  # the printed number is the best of so many epochs, and these weights were not so chosen
    epoch_sd: float = 0.0  # from epoch to epoch, on the scale; 0: unknown

    @property
    def best(self) -> tuple[int, float] | None:
        """Return N and the scatter from epoch to epoch of a number that was chosen among N; None: not, or unknown."""
        return (self.best_of, self.epoch_sd) if self.best_of > 1 and self.epoch_sd else None


@dataclass(frozen=True, slots=True)
class Finding:
    """What the evidence says of one part of a claim.

    Grades: ``compared`` (an effect over images, seeds or both), ``number`` (a printed one is reached or not),
    ``opponent`` (against a single printed number: leans only), ``printed`` (single numbers of the authors: an audit),
    ``exact`` (a fact).
    """

    effect: float  # on its own scale: a difference, a share, or the log of a ratio
    region: tuple[float, float] = (0.0, math.inf)  # where the claim puts it, ends excluded, on that scale
    grade: Literal["compared", "number", "opponent", "printed", "exact"] = "compared"
    log: bool = False  # effect and region are logs of ratios
    scale: str = "log"  # of the metric, on which seeds scatter
    arms: tuple[SeedArm, ...] = ()  # with random training
    pool: Pool = Pool()
    image_variance: float = 0.0  # of the effect, over images
    image_third: float = 0.0  # its third central moment over images
    base: float = 0.0  # what a share of the effect is of: the metric of the arm that it is compared with
    n: int | None = None  # images; None where they play no part
    interval: tuple[float, float] | None = None  # given, where the rule is an interval of its own (Wilson's)
    number: Number | None = None
    least_variance: float = 0.0  # over seeds: that of rounding a share of n images to 1/n
    only_leans: str = ""  # why it can do no more than lean
    rule: str = ""  # how it is decided, in words
    notes: tuple[str, ...] = ()  # what must be said beside the verdict

    @property
    def fewest_seeds(self) -> int:
        """Return the seeds of the random arm that has fewest; 0 where nothing is random."""
        return min((len(arm.scaled) for arm in self.arms), default=0)

    @property
    def own(self) -> Scatter:
        """Return the scatter over seeds of its own arms; without two seeds of any, 0 with no degrees of freedom."""
        many = [arm for arm in self.arms if len(arm.scaled) > 1]
        variances = [float(np.var(arm.scaled, ddof=1)) for arm in many]
        return own_scatter(variances, [len(arm.scaled) for arm in many], [arm.weight for arm in many])

    @property
    def nearest(self) -> float:
        """Return the end of the region from which ``inside`` measures the effect's distance."""
        return min(self.region, key=lambda end: abs(self.effect - end))

    @property
    def third(self) -> float:
        """Return the third central moment over images of the effect's distance from the nearest end of the region."""
        return self.image_third if self.nearest == self.region[0] else -self.image_third

    @property
    def seed_weight(self) -> float:
        """Return the sum over random arms of w² / k."""
        return sum(arm.weight**2 / len(arm.scaled) for arm in self.arms)

    @property
    def anew(self) -> float:
        """Return what its runs draw anew, of its variance over images."""
        return sum(arm.anew / len(arm.scaled) for arm in self.arms)

    def drawn(self, seeds: int) -> tuple[float, float]:
        """Return the s² that this alone explains and its degrees of freedom; 0 and 0 below three seeds in an arm."""
        known = seeds >= MIN_SEEDS and self.anew > 0 and self.seed_weight > 0 and self.n is not None
        return (self.anew / self.seed_weight, float(self.n - 1)) if known and self.n is not None else (0.0, 0.0)


@dataclass(frozen=True, slots=True)
class Spread:
    """The variance over seeds that a decision uses, where it is from, and the F test that let others in."""

    variance: float = 0.0
    df: float = math.inf
    source: str = ""
    f_p: float = math.nan
    drawn_p: float = math.nan  # of the F test of the own arms over what runs draw anew on the images


def spread_of(finding: Finding) -> Spread:
    """Return the variance over seeds that decides: no less than that of rounding."""
    found = _spread(finding)
    if found.variance >= finding.least_variance:
        return found
    return replace(found, variance=finding.least_variance, source=f"the rounding to 1/n, not of {found.source}")


def _spread(finding: Finding) -> Spread:
    """Return the variance over seeds: of the own arms, with others if the F test lets them; else what is known."""
    own, pool = finding.own, finding.pool
    if not finding.arms:
        return Spread(source="nothing is random")
    if own.df:
        drawn = pooled(own.variance, own.df, *finding.drawn(finding.fewest_seeds), DRAWN_ABOVE)
        variance, df, p, drawn_p = map(float, (*pooled(*drawn[:2], pool.variance, pool.df), drawn[2]))
        arms = "own arms" + ", what they draw anew on each image" * (drawn_p > DRAWN_ABOVE)
        if math.isnan(p):
            return Spread(variance, df, f"the claim's {arms}; no other variant has several seeds", p, drawn_p)
        others = f"{len(pool.over)} other variant{'s' * (len(pool.over) > 1)} ({', '.join(pool.over)})"
        who = f"the {arms} and {others}" if p > POOLS_ABOVE else f"the {arms} alone, which scatter more than {others}"
        return Spread(variance, df, who, p, drawn_p)
    if pool.df:
        return Spread(pool.variance, pool.df, f"other variants of the same systems ({', '.join(pool.over)})")
    if pool.widest is not None:
        variance, df, name = pool.widest
        return Spread(variance, df, f"{name}, which scatters most here")
    return Spread(ASSUMED_SD**2, math.inf, f"assumed: {ASSUMED_SD:.0%}; no variant has several seeds")


@dataclass(frozen=True, slots=True)
class Decision:
    """A decision, the numbers that made it, and what would have decided."""

    decided: Decided
    direction: Side = ""
    reason: str = ""
    low: float = math.nan  # ends of the deciding interval, on the effect's own scale
    high: float = math.nan
    level: float = math.nan  # two-sided, of that interval
    p_value: float = math.nan
    df: float = math.nan
    seed_part: float = math.nan  # of the effect's variance
    image_part: float = math.nan
    spread: Spread = Spread()
    reached: Reached | None = None
    needed: str = ""
    needed_seeds: int | None = None


def decide(finding: Finding, looks: int = 1) -> Decision:
    """Decide one part at the level of so many looks; more looks than one are only at claims with random arms."""
    if finding.grade in ("exact", "printed"):
        return _as_it_is(finding)
    level = nominal_level(looks) if finding.arms else ALPHA
    spread = spread_of(finding)
    if finding.grade == "number":
        return _number(finding, spread, level)
    seed_part, image_part = parts_of(finding, spread)
    images_df = math.inf if finding.n is None else finding.n - 1
    variance, df = (float(value) for value in welch(seed_part, spread.df, image_part, images_df))
    distance = float(inside(finding.effect, finding.region))
    p = float(p_of(distance, variance, df, finding.third))
    if finding.grade == "opponent":
        decides: bool = False
    else:
        decides = not finding.only_leans and (not finding.arms or bool(may_decide(finding.fewest_seeds, spread.df)))
    half = float(t_quantile(level, df)) * math.sqrt(variance) if variance > 0 else 0.0 * variance
    low, high = finding.interval or (finding.effect - half, finding.effect + half)
    if finding.interval is not None:  # Wilson's for a single share: the interval decides
        held = low > finding.region[0] and high < finding.region[1]
        code = 2 if held else -2 if high < finding.region[0] or low > finding.region[1] else 0
    else:
        code = 0 if math.isnan(p) else int(sides(distance, p, level, decides))
    points: Side = "for" if distance > 0 else "against" if distance < 0 else ""
    decided = Decision(CODES[code], points, "", low, high, level, p, df, seed_part, image_part, spread)
    if math.isnan(variance):
        why = "one image has no interval" if finding.n == 1 else "no interval could be computed"
        return replace(decided, reason=why, needed="more images")
    return replace(decided, reason=_why(finding, decided, decides))


def parts_of(finding: Finding, spread: Spread) -> tuple[float, float]:
    """Return the parts of seeds and images in the variance of an effect."""
    seeds, images = counted_once(spread.variance * finding.seed_weight, finding.image_variance, finding.anew)
    return float(seeds), float(images)


def _as_it_is(finding: Finding) -> Decision:
    distance = float(inside(finding.effect, finding.region))
    points: Side = "for" if distance > 0 else "against" if distance < 0 else ""
    ends = finding.interval
    if ends is None:
        return Decision({"for": "holds", "against": "does not hold", "": "undecided"}[points], points)  # type: ignore[arg-type]
    held = ends[0] > finding.region[0] and ends[1] < finding.region[1]
    missed = ends[1] < finding.region[0] or ends[0] > finding.region[1]
    decided: Decided = "holds" if held else "does not hold" if missed else "undecided"
    return Decision(decided, points, "" if held or missed else "its interval reaches both sides", *ends, ALPHA)


def _why(finding: Finding, decided: Decision, decides: bool) -> str:
    if finding.only_leans:
        return finding.only_leans
    if not decides:
        k = finding.fewest_seeds
        few = f"{k} seed{'s' * (k > 1)}" if k else ""
        return (
            f"{few}: the rule asks for {MIN_SEEDS}, or two with {TWO_SEEDS_DF} degrees of freedom behind their spread"
        )
    if decided.decided == "undecided":
        if not decided.low < finding.nearest < decided.high:
            return (
                "the interval lies on one side, but the images' differences are skewed to the other: t counts as less"
            )
        level = decided.level if finding.interval is None else ALPHA
        return f"the interval ({100 * (1 - level):.4g} %) reaches both sides"
    return ""


@cache
def _best_of(epochs: int) -> tuple[Floats, Floats]:
    """Return the largest of N standard normal draws as values and their probabilities (density times step)."""
    z = np.linspace(-9, 9, 1801)
    return z, epochs * stats.norm.pdf(z) * stats.norm.cdf(z) ** (epochs - 1) * 0.01


def _best_below(end: Numbers, mean: Floats, spread: Floats, df: Numbers, best: tuple[int, float]) -> Floats:
    """Return how often the best of N epochs of another run lies below an end: mean + spread * t - sd * largest of N."""
    step = 1 if mean.ndim == 0 else 10  # of many draws, as ``number_power`` makes, each needs no more digits
    z, share = (values[::step, None] for values in _best_of(best[0]))
    with np.errstate(divide="ignore", invalid="ignore"):
        t = (end - np.ravel(mean) + best[1] * z) / np.maximum(np.ravel(spread), 1e-12)
    found = step * (share * special.stdtr(np.minimum(np.ravel(df), 1e9), t)).sum(axis=0)
    return np.asarray(found.reshape(mean.shape))


def _best_predicted(
    mean: Floats, spread: Floats, df: Numbers, level: float, best: tuple[int, float]
) -> tuple[Floats, Floats]:
    """Return the ends between which the best of N epochs of another run lies."""
    reach = float(t_quantile(level, df) * spread) + 9 * best[1]

    def off(end: float, below: float) -> float:
        return float(_best_below(end, mean, spread, df, best)) - below

    low, high = (optimize.brentq(off, mean - reach, mean + reach, (p,)) for p in (level / 2, 1 - level / 2))
    return np.asarray(low), np.asarray(high)


def chance_gain(epochs: int, sd: float) -> float:
    """Return the share by which the best of N epochs on the test images looks better by chance alone."""
    z, share = _best_of(epochs)
    return 1 - math.exp(-sd * float(share @ z)) if epochs > 1 else 0.0


def _number(finding: Finding, spread: Spread, level: float) -> Decision:
    number, arm = finding.number, finding.arms[0]
    assert number is not None
    mean, k = float(np.mean(arm.scaled)), len(arm.scaled)
    found = reaches(mean, spread.variance, spread.df, k, number.limits, level, number.best)
    points: Side = "for" if mean <= number.limits[2] else "against"
    low, high = sorted(_unscaled(float(end), number.share) for end in (found.lower, found.upper))
    ends = sorted(_unscaled(float(end), number.share) for end in (found.predicted_low, found.predicted_high))
    compatible = bool(found.compatible)
    lies = "inside" if compatible else "outside"
    where = f"{number.published:g} is {lies} the prediction interval {ends[0]:.4g} to {ends[1]:.4g}"
    said = ["better than printed"] * bool(found.better) + ["equivalent"] * bool(found.equivalent)
    said += [where] + ([_why(finding, Decision("leans for"), False)] if not may_decide(k, spread.df) else [])
    p = float(p_of(number.limits[2] - mean, spread.variance / k, spread.df))
    effect = (low - number.published, high - number.published)
    code, needed = int(found.code), ""
    if code == -2 and number.best_of > 1 and number.best is None:
        code, needed = -1, "runs that are evaluated on the test images after each epoch"
        said.append(
            f"it is the best of {number.best_of} epochs, and how these runs scatter from epoch to epoch is unknown"
        )
    return Decision(
        CODES[code], points, "; ".join(said), *effect, 2 * level, p, spread.df, spread.variance / k,
        finding.image_variance, spread, found, needed,
    )  # fmt: skip


def _unscaled(value: float, share: bool) -> float:
    return float(special.expit(-value)) if share else math.exp(value)


# --------------------------------------------------------------------------------------------- what would decide it


@cache
def _normals() -> tuple[Floats, Floats]:
    rng = np.random.default_rng(20240229)
    return rng.standard_normal(DRAWS), rng.uniform(0.0005, 0.9995, (2, DRAWS))


@cache
def _chi_square(df: int, arm: int = 0) -> Floats:
    """Return draws of chi²/df; the same uniform numbers for every df, others for the second arm."""
    return stats.chi2.ppf(_normals()[1][arm], df) / df if df else np.ones(DRAWS)


def power(finding: Finding, seeds: int, looks: int = 1, scale: float = 1.0) -> float:
    """Return how often the rule decides on the side to which it points, with so many seeds in each random arm.

    The effect (``scale`` times the observed distance from the limit) and the spreads are taken to be the observed ones.
    """
    spread, (normal, _), pool = spread_of(finding), _normals(), finding.pool
    weights = [arm.weight for arm in finding.arms]
    weight, anew = (sum(x) / max(seeds, 1) for x in ([w**2 for w in weights], [arm.anew for arm in finding.arms]))
    images = max(finding.image_variance - finding.anew, 0.0)
    distance = float(inside(finding.effect, finding.region)) * scale
    drawn = distance + math.sqrt(max(spread.variance * weight, anew) + images) * normal
    draws = [spread.variance * _chi_square(seeds - 1, place) for place in range(len(weights) if seeds > 1 else 0)]
    own = own_scatter(draws, [seeds] * len(draws), weights[: len(draws)])
    own_df = own.df if draws else 0
    known = pooled(own.variance if draws else spread.variance, own_df, *finding.drawn(seeds), DRAWN_ABOVE)
    variance, df, _ = pooled(*known[:2], pool.variance, pool.df)
    seed_part = np.maximum(variance * weight, anew)
    total, df = welch(seed_part, df, images, math.inf if finding.n is None else finding.n - 1)
    p = p_of(drawn, total, df, finding.third)
    decides = may_decide(seeds, own_df + pool.df) if finding.arms else True
    codes = sides(drawn, p, nominal_level(looks) if finding.arms else ALPHA, decides)
    return float((codes == (2 if distance > 0 else -2)).mean())


def number_power(finding: Finding, seeds: int, looks: int = 1) -> float:
    """Return how often a printed number is decided with so many seeds, if mean and spread are the observed."""
    number, spread, (normal, _) = finding.number, spread_of(finding), _normals()
    assert number is not None
    mean = float(np.mean(finding.arms[0].scaled)) + math.sqrt(spread.variance / seeds) * normal
    own = spread.variance * _chi_square(seeds - 1)
    variance, df, _ = pooled(own, seeds - 1, finding.pool.variance, finding.pool.df)
    codes = reaches(mean, variance, df, seeds, number.limits, nominal_level(looks), number.best).code
    return float(np.mean(np.abs(codes) == 2))


def with_needs(finding: Finding, decision: Decision, looks: int = 1) -> Decision:
    """Return a decision that is still open with what decides it with 80 % power, by simulating the rule itself."""
    if decision.decided in ("holds", "does not hold") or finding.grade in ("exact", "printed") or decision.needed:
        return decision
    if finding.grade == "opponent":
        return replace(
            decision, needed="nothing: one printed number never decides; its predictions would have to be public"
        )
    if finding.only_leans:
        return replace(decision, needed="nothing, with these weights")
    if float(inside(finding.effect, finding.region)) == 0:
        return replace(decision, needed="no number would: the effect is exactly at the limit")
    if not finding.arms:
        return replace(decision, needed="more images" if finding.interval else _smallest(finding, 0, 1))
    strength = number_power if finding.grade == "number" else power
    more = [seeds for seeds in TRIED_SEEDS if seeds > finding.fewest_seeds]
    if more and strength(finding, more[-1], looks) >= POWER:
        found = next(seeds for seeds in more if strength(finding, seeds, looks) >= POWER)
        return replace(decision, needed=f"{found} seeds{' in each arm' * (len(finding.arms) > 1)}", needed_seeds=found)
    if finding.grade == "number":
        why = f"it cannot be decided with up to {MOST_SEEDS} runs: their mean is too near to the limit"
        return replace(decision, needed=why)
    return replace(decision, needed=_smallest(finding, MOST_SEEDS, looks))


def _smallest(finding: Finding, seeds: int, looks: int) -> str:
    """Say which effects this benchmark can decide at all."""
    low, high = 0.0, 1.0
    while power(finding, seeds, looks, high) < POWER and high < 1e6:
        high *= 4
    for _ in range(8):
        middle = (low + high) / 2
        low, high = (low, middle) if power(finding, seeds, looks, middle) >= POWER else (middle, high)
    distance = abs(float(inside(finding.effect, finding.region))) * high
    shown = f"effects above {distance:.3g}"
    if finding.log:
        shown = f"ratios beyond {math.exp(distance):.3g} times the limit"
    elif finding.base > 0:
        shown = f"effects above {distance / finding.base:.0%} ({distance:.3g})"
        if distance >= finding.base and finding.effect > 0:
            shown = "not even an arm without any error"
    pictures = f"with its {finding.n} pictures, " if finding.n is not None else ""
    what = "on this benchmark" if finding.n is not None else f"with up to {MOST_SEEDS} runs"
    return f"it cannot be decided {what}: {pictures}{shown} can"


# ---------------------------------------------------------------------------------------------- claims of several parts


def combine(decisions: Sequence[Decision]) -> Decision:
    """Return the decision on a claim: all parts must hold; one that does not, after Holm, refutes it."""
    if len(decisions) == 1:
        return decisions[0]
    tested = [decision for decision in decisions if decision.decided != "not tested"]
    if not tested:
        return Decision("not tested", "", "; ".join(dict.fromkeys(decision.reason for decision in decisions)))
    names = [decision.decided for decision in decisions]
    counted = ", ".join(f"{names.count(name)} {name}" for name in dict.fromkeys(names))
    points = {decision.direction for decision in tested}
    direction = points.pop() if len(points) == 1 else ""
    level = max(decision.level for decision in tested)
    against = [d.p_value if d.direction == "against" else 1.0 for d in tested]
    worst = [0.0 if math.isnan(p) and d.decided == "does not hold" else p for p, d in zip(against, tested, strict=True)]
    corrected = holm(worst)
    decided = _together(tested, corrected, len(decisions))
    toward = [decision.p_value for decision in tested]
    p = float(np.nanmax(toward)) if direction == "for" and not np.isnan(toward).all() else math.nan
    p = float(np.nanmin(corrected)) if direction != "for" and not np.isnan(corrected).all() else p
    untested = f"; {len(tested)} of {len(decisions)} parts could be tested" if len(tested) < len(decisions) else ""
    found = Decision(decided, direction, f"{len(decisions)} parts: {counted}{untested}", level=level, p_value=p)
    return _with_needs(found, tested) if decided not in ("holds", "does not hold") else found


def _together(tested: Sequence[Decision], against: Floats, parts: int) -> Decided:
    refuted = [d.decided == "does not hold" and p <= _level(d) for d, p in zip(tested, against.tolist(), strict=True)]
    lean = [
        d.decided in ("does not hold", "leans against") and p <= LEANS for d, p in zip(tested, against, strict=True)
    ]
    if any(refuted):
        return "does not hold"
    if any(lean):
        return "leans against"
    if len(tested) < parts:
        return "undecided"
    if all(decision.decided == "holds" for decision in tested):
        return "holds"
    return "leans for" if all(d.decided in ("holds", "leans for") for d in tested) else "undecided"


def _level(decision: Decision) -> float:
    return ALPHA if math.isnan(decision.level) else decision.level


def _with_needs(together: Decision, parts: Sequence[Decision]) -> Decision:
    """Return the decision with what decides the part that needs most; hopeless if one part is."""
    seeds = max((part.needed_seeds for part in parts if part.needed_seeds is not None), default=None)
    hopeless = next((part.needed for part in parts if part.needed and part.needed_seeds is None), "")
    if hopeless:
        return replace(together, needed=hopeless)
    return replace(together, needed=f"{seeds} seeds in each arm" if seeds else "", needed_seeds=seeds)


def benjamini_hochberg(p_values: Sequence[float]) -> Floats:
    """Return q values; NaN stays NaN and is not counted."""
    p = np.asarray(p_values, dtype=np.float64)
    q, known = np.full_like(p, np.nan), np.flatnonzero(~np.isnan(p))
    if len(known):
        q[known] = stats.false_discovery_control(p[known])
    return q

"""When a claim holds: one rule for all parts of all claims, their combination, and what would have decided the rest.

A part of a claim is one comparison or one quantity on one benchmark. Its evidence is an effect, an interval and the
region where the claim puts the effect (``Finding``). The five verdicts:

* ``holds``: the interval lies inside the region; where training was random, there are at least three seeds, each of
  them inside, and so is the 95 % t interval of their mean; where there is a paired test, the larger of its permutation
  p value and the seeds' t test is at most 0.05 after Holm's correction over all parts of the paper with the same
  evidence and selection.
* ``contradicted``: the same on the other side. So chance contradicts a true claim as rarely as it confirms a false one.
* ``holds in direction``: the images say ``holds``, interval and corrected permutation p value, and every seed agrees,
  but there are fewer than three, or they scatter too much; or printed numbers without the predictions behind them
  agree; or a part of the claim could not be tested.
* ``inconclusive``: everything else that was measured. ``direction`` says which way it points.
* ``not tested``: with the reason.

Why seeds have a gate of their own: resampling images says nothing of another training run, and resampling three seeds
excludes zero in a quarter of all cases without an effect. The specifications ask for two standard errors, which three
seeds exceed by chance in 18 % of the cases; the t interval asks for 4.3, and more where several claims are tested.

Ratios, shares and quantities have no paired test, so no p value to correct: their 95 % interval and the seeds decide.
Printed numbers (evidence ``published``) are single runs: they can contradict a claim, and support it in direction only.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from scipy import stats

from recount.scoring.statistics import CONFIDENCE, holm, mean_and_sd

Verdict = Literal["holds", "holds in direction", "contradicted", "inconclusive", "not tested"]
Side = Literal["for", "against", ""]
ALPHA = 1 - CONFIDENCE
MIN_SEEDS = 3
POWER = 0.8  # "would have decided": four times of five, if the effect is the one observed
MOST_SEEDS = 1000


@dataclass(frozen=True, slots=True)
class Finding:
    """What the evidence says of one part of a claim, before correction.

    Grades: ``sampled`` (from images), ``value`` (a number within a tolerance, the region, that contains its own
    uncertainty), ``printed`` (single numbers of the authors), ``exact`` (a fact of a file).
    """

    effect: float
    low: float = math.nan  # of its 95 % interval; NaN where there is none
    high: float = math.nan
    region: tuple[float, float] = (0.0, math.inf)  # where the claim puts the effect, ends excluded
    grade: Literal["sampled", "value", "printed", "exact"] = "sampled"
    nearly: tuple[float, float] | None = None  # for ``value``: a wider region in which it holds in direction
    p_value: float = math.nan  # of a paired test
    n: int | None = None  # images
    seed_effects: tuple[float, ...] = ()  # the effect with each seed; () where no random training is involved
    image_error: float = math.nan  # standard error over images alone; NaN: as the interval says
    rule: str = ""  # how it was decided, in words
    notes: tuple[str, ...] = ()  # what must be said beside the verdict


@dataclass(frozen=True, slots=True)
class Decision:
    """A verdict, which way the evidence points, why, and what would have decided."""

    verdict: Verdict
    direction: Side = ""
    reason: str = ""
    p_holm: float = math.nan
    needed: str = ""
    needed_images: int | None = None
    needed_seeds: int | None = None


def _side(low: float, high: float, region: tuple[float, float]) -> Side:
    """Return whether an interval lies inside a region ("for"), outside ("against") or touches an end of it ("")."""
    if low > region[0] and high < region[1]:
        return "for"
    return "against" if high < region[0] or low > region[1] else ""


def decide_all(findings: Sequence[Finding]) -> list[Decision]:
    """Decide the parts of one paper that share evidence and selection: p values are corrected over them."""
    over_images = holm([finding.p_value for finding in findings])
    over_both = holm([_larger_p(finding) for finding in findings])
    family = sum(not math.isnan(finding.p_value) for finding in findings)
    corrected = zip(findings, over_images.tolist(), over_both.tolist(), strict=True)
    return [decide(finding, images, both, family) for finding, images, both in corrected]


def _larger_p(finding: Finding) -> float:
    """Return the two-sided p value of images or of seeds (t test: their mean is 0), whichever is larger; or NaN."""
    effects = finding.seed_effects
    if math.isnan(finding.p_value) or len(effects) < MIN_SEEDS:
        return finding.p_value
    mean, spread = mean_and_sd(effects)
    if not spread:
        return max(finding.p_value, 0.0 if mean else 1.0)
    of_seeds = 2 * float(stats.t.sf(abs(mean) / (spread / math.sqrt(len(effects))), len(effects) - 1))
    return max(finding.p_value, of_seeds)


def decide(finding: Finding, p_images: float, p_holm: float, family: int) -> Decision:
    """Decide one part, with its permutation p value and the larger of that and the seeds' after correction (or NaN).

    ``family`` p values were corrected together.
    """
    points = _side(finding.effect, finding.effect, finding.region)
    if finding.grade == "exact":
        return Decision("holds" if points == "for" else "contradicted", points)
    if finding.grade == "value":
        return _near(finding, points)
    if math.isnan(finding.low):
        return _without_interval(finding, points)
    images = _side(finding.low, finding.high, finding.region)
    if not images or p_images > ALPHA:
        corrected = f" after correction for {family} tests" if family > 1 else ""
        against = f"the interval lies on one side, but p is {p_images:.2g}{corrected}"
        reason = against if images else "the interval reaches both sides"
        return _undecided(finding, points, p_holm, family, reason)
    if finding.grade == "printed":
        verdict: Verdict = "contradicted" if images == "against" else "holds in direction"
        return Decision(verdict, images, "single printed runs", p_holm)
    return _over_seeds(finding, images, p_holm, family)


def _near(finding: Finding, points: Side) -> Decision:
    """Decide whether a number was reached; the tolerance holds its uncertainty, so only the number of seeds counts."""
    few = 0 < len(finding.seed_effects) < MIN_SEEDS
    reason = f"{len(finding.seed_effects)} seed(s); the rule asks for {MIN_SEEDS}" if few else ""
    more = (math.nan, f"{MIN_SEEDS} seeds", None, MIN_SEEDS) if few else ()
    if points == "for":
        return Decision("holds in direction" if few else "holds", "for", reason, *more)
    if finding.nearly and _side(finding.effect, finding.effect, finding.nearly) == "for":
        reason = "; ".join(["outside the tolerance, but close", *([reason] if few else [])])
        return Decision("holds in direction", "for", reason, *more)
    return Decision("inconclusive" if few else "contradicted", "against", reason, *more)


def _without_interval(finding: Finding, points: Side) -> Decision:
    if finding.grade == "printed":
        if not points:
            return Decision("inconclusive", "", "as printed, both are equal", needed="no number would: no difference")
        verdict: Verdict = "holds in direction" if points == "for" else "contradicted"
        return Decision(verdict, points, "as printed; no predictions are public, so there is no interval")
    if finding.seed_effects and finding.n is None:  # a cost: its only spread is over runs
        return _over_seeds(finding, points, math.nan, 1) if points else Decision("inconclusive", "", "at the limit")
    why = "one image has no interval" if finding.n == 1 else "no interval could be computed"
    return Decision("inconclusive", points, why, needed="more images")


def _over_seeds(finding: Finding, images: Side, p_holm: float, family: int) -> Decision:
    """Decide where the images have decided: do the seeds agree?"""
    final: Verdict = "holds" if images == "for" else "contradicted"
    effects = finding.seed_effects
    if not effects:
        return Decision(final, images, "", p_holm)
    agree = all(_side(effect, effect, finding.region) == images for effect in effects)
    weaker: Verdict = "holds in direction" if agree and images == "for" else "inconclusive"
    seeds = seeds_needed(finding, family)
    needed = f"{seeds} seeds" if seeds else "no number of seeds would: they do not agree"
    if len(effects) < MIN_SEEDS:
        few = f"{len(effects)} seed{'s' * (len(effects) > 1)}; the rule asks for {MIN_SEEDS}"
        where = "" if images == "for" else "it points against the claim, but with "
        return Decision(weaker, images, f"{where}{few}", p_holm, needed, None, seeds)
    mean, spread = mean_and_sd(effects)
    half = float(stats.t.ppf(1 - ALPHA / 2, len(effects) - 1)) * spread / math.sqrt(len(effects))
    low, high = mean - half, mean + half  # 95 % t interval
    settled = agree and _side(low, high, finding.region) == images
    if settled and not p_holm > ALPHA:
        return Decision(final, images, "", p_holm)
    why = f"the seeds decide, but not after correction for {family} tests" if settled else "the seeds scatter too much"
    why = why if agree else "the seeds do not agree"
    why += f" ({min(effects):.3g} to {max(effects):.3g}; t interval of their mean {low:.3g} to {high:.3g})"
    return Decision(weaker, images, why, p_holm, needed, None, seeds)


def _undecided(finding: Finding, points: Side, p_holm: float, family: int, reason: str) -> Decision:
    if _distance(finding) == 0:
        return Decision("inconclusive", points, reason, p_holm, "no number would: the effect is exactly at the limit")
    images = _images_needed(finding, family)
    seeds = seeds_needed(finding, family)
    parts = []
    if images is not None and (finding.n is None or images > finding.n):
        parts.append(f"{images:,} images")
    if seeds is not None and seeds > len(finding.seed_effects):
        parts.append(f"{seeds} seeds")
    needed = " and ".join(parts) or "more images or seeds"
    return Decision("inconclusive", points, reason, p_holm, needed, images, seeds)


def _distance(finding: Finding) -> float:
    return min(abs(finding.effect - end) for end in finding.region if math.isfinite(end))


def _images_needed(finding: Finding, family: int) -> int | None:
    """Return how many images decide with 80 % power if effect and spread are the observed ones; None: unknown."""
    distance = _distance(finding)
    error = finding.image_error
    if math.isnan(error):
        error = (finding.high - finding.low) / 2 / float(stats.norm.ppf(1 - ALPHA / 2))
    if not distance or not finding.n or math.isnan(error):
        return None
    z = float(stats.norm.ppf(1 - _level(finding, family) / 2) + stats.norm.ppf(POWER))
    return max(math.ceil(finding.n * (z * error / distance) ** 2), 2)


def _level(finding: Finding, family: int) -> float:
    """Return the level of one part: that of Holm's first step where its p value is corrected."""
    return ALPHA if math.isnan(finding.p_value) else ALPHA / max(family, 1)


def seeds_needed(finding: Finding, family: int) -> int | None:
    """Return how many seeds bring the t interval of their mean to one side, if it and their spread are the observed.

    Three where one seed alone was run: nothing is known of the spread. None where no training is involved, or no number
    up to 1,000 does.
    """
    effects = finding.seed_effects
    if not effects:
        return None
    if len(effects) < 2:
        return MIN_SEEDS
    distance, spread = _distance(finding), float(np.std(effects, ddof=1))
    numbers = np.arange(MIN_SEEDS, MOST_SEEDS + 1)
    factors = stats.t.ppf(1 - _level(finding, family) / 2, numbers - 1) / np.sqrt(numbers)
    decides = factors * spread < distance
    return int(numbers[decides.argmax()]) if decides.any() else None


def combine(decisions: Sequence[Decision]) -> Decision:
    """Return the verdict of a claim from those of its parts: one contradicted part contradicts it.

    It holds if every part does; in direction if every part that could be tested holds at least in direction.
    """
    verdicts = [decision.verdict for decision in decisions]
    if len(decisions) == 1:
        return decisions[0]
    tested = [decision for decision in decisions if decision.verdict != "not tested"]
    if not tested:
        return Decision("not tested", "", "; ".join(dict.fromkeys(decision.reason for decision in decisions)))
    verdict = _together(verdicts)
    counted = [f"{verdicts.count(name)} {name}" for name in dict.fromkeys(verdicts)]
    directions = {decision.direction for decision in tested}
    known = [decision.p_holm for decision in tested if not math.isnan(decision.p_holm)]
    direction = directions.pop() if len(directions) == 1 else ""
    reason = f"{len(decisions)} parts: {', '.join(counted)}"
    together = Decision(verdict, direction, reason, max(known, default=math.nan))
    return _with_needs(together, tested) if verdict in ("inconclusive", "holds in direction") else together


def _together(verdicts: Sequence[Verdict]) -> Verdict:
    if "contradicted" in verdicts:
        return "contradicted"
    if "inconclusive" in verdicts:
        return "inconclusive"
    return "holds" if set(verdicts) == {"holds"} else "holds in direction"


def _with_needs(together: Decision, parts: Sequence[Decision]) -> Decision:
    """Return the decision with what decides the part that needs most; hopeless if one part is."""
    images = max((part.needed_images for part in parts if part.needed_images is not None), default=None)
    seeds = max((part.needed_seeds for part in parts if part.needed_seeds is not None), default=None)
    numbers = [f"{images:,} images"] if images is not None else []
    numbers += [f"{seeds} seeds"] if seeds is not None else []
    hopeless = (part.needed for part in parts if part.needed.startswith("no number"))
    needed = next(hopeless, " and ".join(numbers))
    return replace(together, needed=needed, needed_images=images, needed_seeds=seeds)

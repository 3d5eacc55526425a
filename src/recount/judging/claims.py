"""What predictions, costs and prompt tests say of each part of a claim: the evidence that ``verdicts`` decides on.

A claim has a part for each pair of arms (or each arm) and each benchmark; benchmarks that are the same images in this
suite are one part. Where a part cannot be tested, ``Part.missing`` says why. The effect of a comparison is positive
where ``better`` is better, for errors (lower is better) and accuracies alike.

Said beside a verdict, never repaired: negative counts (their error counts in full), arms that predict one number for
every image, arms that differ on no image, seeds that are absent. Predictions that are not finite have no metric, so the
part is not tested.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

import numpy as np
from scipy import stats

from recount.judging.arms import LAST, Arm, Arms, Evidence, is_fixed
from recount.judging.prompt_evidence import QUANTITIES, aligned, is_trained, picture_values, read_record
from recount.judging.verdicts import Finding
from recount.metrics import ACCURACY, COSTS, LARGE_NUMBERS, MEAN, METRICS, RECALL, Floats, Metric
from recount.results.prompt_tests import PromptTests
from recount.results.reason import NOTHING, Missing, Reason
from recount.scoring.measured import DOMINANT_SHARE, Measurements
from recount.scoring.statistics import (
    CONFIDENCE,
    Interval,
    bootstrap_over_seeds,
    image_error,
    interval_of,
    mean_and_sd,
    paired_difference,
    resampled_ratios,
)
from recount.settings.paper import Bound, Claim, Paper
from recount.settings.project import Run

PAIRED = "the same images"
SEEDS_RULE = "at least 3 seeds that agree, with the 95 % t interval of their mean on that side too"
DIFFERENCE_RULE = (
    "95 % interval of 10,000 paired resamples of the images on one side; p of 10,000 swaps, or that of the "
    "seeds' t test if larger, at most 0.05 after Holm's correction within the paper"
)
YES = {"nearer_to_majority": 1.0, "pccn": 100.0}  # what an image that says yes adds to a share


@dataclass(frozen=True, slots=True)
class Part:
    """One comparison or quantity of a claim and its evidence; ``finding`` is None where ``missing`` says why."""

    name: str
    benchmark: str = ""
    dataset: str = ""
    metric: str = ""
    better: str = ""
    worse: str = ""
    value_better: float = math.nan
    value_worse: float = math.nan
    seeds: tuple[int, ...] = ()
    finding: Finding | None = None
    missing: Reason = NOTHING


@dataclass(frozen=True, slots=True)
class Asked:
    """A part that is to be tested: the claim, one pair of arms (``worse`` may be empty), one group of benchmarks."""

    claim: Claim
    better: str
    worse: str
    benchmarks: tuple[str, ...]
    selection: str
    evidence: Evidence
    bound: Bound | None = None


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two arms on the same images and the metric that compares them."""

    metric: Metric
    better: Arm
    worse: Arm

    @property
    def seeds(self) -> tuple[int, ...]:
        """Return the seeds of the arms; () where neither was trained."""
        return self.better.seeds or self.worse.seeds

    def per_seed(self, effects: Floats) -> tuple[float, ...]:
        """Return the effect with each seed; nothing where neither arm was trained."""
        return tuple(effects.tolist()) if self.seeds else ()

    @property
    def ratio_per_seed(self) -> Floats:
        """Return the metric of ``better`` over that of ``worse`` with each seed."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return self.better.levels(self.metric) / self.worse.levels(self.metric)

    def ratio(self, without: str) -> float:
        """Return the ratio of the means over seeds.

        Raises:
            Missing: ``worse`` makes no error, with ``without`` as the consequence.
        """
        top, bottom = (float(arm.levels(self.metric).mean()) for arm in (self.better, self.worse))
        if bottom == 0:
            raise Missing("undefined", f"{self.worse.name} makes no error, {without}")
        return top / bottom

    def ratios(self, stream: int = 0) -> Floats:
        """Return resampled ratios; another ``stream`` is for other images."""
        return resampled_ratios(self.metric, self.better.true, self.better.predicted, self.worse.predicted, stream)

    def rule(self, text: str) -> str:
        """Return a rule, with what it asks of the seeds where there are any."""
        return f"{text}; {SEEDS_RULE}" if self.seeds else text

    @property
    def notes(self) -> tuple[str, ...]:
        """Return what must be said of the arms."""
        first, second, metric = self.better, self.worse, self.metric
        means = [metric.of_images(arm.true[None], arm.predicted).mean(axis=0) for arm in (first, second)]
        tied = (f"{first.name} and {second.name} differ on no image",) if np.array_equal(*means) else ()
        heavy = [note for arm in (first, second) for note in _dominated(metric, arm)]
        return tuple(dict.fromkeys((*first.notes, *second.notes, *tied, *heavy)))

    def fill(self, part: Part, finding: Finding) -> Part:
        """Return a part with its finding and what was compared."""
        first, second = (float(arm.levels(self.metric).mean()) for arm in (self.better, self.worse))
        return replace(
            part,
            better=self.better.name,
            worse=self.worse.name,
            value_better=first,
            value_worse=second,
            seeds=self.seeds,
            finding=finding,
        )


Test = Callable[[Asked, Part], Iterator[Part]]


class Claims:
    """Evidence for the claims of one paper."""

    def __init__(self, measurements: Measurements, paper: Paper) -> None:
        self.measurements, self.project = measurements, measurements.project
        self.arms = Arms(measurements, paper)

    def evidences(self, claim: Claim) -> list[Evidence]:
        """Return which evidence a claim can have from runs: of released weights only where they make up a part."""
        if claim.reads_log:
            return []
        released = any(self.arms.are_released([arm for arm in pair if arm]) for pair in claim.pairs)
        return ["trained", "checkpoint"] if released else ["trained"]

    def selections(self, claim: Claim, evidence: Evidence) -> list[str]:
        """Return the selections that any arm of a claim has predictions of, ``last`` first."""
        if claim.metric in COSTS:
            return [LAST]
        found: set[str] = set()
        if any(bound.metric in QUANTITIES for bound in claim.bounds):
            for arm in claim.arm:
                with suppress(Missing):
                    found |= {record.selection for record in self._records(arm, evidence).values()}
            return sorted(found or {LAST})
        for arm in (*claim.arm, *claim.against):
            for benchmark in claim.on:
                found |= self.arms.selections(arm, benchmark, evidence)
        return sorted(found or {LAST}, key=lambda name: (name != LAST, name))

    def parts(self, claim: Claim, selection: str, evidence: Evidence) -> list[Part]:
        """Return the parts of a claim with one kind of evidence and one selection."""
        test = self._test(claim)
        parts: list[Part] = []
        for asked in self._asked(claim, selection, evidence):
            metric = asked.bound.metric if asked.bound else claim.metric
            name = f"{asked.better} | {asked.worse}" if asked.worse else asked.better
            place = self.project.place(asked.benchmarks[0])
            part = Part(name, " + ".join(asked.benchmarks), place, metric, asked.better, asked.worse)
            try:
                self._refuse(claim)
                parts += test(asked, part)
            except Missing as missing:
                parts.append(replace(part, missing=missing.reason))
        return parts

    def _test(self, claim: Claim) -> Test:
        costs = claim.metric in COSTS
        tests: dict[str, Test] = {
            "difference": self._difference,
            "ratio": self._cost_ratio if costs else self._ratio,
            "value": self._cost if costs else self._value,
            "relative_drop": self._relative_drop,
            "quantity": self._quantity,
        }
        return tests[claim.test]

    def _refuse(self, claim: Claim) -> None:
        """Refuse what a suite that is not comparable cannot say."""
        if not self.project.suite.comparable and (claim.test == "value" or claim.margin is not None):
            why = self.project.suite.why_not_comparable
            what = f"suite {self.project.suite.name} is not comparable with published numbers: {why}"
            raise Missing("no counterpart", what)

    def _asked(self, claim: Claim, selection: str, evidence: Evidence) -> Iterator[Asked]:
        groups = [claim.on] if claim.test == "relative_drop" else self._groups(claim)
        for bound in claim.bounds or (None,):
            for better, worse in claim.pairs:
                for benchmarks in groups:
                    yield Asked(claim, better, worse, tuple(benchmarks), selection, evidence, bound)

    def _groups(self, claim: Claim) -> list[tuple[str, ...]]:
        """Return a claim's benchmarks, those together that are the same images in this suite."""
        groups: dict[str, list[str]] = {}
        for benchmark in claim.on:
            groups.setdefault(self.project.place(benchmark) or benchmark, []).append(benchmark)
        return [tuple(benchmarks) for benchmarks in groups.values()]

    # ------------------------------------------------------------------------------------------- errors and accuracies

    def _compared(self, asked: Asked, benchmark: str) -> Comparison:
        pair = self.arms.pair(asked.better, asked.worse, benchmark, asked.selection, asked.evidence)
        return Comparison(*_metric_on(asked.claim.metric, *pair))

    def _difference(self, asked: Asked, part: Part) -> Iterator[Part]:
        pair = self._compared(asked, asked.benchmarks[0])
        metric, true, margin = pair.metric, pair.better.true, asked.claim.margin
        first, second = (pair.worse, pair.better) if metric.better == "low" else (pair.better, pair.worse)
        result = paired_difference(metric, true, first.predicted, second.predicted)
        finding = Finding(
            effect=result.value,
            low=result.low,
            high=result.high,
            region=(margin or 0.0, math.inf),
            p_value=result.p_value if margin is None else math.nan,
            n=result.images,
            seed_effects=pair.per_seed(first.levels(metric) - second.levels(metric)),
            image_error=image_error(metric, true, first.predicted, second.predicted),
            rule=pair.rule(DIFFERENCE_RULE if margin is None else f"95 % interval above {margin:g}"),
            notes=pair.notes,
        )
        yield pair.fill(part, finding)

    def _ratio(self, asked: Asked, part: Part) -> Iterator[Part]:
        pair = self._compared(asked, asked.benchmarks[0])
        low, high = interval_of(pair.ratios()) if len(pair.better.ids) > 1 else (math.nan, math.nan)
        region = region_of(asked.claim)
        finding = Finding(
            effect=pair.ratio("so there is no ratio to it"),
            low=low,
            high=high,
            region=region,
            n=len(pair.better.ids),
            seed_effects=pair.per_seed(pair.ratio_per_seed),
            rule=pair.rule(f"95 % interval of the ratio {_within(region)}, over {PAIRED}"),
            notes=pair.notes,
        )
        yield pair.fill(part, finding)

    def _relative_drop(self, asked: Asked, part: Part) -> Iterator[Part]:
        places = [self.project.place(benchmark) for benchmark in asked.benchmarks]
        if places[0] == places[1]:
            same = f"{' and '.join(asked.benchmarks)} are the same images in suite {self.project.suite.name}"
            raise Missing("undefined", same)
        pairs = [self._compared(asked, benchmark) for benchmark in asked.benchmarks]
        one, two = (
            1 - pair.ratio(f"so nothing can drop on {benchmark}")
            for pair, benchmark in zip(pairs, asked.benchmarks, strict=True)
        )
        low, high = interval_of((1 - pairs[1].ratios(stream=1)) - (1 - pairs[0].ratios()))
        seeds = [pair.per_seed(1 - pair.ratio_per_seed) for pair in pairs]
        finding = Finding(
            effect=two - one,
            low=low,
            high=high,
            n=sum(len(pair.better.ids) for pair in pairs),
            seed_effects=tuple(second - first for first, second in zip(*seeds, strict=False)),
            rule=pairs[1].rule("95 % interval of (relative drop on the second benchmark - on the first) above 0"),
            notes=(f"relative drops {one:.3g} and {two:.3g}", *pairs[0].notes, *pairs[1].notes),
        )
        yield replace(part, seeds=pairs[1].seeds, finding=finding, dataset=" + ".join(places))

    def _value(self, asked: Asked, part: Part) -> Iterator[Part]:
        arm = self.arms.arm(asked.better, asked.benchmarks[0], asked.selection, asked.evidence)
        metric, arm, _ = _metric_on(asked.claim.metric, arm, arm)
        interval = bootstrap_over_seeds(metric, arm.true, arm.predicted)
        values = tuple(arm.levels(metric).tolist())
        finding = _near(asked.claim, interval, values, fixed=not arm.seeds)
        finding = replace(finding, n=len(arm.ids), notes=(*arm.notes, *_dominated(metric, arm)))
        yield replace(part, better=arm.name, value_better=interval.value, seeds=arm.seeds, finding=finding)

    # --------------------------------------------------------------------------------------------------------- costs

    def _costs(self, arm: str, asked: Asked) -> tuple[str, dict[int, float], str]:
        """Return an arm's name, its cost with each seed, and how it was measured."""
        name = self.arms.of_evidence(arm, asked.evidence)
        values: dict[int, float] = {}
        notes: list[str] = []
        reasons: list[Missing] = []
        for run in self.arms.runs(name):
            try:
                values[run.seed], note = self._cost_of(run, asked.claim.metric, asked.benchmarks[0])
                notes.append(f"{name} {note}" if note else "")
            except Missing as reason:
                reasons.append(reason)
        if not values:
            raise reasons[0].of(name)
        return name, values, "; ".join(dict.fromkeys(note for note in notes if note))

    def _cost_of(self, run: Run, metric: str, benchmark: str) -> tuple[float, str]:
        if metric.startswith("parameters_"):
            counted = getattr(self.measurements.record(run.id).cost, metric)
            if counted is None:
                raise Missing("undefined", f"its run.json does not say its {metric}")
            return float(counted), ""
        measured = self.measurements.measured(run.id, benchmark, metric).get(LAST)
        if measured is None:
            raise Missing("undefined", f"its {metric} of the last epoch was not measured")
        return measured.interval.value, measured.reason.text

    def _cost_ratio(self, asked: Asked, part: Part) -> Iterator[Part]:
        (first, a, how), (second, b, other) = (self._costs(arm, asked) for arm in (asked.better, asked.worse))
        seeds = [seed for seed in a if seed in b]
        if not seeds:
            raise Missing("undefined", f"{first} and {second} have no seed in common")
        ratios = tuple(a[seed] / b[seed] for seed in seeds)
        small = [name for name in (first, second) if self.arms.runs(name)[0].size != "paper"]
        if small:
            measured = "; ".join(dict.fromkeys(note for note in (how, other) if note))
            raise Missing(
                "no counterpart",
                f"the cost of this suite's small networks says nothing of the papers' ({' and '.join(small)}); their "
                f"ratio here is {np.mean(ratios):.3g}; {measured}",
            )
        region = region_of(asked.claim)
        means = [float(np.mean([cost[seed] for seed in seeds])) for cost in (a, b)]
        finding = Finding(
            effect=float(np.mean(ratios)), region=region, seed_effects=ratios,
            rule=f"ratio {_within(region)} in every run, {SEEDS_RULE}",
            notes=tuple(dict.fromkeys(note for note in (how, other) if note)),
        )  # fmt: skip
        yield replace(
            part, better=first, worse=second, value_better=means[0], value_worse=means[1],
            seeds=tuple(seeds), finding=finding,
        )  # fmt: skip

    def _cost(self, asked: Asked, part: Part) -> Iterator[Part]:
        name, values, how = self._costs(asked.better, asked)
        each = tuple(values.values())
        counted = asked.claim.metric.startswith("parameters_")
        finding = _near(asked.claim, Interval(float(np.mean(each)), math.nan, math.nan), each, fixed=counted)
        finding = replace(finding, notes=(*finding.notes, how) if how else finding.notes)
        yield replace(part, better=name, value_better=float(np.mean(each)), seeds=tuple(values), finding=finding)

    # ------------------------------------------------------------------------------------------------------ quantities

    def _quantity(self, asked: Asked, part: Part) -> Iterator[Part]:
        assert asked.bound is not None
        if asked.bound.metric == "nearer_to_majority":
            yield self._nearer_to_majority(asked, asked.bound, part)
        else:
            yield from self._prompted(asked, asked.bound, part)

    def _records(self, arm: str, evidence: Evidence) -> dict[int, PromptTests]:
        """Return what the prompt tests of an arm found, by seed."""
        name = self.arms.of_evidence(arm, evidence)
        records: dict[int, PromptTests] = {}
        reasons: list[Missing] = []
        for run in self.arms.runs(name):
            try:
                records[run.seed] = read_record(self.project.root / self.project.prompt_test_file(run))
            except Missing as reason:
                reasons.append(reason)
        if not records:
            raise reasons[0].of(name)
        return records

    def _prompted(self, asked: Asked, bound: Bound, part: Part) -> Iterator[Part]:
        records = {
            seed: record
            for seed, record in self._records(asked.better, asked.evidence).items()
            if record.selection == asked.selection
        }
        if not records:
            raise Missing("undefined", f"{asked.better}: no model chosen by {asked.selection} has prompt tests")
        name = self.arms.of_evidence(asked.better, asked.evidence)
        fixed = is_fixed(self.arms.runs(name)[0]) or not is_trained(bound.metric)
        records = dict(list(records.items())[:1]) if fixed else records
        each = [picture_values(record, asked.benchmarks[0], bound.metric) for record in records.values()]
        for key in each[0]:
            tops, bottoms = aligned([values[key] for values in each if key in values])
            shown = replace(part, name=f"{part.name} ({key})" if key else part.name, better=name)
            seeds = () if fixed else tuple(records)
            yield _of_ratio(shown, bound, tops, bottoms, seeds)

    def _nearer_to_majority(self, asked: Asked, bound: Bound, part: Part) -> Part:
        arm, majority = self.arms.pair(
            asked.better, "prompt_blind", asked.benchmarks[0], asked.selection, asked.evidence
        )
        nearer = np.abs(arm.predicted - majority.predicted) < np.abs(arm.predicted - arm.true)
        part = replace(part, better=arm.name)
        return _of_ratio(part, bound, nearer.astype(float), np.ones(nearer.shape), arm.seeds, arm.notes)


def _of_ratio(
    part: Part, bound: Bound, tops: Floats, bottoms: Floats, seeds: tuple[int, ...], notes: tuple[str, ...] = ()
) -> Part:
    """Return a part about a sum over images divided by another, [seeds, n] each, mean over seeds.

    Where each image says yes or no, the interval is the exact binomial one.
    """
    n = tops.shape[1]
    each = tops.sum(axis=1) / bottoms.sum(axis=1)
    value, yes = float(each.mean()), YES.get(bound.metric)
    how = "10,000 resamples of the images"
    if yes is not None:
        low, high = (yes * end for end in clopper_pearson(value / yes, n))
        how = "exact binomial"
    elif n < 2:
        low, high = math.nan, math.nan
    else:
        low, high = interval_of(resampled_ratios(MEAN, np.zeros(n), tops, bottoms))
    region = region_of(bound)
    finding = Finding(
        effect=value,
        low=low,
        high=high,
        region=region,
        n=n,
        seed_effects=tuple(each.tolist()) if seeds else (),
        rule=f"95 % interval ({how}) {_within(region)}" + (f"; {SEEDS_RULE}" if seeds else ""),
        notes=notes,
    )
    return replace(part, value_better=value, seeds=seeds, finding=finding)


def clopper_pearson(share: float, n: int) -> tuple[float, float]:
    """Return the exact 95 % interval of a share of n images; a mean over seeds may be a fraction of an image."""
    hits, tail = share * n, (1 - CONFIDENCE) / 2
    low = float(stats.beta.ppf(tail, hits, n - hits + 1)) if hits > 0 else 0.0
    high = float(stats.beta.ppf(1 - tail, hits + 1, n - hits)) if hits < n else 1.0
    return low, high


def _near(claim: Claim, interval: Interval, values: Sequence[float], fixed: bool) -> Finding:
    """Return the finding of a number against the published one."""
    assert claim.published is not None
    _, spread = mean_and_sd(values)
    choices = {
        "the published replications' spread": claim.tolerance or 0.0,
        "half the image interval": (interval.high - interval.low) / 2 if not math.isnan(interval.low) else 0.0,
        "the standard deviation over seeds": 0.0 if math.isnan(spread) else spread,
    }
    name = max(choices, key=choices.__getitem__)
    tolerance = choices[name]
    close = claim.close * abs(claim.published) if claim.close else None
    nearly = f"; in direction within {claim.close:.0%}" if claim.close else ""
    return Finding(
        effect=interval.value - claim.published,
        low=interval.low - claim.published,
        high=interval.high - claim.published,
        region=(-tolerance, tolerance),
        grade="value",
        nearly=(-close, close) if close else None,
        seed_effects=() if fixed else tuple(value - claim.published for value in values),
        rule=f"within {tolerance:.4g} of {claim.published:g} ({name}, the largest of three spreads){nearly}"
        + ("" if fixed else "; at least 3 seeds"),
    )


# ------------------------------------------------------------------------------------------------------------- helpers


def _metric_on(name: str, first: Arm, second: Arm) -> tuple[Metric, Arm, Arm]:
    """Return a claim's metric and the arms on the images that it is about."""
    if name != RECALL.name:
        return METRICS[name], first, second
    inside = (first.true >= LARGE_NUMBERS[0]) & (first.true <= LARGE_NUMBERS[1])
    ids = [sample for sample, wanted in zip(first.ids, inside, strict=True) if wanted]
    if not ids:
        raise Missing("undefined", "no image shows seven to ten")
    return ACCURACY, first.on(ids, first.seeds), second.on(ids, second.seeds)


def _dominated(metric: Metric, arm: Arm) -> Iterator[str]:
    """Say where one image carries more than half of the squared error that a root of a mean is made of."""
    if not metric.root or len(arm.ids) < 2:
        return
    squared = metric.of_images(np.broadcast_to(arm.true, arm.predicted.shape), arm.predicted).mean(axis=0)
    if squared.sum() and squared.max() > DOMINANT_SHARE * squared.sum():
        share = squared.max() / squared.sum()
        yield f"{arm.name}: {arm.ids[int(squared.argmax())]} alone carries {share:.0%} of the squared error"


def region_of(bounded: Claim | Bound) -> tuple[float, float]:
    """Return the region between ``at_least`` and ``at_most``."""
    low, high = bounded.at_least, bounded.at_most
    return (-math.inf if low is None else low), (math.inf if high is None else high)


def _within(region: tuple[float, float]) -> str:
    low, high = region
    if math.isinf(low):
        return f"below {high:g}"
    return f"above {low:g}" if math.isinf(high) else f"within {low:g} to {high:g}"

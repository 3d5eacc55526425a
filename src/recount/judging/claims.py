"""What predictions, costs and prompt tests say of each part of a claim: the evidence that ``verdicts`` decides on.

A claim has a part for each pair of arms (or each arm) and each benchmark; benchmarks that are the same images in this
suite are one part. Where a part cannot be tested, ``Part.missing`` says why. The effect of a comparison is positive
where ``better`` is better, for errors (lower is better) and accuracies alike.

Said beside a verdict, never repaired: negative counts (their error counts in full), arms that predict one number for
every image, arms that differ on no image, seeds that are absent. Predictions that are not finite have no metric, so the
part is not tested.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import product

import numpy as np
from scipy import stats

from recount.judging.arms import LAST, Arm, Arms, Evidence, is_fixed
from recount.judging.prompt_evidence import BASE, QUANTITIES, aligned, picture_values
from recount.judging.verdicts import Finding
from recount.metrics import ACCURACY, COSTS, LARGE_NUMBERS, MEAN, METRICS, RECALL, Floats, Metric
from recount.results.prompt_tests import PromptTests
from recount.results.reason import NOTHING, Missing, Reason
from recount.scoring import statistics
from recount.scoring.measured import Measurements, dominant
from recount.settings.paper import Bound, Claim, Paper
from recount.settings.project import Run

SEEDS_RULE = "at least 3 seeds that agree, with the 95 % t interval of their mean on that side too"
DIFFERENCE_RULE = (
    "95 % interval of 10,000 paired resamples of the images on one side; p of 10,000 swaps, or that of the "
    "seeds' t test if larger, at most 0.05 after Holm's correction within the paper"
)
DROP_RULE = "95 % interval of (relative drop on the second benchmark - on the first) above 0"
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
class _Asked:
    """A part that is to be tested: the claim, one pair of arms (``worse`` may be empty), one group of benchmarks."""

    claim: Claim
    better: str
    worse: str
    benchmarks: tuple[str, ...]
    selection: str
    evidence: Evidence
    bound: Bound | None = None


@dataclass(frozen=True, slots=True)
class _Comparison:
    """Two arms on the same images and the metric that compares them."""

    metric: Metric
    better: Arm
    worse: Arm

    @property
    def seeds(self) -> tuple[int, ...]:
        return self.better.seeds or self.worse.seeds

    @property
    def levels(self) -> tuple[Floats, Floats]:
        return self.better.levels(self.metric), self.worse.levels(self.metric)

    def ratio(self, without: str) -> tuple[float, Floats]:
        """Return the ratio of the means over seeds, and that with each seed; ``without``: what there is not if 0."""
        top, bottom = self.levels
        if not bottom.mean():
            raise Missing("undefined", f"{self.worse.name} makes no error, {without}")
        with np.errstate(divide="ignore", invalid="ignore"):
            return float(top.mean()) / float(bottom.mean()), top / bottom

    def ratios(self, stream: int = 0) -> Floats:
        """Return resampled ratios; another ``stream`` is for other images."""
        arms = self.better.true, self.better.predicted, self.worse.predicted
        return statistics.resampled_ratios(self.metric, *arms, stream)

    @property
    def notes(self) -> tuple[str, ...]:
        first, second, metric = self.better, self.worse, self.metric
        means = [metric.of_images(arm.true[None], arm.predicted).mean(axis=0) for arm in (first, second)]
        tied = (f"{first.name} and {second.name} differ on no image",) if np.array_equal(*means) else ()
        heavy = [note for arm in (first, second) for note in _dominated(metric, arm)]
        return tuple(dict.fromkeys((*first.notes, *second.notes, *tied, *heavy)))

    def fill(self, part: Part, finding: Finding, each: Floats) -> Part:
        """Return a part with its finding, to which seeds, images and notes are added, and what was compared."""
        first, second = (float(levels.mean()) for levels in self.levels)
        part = replace(part, better=self.better.name, worse=self.worse.name, value_better=first, value_worse=second)
        seen = replace(finding, n=len(self.better.ids), seed_effects=_of_seeds(self.seeds, each), notes=self.notes)
        return replace(part, seeds=self.seeds, finding=seen)


def _of_seeds(seeds: Sequence[int], each: Floats) -> tuple[float, ...]:
    return tuple(each.tolist()) if seeds else ()


def _rule(text: str, seeds: Sequence[int]) -> str:
    return f"{text}; {SEEDS_RULE}" if seeds else text


Test = Callable[[_Asked, Part], Iterator[Part]]


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
        costs = claim.metric in COSTS
        tests: dict[str, Test] = {
            "difference": self._difference,
            "ratio": self._cost_ratio if costs else self._ratio,
            "value": self._cost if costs else self._value,
            "relative_drop": self._relative_drop,
            "quantity": self._quantity,
        }
        suite = self.project.suite
        not_comparable = f"suite {suite.name} is not comparable with published numbers: {suite.why_not_comparable}"
        groups: dict[str, list[str]] = {}  # benchmarks that are the same images in this suite are tested together
        for benchmark in claim.on:
            place = self.project.place(benchmark) or benchmark
            groups.setdefault("all" if claim.test == "relative_drop" else place, []).append(benchmark)
        parts: list[Part] = []
        for bound, (better, worse), benchmarks in product(claim.bounds or (None,), claim.pairs, groups.values()):
            asked = _Asked(claim, better, worse, tuple(benchmarks), selection, evidence, bound)
            name = f"{better} | {worse}" if worse else better
            place, metric = self.project.place(benchmarks[0]), bound.metric if bound else claim.metric
            part = Part(name, " + ".join(benchmarks), place, metric, better, worse)
            try:
                if not suite.comparable and (claim.test == "value" or claim.margin is not None):
                    raise Missing("no counterpart", not_comparable)
                parts += tests[claim.test](asked, part)
            except Missing as missing:
                parts.append(replace(part, missing=missing.reason))
        return parts

    def _compared(self, asked: _Asked, benchmark: str) -> _Comparison:
        pair = self.arms.pair(asked.better, asked.worse, benchmark, asked.selection, asked.evidence)
        return _Comparison(*_metric_on(asked.claim.metric, *pair))

    def _difference(self, asked: _Asked, part: Part) -> Iterator[Part]:
        pair = self._compared(asked, asked.benchmarks[0])
        metric, true, margin = pair.metric, pair.better.true, asked.claim.margin
        first, second = (pair.worse, pair.better) if metric.better == "low" else (pair.better, pair.worse)
        result = statistics.paired_difference(metric, true, first.predicted, second.predicted)
        finding = Finding(
            *(result.value, result.low, result.high),
            region=(margin or 0.0, math.inf),
            p_value=result.p_value if margin is None else math.nan,
            image_error=statistics.image_error(metric, true, first.predicted, second.predicted),
            rule=_rule(DIFFERENCE_RULE if margin is None else f"95 % interval above {margin:g}", pair.seeds),
        )
        yield pair.fill(part, finding, first.levels(metric) - second.levels(metric))

    def _ratio(self, asked: _Asked, part: Part) -> Iterator[Part]:
        pair = self._compared(asked, asked.benchmarks[0])
        effect, each = pair.ratio("so there is no ratio to it")
        interval = statistics.interval_of(pair.ratios()) if len(pair.better.ids) > 1 else (math.nan, math.nan)
        region = region_of(asked.claim)
        rule = _rule(f"95 % interval of the ratio {_within(region)}, over the same images", pair.seeds)
        yield pair.fill(part, Finding(effect, *interval, region, rule=rule), each)

    def _relative_drop(self, asked: _Asked, part: Part) -> Iterator[Part]:
        places = [self.project.place(benchmark) for benchmark in asked.benchmarks]
        if places[0] == places[1]:
            both = " and ".join(asked.benchmarks)
            raise Missing("undefined", f"{both} are the same images in suite {self.project.suite.name}")
        pairs = [self._compared(asked, benchmark) for benchmark in asked.benchmarks]
        (one, first), (two, second) = (
            pair.ratio(f"so nothing can drop on {benchmark}")
            for pair, benchmark in zip(pairs, asked.benchmarks, strict=True)
        )
        of_seeds = (_of_seeds(pair.seeds, 1 - each) for pair, each in zip(pairs, (first, second), strict=True))
        finding = Finding(
            (1 - two) - (1 - one),
            *statistics.interval_of((1 - pairs[1].ratios(stream=1)) - (1 - pairs[0].ratios())),
            n=sum(len(pair.better.ids) for pair in pairs),
            seed_effects=tuple(later - sooner for sooner, later in zip(*of_seeds, strict=False)),
            rule=_rule(DROP_RULE, pairs[1].seeds),
            notes=(f"relative drops {1 - one:.3g} and {1 - two:.3g}", *pairs[0].notes, *pairs[1].notes),
        )
        yield replace(part, seeds=pairs[1].seeds, finding=finding, dataset=" + ".join(places))

    def _value(self, asked: _Asked, part: Part) -> Iterator[Part]:
        arm = self.arms.arm(asked.better, asked.benchmarks[0], asked.selection, asked.evidence)
        metric, arm, _ = _metric_on(asked.claim.metric, arm, arm)
        interval = statistics.bootstrap_over_seeds(metric, arm.true, arm.predicted)
        values = tuple(arm.levels(metric).tolist())
        finding = _near(asked.claim, interval, values, fixed=not arm.seeds)
        finding = replace(finding, n=len(arm.ids), notes=(*arm.notes, *_dominated(metric, arm)))
        yield replace(part, better=arm.name, value_better=interval.value, seeds=arm.seeds, finding=finding)

    def _costs(self, arm: str, asked: _Asked) -> tuple[str, dict[int, float], str]:
        """Return an arm's name, its cost with each seed, and how it was measured."""
        name = self.arms.of_evidence(arm, asked.evidence)
        found = self.arms.of_each_seed(name, lambda run: self._cost_of(run, asked.claim.metric, asked.benchmarks[0]))
        notes = dict.fromkeys(f"{name} {note}" for _, note in found.values() if note)
        return name, {seed: value for seed, (value, _) in found.items()}, "; ".join(notes)

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

    def _cost_ratio(self, asked: _Asked, part: Part) -> Iterator[Part]:
        (first, a, how), (second, b, other) = (self._costs(arm, asked) for arm in (asked.better, asked.worse))
        seeds = [seed for seed in a if seed in b]
        if not seeds:
            raise Missing("undefined", f"{first} and {second} have no seed in common")
        ratios = tuple(a[seed] / b[seed] for seed in seeds)
        small = [name for name in (first, second) if self.arms.runs(name)[0].size != "paper"]
        notes = tuple(dict.fromkeys(note for note in (how, other) if note))
        if small:
            raise Missing(
                "no counterpart",
                f"the cost of this suite's small networks says nothing of the papers' ({' and '.join(small)}); their "
                f"ratio here is {np.mean(ratios):.3g}; {'; '.join(notes)}",
            )
        region = region_of(asked.claim)
        rule = f"ratio {_within(region)} in every run, {SEEDS_RULE}"
        finding = Finding(float(np.mean(ratios)), region=region, seed_effects=ratios, rule=rule, notes=notes)
        means = [float(np.mean([cost[seed] for seed in seeds])) for cost in (a, b)]
        part = replace(part, better=first, worse=second, value_better=means[0], value_worse=means[1])
        yield replace(part, seeds=tuple(seeds), finding=finding)

    def _cost(self, asked: _Asked, part: Part) -> Iterator[Part]:
        name, values, how = self._costs(asked.better, asked)
        each = tuple(values.values())
        counted = asked.claim.metric.startswith("parameters_")
        finding = _near(asked.claim, statistics.Interval(float(np.mean(each))), each, fixed=counted)
        finding = replace(finding, notes=(*finding.notes, how) if how else finding.notes)
        yield replace(part, better=name, value_better=float(np.mean(each)), seeds=tuple(values), finding=finding)

    def _quantity(self, asked: _Asked, part: Part) -> Iterator[Part]:
        assert asked.bound is not None
        if asked.bound.metric != "nearer_to_majority":
            yield from self._prompted(asked, asked.bound, part)
            return
        where = asked.benchmarks[0], asked.selection, asked.evidence
        arm, majority = self.arms.pair(asked.better, "prompt_blind", *where)
        nearer = np.abs(arm.predicted - majority.predicted) < np.abs(arm.predicted - arm.true)
        part, ones = replace(part, better=arm.name), np.ones(nearer.shape)
        yield _of_ratio(part, asked.bound, nearer.astype(float), ones, arm.seeds, arm.notes)

    def _records(self, arm: str, evidence: Evidence) -> dict[int, PromptTests]:
        why = Missing("not run", "its prompt tests were not run")
        read = partial(self.measurements.prompt_tests, why=why)
        return self.arms.of_each_seed(self.arms.of_evidence(arm, evidence), read)

    def _prompted(self, asked: _Asked, bound: Bound, part: Part) -> Iterator[Part]:
        every = self._records(asked.better, asked.evidence)
        records = {seed: record for seed, record in every.items() if record.selection == asked.selection}
        if not records:
            raise Missing("undefined", f"{asked.better}: no model chosen by {asked.selection} has prompt tests")
        name = self.arms.of_evidence(asked.better, asked.evidence)
        fixed = is_fixed(self.arms.runs(name)[0]) or QUANTITIES[bound.metric][0] == BASE
        records = dict(list(records.items())[:1]) if fixed else records
        each = [picture_values(record, asked.benchmarks[0], bound.metric) for record in records.values()]
        for key in each[0]:
            tops, bottoms = aligned([values[key] for values in each if key in values])
            shown = replace(part, name=f"{part.name} ({key})" if key else part.name, better=name)
            yield _of_ratio(shown, bound, tops, bottoms, () if fixed else tuple(records))


def _of_ratio(
    part: Part, bound: Bound, tops: Floats, bottoms: Floats, seeds: tuple[int, ...], notes: tuple[str, ...] = ()
) -> Part:
    """Return a part about a sum over images divided by another, [seeds, n] each, mean over seeds."""
    n = tops.shape[1]
    each = tops.sum(axis=1) / bottoms.sum(axis=1)
    value, yes = float(each.mean()), YES.get(bound.metric)
    how, interval = "10,000 resamples of the images", (math.nan, math.nan)
    if yes is not None:
        low, high = _clopper_pearson(value / yes, n)
        how, interval = "exact binomial", (yes * low, yes * high)
    elif n > 1:
        interval = statistics.interval_of(statistics.resampled_ratios(MEAN, np.zeros(n), tops, bottoms))
    region = region_of(bound)
    rule = _rule(f"95 % interval ({how}) {_within(region)}", seeds)
    finding = Finding(value, *interval, region, n=n, seed_effects=_of_seeds(seeds, each), rule=rule, notes=notes)
    return replace(part, value_better=value, seeds=seeds, finding=finding)


def _clopper_pearson(share: float, n: int) -> tuple[float, float]:
    """Return the exact 95 % interval of a share of n images; a mean over seeds may be a fraction of an image."""
    hits, tail = share * n, (1 - statistics.CONFIDENCE) / 2
    low = float(stats.beta.ppf(tail, hits, n - hits + 1)) if hits > 0 else 0.0
    high = float(stats.beta.ppf(1 - tail, hits + 1, n - hits)) if hits < n else 1.0
    return low, high


def _near(claim: Claim, interval: statistics.Interval, values: Sequence[float], fixed: bool) -> Finding:
    assert claim.published is not None
    _, spread = statistics.mean_and_sd(values)
    choices = {
        "the published replications' spread": claim.tolerance or 0.0,
        "half the image interval": (interval.high - interval.low) / 2 if not math.isnan(interval.low) else 0.0,
        "the standard deviation over seeds": 0.0 if math.isnan(spread) else spread,
    }
    name, tolerance = max(choices.items(), key=lambda choice: choice[1])
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


def _metric_on(name: str, first: Arm, second: Arm) -> tuple[Metric, Arm, Arm]:
    if name != RECALL.name:
        return METRICS[name], first, second
    inside = (first.true >= LARGE_NUMBERS[0]) & (first.true <= LARGE_NUMBERS[1])
    ids = [sample for sample, wanted in zip(first.ids, inside, strict=True) if wanted]
    if not ids:
        raise Missing("undefined", "no image shows seven to ten")
    return ACCURACY, first.on(ids, first.seeds), second.on(ids, second.seeds)


def _dominated(metric: Metric, arm: Arm) -> Iterator[str]:
    heavy = dominant(metric, arm.ids, arm.true, arm.predicted) if metric.root else ""
    if heavy:
        yield f"{arm.name}: {heavy}"


def region_of(bounded: Claim | Bound) -> tuple[float, float]:
    """Return the region between ``at_least`` and ``at_most``."""
    low, high = bounded.at_least, bounded.at_most
    return (-math.inf if low is None else low), (math.inf if high is None else high)


def _within(region: tuple[float, float]) -> str:
    low, high = region
    if math.isinf(low):
        return f"below {high:g}"
    return f"above {low:g}" if math.isinf(high) else f"within {low:g} to {high:g}"

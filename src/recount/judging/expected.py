"""How likely a claim is to be decided, before it is tested: the power of its own rule at what the paper printed.

Where nothing was measured, the effect is that of the printed numbers (else ``EFFECT``), seeds scatter by what the rules
assume, and images as in the trial of the rules: errors log-normal with ``IMAGE_SD``, those of two counters on one image
correlated by ``CORRELATION``. A prior to spend hours by, never evidence.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

from recount.judging.claims import MARGIN_SHARE, difference_region, region_of
from recount.judging.printed_claims import PrintedClaims
from recount.judging.verdicts import Finding, Number, SeedArm, number_power, power
from recount.metrics import ALL, COSTS
from recount.results.reason import Missing
from recount.settings.paper import TRIVIAL_ARMS, Bound, Claim, Paper
from recount.settings.project import Project, Run

EFFECT = 0.2  # relative, where nothing was printed
IMAGE_SD = 1.3  # of the log of an image's error
CORRELATION = 0.5  # of the errors of two counters on the same image
IMAGES = 300  # of a benchmark whose size nobody states
_IMAGE_VARIANCE = math.exp(IMAGE_SD**2) - 1  # relative, of an image's error
_FACTS = ("parameters_", "flops_")


@dataclass(frozen=True, slots=True)
class Expected:
    """A claim that trainings can decide: what must be trained, and the rule at what is expected."""

    paper: str
    claim: Claim
    trainings: tuple[str, ...]  # system/variant, each once; seeds are added
    findings: tuple[Finding | None, ...]  # of its parts; None: a fact, which one run decides
    assumed: bool  # no number was printed of some part

    def power(self, seeds: int, looks: int) -> float:
        """Return how likely it is decided with so many seeds in each arm: that every part is."""
        found = 1.0
        for finding in self.findings if seeds else ():
            if finding is None:
                continue
            found *= (number_power if finding.grade == "number" else power)(finding, seeds, looks)
        return found if seeds else 0.0


def expected(project: Project) -> list[Expected]:
    """Return the papers' own claims that trainings of this suite can decide, in their order."""
    runs = {f"{run.system}/{run.variant}": run for run in project.runs}
    found = []
    for name, paper in project.papers.items():
        for claim in (claim for claim in paper.claims if claim.whose == "paper" and not claim.audits):
            arms = [arm for arm in dict.fromkeys((*claim.arm, *claim.against)) if arm not in TRIVIAL_ARMS]
            benchmarks = [benchmark for benchmark in claim.on if project.place(benchmark)]
            if set(arms) <= runs.keys() and benchmarks:
                trained = [project.training_of(runs[arm]) for arm in arms]
                ids = tuple(dict.fromkeys(f"{run.system}/{run.variant}" for run in trained if _is_trained(run)))
                parts = list(_Parts(project, paper, claim, runs).found(benchmarks))
                if ids:
                    every = tuple(finding for finding, _ in parts)
                    found.append(Expected(name, claim, ids, every, not all(printed for _, printed in parts)))
    return found


def _is_trained(run: Run) -> bool:
    return run.checkpoint is None and run.settings.get("train") is not False


class _Parts:
    """The parts of one claim, as expected from what its paper printed."""

    def __init__(self, project: Project, paper: Paper, claim: Claim, runs: dict[str, Run]) -> None:
        self.project, self.claim, self.runs, self.printed = project, claim, runs, PrintedClaims(paper)

    def found(self, benchmarks: list[str]) -> Iterator[tuple[Finding | None, bool]]:
        """Yield each part, and whether it rests on printed numbers."""
        claim = self.claim
        if claim.metric in COSTS and claim.test in ("ratio", "value"):
            fact = claim.metric.startswith(_FACTS) or claim.test == "value"
            for pair in claim.pairs:
                yield (None if fact else self._times(pair)), fact
        elif claim.test == "value":
            yield from ((self._number(arm), True) for arm in claim.arm)
        elif claim.test == "quantity":
            for bound, _, benchmark in product(claim.bounds, claim.arm, benchmarks):
                yield self._share(bound, benchmark), False
        elif claim.test == "relative_drop":
            yield self._drop(claim.pairs[0], benchmarks), False
        else:
            yield from (self._pair(pair, benchmark) for pair, benchmark in product(claim.pairs, benchmarks))

    def _images(self, benchmark: str) -> int:
        return self.project.benchmarks[benchmark].images or IMAGES

    def _arm(self, name: str, value: float, weight: float) -> Iterator[SeedArm]:
        if name in self.runs and _is_trained(self.project.training_of(self.runs[name])):
            yield SeedArm(name, (value,), weight)

    def _values(self, pair: tuple[str, str], benchmark: str) -> tuple[float, float, bool]:
        """Return the printed metric of both arms; where one is missing, the better arm is better by ``EFFECT``."""
        chosen = dict.fromkeys((self.claim.weights, *self.printed.selections(self.claim)))
        tried = [[self._printed(arm, benchmark, selection) for arm in pair] for selection in chosen]
        values = min(tried, key=lambda both: sum(map(math.isnan, both)))
        first, second = values
        printed = not math.isnan(first) and not math.isnan(second)
        factor = 1 + EFFECT if ALL[self.claim.metric].better == "high" else 1 - EFFECT
        if math.isnan(second):
            second = 0.5 if math.isnan(first) else first / factor
        if math.isnan(first):
            first = second * factor
        return (min(first, 0.99) if ALL[self.claim.metric].is_share else first), second, printed

    def _printed(self, arm: str, benchmark: str, selection: str) -> float:
        try:
            return self.printed.value(arm, benchmark, self.claim.metric, selection)
        except Missing:
            return math.nan

    def _pair(self, pair: tuple[str, str], benchmark: str) -> tuple[Finding, bool]:
        claim, n = self.claim, self._images(benchmark)
        first, second, printed = self._values(pair, benchmark)
        share = ALL[claim.metric].is_share
        weights = [value * (1 - value) if share else value for value in (first, second)]
        spread = [value * (1 - value) if share else value**2 * _IMAGE_VARIANCE for value in (first, second)]
        variance = (spread[0] + spread[1] - 2 * CORRELATION * math.sqrt(spread[0] * spread[1])) / n
        if claim.test == "ratio":
            low, high = region_of(claim)
            arms = (*self._arm(pair[0], 0.0, 1.0), *self._arm(pair[1], 0.0, 1.0))
            region = math.log(low) if low > 0 else -math.inf, math.log(high) if high < math.inf else math.inf
            relative = 2 * _IMAGE_VARIANCE * (1 - CORRELATION) / n
            finding = Finding(
                math.log(first / second), region, log=True, arms=arms, image_variance=relative, base=1.0, n=n
            )
            return finding, printed
        arms = (*self._arm(pair[0], 0.0, weights[0]), *self._arm(pair[1], 0.0, weights[1]))
        effect = first - second if ALL[claim.metric].better == "high" else second - first
        scale = "logit" if share else "log"
        region = difference_region(claim)
        return Finding(effect, region, scale=scale, arms=arms, image_variance=variance, base=second, n=n), printed

    def _times(self, pair: tuple[str, str]) -> Finding:
        low, high = (math.log(end) if 0 < end < math.inf else math.copysign(math.inf, end - 1)
                     for end in region_of(self.claim))  # fmt: skip
        inner = high - EFFECT if math.isfinite(high) else low + EFFECT
        arms = (*self._arm(pair[0], 0.0, 1.0), *self._arm(pair[1], 0.0, 1.0))
        return Finding(inner, (low, high), log=True, arms=arms)

    def _number(self, arm: str) -> Finding:
        """A printed number, were it true."""
        claim = self.claim
        assert claim.published is not None
        share, published = ALL[claim.metric].is_share, claim.published
        margin = claim.margin or MARGIN_SHARE * published
        ends = [published + step * margin * (-1 if share else 1) for step in (-1, 0, 1)]
        scaled = [-math.log(end / (1 - end)) if share else math.log(end) for end in ends]
        number = Number(published, margin, (scaled[0], scaled[1], scaled[2]), share)
        return Finding(0.0, grade="number", arms=(SeedArm(arm, (scaled[1],), 1.0),), number=number)

    def _share(self, bound: Bound, benchmark: str) -> Finding:
        low, high = region_of(bound)
        value = low * (1 + EFFECT) if math.isfinite(low) else high * (1 - EFFECT)
        share = min(max(value, 0.01), 0.99)
        n = self._images(benchmark)
        arms = tuple(arm for name in self.claim.arm[:1] for arm in self._arm(name, 0.0, share * (1 - share)))
        return Finding(value, (low, high), scale="logit", arms=arms, image_variance=share * (1 - share) / n, n=n)

    def _drop(self, pair: tuple[str, str], benchmarks: list[str]) -> Finding:
        ratios = [first / second for first, second, _ in (self._values(pair, benchmark) for benchmark in benchmarks)]
        effect = ratios[0] - ratios[-1] if len(ratios) > 1 and ratios[0] != ratios[-1] else EFFECT
        n = min(self._images(benchmark) for benchmark in benchmarks)
        arms = (*self._arm(pair[0], 0.0, abs(effect)), *self._arm(pair[1], 0.0, abs(effect)))
        variance = sum(ratio**2 * 2 * _IMAGE_VARIANCE * (1 - CORRELATION) for ratio in ratios) / n
        return Finding(effect, arms=arms, image_variance=variance, n=n)

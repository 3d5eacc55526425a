"""How likely a claim is to be decided, before it is tested: the power of its own rule at what the paper printed.

Where nothing was measured, the effect is that of the printed numbers (else ``EFFECT``), seeds scatter by what the rules
assume, and images as in the trial of the rules: errors log-normal with ``IMAGE_SD``, those of two counters on one image
correlated by ``CORRELATION``. A prior to spend hours by, never evidence.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product

from recount.judging.arms import is_fixed
from recount.judging.claims import MARGIN_SHARE, difference_region, limits_of, log_region_of, region_of
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
                ids = tuple(dict.fromkeys(f"{run.system}/{run.variant}" for run in trained if not is_fixed(run)))
                if ids:
                    parts = _Parts(project, paper, claim, runs).found(benchmarks)
                    found.append(Expected(name, claim, ids, tuple(parts)))
    return found


class _Parts:
    """The parts of one claim, as expected from what its paper printed."""

    def __init__(self, project: Project, paper: Paper, claim: Claim, runs: dict[str, Run]) -> None:
        self.project, self.claim, self.runs, self.printed = project, claim, runs, PrintedClaims(paper)

    def found(self, benchmarks: list[str]) -> Iterator[Finding | None]:
        """Yield each part; None: a fact."""
        claim = self.claim
        if claim.metric in COSTS and claim.test in ("ratio", "value"):
            fact = claim.metric.startswith(_FACTS) or claim.test == "value"
            yield from (None if fact else self._times(pair) for pair in claim.pairs)
        elif claim.test == "value":
            yield from (self._number(arm) for arm in claim.arm)
        elif claim.test == "quantity":
            yield from (self._share(*asked) for asked in product(claim.bounds, claim.arm, benchmarks))
        elif claim.test == "relative_drop":
            yield self._drop(claim.pairs[0], benchmarks)
        else:
            make = self._ratio if claim.test == "ratio" else self._difference
            yield from (make(*asked) for asked in product(claim.pairs, benchmarks))

    def _images(self, benchmark: str) -> int:
        return self.project.benchmarks[benchmark].images or IMAGES

    def _arms(self, weights: Mapping[str, float]) -> tuple[SeedArm, ...]:
        """Return those of the arms that are trained, with the derivatives of the effect by them."""
        trained = [name for name in weights if name in self.runs]
        trained = [name for name in trained if not is_fixed(self.project.training_of(self.runs[name]))]
        return tuple(SeedArm(name, (0.0,), weights[name]) for name in trained)

    def _values(self, pair: tuple[str, str], benchmark: str) -> tuple[float, float]:
        """Return the printed metric of both arms; where one is missing, the better arm is better by ``EFFECT``."""
        chosen = dict.fromkeys((self.claim.weights, *self.printed.selections(self.claim)))
        tried = [[self._printed(arm, benchmark, selection) for arm in pair] for selection in chosen]
        values = min(tried, key=lambda both: sum(map(math.isnan, both)))
        first, second = values
        factor = 1 + EFFECT if ALL[self.claim.metric].better == "high" else 1 - EFFECT
        if math.isnan(second):
            second = 0.5 if math.isnan(first) else first / factor
        if math.isnan(first):
            first = second * factor
        return (min(first, 0.99) if ALL[self.claim.metric].is_share else first), second

    def _printed(self, arm: str, benchmark: str, selection: str) -> float:
        try:
            return self.printed.value(arm, benchmark, self.claim.metric, selection)
        except Missing:
            return math.nan

    def _difference(self, pair: tuple[str, str], benchmark: str) -> Finding:
        claim, n = self.claim, self._images(benchmark)
        first, second = self._values(pair, benchmark)
        share = ALL[claim.metric].is_share
        weights = [value * (1 - value) if share else value for value in (first, second)]
        spread = [value * (1 - value) if share else value**2 * _IMAGE_VARIANCE for value in (first, second)]
        return Finding(
            first - second if ALL[claim.metric].better == "high" else second - first,
            difference_region(claim),
            scale="logit" if share else "log",
            arms=self._arms(dict(zip(pair, weights, strict=True))),
            image_variance=(spread[0] + spread[1] - 2 * CORRELATION * math.sqrt(spread[0] * spread[1])) / n,
            base=second,
            n=n,
        )

    def _ratio(self, pair: tuple[str, str], benchmark: str) -> Finding:
        (first, second), n = self._values(pair, benchmark), self._images(benchmark)
        return Finding(
            math.log(first / second),
            log_region_of(self.claim),
            log=True,
            arms=self._arms(dict.fromkeys(pair, 1.0)),
            image_variance=2 * _IMAGE_VARIANCE * (1 - CORRELATION) / n,
            base=1.0,
            n=n,
        )

    def _times(self, pair: tuple[str, str]) -> Finding:
        low, high = log_region_of(self.claim)
        inner = high - EFFECT if math.isfinite(high) else low + EFFECT
        return Finding(inner, (low, high), log=True, arms=self._arms(dict.fromkeys(pair, 1.0)))

    def _number(self, arm: str) -> Finding:
        """A printed number, were it true."""
        claim = self.claim
        assert claim.published is not None
        margin, share = claim.margin or MARGIN_SHARE * claim.published, ALL[claim.metric].is_share
        limits = limits_of(claim.published, margin, share)
        number = Number(claim.published, margin, limits, share)
        return Finding(0.0, grade="number", arms=(SeedArm(arm, (limits[1],), 1.0),), number=number)

    def _share(self, bound: Bound, arm: str, benchmark: str) -> Finding:
        low, high = region_of(bound)
        value = low * (1 + EFFECT) if math.isfinite(low) else high * (1 - EFFECT)
        share, n = min(max(value, 0.01), 0.99), self._images(benchmark)
        spread = share * (1 - share)
        arms = self._arms({arm: spread})
        return Finding(value, (low, high), scale="logit", arms=arms, image_variance=spread / n, n=n)

    def _drop(self, pair: tuple[str, str], benchmarks: list[str]) -> Finding:
        ratios = [first / second for first, second in (self._values(pair, benchmark) for benchmark in benchmarks)]
        effect = ratios[0] - ratios[-1] if len(ratios) > 1 and ratios[0] != ratios[-1] else EFFECT
        n = min(self._images(benchmark) for benchmark in benchmarks)
        variance = sum(ratio**2 * 2 * _IMAGE_VARIANCE * (1 - CORRELATION) for ratio in ratios) / n
        return Finding(effect, arms=self._arms(dict.fromkeys(pair, abs(effect))), image_variance=variance, n=n)

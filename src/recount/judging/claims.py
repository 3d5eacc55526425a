"""What predictions, costs and prompt tests say of each part of a claim: the evidence that ``verdicts`` decides on.

A claim has a part for each pair of arms (or each arm) and each benchmark; benchmarks that are the same images in this
suite are one part. Where a part cannot be tested, ``Part.missing`` says why. The effect of a comparison is positive
where ``better`` is better, for errors (lower is better) and accuracies alike.

Said beside a verdict, never repaired: negative counts (their error counts in full), arms that predict one number for
every image, arms that differ on no image, seeds that are absent. Predictions that are not finite have no metric, so the
part is not tested.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import product

import numpy as np
from scipy import special

from recount.judging.arms import LAST, Arm, Arms, Evidence, is_fixed
from recount.judging.epochs import epoch_sd, epochs_seen, settles
from recount.judging.estimates import (
    Leveled,
    Pools,
    dominated,
    jackknife,
    metric_on,
    of_rounding,
    of_shares,
    over_images,
    scaled,
    third_moment,
)
from recount.judging.prompt_evidence import BASE, QUANTITIES, aligned, picture_values
from recount.judging.verdicts import MARGIN_SHARE, Finding, Number, Pool, SeedArm
from recount.metrics import COSTS, Floats, Metric
from recount.results.prompt_tests import PromptTests
from recount.results.reason import NOTHING, Missing, Reason
from recount.scoring.measured import Measurements
from recount.scoring.statistics import wilson
from recount.settings.paper import Bound, Claim, Paper
from recount.settings.project import Run

SEEDS_RULE = "its variance is that over seeds and that over images"
DIFFERENCE_RULE = "the interval of the difference lies {within}, over the same images; {seeds}"
OF_ANSWERS = ("nearer_to_majority", "mode_among_wrong")  # quantities of predictions, not of prompt tests
YES = {"nearer_to_majority": 1.0, "pccn": 100.0, "mode_among_wrong": 1.0}  # what an image that says yes adds to a share
PRINTED_OPPONENT = "the other side is one printed number, whose spread nobody knows: it leans at most"
CHOSEN_AGAINST_FIXED = "the epoch of {one} was chosen on the test images, that of {other} was not: it leans at most"


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
    seeds: str = ""  # of both arms, separated by spaces; by a bar where they have different ones
    finding: Finding | None = None
    chance_gain: float = math.nan  # share that choosing the best epoch on the test images gains by chance
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


def shown_seeds(*arms: Sequence[int]) -> str:
    """Return the seeds of the arms whose training is random: once where all have the same."""
    return " | ".join(dict.fromkeys(" ".join(map(str, seeds)) for seeds in arms if seeds))


Test = Callable[[_Asked, Part], Iterator[Part]]


class Claims:
    """Evidence for the claims of one paper. ``printed(arm, benchmark, metric, selection)``: what a paper printed."""

    def __init__(
        self, measurements: Measurements, paper: Paper, printed: Callable[[str, str, str, str], float]
    ) -> None:
        self.measurements, self.project, self.paper = measurements, measurements.project, paper
        self.arms, self.printed = Arms(measurements, paper), printed
        self.pools = Pools(self.arms)

    def evidences(self, claim: Claim) -> list[Evidence]:
        """Return which evidence a claim can have from runs: of released weights only where they make up a part.

        Whether a released file has the printed error is no claim about a recipe, but about a file (``fidelity.csv``).
        """
        if claim.audits:
            return []
        released = any(self.arms.are_released([arm for arm in pair if arm]) for pair in claim.pairs)
        return ["trained", "checkpoint"] if released and claim.test != "value" else ["trained"]

    def selections(self, claim: Claim, evidence: Evidence) -> list[str]:
        """Return the selections that any arm of a claim has predictions of; the claim's own is always among them."""
        if claim.metric in COSTS:
            return [LAST]
        found = {str(claim.weights)}
        if any(bound.metric in QUANTITIES for bound in claim.bounds):
            found = set()
            for arm in claim.arm:
                for benchmark in claim.on:
                    with suppress(Missing):
                        found |= {record.selection for record in self._records(arm, benchmark, evidence).values()}
            return sorted(found or {LAST})
        for arm in (*claim.arm, *claim.against):
            for benchmark in claim.on:
                found |= self.arms.selections(arm, benchmark, evidence)
        return sorted(found, key=lambda name: (name != LAST, name))

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
        amount = claim.test == "value" or (claim.test == "difference" and (claim.at_least or claim.at_most))
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
                if not suite.comparable and amount:
                    raise Missing("no counterpart", not_comparable)
                found = list(tests[claim.test](asked, part))
                parts += [self._chosen_on_test(asked, part) for part in found]
            except Missing as missing:
                parts.append(replace(part, missing=missing.reason))
        return parts

    # ------------------------------------------------------------------------------------- comparisons over images

    def _compared(self, asked: _Asked, benchmark: str) -> tuple[Leveled, Leveled]:
        pair = self.arms.pair(asked.better, asked.worse, benchmark, asked.selection, asked.evidence)
        metric, pair = metric_on(asked.claim.metric, *pair)  # type: ignore[assignment]
        return Leveled.of(metric, pair[0]), Leveled.of(metric, pair[1])

    def _pool(self, asked: _Asked, *arms: Leveled) -> Pool:
        names = [arm.arm.name for arm in arms if arm.arm.seeds]
        if not names:
            return Pool()
        return self.pools.of(names, asked.benchmarks[0], asked.claim.metric, asked.selection, asked.evidence)

    def _filled(self, part: Part, finding: Finding, first: Leveled, second: Leveled) -> Part:
        """Return a part with its finding, to which images and notes are added, and what was compared."""
        seen = replace(finding, n=len(first.arm.ids), notes=(*finding.notes, *_notes(first, second)))
        return replace(
            part, better=first.arm.name, worse=second.arm.name, value_better=first.mean, value_worse=second.mean,
            seeds=shown_seeds(first.arm.seeds, second.arm.seeds), finding=seen,
        )  # fmt: skip

    def _difference(self, asked: _Asked, part: Part) -> Iterator[Part]:
        if {asked.better, asked.worse} & set(self.paper.quoted):
            yield self._against_printed(asked, part)
            return
        first, second = self._compared(asked, asked.benchmarks[0])
        sign = -1 if first.metric.better == "low" else 1
        region, share = difference_region(asked.claim), first.metric.is_share
        images, third = over_images(lambda a, b: a - b, first, second)
        if share:
            apart = first.without.mean(axis=0) - second.without.mean(axis=0)
            images = max(images, of_shares(first.mean - second.mean, apart))
        finding = Finding(
            sign * (first.mean - second.mean),
            region,
            arms=(*first.seed_arm(1), *second.seed_arm(1)),
            pool=self._pool(asked, first, second),
            image_variance=images,
            image_third=sign * third,
            scale="logit" if share else "log",
            base=0.0 if share else second.mean,
            rule=DIFFERENCE_RULE.format(within=_within(region), seeds=SEEDS_RULE),
        )
        yield self._filled(part, finding, first, second)

    def _against_printed(self, asked: _Asked, part: Part) -> Part:
        """Hold an arm against one printed number of another system: images fixed, it leans at most."""
        quoted = asked.better if asked.better in self.paper.quoted else asked.worse
        name = asked.worse if quoted == asked.better else asked.better
        if not self.project.suite.comparable:
            raise Missing("skipped", f"{quoted}: {self.paper.quoted[quoted].quoted}")
        metric, (arm,) = metric_on(asked.claim.metric, self._arm(asked, name))
        leveled, n = Leveled.of(metric, arm), len(arm.ids)
        printed = self.printed(quoted, asked.benchmarks[0], asked.claim.metric, asked.claim.weights)
        values, _ = scaled(metric, leveled.levels.tolist(), n)
        ((other,), _) = scaled(metric, [printed], n)
        sign = (1 if metric.is_share else -1) * (1 if name == asked.better else -1)
        own = (SeedArm(arm.name, values, 1.0), SeedArm(f"{quoted} (one printed number)", (other,), 1.0))
        finding = Finding(
            sign * (float(np.mean(values)) - other),
            grade="opponent",
            log=not metric.is_share,
            scale="logit" if metric.is_share else "log",
            arms=own if arm.seeds else own[1:],
            pool=self._pool(asked, leveled),
            only_leans=PRINTED_OPPONENT,
            rule="distance from the printed number over s * sqrt(1 + 1 / seeds), images fixed",
            notes=(*arm.notes, *dominated(metric, arm)),
        )
        values_of = {name: leveled.mean, quoted: printed}
        return replace(
            part, value_better=values_of[asked.better], value_worse=values_of[asked.worse],
            seeds=shown_seeds(arm.seeds), finding=finding,
        )  # fmt: skip

    def _arm(self, asked: _Asked, name: str) -> Arm:
        return self.arms.arm(name, asked.benchmarks[0], asked.selection, asked.evidence)

    def _ratio(self, asked: _Asked, part: Part) -> Iterator[Part]:
        first, second = self._compared(asked, asked.benchmarks[0])
        low, high = region_of(asked.claim)
        for arm in (first, second):
            if not arm.mean:
                raise Missing("undefined", f"{arm.arm.name} makes no error, so there is no ratio to it")
        images, third = over_images(lambda a, b: np.log(a / b), first, second)
        finding = Finding(
            math.log(first.mean / second.mean),
            log_region_of(asked.claim),
            log=True,
            arms=(*first.seed_arm(1 / first.mean), *second.seed_arm(1 / second.mean)),
            pool=self._pool(asked, first, second),
            image_variance=images,
            image_third=third,
            rule=f"the interval of the ratio lies {_within((low, high))}, over the same images; {SEEDS_RULE}",
        )
        yield self._filled(part, finding, first, second)

    def _relative_drop(self, asked: _Asked, part: Part) -> Iterator[Part]:
        places = [self.project.place(benchmark) for benchmark in asked.benchmarks]
        if places[0] == places[1]:
            both = " and ".join(asked.benchmarks)
            raise Missing("undefined", f"{both} are the same images in suite {self.project.suite.name}")
        pairs = [self._compared(asked, benchmark) for benchmark in asked.benchmarks]
        for (_, worse), benchmark in zip(pairs, asked.benchmarks, strict=True):
            if not worse.mean:
                raise Missing("undefined", f"{worse.arm.name} makes no error, so nothing can drop on {benchmark}")
        one, two = (better.mean / worse.mean for better, worse in pairs)
        images = [over_images(lambda a, b: a / b, *pair) for pair in pairs]
        finding = Finding(
            one - two,
            arms=(*_of_both(pairs[0][0], pairs[1][0], one, two), *_of_both(pairs[0][1], pairs[1][1], -one, -two)),
            image_variance=sum(variance for variance, _ in images),
            image_third=images[0][1] - images[1][1],
            n=min(len(better.arm.ids) for better, _ in pairs),
            rule=f"the interval of (relative drop on the second benchmark - on the first) lies above 0; {SEEDS_RULE}",
            notes=(f"relative drops {1 - one:.3g} and {1 - two:.3g}", *_notes(*pairs[0]), *_notes(*pairs[1])),
        )
        seeds = shown_seeds(*(arm.arm.seeds for arm in pairs[1]))
        yield replace(part, seeds=seeds, finding=finding, dataset=" + ".join(places))

    # ---------------------------------------------------------------------------------------------- printed numbers

    def _value(self, asked: _Asked, part: Part) -> Iterator[Part]:
        metric, (arm,) = metric_on(asked.claim.metric, self._arm(asked, asked.better))
        leveled = Leveled.of(metric, arm)
        if not arm.seeds:
            raise Missing(
                "undefined", f"{arm.name} is not trained, so there is no spread over seeds to hold a number to"
            )
        claim, n, share = asked.claim, len(arm.ids), metric.is_share
        values, slope = scaled(metric, leveled.levels.tolist(), n)
        assert claim.published is not None
        margin = claim.margin or MARGIN_SHARE * claim.published
        if share and margin >= claim.published:
            raise Missing("undefined", f"the margin {margin:g} leaves nothing of {claim.published:g}")
        limits = limits_of(claim.published, margin, share)
        chosen = asked.selection == "best_on_test"
        runs = self.arms.runs(arm.name)
        best_of = claim.best_of if claim.best_of and not chosen else 0
        number = Number(
            *(claim.published, margin, limits, share),
            best_of or 0,
            epoch_sd(self.measurements, runs, claim.metric, share) if best_of else 0.0,
        )
        finding = Finding(
            leveled.mean - claim.published,
            (-math.inf, margin) if not share else (-margin, math.inf),
            grade="number",
            arms=(SeedArm(arm.name, tuple(-v if share else v for v in values), 1.0),),
            pool=self._pool(asked, leveled),
            number=number,
            scale="-logit" if share else "log",
            least_variance=of_rounding(n, slope) if share else 0.0,
            rule=f"the seeds' mean, at its one-sided limit, not worse than {claim.published:g} by {margin:.4g}"
            + (f"; the printed one is the best of {best_of} epochs, these are not" if best_of else ""),
            notes=(*arm.notes, *dominated(metric, arm)),
        )
        yield replace(part, better=arm.name, value_better=leveled.mean, seeds=shown_seeds(arm.seeds), finding=finding)

    def _chosen_on_test(self, asked: _Asked, part: Part) -> Part:
        """Return a part of weights chosen on test images with what chance gains, and no more than leaning if unfair."""
        if asked.selection != "best_on_test" or part.finding is None:
            return part
        chosen: dict[str, bool] = {}
        gains = []
        for name in (part.better, part.worse):
            system, _, variant = name.partition("/")
            runs = self.measurements.runs.get((system, variant))
            if name:
                chosen[name] = runs is not None and not is_fixed(runs[0])
            if runs and chosen[name]:
                gains.append(epochs_seen(self.measurements, runs, part.metric))
        finding = part.finding
        if len(set(chosen.values())) > 1:
            one, other = sorted(chosen, key=lambda name: not chosen[name])
            finding = replace(finding, only_leans=CHOSEN_AGAINST_FIXED.format(one=one, other=other))
        return replace(part, finding=finding, chance_gain=max(filter(math.isfinite, gains), default=math.nan))

    # -------------------------------------------------------------------------------------------------------- costs

    def _costs(self, arm: str, asked: _Asked) -> tuple[str, dict[int, float], str]:
        """Return an arm's name, its cost with each seed, and how it was measured."""
        name = self.arms.of_evidence(arm, asked.evidence)
        found = self.arms.of_each_seed(name, lambda run: self._cost_of(run, asked.claim.metric, asked.benchmarks[0]))
        notes = dict.fromkeys(f"{name} {note}" for _, note in found.values() if note)
        return name, {seed: value for seed, (value, _) in found.items()}, "; ".join(notes)

    def _cost_of(self, run: Run, metric: str, benchmark: str) -> tuple[float, str]:
        if metric.startswith(("parameters_", "flops_")):
            counted = getattr(self.measurements.record(run.id).cost, metric)
            if counted is None:
                raise Missing("undefined", f"its run.json does not say its {metric}")
            return float(counted), ""
        if metric == "epochs_to_settle":
            return settles(self.measurements, run), ""
        measured = self.measurements.measured(run.id, benchmark, metric).get(LAST)
        if measured is None:
            raise Missing("undefined", f"its {metric} of the last epoch was not measured")
        return measured.interval.value, measured.reason.text

    def _cost_ratio(self, asked: _Asked, part: Part) -> Iterator[Part]:
        (first, a, how), (second, b, other) = (self._costs(arm, asked) for arm in (asked.better, asked.worse))
        means = [float(np.mean(list(cost.values()))) for cost in (a, b)]
        notes = tuple(dict.fromkeys(note for note in (how, other) if note))
        small = [name for name in (first, second) if self.arms.runs(name)[0].size != "paper"]
        counted = asked.claim.metric.startswith(("parameters_", "flops_"))
        if small and asked.claim.metric != "epochs_to_settle":
            raise Missing(
                "no counterpart",
                f"the cost of this suite's small networks says nothing of the papers' ({' and '.join(small)}); their "
                f"ratio here is {means[0] / means[1]:.3g}{'; ' if notes else ''}{'; '.join(notes)}",
            )
        low, high = region_of(asked.claim)
        logs = [
            SeedArm(name, tuple(math.log(v) for v in cost.values()), 1.0) for name, cost in ((first, a), (second, b))
        ]
        region = log_region_of(asked.claim)
        finding = Finding(
            float(np.mean(logs[0].scaled) - np.mean(logs[1].scaled)),
            region,
            grade="exact" if counted else "compared",
            log=True,
            arms=() if counted else tuple(logs),
            rule=f"the ratio is {_within((low, high))}"
            if counted
            else f"the interval of the ratio lies {_within((low, high))}; its variance is that over runs",
            notes=notes,
        )
        part = replace(part, better=first, worse=second, value_better=means[0], value_worse=means[1])
        yield replace(part, seeds=shown_seeds(tuple(a), tuple(b)), finding=finding)

    def _cost(self, asked: _Asked, part: Part) -> Iterator[Part]:
        """A number of a run that is a fact, or a time: as printed within the margin, on this machine."""
        name, values, how = self._costs(asked.better, asked)
        claim, mean = asked.claim, float(np.mean(list(values.values())))
        assert claim.published is not None
        margin = claim.margin or MARGIN_SHARE * claim.published
        finding = Finding(
            mean - claim.published,
            (-margin, margin),
            grade="exact",
            rule=f"within {margin:g} of {claim.published:g}",
            notes=(how,) if how else (),
        )
        yield replace(part, better=name, value_better=mean, seeds=shown_seeds(tuple(values)), finding=finding)

    # --------------------------------------------------------------------------------------------------- quantities

    def _quantity(self, asked: _Asked, part: Part) -> Iterator[Part]:
        assert asked.bound is not None
        if asked.bound.metric not in OF_ANSWERS:
            yield from self._prompted(asked, asked.bound, part)
            return
        where = asked.benchmarks[0], asked.selection, asked.evidence
        if asked.bound.metric == "mode_among_wrong":
            arm = self.arms.arm(asked.better, *where)
            numbers, times = np.unique(self.arms.training_counts(self.arms.runs(arm.name)[0]), return_counts=True)
            mode = numbers[times.argmax()]
            wrong = (arm.predicted != arm.true) & (arm.true != mode)
            some = wrong.any(axis=0)
            if not wrong.any(axis=1).all():
                raise Missing(
                    "undefined", f"{arm.name} answers all rightly with some seed, so there is nothing to share"
                )
            tops, bottoms = ((values & wrong)[:, some].astype(float) for values in (arm.predicted == mode, wrong))
            note = f"the training captions' mode is {mode:g} ({times.max() / times.sum():.0%} of them)"
            part = replace(part, better=arm.name, worse="")
            yield _of_ratio(part, asked.bound, tops, bottoms, arm.seeds, (*arm.notes, note))
            return
        arm, majority = self.arms.pair(asked.better, "prompt_blind", *where)
        nearer = np.abs(arm.predicted - majority.predicted) < np.abs(arm.predicted - arm.true)
        part, ones = replace(part, better=arm.name, worse=""), np.ones(nearer.shape)
        yield _of_ratio(part, asked.bound, nearer.astype(float), ones, arm.seeds, arm.notes)

    def _records(self, arm: str, benchmark: str, evidence: Evidence) -> dict[int, PromptTests]:
        why = Missing("not run", f"its prompt tests on {benchmark} were not run")
        read = partial(self.measurements.prompt_tests, benchmark=benchmark, why=why)
        return self.arms.of_each_seed(self.arms.of_evidence(arm, evidence), read)

    def _prompted(self, asked: _Asked, bound: Bound, part: Part) -> Iterator[Part]:
        every = self._records(asked.better, asked.benchmarks[0], asked.evidence)
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
    n, yes = tops.shape[1], YES.get(bound.metric)
    asked = float(bottoms.sum(axis=1).mean()) if yes is not None else n  # images that a share is of, mean over seeds
    each = tops.sum(axis=1) / bottoms.sum(axis=1)
    value, region = float(each.mean()), region_of(bound)
    with np.errstate(invalid="ignore", divide="ignore"):
        without = (tops.sum(axis=1, keepdims=True) - tops) / (bottoms.sum(axis=1, keepdims=True) - bottoms)
    images, third = jackknife(without.mean(axis=0)), third_moment(without.mean(axis=0))
    if yes is not None:  # a share of all images has a variance, too: that at the limit, as in a score test
        ends = [end / yes for end in region if math.isfinite(end)]
        images = max([images, *(yes**2 * end * (1 - end) / asked for end in ends)])
    finding = Finding(
        value, region, image_variance=images, image_third=third, n=n, notes=notes,
        scale="value" if yes is None else "logit",
        rule=f"the interval lies {_within(region)}; {SEEDS_RULE}",
    )  # fmt: skip
    if yes is not None and not seeds:
        interval = wilson(value / yes, round(asked))
        finding = replace(
            finding, interval=(yes * interval[0], yes * interval[1]),
            rule=f"Wilson's 95 % interval lies {_within(region)}",
        )  # fmt: skip
    elif seeds:
        shares = np.clip(each / (yes or 1.0), 0.5 / asked, 1 - 0.5 / asked)
        share = float(shares.mean())
        values = special.logit(shares) if yes is not None else each
        weight = share * (1 - share) * yes if yes is not None else 1.0
        # of a quantity that is no share the assumed spread is one of its own value
        scale = 1.0 if yes is not None else abs(value) or 1.0
        arm = SeedArm(part.better, tuple((values / scale).tolist()), weight * scale)
        finding = replace(finding, arms=(arm,))
    return replace(part, value_better=value, seeds=shown_seeds(seeds), finding=finding)


def _worse(value: float, share: bool) -> float:
    """Return a value on the scale on which more is worse: log, or minus logit; infinite beyond what there can be."""
    if share:
        return -float(special.logit(min(max(value, 0.0), 1.0)))
    return math.log(value) if value > 0 else -math.inf


def _of_both(first: Leveled, second: Leveled, one: float, two: float) -> Iterator[SeedArm]:
    """Yield an arm's part in the difference of two ratios: its runs are the same on both benchmarks."""
    if first.arm.seeds:
        logs: Sequence[Mapping[int, float]] = [
            dict(zip(arm.arm.seeds, np.log(arm.levels).tolist(), strict=True)) for arm in (first, second)
        ]
        both = [seed for seed in first.arm.seeds if seed in logs[1]]
        if not both or not all(math.isfinite(log[seed]) for log in logs for seed in both):
            raise Missing("undefined", f"{first.arm.name} makes no error with some seed, or has none in common")
        yield SeedArm(first.arm.name, tuple(one * logs[0][seed] - two * logs[1][seed] for seed in both), 1.0)


def _notes(first: Leveled, second: Leveled) -> tuple[str, ...]:
    metric, arms = first.metric, (first.arm, second.arm)
    means = [metric.of_images(arm.true[None], arm.predicted).mean(axis=0) for arm in arms]
    tied = (f"{arms[0].name} and {arms[1].name} differ on no image",) if np.array_equal(*means) else ()
    heavy = [note for arm in arms for note in dominated(metric, arm)]
    own = [_of_own_counts(metric, arm, arm.own_true) for arm in arms if arm.own_true is not None]
    return tuple(dict.fromkeys((*arms[0].notes, *arms[1].notes, *own, *tied, *heavy)))


def _of_own_counts(metric: Metric, arm: Arm, own: Floats) -> str:
    """Say what an arm has against the counts of its own preparation; the comparison is on those before any."""
    changed, level = int((own != arm.true).sum()), float(replace(arm, true=own).levels(metric).mean())
    return (
        f"{arm.name}'s preparation changes the true count of {changed} of {len(own)} images: against its own counts "
        f"its {metric.label} is {level:.4g}; both are compared on the counts before preparation"
    )


def difference_region(claim: Claim) -> tuple[float, float]:
    """Return where a claim puts the difference of two arms."""
    return claim.at_least or 0.0, math.inf if claim.at_most is None else claim.at_most


def log_region_of(claim: Claim) -> tuple[float, float]:
    """Return the region of a claim about a ratio, in logs."""
    low, high = region_of(claim)
    return (math.log(low) if low > 0 else -math.inf, math.log(high) if high < math.inf else math.inf)


def limits_of(published: float, margin: float, share: bool) -> tuple[float, float, float]:
    """Return a printed number less its margin, itself, and with its margin, on the scale on which more is worse."""
    step = -margin if share else margin
    return _worse(published - step, share), _worse(published, share), _worse(published + step, share)


def region_of(bounded: Claim | Bound) -> tuple[float, float]:
    """Return the region between ``at_least`` and ``at_most``."""
    low, high = bounded.at_least, bounded.at_most
    return (-math.inf if low is None else low), (math.inf if high is None else high)


def _within(region: tuple[float, float]) -> str:
    low, high = region
    if math.isinf(low):
        return f"below {high:g}"
    return f"above {low:g}" if math.isinf(high) else f"within {low:g} to {high:g}"

"""``recount judge --explain T2I-7``: the whole computation of one claim, number by number, for a pocket calculator.

Nothing is decided here: the numbers are those of ``verdicts.decide``, written down in the order in which it uses them.
"""

import math
from collections.abc import Iterator

from recount.judging.claims import Part
from recount.judging.judge import Case, cases
from recount.judging.looks import LookBook
from recount.judging.scatter import DRAWN_ABOVE, POOLS_ABOVE
from recount.judging.verdicts import (
    LEANS,
    SKEWED,
    Decision,
    Finding,
    Number,
    combine,
    inside,
    shortened,
    spread_of,
    t_quantile,
    with_needs,
)
from recount.results.verdicts import LOOKS
from recount.scoring.measured import Measurements
from recount.settings.base import ConfigError, unknown
from recount.settings.project import Project


def explain(project: Project, claim: str) -> str:
    """Return the computation of a claim's headlines; it takes no look. ``ConfigError``: no such claim."""
    known = [entry.id for paper in project.papers.values() for entry in paper.claims]
    if claim not in known:
        raise ConfigError(f"--explain = {claim}: {unknown('claim', claim, known)}")
    book = LookBook(project.root / project.results / LOOKS, project.config.looks)
    found = [case for case in cases(Measurements(project), book, only=claim) if case.headline]
    return "\n\n".join("\n".join(_case(case)) for case in found) + "\n"


def n(value: float) -> str:
    """Write a number with six significant digits."""
    return f"{value:.6g}"


def _case(case: Case) -> Iterator[str]:
    claim = case.claim
    yield f"{claim.id} ({case.paper}): {claim.says}"
    yield f"  where: {claim.where or '-'}; whose: {claim.whose}; evidence: {case.evidence}"
    weights = f"; weights: {case.selection}" if case.selection else ""
    yield f"  rule: {claim.rule}{weights}; match: {case.match or 'an audit of what was printed'}"
    if case.apart:
        yield f"  {case.match}, because: {case.apart}"
    if case.look:
        yield f"  look {case.look} of {case.looks} that share the 5 %"
    decisions = [
        with_needs(part.finding, decision, case.looks) if part.finding else decision
        for part, decision in zip(case.parts, case.decisions, strict=True)
    ]
    for part, decision in zip(case.parts, decisions, strict=True):
        yield ""
        yield from (f"  {line}" for line in _part(part, decision))
    if len(decisions) > 1:
        together = combine(decisions)
        yield ""
        yield f"  All {len(decisions)} parts together: {together.decided} ({together.reason})"


def _part(part: Part, decision: Decision) -> Iterator[str]:
    here = f", here {part.dataset}" if part.dataset not in ("", part.benchmark) else ""
    yield f"Part: {part.name} on {part.benchmark or '-'}{here}; {part.metric}"
    finding = part.finding
    if finding is None:
        yield f"  not tested: {part.missing.text}"
        return
    named = ((part.better, part.value_better), (part.worse, part.value_worse))
    values = [f"{name} {n(value)}" for name, value in named if not math.isnan(value)]
    if values:
        yield f"  values: {', '.join(values)}" + (f"; {finding.n} images" if finding.n else "")
    if finding.number is not None:
        yield from _number(finding, finding.number, decision)
    elif finding.grade in ("printed", "exact"):
        yield f"  effect {n(finding.effect)}; claimed {_region(finding)}"
    else:
        yield from _compared(finding, decision)
    for note in finding.notes:
        yield f"  note: {note}"
    yield f"  -> {decision.decided}" + (f" ({decision.reason})" if decision.reason else "")
    if decision.needed:
        yield f"  what would decide it: {decision.needed}"


def _region(finding: Finding) -> str:
    low, high = finding.region
    scale = " (logs)" if finding.log else ""
    return f"between {n(low)} and {n(high)}{scale}"


def _spread(finding: Finding) -> Iterator[str]:
    for arm in finding.arms:
        values = ", ".join(map(n, arm.scaled))
        yield f"  {arm.name}: {finding.scale} of the metric with each seed: {values}; w = {n(arm.weight)}"
    scatter = finding.own
    own, df, shared_df = float(scatter.variance), float(scatter.df), n(scatter.shared_df)
    if df:
        from_mean = "sum of squared deviations from each arm's mean"
        yield f"  own variance: {from_mean} / {shared_df} = {n(float(scatter.shared))} (nu_own = {shared_df})"
    if sum(len(arm.scaled) > 1 for arm in finding.arms) > 1:
        yield (
            f"  the arms need not scatter alike: sum(w² s²/k) / sum(w²/k), each arm with its own s² = "
            f"{n(float(scatter.apart))}, nu = sum(w² s²/k)² / sum((w² s²/k)²/(k - 1)) = {n(float(scatter.apart_df))}; "
            f"the larger variance {n(own)} and the smaller nu_own = {n(df)} count"
        )
    spread, pool, drawn = spread_of(finding), finding.pool, finding.drawn(finding.fewest_seeds)
    images, others = "what runs draw anew on the images, over sum(w²/k)", f"others ({', '.join(pool.over)})"
    tests = ((images, *drawn, spread.drawn_p, DRAWN_ABOVE), (others, pool.variance, pool.df, spread.f_p, POOLS_ABOVE))
    for name, variance, more, p, above in tests:
        if not (df and more):
            continue
        yield f"  {name}: {n(variance)} with {n(more)} degrees of freedom"
        ratio, sign = own / variance if variance else math.inf, ">" if p > above else "<="
        yield f"  F = {n(own)} / {n(variance)} = {n(ratio)}, p = {n(p)} {sign} {above}"
        if p > above:
            total = f"({n(df)} * {n(own)} + {n(more)} * {n(variance)}) / {n(df + more)}"
            own, df = (df * own + more * variance) / (df + more), df + more
            yield f"  s² = {total} = {n(own)}"
    if finding.arms:
        of = f", of {spread.source}"
        yield f"  s² = {n(spread.variance)}, s = {n(math.sqrt(spread.variance))}, nu = {n(spread.df)}{of}"


def _compared(finding: Finding, decision: Decision) -> Iterator[str]:
    yield from _spread(finding)
    spread, seed, images = spread_of(finding), decision.seed_part, decision.image_part
    if finding.arms:
        terms = " + ".join(f"{n(arm.weight)}²/{len(arm.scaled)}" for arm in finding.arms)
        yield f"  seeds: s² * ({terms}) = {n(spread.variance * finding.seed_weight)}"
    if finding.n is not None:
        yield f"  images: variance over {finding.n} = {n(finding.image_variance)}"
    if finding.anew:
        terms = " + ".join(f"{n(arm.anew)}/{len(arm.scaled)}" for arm in finding.arms if arm.anew)
        yield f"  of it, what each run draws anew on each image: {terms} = {n(finding.anew)}; it counts once:"
        yield f"  seeds, at least that: {n(seed)}; images, less that, at least 0: {n(images)}"
    if finding.interval is not None:
        yield f"  Wilson's interval: {n(decision.low)} to {n(decision.high)}; claimed {_region(finding)}"
        return
    variance = seed + images
    parts = [f"{n(seed)}²/{n(spread.df)}"] if seed else []
    parts += [f"{n(images)}²/{finding.n - 1}"] if images and finding.n is not None else []
    yield f"  variance = {n(variance)}, standard error = {n(math.sqrt(variance))}"
    yield f"  df = {n(variance)}² / ({' + '.join(parts) or '0'}) = {n(decision.df)}"
    distance = float(inside(finding.effect, finding.region))
    error = math.sqrt(variance)
    scale = " (log of the ratio)" if finding.log else ""
    yield f"  effect{scale} = {n(finding.effect)}; claimed {_region(finding)}; {n(distance)} inside it"
    if error:
        yield f"  t = {n(distance)} / {n(error)} = {n(distance / error)}"
        yield from _skewed(finding, distance / error, variance)
        yield f"  p = {n(decision.p_value)}"
    factor = float(t_quantile(decision.level, decision.df))
    yield (
        f"  interval at level {decision.level}: {n(finding.effect)} ± {n(factor)} * {n(error)} = "
        f"{n(decision.low)} to {n(decision.high)}"
    )
    if finding.log:
        yield f"  as ratios: {n(math.exp(finding.effect))}, {n(math.exp(decision.low))} to {n(math.exp(decision.high))}"
    if decision.decided.startswith("leans"):
        yield f"  p <= {LEANS}: it leans"


def _skewed(finding: Finding, t: float, variance: float) -> Iterator[str]:
    skewness = finding.third / variance**1.5
    counts = float(shortened(t, skewness))
    if counts != t:
        g = f"{SKEWED} * {n(finding.third)} / {n(variance)}^1.5 = {n(SKEWED * skewness)}"
        yield f"  skewed the other way: g = {g}; t + g t²/3 + g² t³/27 + g/6 = {n(counts)} counts (0 across 0)"


def _number(finding: Finding, number: Number, decision: Decision) -> Iterator[str]:
    yield from _spread(finding)
    arm, reached, spread = finding.arms[0], decision.reached, decision.spread
    assert reached is not None
    k, scale = len(arm.scaled), "-logit" if number.share else "log"
    mean, error = sum(arm.scaled) / k, math.sqrt(spread.variance / k)
    low, printed, high = number.limits
    where = f"{scale} {n(printed)}, limits {n(low)} and {n(high)}"
    yield f"  printed {n(number.published)}, margin {n(number.margin)}: {where}"
    yield f"  mean = {n(mean)}; s / sqrt({k}) = {n(error)}; level {n(decision.level / 2)} on one side"
    one = float(t_quantile(decision.level, spread.df))
    yield f"  upper limit = {n(mean)} + {n(one)} * {n(error)} = {n(float(reached.upper))}: reached if <= {n(high)}"
    yield f"  lower limit = {n(mean)} - {n(one)} * {n(error)} = {n(float(reached.lower))}: missed if > {n(high)}"
    two, wide = float(t_quantile(decision.level / 2, spread.df)), error * math.sqrt(k + 1)
    ends = f"{n(float(reached.predicted_low))} to {n(float(reached.predicted_high))}"
    t = f"({n(high)} - {n(mean)}) / {n(error)}"
    yield f"  two-sided p of t = {t} with {n(spread.df)} degrees of freedom: {n(decision.p_value)}"
    if number.best is not None:
        parts = f"{n(mean)} + {n(wide)} * t - {n(number.epoch_sd)} * (largest of {number.best_of} normal draws)"
        yield f"  prediction interval of the best of {number.best_of} epochs, {parts}: {ends}"
    else:
        yield f"  prediction interval = {n(mean)} ± {n(two)} * {n(wide)} = {ends}"
    yield f"  printed {n(printed)} is {'inside' if reached.compatible else 'outside'} it"

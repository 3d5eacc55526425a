"""Claims and their verdicts as the report shows them: a board of all papers, and each claim with its evidence.

Nothing is decided here: verdicts, effects and rules are those of verdicts.csv (``recount judge``).
"""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import pandas as pd

from recount.metrics import metric as metric_of
from recount.report.exhibits import Cell, Line, Sheet
from recount.report.numbers import interval, number, percent, present, signed
from recount.report.panels import shortened
from recount.report.sources import Sources
from recount.report.tables import SELECTIONS, TableView
from recount.report.words import WORDS, said
from recount.results.verdicts import ALL_PARTS, FidelityRow, VerdictRow
from recount.settings.paper import TRIVIAL_ARMS, Claim, Reply

VERDICTS, EVIDENCE, TALLIES = WORDS["verdicts"], WORDS["evidence"], WORDS["tallies"]
COUNTED = ("trained", "checkpoint")  # evidence that was counted again; the rest is an audit
ALPHA = 0.05
SCALED = ("difference", "ratio")  # tests whose effect is an amount by which one arm is better than another
ORACLES = {"best_constant": "best constant", "prompt_blind": "prompt-blind counter"}  # short for TRIVIAL_ARMS
SHORT = 25  # letters of an arm's name in the forest
WIDTH = 200  # of an interval's drawing, in its own units
MARGIN = 8


@dataclass(frozen=True)
class Drawing:
    """An effect on its claim's scale: x positions from 0 to ``WIDTH``; None where there is nothing to draw."""

    at: float
    low: float | None
    high: float | None
    zero: float  # no effect
    region: tuple[float, float]  # where the claim puts the effect


@dataclass(frozen=True)
class Judgement:
    """A row of verdicts.csv, for people."""

    row: VerdictRow
    better: str  # how the arms are called
    worse: str
    words: str  # the effect and its interval; "" where there is none or the reason alone says it
    drawing: Drawing | None = None  # of the effect, where it can be drawn

    @property
    def look(self) -> str:
        """Return which of the words of the legend its verdict is."""
        return word_of(self.row.verdict)

    @property
    def facts(self) -> Iterator[tuple[str, str]]:
        """Yield what stands under a verdict: name and text."""
        row, share = self.row, bool(self.row.metric) and metric_of(self.row.metric).is_share
        claimed = _between(row.claimed_from, row.claimed_to, share)
        if claimed:
            yield "claimed", claimed
        if row.seeds:
            yield "seeds", row.seeds
        if row.look:
            yield "look", f"{row.look}, of {row.looks} that share the 5 %; level {row.level:.3g}"
        if present(row.seed_sd):
            freedom = (
                "" if math.isinf(row.seed_df) else f", {row.seed_df:.3g} degree{'s' * (row.seed_df != 1)} of freedom"
            )
            tested = f"; F test p {number(row.f_p)}" if present(row.f_p) else ""
            yield "spread over seeds", f"{percent(row.seed_sd, 1)}{freedom}, of {row.pooled_over}{tested}"
        if present(row.p_value):
            q = f", q {number(row.q_value)}" if present(row.q_value) else ""
            yield "p", f"{number(row.p_value)}{q}"
        if present(row.n):
            yield "images", f"{row.n:,}".replace(",", "\u202f")
        if present(row.chance_gain):
            yield "choosing the best epoch on test gains by chance", percent(row.chance_gain, 1)

    @property
    def decides(self) -> str:
        """Return in a sentence what would decide it and what that costs; "" where it is decided."""
        row = self.row
        if not row.needed or row.decided in ("holds", "does not hold"):
            return ""
        sentence = row.needed[:1].upper() + row.needed[1:]
        sentence += " would decide it in 4 of 5 cases" if row.needed_seeds is not None else ""
        return f"{sentence}{f': {row.cost}' if row.cost else ''}."

    @property
    def chosen_on(self) -> str:
        """Return which weights were judged, in words."""
        return SELECTIONS.get(self.row.selection, self.row.selection)


@dataclass(frozen=True)
class ClaimView:
    """A claim: one headline judgement for each kind of evidence, and the parts behind all judgements."""

    paper: str
    claim: Claim
    headlines: Mapping[str, Judgement]
    parts: tuple[Judgement, ...]
    replies: tuple[Reply, ...] = ()

    @property
    def counted(self) -> dict[str, Judgement]:
        """Return the headlines of what was counted again."""
        return {kind: found for kind, found in self.headlines.items() if kind in COUNTED}

    @property
    def audit(self) -> Judgement | None:
        """Return what the printed numbers say."""
        return self.headlines.get("published")

    @property
    def marks(self) -> str:
        """Return what the page's filter finds it by."""
        return ";".join(dict.fromkeys(found.look for found in self.headlines.values()))

    @property
    def anchor(self) -> str:
        """Return the id of the claim's place on the page."""
        return f"{self.paper}-claim-{self.claim.id}"


def claim_views(sources: Sources, name: str, tables: Sequence[TableView]) -> list[ClaimView]:
    """Return the claims of a paper that verdicts.csv has, in the paper's order."""
    paper = sources.project.papers[name]
    labels = _labels(sources, name, tables)
    views = []
    for claim in paper.claims:
        mine = [row for row in sources.verdicts if (row.paper, row.claim) == (name, claim.id)]
        headlines = {row.evidence_status: row for row in mine if row.headline == "yes" and row.part == ALL_PARTS}
        parts = [_judgement(claim, row, labels) for row in mine if row.part != ALL_PARTS]
        if mine:
            shown = {kind: _judgement(claim, headlines[kind], labels) for kind in EVIDENCE if kind in headlines}
            replies = tuple(reply for reply in paper.replies if reply.claim == claim.id)
            views.append(ClaimView(name, claim, shown, tuple(_drawn(claim, parts)), replies))
    return views


def word_of(verdict: str) -> str:
    """Return the word of the legend that a verdict begins with: what follows it are marks and places."""
    return next(word for word in VERDICTS if verdict.startswith(word))


def _between(low: float, high: float, share: bool) -> str:
    low, high = (100 * low, 100 * high) if share else (low, high)
    unit = " percentage points" if share else ""
    ends = math.isfinite(low), math.isfinite(high)
    if all(ends):
        return f"{number(low)} to {number(high)}{unit}"
    return f"above {number(low)}{unit}" if ends[0] else f"below {number(high)}{unit}" if ends[1] else ""


def _labels(sources: Sources, name: str, tables: Sequence[TableView]) -> dict[str, str]:
    labels = {name: ORACLES.get(name, name.replace("_", " ")) for name in TRIVIAL_ARMS}
    for run in sources.project.papers[name].runs:
        experiment = sources.project.experiments[run.partition("/")[0]]
        labels[run] = f"{experiment.label}: {experiment.variants[run.partition('/')[2]].label}"
    labels |= {key: sources.label_of(row) for key, row in sources.project.papers[name].quoted.items()}
    for table in reversed(tables):
        for row in table.rows:
            if row.variant and row.status != "trivial":
                labels[f"{row.system}/{row.variant}"] = row.label
    return labels


def _judgement(claim: Claim, row: VerdictRow, labels: Mapping[str, str]) -> Judgement:
    better, worse = (labels.get(arm, arm) for arm in (row.better, row.worse))
    return Judgement(row, better, worse, effect_in_words(claim, row))


def effect_in_words(claim: Claim, row: VerdictRow) -> str:
    """Return an effect in its unit with its interval, in words that agree with its sign; "" where there is none."""
    effect, low, high = row.effect, row.ci_low, row.ci_high
    if claim.audits or not present(effect):
        return ""
    names = {"ratio": "ratio", "quantity": "value", "relative_drop": "relative drops apart by"}
    names["value"] = f"{number(row.value_better)}, off the published {number(row.published)} by"
    unit = ""
    if claim.test == "relative_drop" or (claim.test == "difference" and metric_of(row.metric).is_share):
        effect, low, high = 100 * effect, 100 * low, 100 * high
        unit = " percentage points"
    elif claim.test == "difference":
        unit = f" {metric_of(row.metric).label}"
    if claim.test == "difference":  # "better by -61" says two things at once
        names["difference"] = "better by" if effect > 0 else "worse by" if effect < 0 else "no difference:"
        effect, low, high = (effect, low, high) if effect >= 0 else (-effect, -high, -low)
    shown = number(effect) if claim.test in ("ratio", "quantity", "difference") else signed(effect)
    level = f"{100 * (1 - row.level):.4g} %" if present(row.level) else ""
    ends = f" ({level} interval {interval(low, high, effect)})" if interval(low, high) else ""
    return f"{names[claim.test]} {shown}{unit}{ends}"


def region(row: VerdictRow) -> tuple[float, float] | None:
    """Return where a claim puts the effect of a row, or None where there is nothing to draw."""
    known = present(row.effect) and not (math.isnan(row.claimed_from) or math.isnan(row.claimed_to))
    return (row.claimed_from, row.claimed_to) if known else None


def _drawn(claim: Claim, parts: Sequence[Judgement]) -> Iterable[Judgement]:
    """Yield the parts with their drawings; parts of one metric and one kind of evidence share a scale."""
    zero = 1.0 if claim.test == "ratio" else 0.0
    regions = [None if claim.audits else region(part.row) for part in parts]
    scales: dict[tuple[str, str], list[float]] = {}
    for part, ends in zip(parts, regions, strict=True):
        values = (part.row.effect, part.row.ci_low, part.row.ci_high, *ends, zero) if ends else ()
        scales.setdefault((part.row.metric, part.row.evidence_status), []).extend(filter(math.isfinite, values))
    for part, ends in zip(parts, regions, strict=True):
        scale = scales[part.row.metric, part.row.evidence_status]
        yield part if ends is None else replace(part, drawing=_drawing(part.row, ends, min(scale), max(scale), zero))


def _drawing(row: VerdictRow, ends: tuple[float, float], left: float, right: float, zero: float) -> Drawing:
    def x(value: float) -> float:
        if math.isinf(value):
            return 0.0 if value < 0 else float(WIDTH)
        return round(MARGIN + (value - left) / ((right - left) or 1.0) * (WIDTH - 2 * MARGIN), 1)

    low, high = (x(end) if present(end) else None for end in (row.ci_low, row.ci_high))
    return Drawing(x(row.effect), low, high, x(zero), (x(ends[0]), x(ends[1])))


def relative_effects(views: Sequence[ClaimView]) -> pd.DataFrame:
    """Return effects as shares of the worse arm's value, one row per comparison of a headline's selection."""
    rows = []
    for view in views:
        for part in view.parts:
            headline = view.headlines.get(part.row.evidence_status)
            if view.claim.test in SCALED and headline and part.row.selection == headline.row.selection:
                rows += [_relative(view.claim, part)] if present(part.row.effect) else []
    columns = ["claim", "label", "verdict", "evidence", "effect", "low", "high", "claimed"]
    return pd.DataFrame(rows, columns=columns).dropna(subset="effect")


def _relative(claim: Claim, part: Judgement) -> tuple[str, str, str, str, float, float, float, float]:
    row, ends = part.row, region(part.row) or (0.0, math.inf)
    if claim.test == "ratio":
        sign = 1 if metric_of(row.metric).is_share else -1
        bound = ends[1] if math.isfinite(ends[1]) else ends[0]
        effect, low, high, claimed = (sign * (v - 1) for v in (row.effect, row.ci_low, row.ci_high, bound))
        low, high = sorted((low, high))
    else:
        worse = abs(row.value_worse) or math.nan
        effect, low, high, claimed = (value / worse for value in (row.effect, row.ci_low, row.ci_high, ends[0]))
    on = f", {row.benchmark}" if len(claim.on) > 1 else ""
    label = f"{claim.id}  {shortened(part.better, SHORT)} against {shortened(part.worse, SHORT)}{on}"
    return claim.id, label, part.look, row.evidence_status, effect, low, high, claimed


@dataclass(frozen=True)
class Tally:
    """How often each verdict was given, on one group of claims, and what is to be said of that."""

    title: str
    counted: Mapping[str, int]
    note: str


def tallies(views: Sequence[ClaimView], pictures: str) -> Iterator[Tally]:
    """Yield the tallies of the board: the papers' claims, then recount's, by what was counted; then the audit.

    Only tests on the papers' own data are counted for or against them; the same comparison in two claims counts once.
    """
    for whose in ("paper", "recount"):
        for kind in COUNTED:
            mine = [view.headlines[kind] for view in views if view.claim.whose == whose and kind in view.headlines]
            once = [found for found in mine if not found.row.same_as]
            exact = [found for found in once if found.row.match == "exact"]
            others = Counter(found.look for found in once if found.row.match != "exact")
            notes = [_chance(exact)] if exact else []
            if others:
                counted = ", ".join(f"{others[name]} {name}" for name in VERDICTS if others[name])
                notes.append(said("stand_ins", pictures=pictures, counted=counted))
            if once:
                found = Counter(found.look for found in exact)
                shown = {name: found[name] for name in VERDICTS if found[name]}
                yield Tally(TALLIES[f"{whose} {kind}"], shown, " ".join(notes))
    audited = Counter(view.audit.look for view in views if view.audit is not None)
    if audited:
        yield Tally(TALLIES["published"], {name: audited[name] for name in VERDICTS if audited[name]}, "")


def _chance(judged: Sequence[Judgement]) -> str:
    decided = sum(found.row.decided in ("holds", "does not hold") for found in judged)
    tested = sum(found.row.decided != "not tested" for found in judged)
    chance = f"{ALPHA * tested:.1f}".removesuffix(".0")
    return said("chance", decided=decided, tested=tested, chance=chance, are="is" if decided == 1 else "are")


def claim_sheet(paper: str, views: Sequence[ClaimView]) -> Sheet:
    """Return the verdicts: a row for each claim and kind of evidence."""
    heads = ("Claim", "Whose", "Statement", "Evidence", "Match", "Weights", "Verdict", "Effect", "p", "q", "Images",
             "Seeds", "Look", "Spread over seeds", "Rule", "What would decide", "What that costs", "Why")  # fmt: skip
    lines = []
    for view in views:
        for kind, found in view.headlines.items():
            row = found.row
            effect = Cell(row.effect, signed(row.effect), (row.ci_low, row.ci_high))
            judged = (
                view.claim.id,
                row.whose,
                view.claim.says,
                EVIDENCE[kind][0],
                row.match,
                found.chosen_on,
                row.verdict,
            )
            spread = f"{percent(row.seed_sd, 1)}, of {row.pooled_over}" if present(row.seed_sd) else ""
            numbers = effect, row.p_value, row.q_value, row.n, row.seeds, row.look, spread
            lines.append(Line((*judged, *numbers, row.rule, row.needed, row.cost, row.reason.text)))
    return Sheet(f"{paper}-claims", "Verdicts on the claims", heads, tuple(lines))


def fidelity_sheet(rows: Sequence[FidelityRow]) -> Sheet:
    """Return what released files give beside what was printed of them."""
    heads = (
        *("Released weights", "Run", "Benchmark", "Metric", "Printed", "Measured", "Band", "Passed", "Seconds"),
        *("Who printed it", "Why"),
    )
    lines = [
        Line((row.weights, row.arm, row.benchmark, metric_of(row.metric).label, row.printed, row.measured,
              Cell(row.band, f"± {number(row.band)}"), row.passed, row.seconds, row.source, row.reason.text),
             marks=row.passed)
        for row in rows
    ]  # fmt: skip
    return Sheet("fidelity", "Released files: printed and measured", heads, tuple(lines), note=said("fidelity"))


def values_text(part: Judgement) -> str:
    """Return the two values that were compared, or the one that was measured."""
    as_text = percent if metric_of(part.row.metric).is_share else number
    return " : ".join(as_text(value) for value in (part.row.value_better, part.row.value_worse) if present(value))

"""Claims and their verdicts as the report shows them: a board of all papers, and each claim with its evidence.

Nothing is decided here: verdicts, effects and rules are those of verdicts.csv (``recount judge``).
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import pandas as pd

from recount.metrics import metric as metric_of
from recount.report.exhibits import Cell, Line, Sheet
from recount.report.numbers import interval, number, percent, present, signed
from recount.report.panels import shortened
from recount.report.sources import Sources
from recount.report.tables import SELECTIONS, TableView
from recount.report.words import WORDS
from recount.results.verdicts import ALL_PARTS, VerdictRow
from recount.settings.paper import TRIVIAL_ARMS, Claim

VERDICTS, EVIDENCE = WORDS["verdicts"], WORDS["evidence"]
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
            views.append(ClaimView(name, claim, shown, tuple(_drawn(claim, parts))))
    return views


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
    return Judgement(row, better, worse, _effect_in_words(claim, row))


def _effect_in_words(claim: Claim, row: VerdictRow) -> str:
    effect, low, high = row.effect, row.ci_low, row.ci_high
    if claim.reads_log or not present(effect):
        return ""
    names = {"ratio": "ratio", "quantity": "value", "value": "off the published number by"}
    unit = ""
    if claim.test == "relative_drop" or (claim.test == "difference" and metric_of(row.metric).is_share):
        effect, low, high = 100 * effect, 100 * low, 100 * high
        unit = " percentage points"
    elif claim.test == "difference":
        unit = f" {metric_of(row.metric).label}"
    shown = number(effect) if claim.test in ("ratio", "quantity") else signed(effect)
    ends = f" ({interval(low, high, effect)})" if interval(low, high) else ""
    return f"{names.get(claim.test, 'better by')} {shown}{unit}{ends}"


def region(claim: Claim, name: str) -> tuple[float, float] | None:
    """Return where a claim puts an effect in this metric, or None where paper.yaml alone does not say."""
    if claim.test in ("difference", "relative_drop"):
        return claim.margin or claim.at_least or 0.0, math.inf
    bounds = [claim] if claim.test == "ratio" else [bound for bound in claim.bounds if bound.metric == name]
    for low, high in ((bound.at_least, bound.at_most) for bound in bounds):
        return -math.inf if low is None else low, math.inf if high is None else high
    return None


def _drawn(claim: Claim, parts: Sequence[Judgement]) -> Iterable[Judgement]:
    """Yield the parts with their drawings; parts of one metric and one kind of evidence share a scale."""
    zero = 1.0 if claim.test == "ratio" else 0.0
    regions = [region(claim, part.row.metric) if present(part.row.effect) else None for part in parts]
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
    row, ends = part.row, region(claim, part.row.metric) or (0.0, math.inf)
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
    return claim.id, label, row.verdict, row.evidence_status, effect, low, high, claimed


def tally(views: Iterable[ClaimView]) -> dict[str, dict[str, int]]:
    """Count the headline verdicts by kind of evidence, in the order of the legend."""
    counted = Counter((kind, found.row.verdict) for view in views for kind, found in view.headlines.items())
    by_kind = {kind: {name: n for name in VERDICTS if (n := counted[kind, name])} for kind in EVIDENCE}
    return {kind: times for kind, times in by_kind.items() if times}


def claim_sheet(paper: str, views: Sequence[ClaimView]) -> Sheet:
    """Return the verdicts: a row for each claim and kind of evidence."""
    heads = ("Claim", "Statement", "Evidence", "Weights", "Verdict", "Effect", "p (Holm)", "Images", "Seeds", "Rule",
             "What would decide", "Why")  # fmt: skip
    lines = []
    for view in views:
        for kind, found in view.headlines.items():
            row = found.row
            effect = Cell(row.effect, signed(row.effect), (row.ci_low, row.ci_high))
            judged = view.claim.id, view.claim.says, EVIDENCE[kind][0], found.chosen_on, row.verdict, effect
            lines.append(Line((*judged, row.p_holm, row.n, row.seeds, row.rule, row.needed, row.reason.text)))
    return Sheet(f"{paper}-claims", "Verdicts on the claims", heads, tuple(lines))


def values_text(part: Judgement) -> str:
    """Return the two values that were compared, or the one that was measured."""
    as_text = percent if metric_of(part.row.metric).is_share else number
    return " : ".join(as_text(value) for value in (part.row.value_better, part.row.value_worse) if present(value))

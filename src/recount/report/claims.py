"""Claims and their verdicts as the report shows them: a board of all papers, and each claim with its evidence.

Nothing is decided here: verdicts, effects and rules are those of verdicts.csv (``recount judge``). What is added are
labels, where the claim puts an effect (from paper.yaml), and a scale on which the effects of one claim are drawn.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from recount.metrics import metric as metric_of
from recount.report.exhibits import Cell, Line, Sheet
from recount.report.numbers import interval, number, percent, present, signed
from recount.report.panels import shortened
from recount.report.sources import Sources
from recount.report.tables import SELECTIONS, TableView
from recount.results.verdicts import ALL_PARTS, VerdictRow
from recount.settings.paper import TRIVIAL_ARMS, Claim

VERDICTS = {
    "holds": ("✔", "the evidence is inside the region that the claim names, images and seeds agreeing"),
    "holds in direction": (
        "↗",
        "it points the claimed way, but from too few seeds, from printed numbers alone, or only close to the number",
    ),
    "contradicted": ("✘", "the evidence is outside that region"),
    "inconclusive": ("≈", "the evidence reaches both sides"),
    "not tested": ("–", "the reason is given"),
}
EVIDENCE = {
    "trained": ("Retrained here", "runs that this suite trained"),
    "checkpoint": ("Released weights", "the authors' released weights, evaluated here"),
    "published": ("Published numbers", "what the authors printed or committed, recomputed"),
}
SCALED = ("difference", "ratio")  # tests whose effect is an amount by which one arm is better than another
ORACLES = {"best_constant": "best constant", "prompt_blind": "prompt-blind counter"}  # short for TRIVIAL_ARMS
SHORT = 25  # letters of an arm's name in the forest
WIDTH = 200  # of an interval's drawing, in its own units
MARGIN = 8


@dataclass(frozen=True)
class Drawing:
    """An effect on its claim's scale: x positions from 0 to ``WIDTH``; None where there is nothing to draw.

    Attributes:
        zero: no effect. region: the part of the axis where the claim puts the effect.
    """

    at: float
    low: float | None
    high: float | None
    zero: float
    region: tuple[float, float]


@dataclass(frozen=True)
class Judgement:
    """A row of verdicts.csv, for people.

    Attributes:
        better, worse: how the arms are called.
        words: the effect and its interval, in words; "" where there is none or the reason alone says it.
        drawing: the effect, where it can be drawn.
    """

    row: VerdictRow
    better: str
    worse: str
    words: str
    drawing: Drawing | None = None

    @property
    def stand_in(self) -> str:
        """Return what stands for the paper's benchmark, if that is something else."""
        return self.row.dataset if self.row.dataset != self.row.benchmark else ""

    @property
    def seeds(self) -> list[str]:
        """Return the seeds of the runs."""
        return self.row.seeds.split()

    @property
    def chosen_on(self) -> str:
        """Return which weights were judged, in words."""
        return SELECTIONS.get(self.row.selection, self.row.selection)

    @property
    def css(self) -> str:
        """Return the class that colours the verdict."""
        return self.row.verdict.replace(" ", "-")


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

    @property
    def marks(self) -> tuple[str, ...]:
        """Return what the page's filter finds the claim by."""
        return tuple(dict.fromkeys(judgement.row.verdict for judgement in self.headlines.values()))


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
    """Return how arms are called: by their row in the paper's tables, else by system and variant."""
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
    """Say what an effect is: a difference with sign and unit, a ratio or a quantity as it is."""
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


# ---------------------------------------------------------------------------------------------------------- drawings


def region(claim: Claim, name: str) -> tuple[float, float] | None:
    """Return where a claim puts an effect, or None where paper.yaml alone does not say.

    Args:
        name: the metric of the part.
    """
    if claim.test in ("difference", "relative_drop"):
        return claim.margin or claim.at_least or 0.0, math.inf
    if claim.test == "ratio":
        return _ends(claim.at_least, claim.at_most)
    for bound in claim.bounds:
        if bound.metric == name:
            return _ends(bound.at_least, bound.at_most)
    return None


def _ends(low: float | None, high: float | None) -> tuple[float, float]:
    return -math.inf if low is None else low, math.inf if high is None else high


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


# ------------------------------------------------------------------------------------------------------------ forests


def relative_effects(views: Sequence[ClaimView]) -> pd.DataFrame:
    """Return by how much the better arm is better, as a share of the worse arm's value, of all claims that compare.

    Returns:
        columns claim, label, verdict, evidence, effect, low, high, claimed: a row for each part and kind of evidence,
        of the selection that the claim's headline speaks of.
    """
    rows = []
    for view in views:
        for part in view.parts:
            headline = view.headlines.get(part.row.evidence_status)
            if view.claim.test in SCALED and headline and part.row.selection == headline.row.selection:
                rows += [_relative(view.claim, part)] if present(part.row.effect) else []
    columns = ["claim", "label", "verdict", "evidence", "effect", "low", "high", "claimed"]
    return pd.DataFrame(rows, columns=columns).dropna(subset="effect")


def _relative(claim: Claim, part: Judgement) -> dict[str, Any]:
    """Return one part's effect as a share: of a ratio of errors what it is below 1."""
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
    return {
        "claim": claim.id,
        "label": f"{claim.id}  {shortened(part.better, SHORT)} against {shortened(part.worse, SHORT)}{on}",
        "verdict": row.verdict,
        "evidence": row.evidence_status,
        "effect": effect,
        "low": low,
        "high": high,
        "claimed": claimed,
    }


# ------------------------------------------------------------------------------------------------------------- counts


def tally(views: Iterable[ClaimView]) -> dict[str, dict[str, int]]:
    """Count the headline verdicts by kind of evidence, in the order of the legend."""
    counted = Counter((kind, found.row.verdict) for view in views for kind, found in view.headlines.items())
    return {
        kind: {verdict: counted[kind, verdict] for verdict in VERDICTS if counted[kind, verdict]}
        for kind in EVIDENCE
        if any(counted[kind, verdict] for verdict in VERDICTS)
    }


def claim_sheet(paper: str, views: Sequence[ClaimView]) -> Sheet:
    """Return the verdicts: a row for each claim and kind of evidence."""
    heads = ("Claim", "Statement", "Evidence", "Weights", "Verdict", "Effect", "p (Holm)", "Images", "Seeds", "Rule",
             "What would decide", "Why")  # fmt: skip
    lines = [
        Line(
            (
                view.claim.id, view.claim.says, EVIDENCE[kind][0], found.chosen_on, found.row.verdict,
                Cell(found.row.effect, signed(found.row.effect), (found.row.ci_low, found.row.ci_high)),
                found.row.p_holm, found.row.n, " ".join(found.seeds), found.row.rule, found.row.needed,
                found.row.reason.text,
            )
        )
        for view in views
        for kind, found in view.headlines.items()
    ]  # fmt: skip
    return Sheet(f"{paper}-claims", "Verdicts on the claims", heads, tuple(lines))


def values_text(part: Judgement) -> str:
    """Return the two values that were compared, or the one that was measured."""
    as_text = percent if metric_of(part.row.metric).is_share else number
    return " : ".join(as_text(value) for value in (part.row.value_better, part.row.value_worse) if present(value))

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

from recount.report.numbers import interval, metric, number, percent, signed
from recount.report.numbers import present as is_present
from recount.report.sections import PlainTable
from recount.report.sources import Sources
from recount.report.tables import SELECTIONS, TableView
from recount.settings.paper import TRIVIAL_ARMS, Claim, Paper

VERDICTS = {
    "holds": ("✔", "the evidence is inside the region that the claim names, images and seeds agreeing"),
    "holds in direction": (
        "↗",
        "it points the claimed way, from too few seeds, from printed numbers alone, or only close to the number",
    ),
    "contradicted": ("✘", "the evidence is outside that region"),
    "inconclusive": ("≈", "the evidence reaches both sides"),
    "not tested": ("–", "and the reason is given"),
}
EVIDENCE = {
    "trained": ("Retrained here", "runs that this suite trained"),
    "checkpoint": ("Released weights", "the authors' released weights, evaluated here"),
    "published": ("Published numbers", "what the authors printed or committed, recomputed"),
}
ALL = "all"  # the part of verdicts.csv that speaks for a whole claim
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
        benchmark, stand_in: what it was measured on: the paper's, and what stands for it if that is something else.
        words: the effect and its interval, in words; "" where there is none or the reason alone says it.
        drawing: the effect, where it can be drawn.
    """

    evidence: str
    selection: str
    part: str
    better: str
    worse: str
    benchmark: str
    stand_in: str
    metric: str
    value_better: float
    value_worse: float
    verdict: str
    direction: str
    effect: float
    low: float
    high: float
    p_holm: float
    n: float
    seeds: tuple[str, ...]
    rule: str
    needed: str
    reason: str
    words: str
    drawing: Drawing | None = None

    @property
    def chosen_on(self) -> str:
        """Return which weights were judged, in words."""
        return SELECTIONS.get(self.selection, self.selection)

    @property
    def css(self) -> str:
        """Return the class that colours the verdict."""
        return self.verdict.replace(" ", "-")


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
        return tuple(dict.fromkeys(judgement.verdict for judgement in self.headlines.values()))


def claim_views(sources: Sources, name: str, tables: Sequence[TableView]) -> list[ClaimView]:
    """Return the claims of a paper that verdicts.csv has, in the paper's order."""
    paper = sources.project.papers[name]
    verdicts = sources.verdicts[sources.verdicts["paper"] == name]
    labels = _labels(paper, tables)
    views = []
    for claim in paper.claims:
        mine = verdicts[verdicts["claim"] == claim.id]
        if mine.empty:
            continue
        headlines = mine[(mine["headline"] == "yes") & (mine["part"] == ALL)]
        by_evidence = {
            str(row["evidence_status"]): _judgement(claim, row, labels) for row in headlines.to_dict("records")
        }
        parts = [_judgement(claim, row, labels) for row in mine[mine["part"] != ALL].to_dict("records")]
        views.append(
            ClaimView(
                paper=name,
                claim=claim,
                headlines={kind: by_evidence[kind] for kind in EVIDENCE if kind in by_evidence},
                parts=tuple(_drawn(claim, parts)),
            )
        )
    return views


def _labels(paper: Paper, tables: Sequence[TableView]) -> dict[str, str]:
    """Return how arms are called: by their row in the paper's tables, else by system and variant."""
    labels = {name: ORACLES.get(name, name) for name in TRIVIAL_ARMS}
    for name, system in paper.systems.items():
        labels[name] = system.label
        labels |= {f"{name}/{key}": f"{system.label}: {variant.label}" for key, variant in system.variants.items()}
    for table in reversed(tables):
        for row in table.rows:
            if row.variant and row.status != "trivial":
                labels[f"{row.system}/{row.variant}"] = row.label
    return labels


def _judgement(claim: Claim, row: Mapping[Any, Any], labels: Mapping[str, str]) -> Judgement:
    benchmark, dataset = str(row["benchmark"]), str(row["dataset"])
    return Judgement(
        evidence=str(row["evidence_status"]),
        selection=str(row["selection"]),
        part=str(row["part"]),
        better=labels.get(str(row["better"]), str(row["better"])),
        worse=labels.get(str(row["worse"]), str(row["worse"])),
        benchmark=benchmark,
        stand_in=dataset if dataset != benchmark else "",
        metric=str(row["metric"]),
        value_better=float(row["value_better"]),
        value_worse=float(row["value_worse"]),
        verdict=str(row["verdict"]),
        direction=str(row["direction"]),
        effect=float(row["effect"]),
        low=float(row["ci_low"]),
        high=float(row["ci_high"]),
        p_holm=float(row["p_holm"]),
        n=float(row["n"]),
        seeds=tuple(str(row["seeds"]).split()),
        rule=str(row["rule"]),
        needed=str(row["needed"]),
        reason=str(row["reason"]),
        words=_effect_in_words(
            claim, str(row["metric"]), float(row["effect"]), float(row["ci_low"]), float(row["ci_high"])
        ),
    )


def _effect_in_words(claim: Claim, name: str, effect: float, low: float, high: float) -> str:
    """Say what an effect is: a difference with sign and unit, a ratio or a quantity as it is."""
    if claim.test.startswith("log_") or not is_present(effect):
        return ""
    names = {"ratio": "ratio", "quantity": "value", "value": "off the published number by"}
    unit = ""
    if claim.test == "relative_drop" or (claim.test == "difference" and metric(name).lower_is_better is False):
        effect, low, high = 100 * effect, 100 * low, 100 * high
        unit = " percentage points"
    elif claim.test == "difference":
        unit = f" {metric(name).label}"
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
        return claim.at_least or 0.0, math.inf
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
    scales: dict[tuple[str, str], list[float]] = {}
    for part in parts:
        ends = region(claim, part.metric)
        if ends is not None and is_present(part.effect):
            values = [part.effect, part.low, part.high, *ends, 1.0 if claim.test == "ratio" else 0.0]
            scales.setdefault((part.metric, part.evidence), []).extend(filter(math.isfinite, values))
    for part in parts:
        ends, scale = region(claim, part.metric), scales.get((part.metric, part.evidence))
        if ends is None or scale is None or not is_present(part.effect):
            yield part
        else:
            yield _with_drawing(part, ends, (min(scale), max(scale)), 1.0 if claim.test == "ratio" else 0.0)


def _with_drawing(part: Judgement, ends: tuple[float, float], scale: tuple[float, float], zero: float) -> Judgement:
    span = (scale[1] - scale[0]) or 1.0

    def x(value: float) -> float:
        if math.isinf(value):
            return 0.0 if value < 0 else float(WIDTH)
        return round(MARGIN + (value - scale[0]) / span * (WIDTH - 2 * MARGIN), 1)

    drawing = Drawing(
        at=x(part.effect),
        low=x(part.low) if is_present(part.low) else None,
        high=x(part.high) if is_present(part.high) else None,
        zero=x(zero),
        region=(x(ends[0]), x(ends[1])),
    )
    return replace(part, drawing=drawing)


# ------------------------------------------------------------------------------------------------------------ forests


def _short(name: str) -> str:
    """Cut a name for the forest, whose labels are beside one another."""
    return name if len(name) <= SHORT else f"{name[: SHORT - 1]}…"


def relative_effects(views: Sequence[ClaimView]) -> pd.DataFrame:
    """Return by how much the better arm is better, as a share of the worse arm's value, of all claims that compare.

    Returns:
        columns claim, label, verdict, evidence, effect, low, high, claimed: a row for each part and kind of evidence,
        of the selection that the claim's headline speaks of.
    """
    rows = []
    for view in views:
        for part in view.parts:
            headline = view.headlines.get(part.evidence)
            scaled = view.claim.test in SCALED and headline is not None and part.selection == headline.selection
            if scaled and is_present(part.effect):
                rows.append(_relative(view.claim, part))
    columns = ["claim", "label", "verdict", "evidence", "effect", "low", "high", "claimed"]
    return pd.DataFrame(rows, columns=columns).dropna(subset="effect")


def _relative(claim: Claim, part: Judgement) -> dict[str, Any]:
    """Return one part's effect as a share: of a ratio of errors what it is below 1."""
    ends = region(claim, part.metric) or (0.0, math.inf)
    low, high = part.low, part.high
    if claim.test == "ratio":
        higher_is_better = metric(part.metric).lower_is_better is False
        share = (lambda value: value - 1) if higher_is_better else (lambda value: 1 - value)
        effect, claimed = share(part.effect), share(ends[1] if math.isfinite(ends[1]) else ends[0])
        low, high = sorted((share(low), share(high)))
    else:
        worse = abs(part.value_worse) or math.nan
        effect, low, high, claimed = (value / worse for value in (part.effect, low, high, ends[0]))
    on = f", {part.benchmark}" if len(claim.benchmarks) > 1 else ""
    return {
        "claim": claim.id,
        "label": f"{claim.id}  {_short(part.better)} against {_short(part.worse)}{on}",
        "verdict": part.verdict,
        "evidence": part.evidence,
        "effect": effect,
        "low": low,
        "high": high,
        "claimed": claimed,
    }


# ------------------------------------------------------------------------------------------------------------- counts


def tally(views: Iterable[ClaimView]) -> dict[str, dict[str, int]]:
    """Count the headline verdicts by kind of evidence, in the order of the legend."""
    counted = Counter((kind, row.verdict) for view in views for kind, row in view.headlines.items())
    return {
        kind: {verdict: counted[kind, verdict] for verdict in VERDICTS if counted[kind, verdict]}
        for kind in EVIDENCE
        if any(counted[kind, verdict] for verdict in VERDICTS)
    }


def claim_table(views: Sequence[ClaimView]) -> PlainTable:
    """Return the verdicts as a table of texts, for export: a row for each claim and kind of evidence."""
    heads = ["Claim", "Statement", "Evidence", "Weights", "Verdict", "Effect", "95 % interval", "p (Holm)", "Images",
             "Seeds", "Rule", "What would decide", "Why"]  # fmt: skip
    rows = [
        [
            view.claim.id, view.claim.statement, EVIDENCE[kind][0], row.chosen_on, row.verdict, signed(row.effect),
            interval(row.low, row.high, row.effect), number(row.p_holm), f"{row.n:.0f}" if is_present(row.n) else "–",
            " ".join(row.seeds), row.rule, row.needed, row.reason,
        ]
        for view in views
        for kind, row in view.headlines.items()
    ]  # fmt: skip
    return PlainTable("Verdicts on the claims", heads, rows, "lwlllrrrrlwww")


def values_text(part: Judgement) -> str:
    """Return the two values that were compared, or the one that was measured."""
    as_text = percent if metric(part.metric).lower_is_better is False else number
    pair = [as_text(value) for value in (part.value_better, part.value_worse) if is_present(value)]
    return " : ".join(pair)

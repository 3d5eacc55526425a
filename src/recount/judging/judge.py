"""``recount judge``: a verdict for each claim of each paper, from the CSVs of predictions and of published numbers.

Writes ``results/<suite>/verdicts.csv``. Each claim has, for each kind of evidence (``trained``, ``checkpoint``,
``published``) and each selection, a row for every part and one with part ``all``: what its parts say together. One row
of part ``all`` for each claim and evidence is its ``headline``: of the selections that could be tested, the one chosen
on held-out samples, else the last epoch, else the one chosen on test data.

How a part is decided stands in ``verdicts``; what its evidence is in ``claims`` (from runs) and ``printed_claims``.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

from recount.judging.arms import Evidence
from recount.judging.claims import Claims, Part
from recount.judging.printed_claims import PrintedClaims
from recount.judging.verdicts import Decision, Finding, combine, decide_all
from recount.results.files import write_rows
from recount.scoring.score import Scorer, as_texts
from recount.settings.paper import Claim, Paper
from recount.settings.project import Project

log = logging.getLogger(__name__)

ALL = "all"
CHOSEN_ON_TEST = "models chosen on the test images"
HEADLINE_ORDER = ("best_on_held_out", "last", "best_on_test")


@dataclass(frozen=True, slots=True)
class Row:
    """A row of verdicts.csv; numbers are NaN where there is none, and then empty in the file.

    Attributes:
        paper, claim, kind, statement, source, claim_rule, published: as in the paper.yaml.
        part: arms of the comparison ("better | worse"), or "all" for the verdict of the claim.
        evidence_status: trained (here), checkpoint (released weights, evaluated here) or published (numbers of the
            authors alone).
        selection: which of a run's models was judged.
        headline: "yes" in the one row of part "all" that stands for this claim and evidence.
        seeds: of the runs, separated by spaces; empty where no training is involved.
        better, worse, value_better, value_worse: the arms as they were judged, and their metric.
        benchmark, dataset, metric: on what; benchmarks that are the same images are joined by " + ".
        verdict: holds, holds in direction, contradicted, inconclusive or not tested.
        direction: which way the evidence points: for, against, or neither.
        effect, ci_low, ci_high: positive where better is better; for a ratio or quantity its value; for a number the
            measured minus the published one.
        p_value, p_holm: of the permutation test, and after correction within paper, evidence and selection.
        n: images.
        rule: how it was decided.
        needed, needed_images, needed_seeds: what decides with 80 % power, if effect and spread are as seen.
        reason: why, and what else must be said.
    """

    paper: str
    claim: str
    kind: str
    statement: str
    part: str
    evidence_status: str
    selection: str
    headline: str = ""
    seeds: str = ""
    better: str = ""
    worse: str = ""
    benchmark: str = ""
    dataset: str = ""
    metric: str = ""
    value_better: float = math.nan
    value_worse: float = math.nan
    published: float | None = None
    verdict: str = "not tested"
    direction: str = ""
    effect: float = math.nan
    ci_low: float = math.nan
    ci_high: float = math.nan
    p_value: float = math.nan
    p_holm: float = math.nan
    n: int | None = None
    rule: str = ""
    needed: str = ""
    needed_images: int | None = None
    needed_seeds: int | None = None
    reason: str = ""
    source: str = ""
    claim_rule: str = ""


COLUMNS = tuple(item.name for item in fields(Row))


@dataclass(frozen=True, slots=True)
class Case:
    """A claim with one kind of evidence and one selection, and its parts."""

    claim: Claim
    evidence: Evidence
    selection: str
    parts: Sequence[Part]


def judge(project: Project) -> Path:
    """Judge every claim of the chosen papers; return the path of verdicts.csv."""
    scorer = Scorer(project)
    rows = [row for name, paper in project.papers.items() for row in judged(project, name, paper, scorer)]
    path = project.root / project.results / "verdicts.csv"
    write_rows(path, COLUMNS, [as_texts([getattr(row, name) for name in COLUMNS]) for row in rows])
    counted = Counter(f"{row.evidence_status}: {row.verdict}" for row in rows if row.headline)
    log.info("claims: %s", ", ".join(f"{number} {what}" for what, number in sorted(counted.items())) or "none")
    return path


def judged(project: Project, name: str, paper: Paper, scorer: Scorer) -> list[Row]:
    """Return the rows of one paper's claims, in their order."""
    cases = list(_cases(project, name, paper, scorer))
    decisions = _decided(cases)
    rows = [row for place, case in enumerate(cases) for row in _rows(name, case, decisions[place])]
    return _with_headlines(rows)


def _cases(project: Project, name: str, paper: Paper, scorer: Scorer) -> Iterator[Case]:
    claims = Claims(project, paper, scorer)
    printed = PrintedClaims(project.root / "papers" / name, paper)
    for claim in paper.claims:
        for evidence in claims.evidences(claim):
            for selection in claims.selections(claim, evidence):
                yield Case(claim, evidence, selection, claims.parts(claim, selection, evidence))
        for selection in printed.selections(claim):
            parts = printed.parts(claim, selection)
            if claim.test.startswith("log_") or any(part.finding for part in parts):
                yield Case(claim, "published", selection, parts)


def _decided(cases: Sequence[Case]) -> list[list[Decision]]:
    """Decide all parts, corrected over those with the same evidence and selection."""
    result = [[Decision("not tested", "", part.missing) for part in case.parts] for case in cases]
    families: dict[tuple[str, str], list[tuple[int, int, Finding]]] = {}
    for number, case in enumerate(cases):
        for place, part in enumerate(case.parts):
            if part.finding is not None:
                families.setdefault((case.evidence, case.selection), []).append((number, place, part.finding))
    for members in families.values():
        decisions = decide_all([finding for *_, finding in members])
        for (number, place, _), decision in zip(members, decisions, strict=True):
            result[number][place] = decision
    return result


def _rows(paper: str, case: Case, decisions: Sequence[Decision]) -> Iterator[Row]:
    claim = case.claim
    bare = Row(
        paper=paper,
        claim=claim.id,
        kind=claim.kind,
        statement=claim.statement,
        part=ALL,
        evidence_status=case.evidence,
        selection=case.selection,
        published=claim.published,
        source=claim.source,
        claim_rule=claim.rule,
    )
    parts = [_row(bare, part, decision) for part, decision in zip(case.parts, decisions, strict=True)]
    if len(parts) == 1:
        yield replace(parts[0], part=ALL)
    else:
        together = combine(decisions)
        yield _decision(
            replace(
                bare,
                seeds=_same([row.seeds for row in parts if row.verdict != "not tested"]),
                benchmark=" + ".join(claim.benchmarks),
                metric=_same([row.metric for row in parts]),
                n=max((row.n for row in parts if row.n is not None), default=None),
                rule="every part holds; one contradicted part contradicts the claim",
            ),
            together,
        )
    yield from parts


def _row(bare: Row, part: Part, decision: Decision) -> Row:
    row = replace(
        bare,
        part=part.name,
        seeds=" ".join(map(str, part.seeds)),
        better=part.better,
        worse=part.worse,
        benchmark=part.benchmark,
        dataset=part.dataset,
        metric=part.metric,
        value_better=part.value_better,
        value_worse=part.value_worse,
    )
    finding = part.finding
    if finding is not None:
        row = replace(
            row,
            effect=finding.effect,
            ci_low=finding.low,
            ci_high=finding.high,
            p_value=finding.p_value,
            n=finding.n,
            rule=finding.rule,
            reason="; ".join(finding.notes),
        )
    if row.selection == "best_on_test" and finding is not None:
        row = replace(row, reason="; ".join(text for text in (row.reason, CHOSEN_ON_TEST) if text))
    return _decision(row, decision)


def _decision(row: Row, decision: Decision) -> Row:
    return replace(
        row,
        verdict=decision.verdict,
        direction=decision.direction,
        p_holm=decision.p_holm,
        needed=decision.needed,
        needed_images=decision.needed_images,
        needed_seeds=decision.needed_seeds,
        reason="; ".join(text for text in (decision.reason, row.reason) if text),
    )


def _same(values: Sequence[str]) -> str:
    """Return what all values are, or nothing."""
    return values[0] if values and len(set(values)) == 1 else ""


def _with_headlines(rows: Sequence[Row]) -> list[Row]:
    """Return the rows with the headline of each claim and evidence marked."""
    best: dict[tuple[str, str], tuple[tuple[bool, int], int]] = {}
    for place, row in enumerate(rows):
        if row.part != ALL:
            continue
        order = HEADLINE_ORDER.index(row.selection) if row.selection in HEADLINE_ORDER else len(HEADLINE_ORDER)
        rank = ((row.verdict == "not tested", order), place)
        key = (row.claim, row.evidence_status)
        best[key] = min(best.get(key, rank), rank)
    chosen = {place for _, place in best.values()}
    return [replace(row, headline="yes") if place in chosen else row for place, row in enumerate(rows)]

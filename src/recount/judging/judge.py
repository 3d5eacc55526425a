"""``recount judge``: a verdict for each claim of each paper, from the CSVs of predictions and of published numbers.

Writes ``results/<suite>/verdicts.csv``. Each claim has, for each kind of evidence (``trained``, ``checkpoint``,
``published``) and each selection, a row for every part and one with part ``all``: what its parts say together. One row
of part ``all`` for each claim and evidence is its ``headline``: of the selections that could be tested, the one chosen
on held-out samples, else the last epoch, else the one chosen on test data.

How a part is decided stands in ``verdicts``; what its evidence is in ``claims`` (from runs) and ``printed_claims``.
"""

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from recount.chain import MADE, TABLES
from recount.judging.arms import Evidence
from recount.judging.claims import Claims, Part
from recount.judging.printed_claims import PrintedClaims
from recount.judging.verdicts import Decision, Finding, combine, decide_all
from recount.provenance import step_digest
from recount.results.files import Made, note_tables
from recount.results.reason import Reason, joined
from recount.results.verdicts import ALL_PARTS, VERDICTS, VerdictRow
from recount.scoring.measured import Measurements
from recount.scoring.score import without_folder
from recount.settings.paper import Claim, Paper
from recount.settings.project import Project

log = logging.getLogger(__name__)

CHOSEN_ON_TEST = "models chosen on the test images"
EVERY_PART = "every part holds; one contradicted part contradicts the claim"
COMPARED = ("better", "worse", "benchmark", "dataset", "metric", "value_better", "value_worse")
HEADLINE_ORDER = ("best_on_held_out", "last", "best_on_test")


@dataclass(frozen=True, slots=True)
class Case:
    """A claim with one kind of evidence and one selection, and its parts."""

    claim: Claim
    evidence: Evidence
    selection: str
    parts: Sequence[Part]


def judge(project: Project) -> Path:
    """Judge every claim of the chosen papers; return the path of verdicts.csv."""
    measurements = Measurements(project)
    made = Made(results=measurements.chain.digests("predictions", "runs", "prompt_tests"), code=step_digest("judge"))
    rows: list[VerdictRow] = []
    for name, paper in project.papers.items():
        cases = list(_cases(measurements, name, paper))
        decided = zip(cases, _decided(cases), strict=True)
        rows += _with_headlines([row for case, decisions in decided for row in _rows(name, case, decisions)])
    path = project.root / project.results / "verdicts.csv"
    VERDICTS.write(path, [without_folder(row, project.root) for row in rows])
    note_tables(path.with_name(MADE["judge"]), TABLES["judge"], made)
    counted = Counter(f"{row.evidence_status}: {row.verdict}" for row in rows if row.headline)
    log.info("claims: %s", ", ".join(f"{number} {what}" for what, number in sorted(counted.items())) or "none")
    return path


def _cases(measurements: Measurements, name: str, paper: Paper) -> Iterator[Case]:
    claims = Claims(measurements, paper)
    printed = PrintedClaims(paper)
    for claim in paper.claims:
        for evidence in claims.evidences(claim):
            for selection in claims.selections(claim, evidence):
                yield Case(claim, evidence, selection, claims.parts(claim, selection, evidence))
        for selection in printed.selections(claim):
            parts = printed.parts(claim, selection)
            if claim.reads_log or any(part.finding for part in parts):
                yield Case(claim, "published", selection, parts)


def _decided(cases: Sequence[Case]) -> list[list[Decision]]:
    """Decide all parts, corrected over those with the same evidence and selection."""
    result = [[Decision("not tested", "", part.missing.text) for part in case.parts] for case in cases]
    families: dict[tuple[str, str], dict[tuple[int, int], Finding]] = {}
    for number, case in enumerate(cases):
        family = families.setdefault((case.evidence, case.selection), {})
        family |= {(number, place): part.finding for place, part in enumerate(case.parts) if part.finding is not None}
    for family in families.values():
        for (number, place), decision in zip(family, decide_all(list(family.values())), strict=True):
            result[number][place] = decision
    return result


def _rows(paper: str, case: Case, decisions: Sequence[Decision]) -> Iterator[VerdictRow]:
    claim = case.claim
    bare = VerdictRow(paper, claim.id, claim.kind, claim.says, ALL_PARTS, case.evidence, case.selection)
    bare = replace(bare, published=claim.published, source=claim.where, claim_rule=claim.rule)
    parts = [_row(bare, part, decision) for part, decision in zip(case.parts, decisions, strict=True)]
    if len(parts) == 1:
        yield replace(parts[0], part=ALL_PARTS)
    else:
        tested = [row for row in parts if row.verdict != "not tested"]
        seeds, metric = _same([row.seeds for row in tested]), _same([row.metric for row in parts])
        together = replace(bare, seeds=seeds, benchmark=" + ".join(claim.on), metric=metric, rule=EVERY_PART)
        together = replace(together, n=max((row.n for row in parts if row.n is not None), default=None))
        why = joined([] if tested else [part.missing for part in case.parts])
        yield _decided_row(together, combine(decisions), why)
    yield from parts


def _row(bare: VerdictRow, part: Part, decision: Decision) -> VerdictRow:
    compared = {name: getattr(part, name) for name in COMPARED}
    row = replace(bare, part=part.name, seeds=" ".join(map(str, part.seeds)), **compared)
    finding = part.finding
    if finding is None:
        return _decided_row(row, decision, part.missing)
    row = replace(row, effect=finding.effect, ci_low=finding.low, ci_high=finding.high, p_value=finding.p_value)
    on_test = [CHOSEN_ON_TEST] if row.selection == "best_on_test" else []
    said = [text for text in (decision.reason, *finding.notes, *on_test) if text]
    return _decided_row(replace(row, n=finding.n, rule=finding.rule), decision, Reason("note", "; ".join(said)))


def _decided_row(row: VerdictRow, decision: Decision, reason: Reason) -> VerdictRow:
    decided = {name: value for name, value in asdict(decision).items() if name != "reason"}
    return replace(row, **decided, reason=reason or Reason("note", decision.reason))


def _same(values: Sequence[str]) -> str:
    return values[0] if values and len(set(values)) == 1 else ""


def _with_headlines(rows: Sequence[VerdictRow]) -> list[VerdictRow]:
    claims: dict[tuple[str, str], list[int]] = {}
    for place, row in enumerate(rows):
        if row.part == ALL_PARTS:
            claims.setdefault((row.claim, row.evidence_status), []).append(place)

    def rank(place: int) -> tuple[bool, int]:
        row = rows[place]
        return row.verdict == "not tested", (*HEADLINE_ORDER, row.selection).index(row.selection)

    chosen = {min(places, key=rank) for places in claims.values()}
    return [replace(row, headline="yes") if place in chosen else row for place, row in enumerate(rows)]

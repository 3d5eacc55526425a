"""``recount judge``: a verdict for each claim of each paper, from the CSVs of predictions and of published numbers.

Writes ``results/<suite>/verdicts.csv`` and ``fidelity.csv``, and remembers its looks in ``looks.json``. Each claim has,
for each kind of evidence (``trained``, ``checkpoint``, ``published``) and each selection, a row for every part and one
with part ``all``: what its parts say together. One row of part ``all`` for each claim and evidence is its ``headline``:
that of the weights that the claim is about (``Claim.weights``), tested or not.

Two things are kept apart. What was *counted again* is about the recipe (trainings) or about files (released weights),
and says ``holds`` or ``does not hold`` of a paper only on the paper's own data at its own size (``match: exact``). What
was *printed* is an audit of consistency, in words of its own.

How a part is decided stands in ``verdicts``; what its evidence is in ``claims`` (from runs) and ``printed_claims``.
"""

import logging
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from recount.chain import MADE, TABLES
from recount.judging.arms import Evidence
from recount.judging.claims import Claims, Part
from recount.judging.costs import Costs
from recount.judging.fidelity import fidelity
from recount.judging.looks import LookBook
from recount.judging.matching import match
from recount.judging.printed_claims import PrintedClaims
from recount.judging.submitted import against
from recount.judging.verdicts import RULES, Decision, Finding, benjamini_hochberg, combine, decide, with_needs
from recount.provenance import step_digest
from recount.results.files import Made, note_tables
from recount.results.reason import Reason, joined
from recount.results.submissions import AGAINST
from recount.results.verdicts import ALL_PARTS, FIDELITY, LOOKS, VERDICTS, VerdictRow
from recount.scoring.measured import Measurements
from recount.scoring.score import without_folder
from recount.settings.paper import TRIVIAL_ARMS, Claim, Paper
from recount.settings.project import Project

log = logging.getLogger(__name__)

EVERY_PART = "it holds if every part does; it does not hold if one part does not after Holm's correction over the parts"
COMPARED = ("better", "worse", "benchmark", "dataset", "metric", "value_better", "value_worse", "seeds", "chance_gain")
AUDIT = {"holds": "consistent", "does not hold": "inconsistent", "not tested": "not tested"}
OF_FILES = " for the released models"
ON_TEST = " (chosen on test)"
NEAR = "in a near test"


@dataclass(frozen=True, slots=True)
class Case:
    """A claim with one kind of evidence and one selection, its parts, and which look at it this is."""

    paper: str
    claim: Claim
    evidence: Evidence
    selection: str
    parts: Sequence[Part]
    headline: bool = False  # it is of the weights that the claim is about
    match: str = ""
    apart: str = ""  # what keeps it from being exact
    look: int | None = None
    looks: int = 1

    @property
    def decisions(self) -> list[Decision]:
        """Return the decision on each part."""
        return [
            decide(part.finding, self.looks) if part.finding else Decision("not tested", "", part.missing.text)
            for part in self.parts
        ]


def judge(project: Project) -> Path:
    """Judge every claim of the chosen papers; return the path of verdicts.csv."""
    measurements = Measurements(project)
    chain = measurements.chain
    behind = chain.digests("predictions", "runs", "prompt_tests", "submitted")
    made = Made(results=behind, data=chain.data_now(), code=step_digest("judge"))
    book = LookBook(project.root / project.tables / LOOKS, project.config.looks)
    rows = judged(measurements, book)
    path = project.root / project.tables / "verdicts.csv"
    VERDICTS.write(path, [without_folder(row, project.root) for row in rows])
    FIDELITY.write(path.with_name("fidelity.csv"), fidelity(measurements))
    AGAINST.write(path.with_name("submitted.csv"), [without_folder(row, project.root) for row in against(measurements)])
    note_tables(path.with_name(MADE["judge"]), TABLES["judge"], made)
    book.save()
    counted = Counter(f"{row.evidence_status}: {row.verdict}" for row in rows if row.headline)
    log.info("claims: %s", ", ".join(f"{number} {what}" for what, number in sorted(counted.items())) or "none")
    return path


def judged(measurements: Measurements, book: LookBook) -> list[VerdictRow]:
    """Return the rows of verdicts.csv."""
    costs, rows = Costs(measurements), list[VerdictRow]()
    first: dict[object, str] = {}
    for case in cases(measurements, book):
        asked = _comparisons(case) if case.headline else None
        same = first.setdefault(asked, f"{case.paper} {case.claim.id}") if asked else ""
        same = "" if same == f"{case.paper} {case.claim.id}" else same
        rows += [replace(row, same_as=same) for row in _rows(case, costs, measurements.project)]
    return _with_q(_leaning_on_files(rows))


def cases(measurements: Measurements, book: LookBook, only: str = "") -> Iterator[Case]:
    """Yield every claim (or only one) of the project's papers with each kind of evidence and each selection."""
    for name, paper in measurements.project.papers.items():
        yield from _of_paper(measurements, name, paper, book, only)


def _of_paper(measurements: Measurements, name: str, paper: Paper, book: LookBook, only: str) -> Iterator[Case]:
    printed = PrintedClaims(paper)
    claims = Claims(measurements, paper, printed.value)
    for claim in (claim for claim in paper.claims if only in ("", claim.id)):
        for evidence in claims.evidences(claim):
            near = match(measurements.project, claim, evidence)
            found = {s: claims.parts(claim, s, evidence) for s in claims.selections(claim, evidence)}
            headline = claim.weights if claim.weights in found else next(iter(found))
            seeds = next((part.seeds for part in found[headline] if part.seeds), "")
            look = book.take(name, claim.id, evidence, seeds)
            for selection, parts in found.items():
                yield Case(name, claim, evidence, selection, parts, selection == headline, *near, *look)
        audited = {selection: printed.parts(claim, selection) for selection in printed.selections(claim)}
        said = [s for s, parts in audited.items() if claim.audits or any(part.finding for part in parts)]
        for selection in said:
            headline = claim.weights if claim.weights in said else said[0]
            yield Case(name, claim, "published", selection, audited[selection], selection == headline)


def _comparisons(case: Case) -> object:
    """Return what a case asks, so that the very same comparison in two papers is counted once; None: an audit."""
    if case.evidence == "published":
        return None
    claim = case.claim
    bounds = claim.at_least, claim.at_most, claim.published, claim.bounds, claim.test
    parts = frozenset((part.better, part.worse, part.dataset, part.metric) for part in case.parts)
    return case.evidence, case.selection, bounds, parts


def _rows(case: Case, costs: Costs, project: Project) -> Iterator[VerdictRow]:
    claim = case.claim
    subject = "files" if case.evidence == "checkpoint" else "recipe"
    bare = VerdictRow(
        *(case.paper, claim.id, claim.kind, claim.whose, claim.says, ALL_PARTS, case.evidence, case.selection, subject),
        match=case.match, apart=case.apart, headline="yes" if case.headline else "", look=case.look,
        looks=case.looks if case.look else None, published=claim.published,
        source=claim.where, claim_rule=claim.rule, contradicted_by=claim.contradicted_by,
        since=claim.since.isoformat(), rules=RULES,
    )  # fmt: skip
    quoted = project.papers[case.paper].quoted
    arms = costs.arms_of(claim, quoted)
    if case.evidence == "trained":
        seeds = project.config.looks[0]
        said = costs.text(arms, seeds, f"{seeds} seeds of {len(arms)} run{'s' * (len(arms) > 1)}")
        bare = replace(bare, test_cost=said or "nothing is trained for it")
    elif case.evidence == "published" and claim.audits:
        bare = replace(bare, test_cost="nothing is trained: what the authors published is read")
    worded = _Worded(case, costs, project)
    decisions = [
        with_needs(part.finding, decision, case.looks) if part.finding else decision
        for part, decision in zip(case.parts, case.decisions, strict=True)
    ]
    parts = [worded.part(bare, part, decision) for part, decision in zip(case.parts, decisions, strict=True)]
    if len(parts) == 1:
        yield replace(parts[0], part=ALL_PARTS)
    else:
        tested = [row for row in parts if row.decided != "not tested"]
        seeds_of, metric = _same([row.seeds for row in tested]), _same([row.metric for row in parts])
        together = replace(bare, seeds=seeds_of, benchmark=" + ".join(claim.on), metric=metric, rule=EVERY_PART)
        together = replace(together, n=max((row.n for row in parts if row.n is not None), default=None))
        gains = [part.chance_gain for part in case.parts if not math.isnan(part.chance_gain)]
        together = replace(together, chance_gain=max(gains, default=math.nan))
        why = joined([] if tested else [part.missing for part in case.parts])
        yield worded.row(together, combine(decisions), why, arms)
    yield from (replace(row, headline="") for row in parts)


class _Worded:
    """Rows from decisions: in the words that evidence and match allow."""

    def __init__(self, case: Case, costs: Costs, project: Project) -> None:
        self.case, self.costs, self.project = case, costs, project

    def verdict(self, decision: Decision) -> str:
        """Return the verdict in the words of its evidence: an audit's, a stand-in's, a file's or a paper's."""
        case, decided = self.case, decision.decided
        if case.evidence == "published":
            return AUDIT.get(decided, "cannot tell")
        if decided in ("undecided", "not tested"):
            return decided
        if case.match != "exact":
            side = "same" if decided in ("holds", "leans for") else "opposite"
            where = f"on {self.project.suite.pictures}" if case.match == "stand-in" else NEAR
            return f"{side} direction {where}{self._mark()}"
        of_files = OF_FILES if case.evidence == "checkpoint" and not decided.startswith("leans") else ""
        return f"{decided}{of_files}{self._mark()}"

    def _mark(self) -> str:
        return ON_TEST if self.case.selection == "best_on_test" else ""

    def part(self, bare: VerdictRow, part: Part, decision: Decision) -> VerdictRow:
        """Return the row of one part."""
        row = replace(bare, part=part.name, **{name: getattr(part, name) for name in COMPARED})
        finding = part.finding
        if finding is None:
            return self.row(row, decision, part.missing, [])
        shown: Callable[[float], float] = _exp if finding.log else float
        row = replace(
            row, n=finding.n, rule=finding.rule, effect=shown(finding.effect), ci_low=shown(decision.low),
            ci_high=shown(decision.high), claimed_from=shown(finding.region[0]), claimed_to=shown(finding.region[1]),
        )  # fmt: skip
        if finding.arms:
            spread = decision.spread
            row = replace(row, seed_sd=math.sqrt(spread.variance), seed_df=spread.df, pooled_over=spread.source,
                          f_p=spread.f_p)  # fmt: skip
        if finding.grade in ("compared", "opponent"):
            row = replace(row, image_variance=decision.image_part)
        said = [text for text in (decision.reason, *finding.notes, *_causes(part, decision)) if text]
        return self.row(row, decision, Reason("note", "; ".join(said)), _random(finding))

    def row(self, row: VerdictRow, decision: Decision, reason: Reason, arms: Sequence[str]) -> VerdictRow:
        """Return a row with its decision and what it costs to decide it."""
        cost = ""
        if decision.needed_seeds:
            there = max((len(seeds.split()) for seeds in row.seeds.split("|")), default=0)
            more = max(decision.needed_seeds - there, 1)
            trained = [arm for arm in arms if arm not in TRIVIAL_ARMS]
            cost = self.costs.text(trained, more, f"{more} more seed{'s' * (more > 1)} of each")
        return replace(
            row, verdict=self.verdict(decision), decided=decision.decided, direction=decision.direction,
            level=decision.level, p_value=decision.p_value, df=decision.df, seed_variance=decision.seed_part,
            needed=decision.needed, needed_seeds=decision.needed_seeds, cost=cost,
            reason=reason or Reason("note", decision.reason),
        )  # fmt: skip


def _exp(value: float) -> float:
    return math.exp(value) if value < 700 else math.inf


def _random(finding: Finding) -> list[str]:
    return [arm.name for arm in finding.arms if "/" in arm.name]


def _causes(part: Part, decision: Decision) -> Iterator[str]:
    """Yield innocent causes that the data suggest where a printed number was not reached."""
    finding = part.finding
    if finding is None or finding.number is None or decision.decided not in ("does not hold", "leans against"):
        return
    if decision.spread.variance > 0.05**2:
        spread = math.sqrt(decision.spread.variance)
        yield f"the seeds scatter by {spread:.0%}, so one lucky run can be far from the mean"
    if finding.number.best_of:
        yield f"the printed number is the best of {finding.number.best_of} epochs on the test images; these are not"
    yield "other common causes: another environment, protocol or reading of the data"


def _same(values: Sequence[str]) -> str:
    return values[0] if values and len(set(values)) == 1 else ""


def _leaning_on_files(rows: Sequence[VerdictRow]) -> list[VerdictRow]:
    """Let a recipe's claim lean where its trainings leave it open and the released models decide it."""
    heads = {(row.paper, row.claim, row.evidence_status): row for row in rows if row.headline}
    result = []
    for row in rows:
        files = heads.get((row.paper, row.claim, "checkpoint"))
        open_still = row.headline and row.evidence_status == "trained" and row.decided in ("undecided", "not tested")
        if open_still and files is not None and files.match == "exact" and files.decided in ("holds", "does not hold"):
            side = "for" if files.decided == "holds" else "against"
            said = f"the released models alone say so: {row.reason.text}".rstrip(": ")
            row = replace(
                row, verdict=f"leans {side}", decided=f"leans {side}", direction=side, reason=Reason("note", said)
            )
        result.append(row)
    return result


def _with_q(rows: Sequence[VerdictRow]) -> list[VerdictRow]:
    """Add Benjamini and Hochberg's q over the headlines of each kind of evidence, each comparison once."""
    result = list(rows)
    for evidence in ("trained", "checkpoint"):
        mine = [place for place, row in enumerate(rows) if row.headline and row.evidence_status == evidence]
        once = [place for place in mine if not rows[place].same_as]
        q = dict(zip(once, benjamini_hochberg([rows[place].p_value for place in once]).tolist(), strict=True))
        of_claim = {f"{rows[place].paper} {rows[place].claim}": value for place, value in q.items()}
        for place in mine:
            result[place] = replace(rows[place], q_value=q.get(place, of_claim.get(rows[place].same_as, math.nan)))
    return result

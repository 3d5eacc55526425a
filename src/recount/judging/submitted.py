"""Submitted counters against the others: who counts better on the same images, by the rules of the papers' claims.

The opponents of a counter are the rows of all tables about its split and the best constant. Their weights are the
table's, but never those chosen on the test images, against which a submitted counter could lean at most. A submitted
counter has no seeds; what chance does to its opponents' trainings is theirs.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from recount.judging.arms import LAST, Evidence
from recount.judging.claims import Claims
from recount.judging.printed_claims import PrintedClaims
from recount.judging.verdicts import ALPHA, LEANS, decide
from recount.metrics import METRICS, metric
from recount.results.reason import Missing, Reason, joined
from recount.results.submissions import Against
from recount.scoring.measured import Measurements
from recount.scoring.statistics import holm
from recount.settings.paper import DIRECTIONS, Claim, Paper, Table

WORDS = {"holds": "better", "leans for": "leans better", "leans against": "leans worse", "does not hold": "worse"}
BEST_CONSTANT = "best_constant"


def against(measurements: Measurements, only: str = "") -> list[Against]:
    """Return a row for each submitted counter (or only one), benchmark's split and opponent; p values are adjusted."""
    found: dict[tuple[str, str, str], Against] = {}
    for paper in measurements.project.papers.values():
        claims = Claims(measurements, paper, PrintedClaims(paper).value)
        for table in paper.tables.values():
            for benchmark in table.on:
                for counter in measurements.submitted(benchmark):
                    if only in ("", counter):
                        for row in _of_column(claims, paper, table, benchmark, counter):
                            found.setdefault((counter, row.dataset, row.against), row)
    result = []
    for counter in dict.fromkeys(row.counter for row in found.values()):
        mine = [row for row in found.values() if row.counter == counter]
        adjusted = holm([row.p_value for row in mine]).tolist()
        result += [replace(row, p_value=p, verdict=_among_all(row, p)) for row, p in zip(mine, adjusted, strict=True)]
    return result


def _among_all(row: Against, p: float) -> str:
    """Return the verdict that the p value leaves which is adjusted for all opponents."""
    if p > LEANS:
        return "undecided"
    return f"leans {row.verdict}" if p > ALPHA and row.verdict in ("better", "worse") else row.verdict


def _of_column(claims: Claims, paper: Paper, table: Table, benchmark: str, counter: str) -> Iterator[Against]:
    name = next((name for name in table.metrics if name in METRICS), None)
    if name is None:
        return
    path = claims.measurements.submitted(benchmark)[counter]
    try:
        called = claims.measurements.submission(path)[0].name
    except Missing:
        return  # its cells say why
    for opponent in (*(row.run for row in table.rows if row.run), BEST_CONSTANT):
        system, _, variant = opponent.partition("/")
        if variant and (
            claims.project.not_run(system, variant)
            or benchmark not in claims.project.experiments[system].data_of(variant).evaluated_on
        ):
            continue
        yield _against(claims, (counter, called, opponent), benchmark, name, table.weights)


def _against(claims: Claims, arms: Sequence[str], benchmark: str, name: str, weights: str) -> Against:
    counter, called, opponent = arms
    system, _, variant = opponent.partition("/")
    released = variant and claims.project.experiments[system].variants[variant].checkpoint
    evidence: Evidence = "checkpoint" if released else "trained"
    there = claims.arms.selections(opponent, benchmark, evidence) or {LAST}
    wanted = LAST if weights == "best_on_test" else weights
    selection = wanted if wanted in there else sorted(there, key=lambda one: (one != LAST, one))[0]
    claim = Claim(
        id="submitted", says=f"{called} counts better than {opponent}.", arm=(counter,), against=(opponent,),
        on=(benchmark,), expect=f"{DIRECTIONS[metric(name).better]} {name}",
    )  # fmt: skip
    (part,) = claims.parts(claim, selection, evidence)
    place = claims.project.place(benchmark)
    bare = Against(
        *(counter, called, opponent, benchmark, place, name, selection if variant else ""),
        value=part.value_better,
        value_against=part.value_worse,
        seeds=part.seeds,
        reason=part.missing,
    )
    if part.finding is None:
        return bare
    decision = decide(part.finding)
    said = joined(Reason("note", text) for text in (decision.reason, *part.finding.notes) if text)
    return replace(
        bare, n=part.finding.n, verdict=WORDS.get(decision.decided, decision.decided), effect=part.finding.effect,
        ci_low=decision.low, ci_high=decision.high, p_value=decision.p_value, reason=said,
    )  # fmt: skip

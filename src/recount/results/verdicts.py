"""What ``recount judge`` writes: verdicts.csv."""

import math
from dataclasses import dataclass

from recount.results.files import CsvTable
from recount.results.reason import NOTHING, Reason

ALL_PARTS = "all"


@dataclass(frozen=True, slots=True)
class VerdictRow:
    """A part of a claim with one kind of evidence and one selection; numbers are NaN or None where there is none."""

    paper: str
    claim: str
    kind: str
    statement: str
    part: str  # arms of the comparison ("better | worse"), or "all" for the verdict of the claim
    evidence_status: str  # trained (here), checkpoint (released weights, evaluated here), published (the authors' word)
    selection: str  # which of a run's models was judged
    headline: str = ""  # "yes" in the one row of part "all" that stands for this claim and evidence
    seeds: str = ""  # of the runs, separated by spaces; empty where no training is involved
    better: str = ""  # the arms as they were judged
    worse: str = ""
    benchmark: str = ""  # benchmarks that are the same images are joined by " + "
    dataset: str = ""
    metric: str = ""
    value_better: float = math.nan
    value_worse: float = math.nan
    published: float | None = None
    verdict: str = "not tested"  # or holds, holds in direction, contradicted, inconclusive
    direction: str = ""  # which way the evidence points: for, against, or neither
    effect: float = math.nan  # positive: better is better; a ratio or quantity itself; a number minus the published
    ci_low: float = math.nan
    ci_high: float = math.nan
    p_value: float = math.nan  # of the permutation test
    p_holm: float = math.nan  # after correction within paper, evidence and selection
    n: int | None = None  # images
    rule: str = ""  # how it was decided
    needed: str = ""  # what decides with 80 % power, if effect and spread are as seen
    needed_images: int | None = None
    needed_seeds: int | None = None
    reason: Reason = NOTHING
    source: str = ""
    claim_rule: str = ""


VERDICTS = CsvTable(VerdictRow, "recount judge")

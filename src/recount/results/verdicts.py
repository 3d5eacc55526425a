"""What ``recount judge`` writes: verdicts.csv."""

from __future__ import annotations

import math
from dataclasses import dataclass

from recount.results.files import CsvTable
from recount.results.reason import NOTHING, Reason

ALL_PARTS = "all"


@dataclass(frozen=True, slots=True)
class VerdictRow:
    """A part of a claim with one kind of evidence and one selection; numbers are NaN or None where there is none.

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
    reason: Reason = NOTHING
    source: str = ""
    claim_rule: str = ""


VERDICTS = CsvTable(VerdictRow, "recount judge")

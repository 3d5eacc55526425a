"""What ``recount judge`` writes: verdicts.csv, fidelity.csv and looks.json."""

import math
from dataclasses import dataclass
from datetime import date
from typing import ClassVar

from pydantic import Field

from recount.results.files import CsvTable, Fields, JsonRecord
from recount.results.reason import NOTHING, Reason

ALL_PARTS = "all"
STEP = "recount judge"


@dataclass(frozen=True, slots=True)
class VerdictRow:
    """A part of a claim with one kind of evidence and one selection; numbers are NaN or None where there is none."""

    paper: str
    claim: str
    kind: str
    whose: str  # paper or recount
    statement: str
    part: str  # arms of the comparison ("better | worse"), or "all" for the verdict of the claim
    evidence_status: str  # trained (here), checkpoint (released weights, evaluated here), published (the authors' word)
    selection: str  # which of a run's models was judged
    subject: str = "recipe"  # or files: released weights
    match: str = ""  # how near the test is to the claim: exact, near, stand-in; "" for an audit
    apart: str = ""  # what keeps it from being exact
    headline: str = ""  # "yes" in the one row of part "all" that stands for this claim and evidence
    same_as: str = ""  # paper and claim that asks for the very same comparison, and is counted in its place
    seeds: str = ""  # of the runs, separated by spaces, a bar between arms that differ; "": no training is involved
    look: int | None = None  # which look at this claim it is
    looks: int | None = None  # how many share the 5 %
    better: str = ""  # the arms as they were judged
    worse: str = ""
    benchmark: str = ""  # benchmarks that are the same images are joined by " + "
    dataset: str = ""
    metric: str = ""
    value_better: float = math.nan
    value_worse: float = math.nan
    published: float | None = None
    verdict: str = "not tested"  # in the words of its evidence and match
    decided: str = "not tested"  # what the rule said: holds, leans for, undecided, leans against, does not hold
    direction: str = ""  # which way the evidence points: for, against, or neither
    effect: float = math.nan  # positive: better is better; a ratio or quantity itself; a number minus the published
    ci_low: float = math.nan  # of the interval that decides
    ci_high: float = math.nan
    level: float = math.nan  # two-sided, of that interval: 0.05 is a 95 % interval
    claimed_from: float = math.nan  # where the claim puts the effect
    claimed_to: float = math.nan
    p_value: float = math.nan  # of the rule's t
    q_value: float = math.nan  # Benjamini and Hochberg, over the headlines of this kind of evidence
    n: int | None = None  # images
    seed_sd: float = math.nan  # s: over seeds, of the log (logit for shares)
    seed_df: float = math.nan
    pooled_over: str = ""  # what s is of
    f_p: float = math.nan  # of the test that lets other variants into s
    seed_variance: float = math.nan  # parts of the effect's variance, which add up to it
    image_variance: float = math.nan  # without what is in the seeds' part, too
    df: float = math.nan  # Satterthwaite's
    chance_gain: float = math.nan  # share that choosing the best epoch on the test images gains by chance
    rule: str = ""  # how it was decided
    needed: str = ""  # what decides with 80 % power, if effect and spread are as seen
    needed_seeds: int | None = None
    cost: str = ""  # of that
    test_cost: str = ""  # of testing the claim with the seeds of the first planned look, from the plan
    reason: Reason = NOTHING
    source: str = ""
    claim_rule: str = ""
    contradicted_by: str = ""
    since: str = ""  # when the claim's rule last changed
    rules: str = ""  # version of the rules


VERDICTS = CsvTable(VerdictRow, STEP)


@dataclass(frozen=True, slots=True)
class FidelityRow:
    """A released file's number against the printed one: no claim, but whether file, data and code are the authors'."""

    weights: str  # name of the released checkpoint
    arm: str  # system/variant that reads it
    benchmark: str
    metric: str
    printed: float
    source: str  # who states the printed number
    measured: float = math.nan
    band: float = math.nan  # accepted distance
    passed: str = ""  # pass, fail, or not tested
    seconds: float = math.nan  # that the prediction of all pictures took
    reason: Reason = NOTHING


FIDELITY = CsvTable(FidelityRow, STEP)


class Look(Fields):
    """A set of seeds with which a claim was judged."""

    seeds: str
    first: date


LOOKS = "looks.json"


class Looks(JsonRecord):
    """Content of looks.json: every set of seeds with which each claim was judged, by paper, claim and evidence."""

    STEP: ClassVar[str] = STEP

    looks: dict[str, list[Look]] = Field(default_factory=dict)

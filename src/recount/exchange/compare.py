"""``recount compare``: two reproductions side by side, and what differed in how they were made.

A cell is the mean over seeds that scores.csv has for a row, column and selection of a paper's table. Its difference is
B minus A. Where both sides have predictions of the same images with the same true counts, it has an interval
and a p value over images (and seeds), as two systems on one benchmark have (``scoring.statistics``); p values are
adjusted by Holm's rule for the number of comparisons, so that of many cells that agree none "differs" by chance.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import numpy as np

from recount.exchange.reproduction import Reproduction, ReproductionError
from recount.metrics import METRICS
from recount.report.provenance_view import flat
from recount.results.run_record import RunRecord
from recount.results.scores import ALL_SEEDS
from recount.scoring.statistics import Difference, holm, paired_difference

SIGNIFICANT = 0.05  # of the adjusted p value
# What the comparison calls the parts of run.json. A command line says nothing that the settings do not.
PARTS = {
    "settings": "settings",
    "recipe": "recipe",
    "run": "run",
    "precision": "precision_used",
    "device": "provenance.device",
    "hardware": "provenance.hardware",
    "python": "provenance.python",
    "packages": "provenance.packages",
    "recount": "provenance.recount",
    "commit": "provenance.commit",
    "uncommitted changes": "provenance.dirty",
    "code of the step": "provenance.code",
    "data": "provenance.data",
    "checkpoint": "checkpoint",
}
OUTCOMES = {
    "identical": "the same number, bit for bit",
    "agree": "no difference beyond chance (adjusted p of 0.05 or more)",
    "differ": "a difference beyond chance (adjusted p below 0.05)",
    "no interval": "two numbers, but no predictions of the same images to say how sure their difference is",
    "other data": "scored on other data, or against other true counts: not to be compared",
    "only A": "B has no number",
    "only B": "A has no number",
    "neither": "no number on either side",
}


@dataclass(frozen=True)
class Place:
    """Which cell of which table."""

    paper: str
    table: str
    row: str
    system: str
    variant: str
    benchmark: str
    selection: str
    metric: str


KEY = [field.name for field in fields(Place)]


@dataclass(frozen=True, slots=True)
class Side:
    """A cell of one reproduction; value NaN where there is none."""

    value: float = math.nan
    low: float = math.nan
    high: float = math.nan
    sd: float = math.nan
    n: float = math.nan
    seeds: str = ""
    dataset: str = ""
    status: str = ""
    reason: str = ""


@dataclass(frozen=True)
class ComparedCell(Place):
    """A cell of a table in both reproductions; numbers are NaN where there are none."""

    a: Side
    b: Side
    difference: float  # B minus A
    low: float  # its 95 % interval over images
    high: float
    p_value: float  # adjusted for the number of comparisons
    outcome: str  # a key of OUTCOMES
    why: str  # what the outcome rests on, where that is not plain


@dataclass(frozen=True, slots=True)
class Changed:
    """Something that differed in how runs were made: part and key, the two values, and which runs."""

    part: str
    key: str
    a: str
    b: str
    runs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ComparedVerdict:
    """What both say of a paper's claim on one kind of evidence; "" where one has no verdict."""

    paper: str
    claim: str
    evidence: str
    a: str
    b: str


@dataclass(frozen=True, slots=True)
class ComparedRun:
    """A run that both have: its seconds, and whether the weights of every selection are the same bytes."""

    run: str
    seconds_a: float
    seconds_b: float
    same_weights: bool


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two reproductions side by side."""

    a: str  # path of what was compared
    b: str
    cells: tuple[ComparedCell, ...]  # that either has
    verdicts: tuple[ComparedVerdict, ...]  # on claims that either judged
    changed: tuple[Changed, ...]  # in runs that both have
    runs: tuple[ComparedRun, ...]  # that both have
    only_a: tuple[str, ...]  # runs
    only_b: tuple[str, ...]

    @property
    def outcomes(self) -> dict[str, int]:
        """Return how many cells have each outcome, in the order of ``OUTCOMES``."""
        found = [cell.outcome for cell in self.cells]
        return {outcome: found.count(outcome) for outcome in OUTCOMES if outcome in found}


def compare(a: Reproduction, b: Reproduction) -> Comparison:
    """Return two reproductions side by side.

    Raises:
        ReproductionError, ResultsError: they have no cell in common, or a file of one cannot be read.
    """
    cells = list(_adjusted([_compared(place, *sides, a, b) for place, sides in _sides(a, b)]))
    if not cells or not any(cell.a.status and cell.b.status for cell in cells):
        raise ReproductionError(f"{a.path} and {b.path} have no cell of any table in common")
    common = [run for run in a.records if run in b.records]
    return Comparison(
        a=str(a.path),
        b=str(b.path),
        cells=tuple(cells),
        verdicts=tuple(
            ComparedVerdict(*key, a.verdicts.get(key, ""), b.verdicts.get(key, ""))
            for key in dict.fromkeys([*a.verdicts, *b.verdicts])
        ),
        changed=tuple(_changed({run: (a.records[run], b.records[run]) for run in common})),
        runs=tuple(_compared_run(run, a.records[run], b.records[run]) for run in common),
        only_a=tuple(run for run in a.records if run not in b.records),
        only_b=tuple(run for run in b.records if run not in a.records),
    )


# --------------------------------------------------------------------------------------------------------------- cells


def _sides(a: Reproduction, b: Reproduction) -> Iterator[tuple[Place, tuple[Side, Side]]]:
    """Yield the cells of both in the order of A, then those that only B has.

    A missing cell has no selection: beside cells of the other side that have one, it stands for each of them.
    """
    ours, theirs = _cells(a), _cells(b)
    places = dict.fromkeys([*ours, *theirs])
    selected = {replace(place, selection="") for place in places if place.selection}
    for place in places:
        if place not in selected:
            without = replace(place, selection="")
            one, other = (cells.get(place) or cells.get(without, Side()) for cells in (ours, theirs))
            yield place, (one, other)


def _cells(side: Reproduction) -> dict[Place, Side]:
    scores = side.scores
    whole = scores["seed"].isin(["", ALL_SEEDS])
    seeds = scores[~whole].groupby(KEY, sort=False)["seed"].agg(" ".join).to_dict()
    cells: dict[Place, Side] = {}
    for row in scores[whole].to_dict("records"):
        key = tuple(str(row[name]) for name in KEY)
        measured = row["status"] not in ("quoted", "missing")  # score repeats a quoted row's printed number
        cells[Place(*key)] = Side(
            value=row["value"] if measured else math.nan,
            low=row["ci_low"],
            high=row["ci_high"],
            sd=row["sd"],
            n=row["n"],
            seeds=seeds.get(key, ""),
            dataset=row["dataset"],
            status=row["status"],
            reason=row["reason"],
        )
    return cells


def _compared(place: Place, one: Side, other: Side, a: Reproduction, b: Reproduction) -> ComparedCell:
    """Compare a cell; its p value is not adjusted yet, and a difference with one has no outcome yet."""
    outcome, why = _plain_outcome(one, other)
    found = Difference(other.value - one.value)
    if outcome == "no interval":
        paired = _paired(place, one, a, b)
        if not isinstance(paired, Difference):
            outcome, why = paired
        elif not math.isclose(paired.value, found.value, rel_tol=1e-6, abs_tol=1e-6):
            why = "the predictions do not give these scores: score again"
        elif math.isfinite(paired.p_value):
            found, outcome = paired, ""
    difference = math.nan if outcome == "other data" else found.value
    return ComparedCell(
        **asdict(place), a=one, b=other, difference=difference, low=found.low, high=found.high, p_value=found.p_value,
        outcome=outcome, why=why,
    )  # fmt: skip


def _plain_outcome(one: Side, other: Side) -> tuple[str, str]:
    """Return the outcome that follows without looking at predictions, and why."""
    there = [not math.isnan(side.value) for side in (one, other)]
    if not any(there):
        return "neither", ""
    if not all(there):
        lacking = one if there[1] else other
        return ("only B" if there[1] else "only A"), lacking.reason or "no such cell"
    if one.dataset != other.dataset:
        return "other data", f"{one.dataset or 'nothing'} and {other.dataset or 'nothing'}"
    if one.value == other.value:
        return "identical", ""
    return "no interval", ""


def _paired(place: Place, one: Side, a: Reproduction, b: Reproduction) -> Difference | tuple[str, str]:
    """Return B minus A over the images, or an outcome and why there is no such difference."""
    metric = METRICS.get(place.metric)
    if metric is None:
        return "no interval", "not computed from the predictions of images"
    sides = [side.predictions(one.dataset, place.system, place.variant, place.selection) for side in (a, b)]
    if not all(sides):
        lacking = " and ".join(name for name, side in zip("AB", sides, strict=True) if not side)
        return "no interval", f"no predictions in {lacking}"
    first = next(iter(sides[0].values()))
    tables = [table for side in sides for table in side.values()]
    if any(not table.index.is_unique or set(table.index) != set(first.index) for table in tables):
        return "other data", "predictions of other images"
    true = first["true_count"]
    if any(not np.array_equal(table.loc[first.index, "true_count"], true) for table in tables):
        return "other data", "other true counts of the same images"
    counts = [np.stack([table.loc[first.index, "predicted_count"] for table in side.values()]) for side in sides]
    return paired_difference(metric, true.to_numpy(), counts[1], counts[0])


def _adjusted(cells: Sequence[ComparedCell]) -> Iterator[ComparedCell]:
    """Yield cells with adjusted p values and the outcomes that follow from them."""
    # A system's number may stand in several tables; it is one comparison.
    waiting = {_comparison(cell): cell.p_value for cell in cells if not cell.outcome}
    adjusted = dict(zip(waiting, holm(list(waiting.values())).tolist(), strict=True)) if waiting else {}
    for cell in cells:
        if cell.outcome:
            yield cell
        else:
            p_value = adjusted[_comparison(cell)]
            yield replace(cell, p_value=p_value, outcome="differ" if p_value < SIGNIFICANT else "agree")


def _comparison(cell: ComparedCell) -> tuple[str, ...]:
    return cell.system, cell.variant, cell.benchmark, cell.selection, cell.metric


# ---------------------------------------------------------------------------------------------------------------- runs


def _changed(records: Mapping[str, tuple[RunRecord, RunRecord]]) -> Iterator[Changed]:
    """Yield what differs in the records of runs that both have, each once with the runs it concerns."""
    found: dict[tuple[str, str, str, str], list[str]] = {}
    for run, sides in records.items():
        contents = [record.model_dump(mode="json", exclude_unset=True) for record in sides]
        for part, path in PARTS.items():
            first, second = (_flat_part(content, path) for content in contents)
            for key in dict.fromkeys([*first, *second]):
                values = first.get(key, "absent"), second.get(key, "absent")
                if values[0] != values[1]:
                    found.setdefault((part, key, *values), []).append(run)
    order = list(PARTS)
    for (part, key, first_value, other_value), runs in sorted(found.items(), key=lambda item: order.index(item[0][0])):
        yield Changed(part, key, first_value, other_value, tuple(runs))


def _flat_part(record: Mapping[str, Any], path: str) -> dict[str, str]:
    part: Any = record
    for name in path.split("."):
        part = (part or {}).get(name)
    if isinstance(part, Mapping):
        return flat(part)
    return {} if part is None else {"": str(part)}


def _compared_run(run: str, one: RunRecord, other: RunRecord) -> ComparedRun:
    a, b = (math.nan if record.cost.wall_seconds is None else record.cost.wall_seconds for record in (one, other))
    first, second = ({name: model.sha256 for name, model in side.selections.items()} for side in (one, other))
    return ComparedRun(run, a, b, same_weights=first == second)

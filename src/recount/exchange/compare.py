"""``recount compare``: two reproductions side by side, and what differed in how they were made.

A cell is the mean over seeds that scores.csv has for a row, column and selection of a paper's table. Where both sides
predict the same images with the same true counts, its difference has an interval and a p value over images and seeds
(``scoring.statistics``), adjusted by Holm's rule, so that of many cells that agree none "differs" by chance.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from recount.errors import UserError
from recount.exchange.reproduction import Reproduction
from recount.metrics import METRICS
from recount.reference import ROUNDING
from recount.results.run_record import RunRecord
from recount.results.scores import ALL_SEEDS
from recount.scoring.statistics import Difference, holm, paired_difference
from recount.settings.drift import flat

SIGNIFICANT = 0.05  # of the adjusted p value
_TABLES = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))
PARTS: dict[str, str] = _TABLES["parts"]
OUTCOMES: dict[str, str] = _TABLES["outcomes"]


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

    @property
    def comparison(self) -> tuple[str, ...]:
        """What is compared: a system's number that stands in several tables is one comparison."""
        return self.system, self.variant, self.benchmark, self.selection, self.metric


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
    """What both say of a paper's claim on one kind of evidence."""

    paper: str
    claim: str
    evidence: str
    a: str  # "" where it has no verdict
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
    unexplained: tuple[str, ...]  # other predictions from identical weights, beyond rounding
    unfit: tuple[str, ...]  # files that were not used, and why

    @property
    def outcomes(self) -> dict[str, int]:
        """How many cells have each outcome, in the order of ``OUTCOMES``."""
        found = [cell.outcome for cell in self.cells]
        return {outcome: found.count(outcome) for outcome in OUTCOMES if outcome in found}


def compare(a: Reproduction, b: Reproduction) -> Comparison:
    """Return two reproductions side by side; UserError if they have no cell in common."""
    cells = list(_adjusted([_compared(place, *sides, a, b) for place, sides in _sides(a, b)]))
    if not any(cell.a.status and cell.b.status for cell in cells):
        raise UserError(f"{a.path} and {b.path} have no cell of any table in common")
    claims = dict.fromkeys([*a.verdicts, *b.verdicts])
    common = {run: (record, b.records[run]) for run, record in a.records.items() if run in b.records}
    return Comparison(
        a=str(a.path),
        b=str(b.path),
        cells=tuple(cells),
        verdicts=tuple(ComparedVerdict(*key, a.verdicts.get(key, ""), b.verdicts.get(key, "")) for key in claims),
        changed=tuple(_changed(common)),
        runs=tuple(_compared_run(run, *records) for run, records in common.items()),
        only_a=tuple(run for run in a.records if run not in b.records),
        only_b=tuple(run for run in b.records if run not in a.records),
        unexplained=tuple(_unexplained(a, b)),
        unfit=tuple(f"{side}: {why}" for side, of in (("A", a), ("B", b)) for why in of.unfit.values()),
    )


def _sides(a: Reproduction, b: Reproduction) -> Iterator[tuple[Place, tuple[Side, Side]]]:
    """Yield the cells of A, then those that only B has; a missing cell, without a selection, stands for all of them."""
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
        why = side.why_unfit(str(row["dataset"]), str(row["system"]), str(row["variant"])) if measured else ""
        if why:
            cells[Place(*key)] = Side(dataset=row["dataset"], status="missing", reason=why)
            continue
        numbers = row["value"] if measured else math.nan, row["ci_low"], row["ci_high"], row["sd"], row["n"]
        cells[Place(*key)] = Side(*numbers, seeds.get(key, ""), row["dataset"], row["status"], row["reason"])
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
        **vars(place), a=one, b=other, difference=difference, low=found.low, high=found.high, p_value=found.p_value,
        outcome=outcome, why=why,
    )  # fmt: skip


def _plain_outcome(one: Side, other: Side) -> tuple[str, str]:
    """Return the outcome that follows without looking at predictions, and why."""
    match math.isnan(one.value), math.isnan(other.value):
        case True, True:
            return "neither", ""
        case True, False:
            return "only B", one.reason or "no such cell"
        case False, True:
            return "only A", other.reason or "no such cell"
    if one.dataset != other.dataset:
        return "other data", f"{one.dataset or 'nothing'} and {other.dataset or 'nothing'}"
    return ("identical" if one.value == other.value else "no interval"), ""


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
    waiting = {cell.comparison: cell.p_value for cell in cells if not cell.outcome}
    adjusted = dict(zip(waiting, holm(list(waiting.values())).tolist(), strict=True)) if waiting else {}
    for cell in cells:
        if cell.outcome:
            yield cell
        else:
            p_value = adjusted[cell.comparison]
            yield replace(cell, p_value=p_value, outcome="differ" if p_value < SIGNIFICANT else "agree")


def _changed(records: Mapping[str, tuple[RunRecord, RunRecord]]) -> Iterator[Changed]:
    """Yield what differs in the records of runs that both have, each once with the runs it concerns."""
    contents = {
        run: [record.model_dump(mode="json", exclude_unset=True) for record in sides] for run, sides in records.items()
    }
    for part, path in PARTS.items():
        found: dict[tuple[str, str, str], list[str]] = {}
        for run, (one, other) in contents.items():
            first, second = _flat_part(one, path), _flat_part(other, path)
            for key in dict.fromkeys([*first, *second]):
                if first.get(key) != second.get(key):
                    found.setdefault((key, first.get(key, "absent"), second.get(key, "absent")), []).append(run)
        for what, runs in found.items():
            yield Changed(part, *what, tuple(runs))


def _unexplained(a: Reproduction, b: Reproduction) -> Iterator[str]:
    """Yield which predictions differ though the same weights made them: an edit, or another device or code."""
    for name in (name for name in a.names if name in b.names and name.startswith("predictions/")):
        if not name.endswith(".csv") or name in a.unfit or name in b.unfit:
            continue
        models = [side.timing(name).made.models for side in (a, b)]
        place, run = name.removesuffix(".csv").split("/")[1:3], "/".join(name.removesuffix(".csv").split("/")[3:])
        for selection in (chosen for chosen, model in models[0].items() if models[1].get(chosen) == model):
            system, variant, seed = run.split("/")
            tables = [
                side.predictions("/".join(place), system, variant, selection).get(seed.removeprefix("seed"))
                for side in (a, b)
            ]
            if tables[0] is None or tables[1] is None:
                continue
            one, other = tables[0]["predicted_count"].align(tables[1]["predicted_count"], join="inner")
            apart = (one - other).abs().fillna(0)
            changed = apart > ROUNDING * one.abs().clip(lower=1)
            if changed.any():
                worst = int(apart.to_numpy().argmax())
                most = f"most {one.index[worst][0]}, {one.iloc[worst]:g} and {other.iloc[worst]:g}"
                where = f"{run} ({selection}) on {'/'.join(place)}"
                yield f"{where}: {changed.sum()} of {len(one)} ({most}): edited, or another device or code"


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

"""The reference run that recount comes with, and in which cells a suite's results agree with it.

``recount reference --write`` makes it from a suite's results (``results.reference`` has its files).

A cell is one measurement: a system's metric on a split with one selection, over seeds. Its seeds there are a sample of
the recipe's trainings, those here another; that both have one mean is tested by the rules of the verdicts (``decide``:
scatter over seeds on the log or logit scale, with other variants of the system where an F test lets them; pictures are
the same and play no part). Of all cells tested, those differ whose q (Benjamini and Hochberg) is at most 5 %. Seeds
with one number on two machines are not independent, which makes the test say "differs" too seldom, never too often.
"""

from __future__ import annotations

import csv
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np

from recount.chain import MEASURED, Chain
from recount.errors import UserError
from recount.judging.estimates import of_rounding, scaled
from recount.judging.verdicts import ALPHA, MIN_SEEDS, Finding, Pool, SeedArm, benjamini_hochberg, decide
from recount.metrics import metric as metric_of
from recount.provenance import COMPUTING
from recount.results.files import Made, file_digest, now
from recount.results.reason import Missing
from recount.results.reference import (
    FILES,
    SCORES,
    TABLES,
    Reference,
    ReferenceFile,
    ReferenceScore,
    folder_of,
    machine,
    read,
)
from recount.results.run_record import RunRecord
from recount.results.scores import ALL_SEEDS, Score
from recount.settings.project import Project

THREADS = "training_threads"
ROUNDING = 1e-3  # share of a number that another processor may change where no training is random
NAMED = 3  # cells that differ which a sentence names
WHY = "docs/reproducing.md says what then stays equal"
Outcome = Literal["identical", "agrees", "differs", "other settings", "other data", "not here", "undefined"]
COMPARED: tuple[Outcome, ...] = ("identical", "agrees", "differs")


Cell = tuple[str, str, str, str, str]  # system, variant, <data set>/<split>, selection, metric


@dataclass(frozen=True, slots=True)
class ComparedCell:
    """A cell of the reference, and what it is here; numbers are means over seeds, NaN where there are none."""

    system: str
    variant: str
    dataset: str
    selection: str
    metric: str
    reference: float
    sd: float  # of the reference's seeds
    here: float = math.nan
    seeds: str = ""  # here
    outcome: Outcome = "not here"
    p_value: float = math.nan
    q_value: float = math.nan
    why: str = ""

    @property
    def words(self) -> str:
        """Return it in words: what, here and there."""
        shown = metric_of(self.metric)
        where = f"{self.system}/{self.variant} on {self.dataset} ({self.selection.replace('_', ' ')})"
        return f"{where}: {shown.label} {self.here:.4g} here, {self.reference:.4g} ± {self.sd:.2g} there"


@dataclass(frozen=True)
class Agreement:
    """In which cells the results of a suite agree with its reference."""

    reference: Reference
    cells: tuple[ComparedCell, ...]  # of the reference
    files: dict[str, bool]  # predictions that both have: whether they are the same bytes
    apart: tuple[str, ...]  # what differs in how both were made

    @cached_property
    def outcomes(self) -> dict[Outcome, list[ComparedCell]]:
        """Return the cells by outcome, those that differ most clearly first."""
        found: dict[Outcome, list[ComparedCell]] = defaultdict(list)
        for cell in sorted(self.cells, key=lambda cell: cell.p_value):
            found[cell.outcome].append(cell)
        return found

    @property
    def sentence(self) -> str:
        """Return in how many cells both agree."""
        number = {outcome: len(self.outcomes.get(outcome, ())) for outcome in COMPARED}
        if not sum(number.values()):
            return "Nothing here can be compared with the reference run."
        same, agree = number["identical"], number["identical"] + number["agrees"]
        files = f"{sum(self.files.values())} of {len(self.files)} files of predictions are the same byte by byte"
        return (
            f"Agrees with the reference in {agree} of {sum(number.values())} cells ({same} of them identical, "
            f"{number['agrees']} within chance); {files}."
        )

    @property
    def differs(self) -> str:
        """Return which cells differ ("" if none)."""
        found = self.outcomes.get("differs", [])
        more = f"; and {len(found) - NAMED} more" if len(found) > NAMED else ""
        return f"Differs here: {'; '.join(cell.words for cell in found[:NAMED])}{more}." if found else ""

    @property
    def named(self) -> str:
        """Return which cells differ, without their numbers ("" if none)."""
        found = [
            f"{c.system}/{c.variant} on {c.dataset} ({metric_of(c.metric).label})"
            for c in self.outcomes.get("differs", ())
        ]
        return f"Differs here: {_some(list(dict.fromkeys(found)))}." if found else ""

    @property
    def not_compared(self) -> str:
        """Return how many cells were not compared, by reason ("" if all were)."""
        others = {name: len(found) for name, found in self.outcomes.items() if name not in COMPARED}
        return f"Not compared: {', '.join(f'{count} ({name})' for name, count in others.items())}." if others else ""

    @property
    def reasons(self) -> str:
        """Return what differs in the making ("" where all that was compared is identical, or nothing is known)."""
        unlike = self.outcomes.get("agrees") or self.outcomes.get("differs")
        return f"Made otherwise: {'; '.join(self.apart)} ({WHY})." if unlike and self.apart else ""

    @property
    def lines(self) -> list[str]:
        """Return all of it in sentences."""
        return [line for line in (self.sentence, self.differs, self.reasons, self.not_compared) if line]


def agreement(project: Project, chain: Chain | None = None) -> Agreement | None:
    """Return how the suite's results, as far as they fit, agree with its reference; None where it has none."""
    found = read(folder_of(project))
    if found is None:
        return None
    record, scores, files = found
    chain = chain or Chain(project)
    here = _by_cell(_measured(project, chain.scores()))
    there = _by_cell(scores)
    records = _records(project, chain)
    other = {run for run, made in records.items() if record.planned.get(run, made.planned) != made.planned}
    data = {name for name, digest in chain.data_now().items() if record.made.data.get(name, digest) != digest}
    trained = {run.evaluation_id: run.training_id for run in project.evaluations}
    cells = []
    for cell, values in there.items():
        bare = ComparedCell(*cell, float(np.mean(_values(values))), _sd(values))
        mine = here.get(cell)
        if mine is None:
            cells.append(bare)
            continue
        seeds = {f"{cell[0]}/{cell[1]}/seed{seed}" for seed in mine}
        bare = replace(bare, here=float(np.mean(_values(mine))), seeds=" ".join(map(str, mine)))
        if {trained.get(run, run) for run in seeds} & other:
            cells.append(replace(bare, outcome="other settings"))
        elif cell[2].partition("/")[0] in {name.partition("/")[0] for name in data}:
            cells.append(replace(bare, outcome="other data"))
        else:
            cells.append(_compared(bare, values, mine, _pool(cell, there)))
    digests = chain.digests("predictions")
    same = {entry.path: digests[entry.path] == entry.sha256 for entry in files if digests.get(entry.path)}
    return Agreement(record, tuple(_judged(cells)), same, tuple(_apart(record, list(records.values()), data)))


def _values(scores: Mapping[int, ReferenceScore]) -> list[float]:
    return [score.value for score in scores.values()]


def _sd(scores: Mapping[int, ReferenceScore]) -> float:
    return float(np.std(_values(scores), ddof=1)) if len(scores) > 1 else math.nan


def _by_cell(scores: Sequence[ReferenceScore]) -> dict[Cell, dict[int, ReferenceScore]]:
    found: dict[Cell, dict[int, ReferenceScore]] = defaultdict(dict)
    for s in scores:
        found[s.system, s.variant, s.dataset, s.selection, s.metric][s.seed] = s
    return found


def _measured(project: Project, rows: Sequence[Score]) -> list[ReferenceScore]:
    """Return each measurement once: under the run that is evaluated, on the split that was read."""
    evaluated = {run.id: run.evaluation_id for run in project.runs}
    found: dict[tuple[str, ...], ReferenceScore] = {}
    for row in rows:
        run = evaluated.get(f"{row.system}/{row.variant}/seed{row.seed}")
        if row.status in MEASURED and row.seed != ALL_SEEDS and metric_of(row.metric).scored and run:
            system, variant, seed = run.split("/")
            number = int(seed.removeprefix("seed"))
            score = ReferenceScore(
                system, variant, number, row.dataset, row.selection, row.metric, row.value, row.n
            )  # fmt: skip
            found.setdefault((run, row.dataset, row.selection, row.metric), score)
    return list(found.values())


def _records(project: Project, chain: Chain) -> dict[str, RunRecord]:
    found = {}
    for run in project.trainings:
        try:
            found[run.id] = chain.run(run)
        except (UserError, FileNotFoundError):
            continue
    return found


def _pool(cell: Cell, there: Mapping[Cell, Mapping[int, ReferenceScore]]) -> Pool:
    """Return how other variants of the cell's system scatter over seeds in the same place, as for the verdicts."""
    others: dict[str, tuple[float, int]] = {}
    for other, scores in there.items():
        values = _values(scores)
        if (other[0], *other[2:]) == (cell[0], *cell[2:]) and other != cell and np.ptp(values) > 0:
            try:
                on_scale, _ = scaled(metric_of(cell[4]), values, next(iter(scores.values())).n or 1)
            except Missing:
                continue
            others[f"{other[0]}/{other[1]}"] = float(np.var(on_scale, ddof=1)), len(values) - 1
    df = sum(entry[1] for entry in others.values())
    return Pool(sum(v * k for v, k in others.values()) / df, df, tuple(others)) if df else Pool()


def _compared(
    cell: ComparedCell, there: Mapping[int, ReferenceScore], here: Mapping[int, ReferenceScore], pool: Pool
) -> ComparedCell:
    """Return a cell with its outcome; one with a p value waits for its q."""
    if all(seed in there and there[seed].value == score.value for seed, score in here.items()):
        return replace(cell, outcome="identical")
    first = next(iter(there.values()))
    if first.n != next(iter(here.values())).n:
        return replace(cell, outcome="other data", why="another number of pictures")
    every = [*_values(there), *_values(here)]
    if np.ptp(every) <= ROUNDING * abs(cell.reference):
        return replace(cell, outcome="agrees", why="the same to rounding")
    shown, n = metric_of(cell.metric), first.n or 1
    try:
        values, slope = scaled(shown, every, n)
    except Missing as missing:
        return replace(cell, outcome="undefined", why=str(missing))
    finding = Finding(
        float(np.mean(values[len(there) :]) - np.mean(values[: len(there)])),
        scale="logit" if shown.is_share else "log",
        arms=(SeedArm("there", values[: len(there)], 1.0), SeedArm("here", values[len(there) :], 1.0)),
        pool=pool,
        least_variance=of_rounding(n, slope) if shown.is_share else 0.0,
    )
    return replace(cell, outcome="agrees", p_value=decide(finding).p_value)


def _judged(cells: Sequence[ComparedCell]) -> Iterator[ComparedCell]:
    for cell, q in zip(cells, benjamini_hochberg([cell.p_value for cell in cells]).tolist(), strict=True):
        yield replace(cell, q_value=q, outcome="differs") if q <= ALPHA else replace(cell, q_value=q)


def _apart(record: Reference, records: Sequence[RunRecord], data: set[str]) -> Iterator[str]:
    """Yield what is not as in the reference: kernels and processor first, for they change the order of sums."""
    origins = [made.provenance for made in records]

    def differing(what: str, there: str, here: Sequence[str]) -> Iterator[str]:
        others = [value for value in dict.fromkeys(here) if value != there]
        if others:
            yield f"{what} {', '.join(others) or 'unknown'} here, {there or 'unknown'} there"

    for key, what in (("kernels", "kernels"), ("cpu", "processor")):
        values = [str(origin.hardware.get(key, "unknown")) for origin in origins]
        yield from differing(what, str(record.origin.hardware.get(key, "unknown")), values)
    threads = [str(made.feeding.get(THREADS)) for made in records]
    yield from differing("threads", str(record.threads), threads)
    for name in COMPUTING:
        versions = [origin.packages.get(name, "") for origin in origins]
        yield from differing(name, record.origin.packages.get(name, ""), versions)
    code = sorted({r.run.system for r in records if record.code.get(r.run.system) != r.provenance.code})
    if code:
        yield f"other code of {', '.join(code)}"
    if data:
        yield f"other data: {', '.join(sorted(data))}"


def write(project: Project) -> Path:
    """Make the suite's results the reference, and return its folder.

    They must be whole, with several seeds, of one machine and commit; else a ``UserError`` says what they lack.
    """
    chain, seeds = Chain(project), project.config.seeds
    if len(seeds) < MIN_SEEDS:
        raise UserError(f'a reference has at least {MIN_SEEDS} seeds: --config "seeds=[0,1,2]"')
    records = _records(project, chain)
    absent = [run.id for run in project.trainings if run.id not in records]
    digests = chain.digests("predictions")
    absent += [name for name, digest in digests.items() if not digest]
    if absent:
        raise UserError(f"{project.results}: {len(absent)} results are not there, or do not fit: {_some(absent)}")
    origins = [record.provenance for record in records.values()]
    for what, values in {
        "machine": {machine(origin) for origin in origins},
        "commit": {str(origin.commit) for origin in origins},
        "packages": {str([origin.packages.get(name) for name in COMPUTING]) for origin in origins},
    }.items():
        if len(values) > 1:
            raise UserError(f"{project.results}: its runs are not of one {what}: {_some(sorted(values))}")
    scores = _measured(project, chain.scores())
    folder = folder_of(project)
    SCORES.write(folder / "scores.csv", sorted(scores, key=lambda s: (s.system, s.variant, s.dataset, s.seed)))
    FILES.write(folder / "predictions.csv", [ReferenceFile(*entry) for entry in sorted(digests.items())])
    data = {name: digest for record in records.values() for name, digest in record.provenance.data.items()}
    packages = {name: version for name, version in origins[0].packages.items() if name in COMPUTING}
    origin = origins[0].model_copy(update={"command": [], "packages": packages, "data": {}, "code": ""})
    Reference(
        suite=project.suite.name,
        when=now(),
        seeds=list(seeds),
        made=Made(content={name: file_digest(folder / name) for name in TABLES}, data=data | chain.data_now()),
        origin=origin,
        planned={name: record.planned for name, record in records.items()},
        code={record.run.system: record.provenance.code for record in records.values()},
        seconds=_seconds(project),
        threads=next(iter(records.values())).feeding.get(THREADS),
    ).write(folder / "reference.json")
    return folder


def _seconds(project: Project) -> dict[str, float]:
    """Return processor seconds that the workflow noted: of a training, mean over seeds, and of a job of each step."""
    folder = project.root / "benchmarks" / project.suite.name
    found: dict[str, list[float]] = defaultdict(list)
    for path in sorted(folder.rglob("*.tsv")):
        with path.open(encoding="utf-8", newline="") as file:
            seconds = [
                float(row["cpu_time"]) for row in csv.DictReader(file, delimiter="\t") if row["cpu_time"] != "NA"
            ]
        step, *rest = path.relative_to(folder).parts
        found["/".join([step, *rest[:-1]]) if step == "train" else step] += seconds
    return {what: float(np.mean(seconds)) for what, seconds in found.items() if seconds}


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")

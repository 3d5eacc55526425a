"""``recount plan``: what a suite would run, fetch and cost, before anything starts.

Jobs are counted by Snakemake's own dry run, so that they agree with ``snakemake -n``. GPU hours are of training: what
a run that has ended took, else what runs of the same system here took, scaled to the epochs, else what the suite quotes
with its source. The rest is counted as not known, never as zero. Downloads are the declared sizes of what is not there.
"""

import json
import os
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from recount import datasets
from recount.data.dataset import MANIFEST, Dataset, Source
from recount.documents import Document, Sheet, terminal
from recount.errors import UserError
from recount.fetching.by_hand import is_there
from recount.fetching.weights import WEIGHTS
from recount.results.files import ResultsError
from recount.results.run_record import read_run_record
from recount.settings.base import ConfigError, absent, merged, plugins, unknown
from recount.settings.project import Project, Run, default_recipe

COUNT_JOBS = "RECOUNT_COUNT_JOBS"  # environment variable: where the workflow is to write how many jobs it has


@dataclass(frozen=True)
class RunCost:
    """What a training run takes."""

    papers: tuple[str, ...]
    run: str
    gpu_hours: float | None  # None: not known
    basis: str
    done: bool  # it has ended


@dataclass(frozen=True)
class Download:
    """A data set or weights that are needed."""

    name: str
    title: str
    licence: str
    there: bool  # it was fetched
    bytes: int  # declared size of what is to be fetched
    unsized: int  # files without a declared size
    by_hand: str  # what to do where a needed file has no address, or a server refuses the pictures; else ""


@dataclass(frozen=True)
class Plan:
    """What ``recount plan`` shows."""

    suite: str
    papers: list[str]
    budget_gpu_hours: float | None
    jobs: dict[str, int]
    runs: list[RunCost] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)
    downloads: list[Download] = field(default_factory=list)

    def hours(self, paper: str | None = None) -> dict[str, Any]:
        """Return GPU hours by basis of a paper's trainings, or of all: one that two papers read counts once there."""
        mine = [run for run in self.runs if paper is None or paper in run.papers]
        by_basis: dict[str, float] = defaultdict(float)
        for run in mine:
            if run.gpu_hours is not None:
                by_basis[run.basis] += run.gpu_hours
        to_do = [run for run in mine if not run.done]
        return {
            "runs": len(mine),
            "done": len(mine) - len(to_do),
            "gpu_hours": sum(run.gpu_hours or 0.0 for run in to_do),
            "unknown": sum(run.gpu_hours is None for run in to_do),
            "by_basis": by_basis,
        }

    @property
    def bytes(self) -> int:
        """Return the declared size of all that is still to be fetched."""
        return sum(entry.bytes for entry in self.downloads)


def plan(project: Project, overrides: Mapping[str, Any]) -> Plan:
    """Return what the project would do now; Snakemake is told what the command line changed in config.yaml."""
    named = dict.fromkeys(run for paper in project.papers.values() for run in paper.runs)
    reasons = {run: project.not_run(*run.split("/", 1)) for run in named}
    return Plan(
        suite=project.suite.name,
        papers=list(project.papers),
        budget_gpu_hours=project.config.budget_gpu_hours,
        jobs=dry_run(project.root, overrides),
        runs=list(_run_costs(project)),
        left_out={run: reason for run, reason in reasons.items() if reason},
        downloads=list(_downloads(project)),
    )


def dry_run(root: Path, overrides: Mapping[str, Any]) -> dict[str, int]:
    """Return the number of jobs of each rule, as ``snakemake -n`` counts them; a failure has Snakemake's message."""
    settings = [f"{key}={json.dumps(value)}" for key, value in overrides.items()]
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(root / "Snakefile")]
    command += ["--dry-run", "--cores", "1", "--nocolor", *(["--config", *settings] if settings else [])]
    with TemporaryDirectory() as folder:
        counts = Path(folder) / "jobs.json"  # the workflow writes it (common.smk)
        environment = os.environ | {COUNT_JOBS: str(counts)}
        done = subprocess.run(command, check=False, cwd=root, capture_output=True, text=True, env=environment)
        if done.returncode:
            raise UserError(f"snakemake -n fails:\n{(done.stderr or done.stdout).strip()[-2000:]}")
        found: dict[str, int] = json.loads(counts.read_text(encoding="utf-8"))
    return found


def _run_costs(project: Project) -> Iterator[RunCost]:
    measured = {run.id: _measured(project, run) for run in project.trainings}
    readers = defaultdict(set)
    for run in project.runs:
        readers[run.training_id].add(f"{run.system}/{run.variant}")
    for run in project.trainings:
        papers = tuple(name for name, paper in project.papers.items() if readers[run.id] & set(paper.runs))
        own = measured[run.id]
        hours, basis = _estimate(project, run, measured) if own is None else (own[0], "measured here")
        yield RunCost(papers, run.id, hours, basis, done=own is not None)


def _measured(project: Project, run: Run) -> tuple[float, int] | None:
    """Return hours of the GPU, else of the processor, and epochs of a run that has ended."""
    try:
        record = read_run_record(project.root / project.run_folder(run))
    except ResultsError:
        return None
    seconds = record.cost.gpu_seconds or record.cost.wall_seconds
    return None if seconds is None else (seconds / 3600, max(record.selections["last"].epoch, 1))


def _estimate(project: Project, run: Run, measured: Mapping[str, tuple[float, int] | None]) -> tuple[float | None, str]:
    """Return the hours of a run that has not ended: from runs of its system here, or as the suite quotes."""
    quoted, source = project.gpu_hours(run.system, run.variant)
    if quoted == 0:
        return quoted, source
    ended = [value for name, value in measured.items() if value is not None and name.startswith(f"{run.system}/")]
    recipe = default_recipe(run.system)
    if ended and recipe is not None:
        epochs = merged(recipe, run.recipe)["epochs"]
        return sum(hours / done for hours, done in ended) / len(ended) * epochs, f"scaled from {len(ended)} runs here"
    return quoted, source


def check_data(project: Project) -> None:
    """Refuse settings that name a system, data set, split, preparation or weights that is not there; a line each."""
    known = plugins("systems")
    problems = [f"experiments/{s}.yaml: {unknown('system', s, known)}" for s in project.experiments if s not in known]
    problems += [problem for name in project.stand_ins for problem in _stand_in_problems(project, name)]
    for name in project.config.accept:
        problems += absent("config.yaml: accept", "data set", name, datasets.names())
    where = f"suites/{project.suite.name}.yaml"
    for name, system in project.suite.systems.items():
        sets = {split.dataset for run in project.runs if run.system == name for split in run.splits}
        every = {
            preparation for dataset in sets & {*datasets.names()} for preparation in datasets.load(dataset).preparations
        }
        if system.preparation is not None and every:
            problems += absent(f"{where}: systems.{name}.preparation", "preparation", system.preparation, every)
    problems += [
        f"{where}: {run.system}/{run.variant}: weights:{weights}: {unknown('file of weights', weights, WEIGHTS)}"
        for run in project.runs
        for weights in run.weights
        if weights not in WEIGHTS
    ]
    if problems:
        raise ConfigError("\n".join(dict.fromkeys(problems)))


def _stand_in_problems(project: Project, benchmark: str) -> list[str]:
    entry = project.stand_ins[benchmark]
    suite = f"suites/{project.suite.name}.yaml"
    given = benchmark in project.suite.benchmarks
    where = f"{suite}: benchmarks.{benchmark}" if given else f"{suite} and benchmarks.yaml: {benchmark}"
    name = str(entry.dataset)
    if not (problems := [*absent(f"{where}: dataset", "data set", name, datasets.names())]):
        dataset = datasets.load(name)
        for split in str(entry.split).split("+"):
            problems += absent(f"{where}: split", f"split of {name}", split, dataset.splits)
        problems += absent(f"{where}: preparation", f"preparation of {name}", entry.preparation, dataset.preparations)
    return problems


def needed_sources(project: Project) -> Iterator[tuple[Source, Path]]:
    """Yield the data sets and weights that the project's runs need, each with its folder."""
    for name in dict.fromkeys(split.dataset for run in project.runs for split in run.splits):
        source = datasets.load(name)
        if not source.embedded:
            yield source, project.root / project.raw / name
    for name in dict.fromkeys(name for run in project.runs for name in run.weights):
        yield WEIGHTS[name], project.root / project.weights / name


def _downloads(project: Project) -> Iterator[Download]:
    for source, folder in needed_sources(project):
        files = [file for file in source.files() if file.urls or not file.optional]
        there = (folder / MANIFEST).is_file()
        absent = [file for file in files if not is_there(file, folder)]
        nowhere = not there and any(not file.urls for file in absent)  # needed, as optional ones have addresses here
        pictures = isinstance(source, Dataset) and source.lacks_pictures(folder)
        yield Download(
            name=source.name,
            title=source.title,
            licence=source.licence,
            there=there,
            bytes=0 if there else sum(file.bytes or 0 for file in absent),
            unsized=0 if there else sum(file.bytes is None for file in absent),
            by_hand=(source.by_hand or "see its homepage") if nowhere or pictures else "",
        )


def show(found: Plan, console: Console) -> None:
    """Print the plan for people."""

    def say(line: str) -> None:
        console.print(line, highlight=False, soft_wrap=True)

    console.print(f"[bold]Suite {found.suite}[/]: {', '.join(found.papers)}")
    jobs = ", ".join(f"{number} {rule}" for rule, number in found.jobs.items())
    console.print(f"Jobs: {sum(found.jobs.values())} ({jobs})" if jobs else "Jobs: nothing to be done")
    console.print(_hours_table(found))
    if found.left_out:
        console.print("[bold]Not run[/]")
        for reason in dict.fromkeys(found.left_out.values()):
            names = ", ".join(name for name, why in found.left_out.items() if why == reason)
            say(f"  {reason}: {names}")
    if found.downloads:
        console.print(_downloads_table(found.downloads))
        unsized = sum(entry.unsized for entry in found.downloads)
        more = f", and {unsized} files whose size is not declared" if unsized else ""
        say(
            f"Disk: {found.bytes / 1e9:.1f} GB to fetch{more}; archives are unpacked beside themselves, and pictures "
            "are stored once more as prepared: keep three times that free, and the models' space for each run"
        )
    for entry in found.downloads:
        if entry.by_hand:
            say(f"[bold]By hand: {entry.name}[/] ({escape(entry.licence)}): {escape(entry.by_hand)}")


def _hours_table(found: Plan) -> Table:
    table = Table("Paper", "Runs", "Done", "GPU hours to do", "Of unknown cost", "Basis", title="Training")

    def add(name: str, hours: Mapping[str, Any], basis: str) -> None:
        to_do = _hours(hours["gpu_hours"])
        table.add_row(name, str(hours["runs"]), str(hours["done"]), to_do, str(hours["unknown"]), basis)

    for paper in found.papers:
        hours = found.hours(paper)
        basis = "; ".join(f"{_hours(value)} h {name}" for name, value in hours["by_basis"].items() if value)
        add(paper, hours, basis or "–")
    if len(found.papers) > 1:
        table.add_section()
        add("all", found.hours(), "")
    return table


def _hours(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _downloads_table(downloads: Iterable[Download]) -> Table:
    table = Table("What", "Size", "There", "Licence", title="Downloads")
    for entry in downloads:
        size = [f"{entry.bytes / 1e6:,.1f} MB"] if entry.bytes else []
        if entry.unsized:
            size.append(f"{entry.unsized} file{'s' if entry.unsized > 1 else ''} of unknown size")
        table.add_row(entry.name, " + ".join(size) or "–", "yes" if entry.there else "no", entry.licence)
    return table


def document(found: Plan) -> Document:
    """Return the plan as a document; its table has a row for each training."""
    stream = StringIO()
    show(found, Console(file=stream, width=terminal().width if sys.stdout.isatty() else 100, color_system=None))
    text = [line.rstrip() for line in stream.getvalue().splitlines()]
    content = asdict(found) | {"hours": {paper: found.hours(paper) for paper in found.papers}, "bytes": found.bytes}
    heads = ("Run", "Papers", "GPU hours", "Basis", "Done")
    rows = [(r.run, ", ".join(r.papers), "?" if r.gpu_hours is None else _hours(r.gpu_hours), r.basis,
             "yes" if r.done else "no") for r in found.runs]  # fmt: skip
    sheets = [Sheet("Trainings", heads, rows), Sheet("Not run", ("Run", "Why"), [*found.left_out.items()])]
    downloads = [(d.name, d.title, f"{d.bytes / 1e6:,.1f} MB", "yes" if d.there else "no", d.by_hand, d.licence)
                 for d in found.downloads]  # fmt: skip
    sheets.append(Sheet("Downloads", ("What", "Title", "Size", "There", "By hand", "Licence"), downloads))
    columns = ("run", "papers", "gpu_hours", "basis", "done")
    table = [(r.run, " ".join(r.papers), r.gpu_hours, r.basis, str(r.done).lower()) for r in found.runs]
    return Document(f"Plan of suite {found.suite}", text[:2], sheets, content, columns, table, plain=text)

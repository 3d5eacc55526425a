"""``recount plan``: what a suite would run, fetch and cost, before anything starts.

Jobs are counted by Snakemake's own dry run, so that they agree with ``snakemake -n``. GPU hours are of training: what a
run that has ended took, else what runs of the same system here took, scaled to the epochs, else what a rehearsal here
measured, else a model of the card (``rehearsal.costs``), with what the suite quotes beside it; where nobody knows, the
time of one job. Downloads are the declared sizes of what is not there, else estimates (``rehearsal.disk``).
"""

import json
import logging
import os
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from recount import datasets
from recount.data.dataset import MANIFEST, Dataset, Source
from recount.data.needs import unmet
from recount.documents import Document, Sheet, terminal
from recount.errors import UserError
from recount.fetching.by_hand import is_there
from recount.fetching.fetch import on_mirror, pictures_by_hand
from recount.fetching.weights import WEIGHTS
from recount.provenance import cpu_name, visible_gpus
from recount.rehearsal import costs, disk
from recount.rehearsal.disk import Prepared
from recount.results.files import ResultsError
from recount.results.reference import folder_of, machine, read_record
from recount.results.rehearsals import read_rehearsals
from recount.results.run_record import read_run_record
from recount.settings.base import ConfigError, absent, merged, plugins, unknown
from recount.settings.project import NO_TRAINING, Project, Run, Split, default_recipe, load
from recount.settings.schemas import cache_of_snakemake, system_schema

if TYPE_CHECKING:  # the rules of the verdicts load scipy, which each job of the workflow would wait for
    from recount.cheapest import Step

ONE_JOB = "one job (training_minutes), until it is rehearsed"
UNREAD = "not all of Snakemake's records may be read"  # words of the workflow, which the plan passes on
COUNT_JOBS = "RECOUNT_COUNT_JOBS"  # environment variable: where the workflow is to write how many jobs it has


@dataclass(frozen=True)
class RunCost:
    """What a training run takes."""

    papers: tuple[str, ...]
    run: str
    gpu_hours: float
    basis: str
    done: bool  # it has ended
    published_hours: float | None = None  # what the suite quotes
    published_source: str = ""
    peak_bytes: int | None = None  # of a card's memory, as counted for a whole batch


@dataclass(frozen=True)
class Needs:
    """What a training, and all that reads it, needs on disks."""

    state: int  # bytes, while it is unfinished
    model: int  # bytes
    copies: int  # of the model: the last one, and those chosen
    prepared: tuple[str, ...]  # <data set>/<preparation>
    sources: tuple[str, ...]  # data sets and weights


@dataclass(frozen=True)
class Download:
    """A data set or weights that are needed."""

    name: str
    title: str
    licence: str
    there: bool  # it was fetched
    bytes: int  # declared size of what is to be fetched
    unsized: int  # files without a declared size
    about: int  # bytes of these, as estimated
    on_disk: int  # bytes, with what is unpacked from archives
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
    path: list["Step"] = field(default_factory=list)  # the cheapest to verdicts, from what is there
    minutes: float | None = None  # of a processor, of all jobs; None: not known
    minutes_basis: str = ""
    claims: dict[str, tuple[str, ...]] = field(default_factory=dict)  # claim -> system/variant that decide it
    needs: dict[str, Needs] = field(default_factory=dict)  # of each run
    prepared: list[Prepared] = field(default_factory=list)

    def takes(self, runs: Iterable[RunCost]) -> dict[str, float]:
        """Return what is still to come of some trainings: hours, and GB of downloads, of disks by kind, of the sum.

        Of states there are the two of the largest at once, as one is written beside the last.
        """
        to_do = [run for run in runs if not run.done]
        needs = [self.needs[run.run] for run in to_do if run.run in self.needs]
        sources = {name for need in needs for name in need.sources}
        prepared = {name for need in needs for name in need.prepared}
        absent = [entry for entry in self.downloads if entry.name in sources and not entry.there]
        sizes = {
            "fetched": sum(entry.on_disk for entry in absent),
            "prepared": sum(entry.bytes for entry in self.prepared if entry.name in prepared and not entry.there),
            "models": sum(need.model * need.copies for need in needs),
            "states": 2 * max((need.state for need in needs), default=0),
        }
        sizes |= {"disk": sum(sizes.values()), "downloads": sum(entry.bytes + entry.about for entry in absent)}
        return {"gpu_hours": sum(run.gpu_hours for run in to_do)} | {name: size / 1e9 for name, size in sizes.items()}

    def of_claim(self, claim: str) -> list[RunCost]:
        """Return the runs of the trainings that decide a claim."""
        return [run for run in self.runs if run.run.rpartition("/")[0] in self.claims[claim]]

    def hours(self, paper: str | None = None) -> dict[str, Any]:
        """Return GPU hours by basis of a paper's trainings, or of all: one that two papers read counts once there."""
        mine = [run for run in self.runs if paper is None or paper in run.papers]
        by_basis: dict[str, float] = defaultdict(float)
        for run in mine:
            by_basis[run.basis] += run.gpu_hours
        to_do = [run for run in mine if not run.done]
        return {
            "runs": len(mine),
            "done": len(mine) - len(to_do),
            "gpu_hours": sum(run.gpu_hours for run in to_do),
            "published": sum(run.published_hours or 0.0 for run in to_do),
            "by_basis": by_basis,
        }

    @property
    def bytes(self) -> int:
        """Return the size of all that is still to be fetched, declared or estimated."""
        return sum(entry.bytes + entry.about for entry in self.downloads)


def plan(project: Project, overrides: Mapping[str, Any], *, card: str | None = None, jobs: bool = True) -> Plan:
    """Return what the project would do now; Snakemake is told what changed in config.yaml, unless no jobs are asked.

    ``card`` is whose hours are told; None: the one that is here.
    """
    from recount.cheapest import path
    from recount.judging.expected import expected

    check_data(project)
    named = dict.fromkeys(run for paper in project.papers.values() for run in paper.runs)
    reasons = {run: project.not_run(*run.split("/", 1)) for run in named}
    runs = list(_run_costs(project, card))
    hours, have, _ = by_training(runs)
    counted = dry_run(project.root, overrides) if jobs else {}
    needs = disk_needs(project)
    claims = expected(project) if project.suite.comparable else []
    return Plan(
        suite=project.suite.name,
        papers=list(project.papers),
        budget_gpu_hours=project.config.budget_gpu_hours,
        jobs=counted,
        runs=runs,
        left_out={run: reason for run, reason in reasons.items() if reason},
        downloads=list(_downloads(project, needs)),
        path=path(claims, hours, project.config.looks, have),
        claims={f"{claim.paper} {claim.claim.id}": claim.trainings for claim in claims},
        needs=needs,
        prepared=prepared_data(project),
        **(_minutes(project, runs, counted) if jobs and not project.suite.comparable else {}),
    )


def _minutes(project: Project, runs: Sequence[RunCost], jobs: Mapping[str, int]) -> dict[str, Any]:
    """Return the processor's minutes for all jobs and their basis; only why, where those of a training are not known.

    Trainings are as in ``RunCost``; other jobs take what they took in the reference run.
    """
    to_do = [run for run in runs if not run.done]
    unknown = [run.run for run in to_do if run.basis == ONE_JOB]
    if unknown:
        why = f"not known of {len(unknown)} trainings before `recount rehearse --config suite={project.suite.name}`"
        return {"minutes_basis": f"{why}, which takes some minutes"}
    reference = read_record(folder_of(project))
    seconds = reference.seconds if reference else {}
    others = {step: number for step, number in jobs.items() if step not in ("all", "train")}
    trained = sum(run.gpu_hours for run in to_do) * 60
    rest = sum(seconds[step] * number for step, number in others.items() if step in seconds) / 60
    left = sum(number for step, number in others.items() if step not in seconds)
    more = f"; without {left} other jobs" if left else f", {rest:.0f} of {sum(others.values())} other jobs"
    basis = ", ".join(dict.fromkeys(run.basis for run in to_do if run.basis != NO_TRAINING))
    return {
        "minutes": trained + rest,
        "minutes_basis": f"{trained:.0f} of training ({basis or 'nothing to train'}){more}",
    }


def to_come(project: Project) -> dict[str, float]:
    """Return what the whole project is still to take (``Plan.takes``)."""
    needs = disk_needs(project)
    downloads, prepared = list(_downloads(project, needs)), prepared_data(project)
    runs = list(_run_costs(project))
    return Plan(project.suite.name, [], None, {}, runs, downloads=downloads, needs=needs, prepared=prepared).takes(runs)


def disk_needs(project: Project) -> dict[str, Needs]:
    """Return what each training needs on disks, by run; sizes of networks that were never counted load PyTorch."""
    splits, weights = defaultdict[str, list[Split]](list), defaultdict[str, list[str]](list)
    for run in project.runs:
        splits[run.training_id] += run.splits
        weights[run.training_id] += run.weights
    found, sizes = dict[str, Needs](), dict[str, tuple[int, int, int]]()
    for run in project.trainings:
        name = run.id.rpartition("/")[0]
        if name not in sizes:
            sizes[name] = disk.of_training(project, run)
        mine = [split for split in splits[run.id] if not datasets.load(split.dataset).embedded]
        prepared = dict.fromkeys(f"{split.dataset}/{split.preparation}" for split in mine)
        sources = dict.fromkeys((*(split.dataset for split in mine), *weights[run.id]))
        found[run.id] = Needs(*sizes[name], tuple(prepared), tuple(sources))
    return found


def prepared_data(project: Project) -> list[Prepared]:
    """Return what is prepared for the project's runs, each data set and preparation once."""
    splits = {(split.dataset, split.preparation): split for run in project.runs for split in run.splits}
    return [disk.prepared(project, split) for split in splits.values() if not datasets.load(split.dataset).embedded]


def by_training(runs: Iterable[RunCost]) -> tuple[dict[str, float], dict[str, int], dict[str, float]]:
    """Return, for each training (``system/variant``): hours of one seed, seeds that have ended, the hours they took."""
    hours: dict[str, list[float]] = defaultdict(list)
    have: dict[str, int] = defaultdict(int)
    spent: dict[str, float] = defaultdict(float)
    for run in runs:
        training = run.run.rpartition("/")[0]
        hours[training].append(run.gpu_hours)
        if run.done:
            have[training] += 1
            spent[training] += run.gpu_hours
    return {training: sum(found) / len(found) for training, found in hours.items()}, have, spent


def within_budget(project: Project) -> Project:
    """Return the project with what fits into its budget, by the cheapest path; as it is where that was chosen before.

    The workflow chooses once and tells its jobs (``only``), so that what ends meanwhile changes nothing for them.
    """
    config = project.config
    if config.budget_gpu_hours is None or config.only:
        return project
    from recount.cheapest import affordable

    hours, have, spent = by_training(_run_costs(project))
    fits = affordable(project, hours, have, spent)
    only = [f"{run.system}/{run.variant}" for run in project.runs if run.training_id.rpartition("/")[0] in fits]
    if not only:
        raise ConfigError(f"config.yaml: budget_gpu_hours = {config.budget_gpu_hours:g}: not even the first run fits")
    return load(project.root, {**project.overrides, "only": list(dict.fromkeys(only))})


def priorities(project: Project) -> dict[str, int]:
    """Return the place of each training (``system/variant``) on the cheapest path, the first highest; above 0."""
    from recount.cheapest import order

    hours, have, _ = by_training(_run_costs(project))
    found = order(project, hours, have)
    return {training: len(found) - place for place, training in enumerate(found)}


def dry_run(root: Path, overrides: Mapping[str, Any]) -> dict[str, int]:
    """Return the number of jobs of each rule, as ``snakemake -n`` counts them; a failure has Snakemake's message."""
    settings = [f"{key}={json.dumps(value)}" for key, value in overrides.items()]
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(root / "Snakefile")]
    command += ["--dry-run", "--cores", "1", "--nocolor", *(["--config", *settings] if settings else [])]
    with TemporaryDirectory() as folder:
        counts = Path(folder) / "jobs.json"  # the workflow writes it (common.smk)
        environment = os.environ | cache_of_snakemake() | {COUNT_JOBS: str(counts)}
        done = subprocess.run(command, check=False, cwd=root, capture_output=True, text=True, env=environment)
        if done.returncode:
            said = (done.stderr + done.stdout).strip()
            error = re.search(r"^\w*(?:Error|Exception)(?: in [^\n]+)?:\n?(.+(?:\n(?!  File).+)*)", said, re.MULTILINE)
            raise UserError(f"snakemake -n fails: {error[1].strip() if error else said[-2000:]}")
        for line in filter(lambda line: UNREAD in line, done.stderr.splitlines()):
            logging.getLogger(__name__).warning(line)
        found: dict[str, int] = json.loads(counts.read_text(encoding="utf-8"))
    return found


def _run_costs(project: Project, card: str | None = None) -> Iterator[RunCost]:
    measured = {run.id: _measured(project, run) for run in project.trainings}
    readers = defaultdict(set)
    for run in project.runs:
        readers[run.training_id].add(f"{run.system}/{run.variant}")
    basis_of = _Basis(project, card)
    for run in project.trainings:
        papers = tuple(name for name, paper in project.papers.items() if readers[run.id] & set(paper.runs))
        own, published = measured[run.id], project.gpu_hours(run.system, run.variant)
        hours, basis = basis_of.estimate(run, measured) if own is None else (own[0], "measured here")
        yield RunCost(papers, run.id, hours, basis, own is not None, *published, costs.memory_peak(project, run))


def _measured(project: Project, run: Run) -> tuple[float, int] | None:
    """Return hours of the GPU, else of the processor, and epochs of a run that has ended."""
    try:
        record = read_run_record(project.root / project.run_folder(run))
    except ResultsError:
        return None
    seconds = record.cost.gpu_seconds or record.cost.wall_seconds
    return None if seconds is None else (seconds / 3600, max(record.selections["last"].epoch, 1))


class _Basis:
    """What the hours of a run that has not ended are based on, for the card that is named, or else is here."""

    def __init__(self, project: Project, card: str | None) -> None:
        self.project, self.reference = project, read_record(folder_of(project))
        problems = [*absent("--card", "card", card, costs.cards())] if card else []
        if problems:
            raise UserError("\n".join(problems))
        names = [gpu["name"] for gpu in visible_gpus()[:1]]
        here = next((known for known in costs.cards() for name in names if known in name), None)
        self.card = card or here
        wanted = [f" {card} "] if card else names or ([cpu_name()] if not project.suite.comparable else [])
        there = read_rehearsals(project.root / project.config.resources)
        devices = {re.sub(r"[^A-Za-z0-9]+", " ", f" {found.device} "): found for found in there} if card else {}
        devices |= {found.device: found for found in there}
        self.rehearsed = next((found for name, found in devices.items() if any(one in name for one in wanted)), None)

    def estimate(self, run: Run, measured: Mapping[str, tuple[float, int] | None]) -> tuple[float, str]:
        """Return the hours and their basis.

        That is: runs of its system here, a rehearsal, the model, what the suite quotes, the time of one job.
        """
        quoted, source = self.project.gpu_hours(run.system, run.variant)
        if quoted == 0:
            return quoted, source
        ended = [value for name, value in measured.items() if value is not None and name.startswith(f"{run.system}/")]
        recipe = default_recipe(run.system)
        if ended and recipe is not None:
            epochs = merged(recipe, run.recipe)["epochs"]
            return sum(hours / done for hours, done in ended) / len(
                ended
            ) * epochs, f"scaled from {len(ended)} runs here"
        if (
            not self.card
            and self.reference
            and (known := self.reference.seconds.get(f"train/{run.system}/{run.variant}"))
        ):
            return known / 3600, f"as in the reference run on {machine(self.reference.origin)}"
        if self.rehearsed is not None and (found := costs.measured_hours(self.project, run, self.rehearsed)):
            return found, f"measured on this machine ({self.rehearsed.device})"
        card = self.card or ("T4" if quoted is None else None)  # as most of what is published
        hours = costs.modelled_hours(self.project, run, card) if card else None
        if hours is not None:
            return hours, f"model of {card}"
        if quoted is not None:
            return quoted, source
        return self.project.suite.training_minutes / 60, ONE_JOB


def check_data(project: Project) -> None:
    """Refuse settings that leave no run, or name a system, data set, preparation or weights that is not there."""
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
    check_pairings(project)
    if not project.runs:
        names = "suite, papers, systems, tables, claims, runs, only and budget_gpu_hours"
        raise ConfigError(f"config.yaml: no run is left: {names} exclude each other")


def check_pairings(project: Project, *only: str) -> None:
    """Refuse trainings on data sets (``only`` these) that lack what the system makes targets from; a line each."""
    problems = []
    for run in project.trainings:
        if run.training is None or not run.learnt_from or run.training.dataset not in (only or [run.training.dataset]):
            continue
        source = datasets.load(run.training.dataset)
        if lacks := unmet(source, system_schema(run.system).get("needs", ())):
            benchmark = project.experiments[run.system].data_of(run.variant).trained_on
            problems.append(
                f"suites/{project.suite.name}.yaml: {benchmark}: {run.system} is trained on it and needs "
                f"{' and '.join(lacks)}; {source.name} gives {' and '.join(sorted(source.gives))} alone: name another "
                f"data set for it, or skip {run.system}"
            )
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


def _downloads(project: Project, needs: Mapping[str, Needs]) -> Iterator[Download]:
    for source, folder in needed_sources(project):
        files = [file for file in source.files() if file.urls or not file.optional]
        there = (folder / MANIFEST).is_file()
        absent = [file for file in files if not is_there(file, folder)]
        # needed, as optional ones have addresses here
        nowhere = not there and any(not file.urls and not on_mirror(source, file) for file in absent)
        pictures = isinstance(source, Dataset) and pictures_by_hand(source, folder)
        readers = (need.model for need in needs.values() if source.name in need.sources)
        about = 0 if there else disk.undeclared(source, absent, readers)
        packed = any(file.unpack and file.bytes is None for file in absent)
        declared = sum((file.bytes or 0) * (1 + file.unpack) for file in absent)
        yield Download(
            name=source.name,
            title=source.title,
            licence=source.licence,
            there=there,
            bytes=0 if there else sum(file.bytes or 0 for file in absent),
            unsized=0 if there else sum(file.bytes is None for file in absent),
            about=about,
            on_disk=0 if there else declared + about * (1 + packed),
            by_hand=(source.by_hand or "see its homepage") if nowhere or pictures else "",
        )


def to_get_by_hand(project: Project) -> list[Download]:
    """Return what no address delivers, or perhaps not its pictures, and is neither there nor on the mirror."""
    return [entry for entry in _downloads(project, {}) if entry.by_hand]


def show(found: Plan, console: Console) -> None:
    """Print the plan for people."""

    def say(line: str) -> None:
        console.print(line, highlight=False, soft_wrap=not console.is_terminal)

    say(f"[bold]Suite {found.suite}[/]: {', '.join(found.papers)}")
    jobs = ", ".join(f"{number} {rule}" for rule, number in found.jobs.items())
    say(f"Jobs: {sum(found.jobs.values())} ({jobs})" if jobs else "Jobs: nothing to be done")
    console.print(_papers_table(found))
    for paper in found.papers:
        basis = found.hours(paper)["by_basis"]
        bases = [f"{_hours(value)} h {name}" for name, value in basis.items() if value]
        say(f"Hours of {paper}: {'; '.join(bases) or (NO_TRAINING if set(basis) == {NO_TRAINING} else 'none')}")
    say(
        "Done: of all trainings; hours of training; all else in GB (10^9 bytes); of what is still to come. Fetch: by "
        "network; raw: that, and what is unpacked from archives; states: two of the largest training, for each that "
        "runs at once; disk: all of these; card: a training's peak, as counted. What trainings share counts once."
    )
    if found.minutes is not None:
        say(f"Processor: about {found.minutes:.0f} minutes in all: {escape(found.minutes_basis)}")
    elif found.minutes_basis:
        say(f"Minutes: {escape(found.minutes_basis)}")
    if found.left_out:
        console.print(_not_run_table(found.left_out))
    if found.path:
        show_path(found, console)
    if found.claims:
        console.print(_claims_table(found))
    console.print(_trainings_table(found))
    for number, basis in enumerate(_bases(found), start=1):
        say(f"  {number}: {escape(basis)}")
    _show_data(found, console, say)
    for entry in found.downloads:
        if entry.by_hand:
            say(f"[bold]By hand: {entry.name}[/] ({escape(entry.licence)}): {escape(entry.by_hand)}")


def _show_data(found: Plan, console: Console, say: Callable[[str], None]) -> None:
    if found.prepared:
        table = _table("Prepared data", "GB", "There")
        for data in found.prepared:
            table.add_row(data.name, _gb(data.bytes / 1e9, "~"), "yes" if data.there else "no")
        console.print(table)
        say("Without a size: pictures that keep their bytes; they are linked where the file system allows it.")
    if found.downloads:
        console.print(_downloads_table(found.downloads))
        say("~: nobody states the size; by the number and size of the pictures, or by the network that reads the file.")
        for licence in dict.fromkeys(entry.licence for entry in found.downloads):
            names = ", ".join(entry.name for entry in found.downloads if entry.licence == licence)
            say(f"  {escape(licence)}: {names}")


def show_path(found: Plan, console: Console, most: int = 10) -> None:
    """Print the first steps of the cheapest path."""
    table = _table("The cheapest path: train", "Seeds", "Hours", "In all", "Decides, by chance of it", words=1)
    for step in found.path[:most]:
        gains = sorted(step.gains.items(), key=lambda item: -item[1])
        said = ", ".join(f"{claim} +{gain:.0%}" for claim, gain in gains if gain >= 0.005)
        runs = ("\n" if console.is_terminal else ", ").join(step.runs)
        table.add_row(runs, str(step.seeds), _hours(step.hours), _hours(step.total_hours), said)
    console.print(table)
    console.print(
        "Hours are of training. The chance is that of the claim's own rule at the effect that the paper printed (else "
        "20 %), with what the rules assume of seeds and pictures (docs/verdicts.md).",
        highlight=False,
        soft_wrap=not console.is_terminal,
    )
    if left := found.path[most:]:
        claims, hours = sum(step.gain for step in left), left[-1].total_hours - found.path[most - 1].total_hours
        console.print(
            f"{len(left)} more steps would decide {claims:.1f} more in {_hours(hours)} hours.", highlight=False
        )


def show_next(found: Plan, console: Console) -> None:
    """Print the next steps of the cheapest path, and the command of the first."""
    if not found.path:
        console.print(f"No training that suite {found.suite} has left would decide more of the papers' claims.")
        return
    show_path(found, console, 3)
    first = found.path[0]
    chosen = f'--config suite={found.suite} "only=[{",".join(first.runs)}]" "seeds={[*range(first.seeds)]}"'.replace(
        ", ", ","
    )
    console.print(f"Next: snakemake --cores all {chosen}", highlight=False, soft_wrap=True, markup=False)


SIZES = ("downloads", "fetched", "prepared", "models", "states", "disk")  # columns of GB


def _table(first: str, *heads: str, words: int = 0) -> Table:
    """Return a table without frames; all but the first column and the last ``words`` are numbers."""
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column(first, overflow="fold")
    for place, head in enumerate(heads):
        is_number = place < len(heads) - words
        table.add_column(head, justify="right" if is_number else "left", no_wrap=is_number, overflow="fold")
    return table


def _papers_table(found: Plan) -> Table:
    table = _table("Paper", "Done", "Hours", "Printed", "Fetch", "Raw", *(name.capitalize() for name in SIZES[2:]))

    def add(name: str, paper: str | None) -> None:
        hours = found.hours(paper)
        takes = found.takes(run for run in found.runs if paper is None or paper in run.papers)
        numbers = (f"{hours['done']}/{hours['runs']}", _hours(hours["gpu_hours"]), _hours(hours["published"]))
        table.add_row(name, *numbers, *(_gb(takes[size]) for size in SIZES))

    for paper in found.papers:
        add(paper, paper)
    if len(found.papers) > 1:
        add("all", None)
    return table


def _not_run_table(left_out: Mapping[str, str]) -> Table:
    """Return the variants that are not run by reason; released checkpoints share one, and are named."""
    table = _table("Not run, because", "Variants", words=1)
    by_reason: dict[str, list[str]] = defaultdict(list)
    for name, reason in left_out.items():
        said = re.fullmatch(r"(.* the released checkpoint) (\S+) (.*)", reason)
        by_reason[f"{said[1]} {said[3]}" if said else reason].append(f"{name} ({said[2]})" if said else name)
    for reason, names in by_reason.items():
        table.add_row(escape(reason), escape(", ".join(names)))
    return table


def _claims_table(found: Plan) -> Table:
    table = _table("Claim", "Trainings", "Hours", "Fetch", "Disk")
    for claim, trainings in found.claims.items():
        takes = found.takes(found.of_claim(claim))
        table.add_row(
            claim, str(len(trainings)), _hours(takes["gpu_hours"]), _gb(takes["downloads"]), _gb(takes["disk"])
        )
    return table


def _trainings_table(found: Plan) -> Table:
    table = _table("Training", "Done", "Hours", "Basis", "Card", "Fetch", "Disk")
    bases = list(_bases(found))
    runs: dict[str, list[RunCost]] = defaultdict(list)
    for run in found.runs:
        runs[run.run.rpartition("/")[0]].append(run)
    for name, seeds in runs.items():
        takes, peak = found.takes(seeds), max(run.peak_bytes or 0 for run in seeds)
        numbers = (f"{sum(run.done for run in seeds)}/{len(seeds)}", _hours(sum(run.gpu_hours for run in seeds)))
        basis = str(bases.index(seeds[0].basis) + 1)
        table.add_row(name, *numbers, basis, *(_gb(size) for size in (peak / 1e9, takes["downloads"], takes["disk"])))
    return table


def _bases(found: Plan) -> Iterable[str]:
    return dict.fromkeys(run.basis for run in found.runs)


def _hours(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _gb(value: float, about: str = "") -> str:
    """Return a number of GB; "–": none."""
    return (
        f"{about}{value:,.0f}" if value >= 100 else f"{about}{value:.2g}" if value >= 0.001 else "0" if value else "–"
    )


def _downloads_table(downloads: Iterable[Download]) -> Table:
    table = _table("Download", "GB", "There")
    for entry in downloads:
        size = _gb((entry.bytes + entry.about) / 1e9, "~" if entry.about else "")
        table.add_row(entry.name, size, "yes" if entry.there else "no")
    return table


def document(found: Plan, shown: Callable[[Plan, Console], None] = show) -> Document:
    """Return the plan as a document, whose text is what ``shown`` prints; its table has a row for each training."""
    stream = StringIO()
    here = terminal()
    shown(found, Console(file=stream, width=here.width, color_system=None, force_terminal=here.is_terminal))
    text = [line.rstrip() for line in stream.getvalue().splitlines()]
    takes: dict[str, Any] = {
        "run": {run.run: found.takes([run]) for run in found.runs},
        "claim": {claim: found.takes(found.of_claim(claim)) for claim in found.claims},
        "paper": {paper: found.takes(run for run in found.runs if paper in run.papers) for paper in found.papers},
        "all": found.takes(found.runs),
    }
    hours = {paper: found.hours(paper) for paper in found.papers}
    content = asdict(found) | {"hours": hours, "takes": takes, "bytes": found.bytes}
    sizes = [f"{name} GB" for name in SIZES]
    heads = ("Run", "Papers", "GPU hours", "Basis", "Done", *sizes)
    rows = [(r.run, ", ".join(r.papers), _hours(r.gpu_hours), r.basis, "yes" if r.done else "no",
             *(_gb(takes["run"][r.run][size]) for size in SIZES)) for r in found.runs]  # fmt: skip
    of_claims = [(claim, _hours(sums["gpu_hours"]), *(_gb(sums[size]) for size in SIZES))
                 for claim, sums in takes["claim"].items()]  # fmt: skip
    sheets = [Sheet("Trainings", heads, rows), Sheet("Claims", ("Claim", "GPU hours", *sizes), of_claims),
              Sheet("Not run", ("Run", "Why"), [*found.left_out.items()])]  # fmt: skip
    prepared = [(p.name, _gb(p.bytes / 1e9, "~"), "yes" if p.there else "no") for p in found.prepared]
    sheets.append(Sheet("Prepared data", ("What", "GB", "There"), prepared))
    downloads = [(d.name, d.title, _gb((d.bytes + d.about) / 1e9, "~" if d.about else ""), "yes" if d.there else "no",
                  d.by_hand, d.licence) for d in found.downloads]  # fmt: skip
    sheets.append(Sheet("Downloads", ("What", "Title", "GB", "There", "By hand", "Licence"), downloads))
    columns = ("run", "papers", "gpu_hours", "basis", "done", *(f"{name}_gb" for name in SIZES))
    table = [(r.run, " ".join(r.papers), r.gpu_hours, r.basis, str(r.done).lower(),
              *(takes["run"][r.run][size] for size in SIZES)) for r in found.runs]  # fmt: skip
    return Document(f"Plan of suite {found.suite}", text[:2], sheets, content, columns, table, plain=text)

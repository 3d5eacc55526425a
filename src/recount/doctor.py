"""``recount doctor``: is this machine ready? A line for each thing that a run needs, and what to do where it lacks."""

import json
import os
import platform
import shutil
import sys
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import psutil
from rich.console import Console
from rich.markup import escape

from recount.data.dataset import MANIFEST, DataError, Dataset, one_line
from recount.data.index import read_index
from recount.data.needs import check_needs
from recount.errors import expanded
from recount.fetching.by_hand import is_there
from recount.fetching.fetch import MIRROR_VARIABLE, is_web, on_mirror, pictures_by_hand
from recount.fetching.ledger import Ledger
from recount.planning import needed_sources, to_come
from recount.provenance import hidden_gpus, output_of, visible_gpus
from recount.rehearsal import disk
from recount.results.attempts import failed_of_data
from recount.settings.project import Project
from recount.settings.schemas import system_schema

CONDA_MINIMUM = (24, 7, 1)  # what Snakemake asks for
LONGEST_REASON = 600  # characters of why a step failed

Verdict = Literal["ok", "missing", "problem"]
MARKS: dict[Verdict, str] = {"ok": "[green]ok[/]", "missing": "[yellow]--[/]", "problem": "[red]!![/]"}


@dataclass(frozen=True)
class Finding:
    """One line of the examination."""

    subject: str
    verdict: Verdict  # "missing" is something that only some uses need; a "problem" stops the chosen suite
    found: str
    advice: str = ""


def examine(project: Project) -> list[Finding]:
    """Return all findings for a project, in the order they are told."""
    python = Finding("Python", "ok", f"{platform.python_version()} in {sys.prefix}")
    machine = [python, _gpu(project), _memory(project), *_disk(project)]
    return [
        *machine,
        _conda(),
        _slurm(),
        _mirror(),
        _token(),
        *_sources(project),
        *_failed(project),
        *_unmet_needs(project),
    ]


def show(findings: list[Finding], console: Console) -> None:
    """Print the findings, a line or two each."""
    width = max(len(finding.subject) for finding in findings)
    for finding in findings:
        line = f"{MARKS[finding.verdict]}  {finding.subject:<{width}}  {escape(finding.found)}"
        console.print(line, highlight=False, soft_wrap=True)
        if finding.advice:
            console.print(f"    {'':<{width}}  → {escape(finding.advice)}", highlight=False, soft_wrap=True)


def _gpu(project: Project) -> Finding:
    """Tell what nvidia-smi and PyTorch say of cards; where they disagree, a job would stop."""
    from recount.devices import card_trouble, given_card

    wanted, device, suite, cards = project.config.gpus_per_job, project.config.device, project.suite, visible_gpus()
    trouble = card_trouble()
    if trouble is None and not cards:
        advice = "the workflow counts nvidia-smi's cards: give --resources gpu=<number>"
        return Finding("GPU", "missing", "PyTorch sees a card, and nvidia-smi names none", advice)
    if trouble is None:
        names = ", ".join(f"{card['name']} ({card['memory_mb']} MB, driver {card['driver']})" for card in cards)
        if wanted > len(cards) and device != "cpu":
            return Finding("GPU", "problem", names, f"gpus_per_job is {wanted}: set it to {len(cards)} or fewer")
        return Finding("GPU", "ok", f"{names}; PyTorch can use it")
    if device == "cpu":
        return Finding("GPU", "ok", f"{trouble.found}; device is cpu")
    if device == "cuda" or given_card():
        advice = f"{trouble.advice}; until then every job stops, but with device: cpu"
        return Finding("GPU", "problem", f"not usable: {trouble.found}", advice)
    if suite.comparable or hidden_gpus():
        advice = (
            f"suite {suite.name} takes weeks on a processor; mini needs no GPU" if suite.comparable else trouble.advice
        )
        return Finding("GPU", "missing", f"none: {trouble.found}", advice)
    return Finding("GPU", "ok", f"none: {trouble.found}; suite {suite.name} runs on the processor")


def _memory(project: Project) -> Finding:
    memory, needed = psutil.virtual_memory(), project.suite.training_mem_mb
    found = f"{memory.total / 1e9:.1f} GB, {memory.available / 1e9:.1f} GB free; a training job asks for {needed} MB"
    if memory.total / 1e6 < needed:
        return Finding("memory", "problem", found, "close other programs, or run on a machine with more")
    return Finding("memory", "ok", found)


def _disk(project: Project) -> Iterator[Finding]:
    takes = to_come(project)
    needs = defaultdict[str, float](float)  # GB
    needs[project.config.resources] += takes["fetched"] + takes["prepared"]
    needs[project.config.results] += takes["models"] + takes["states"]
    for folder, needed in needs.items():
        place = disk.standing(project.root / folder)
        free = shutil.disk_usage(place).free
        subject, found = f"disk: {folder}", f"{free / 1e9:.1f} GB free, {needed:.1f} GB needed"
        if not os.access(place, os.W_OK):
            advice = f"make {place} writable, or set another folder in config.yaml"
            yield Finding(subject, "problem", f"{found}, not writable", advice)
        elif free < needed * 1e9:
            advice = "make room, choose fewer systems, or set a folder on a larger disk in config.yaml"
            yield Finding(subject, "problem", found, advice)
        else:
            yield Finding(subject, "ok", found)


def _conda() -> Finding:
    if (text := output_of("conda", "info", "--json")) is None:
        return Finding("conda", "missing", "not found", "only --use-conda needs it; everything runs without")
    try:
        version = json.loads(text)["conda_version"]
        if tuple(int(part) for part in version.split(".")[:3]) >= CONDA_MINIMUM:
            return Finding("conda", "ok", version)
    except (json.JSONDecodeError, KeyError, ValueError):
        return Finding("conda", "missing", "conda info --json answers something else", "reinstall it, or do without")
    wanted = ".".join(map(str, CONDA_MINIMUM))
    return Finding("conda", "missing", version, f"Snakemake asks for {wanted} or newer with --use-conda")


def _slurm() -> Finding:
    if (text := output_of("sinfo", "--noheader", "--format=%P %D %t")) is None:
        return Finding("SLURM", "missing", "no sinfo that answers", "only --profile profiles/slurm needs it")
    partitions = "; ".join(line.strip() for line in text.splitlines() if line.strip())
    if find_spec("snakemake_executor_plugin_slurm") is None:
        advice = "Snakemake's plugin for it is not installed: docs/slurm.md has the command"
        return Finding("SLURM", "missing", partitions, advice)
    return Finding("SLURM", "ok", partitions or "no partition")


def _mirror() -> Finding:
    if not (mirror := os.environ.get(MIRROR_VARIABLE)):
        return Finding("mirror", "ok", f"none ({MIRROR_VARIABLE} is not set)")
    if is_web(mirror) or Path(mirror).is_dir():
        return Finding("mirror", "ok", f"{mirror} (asked first{'; not tried now' if is_web(mirror) else ''})")
    return Finding("mirror", "problem", f"{mirror} is no folder", f"mount it, or unset {MIRROR_VARIABLE}")


def _token() -> Finding:
    home = expanded(os.environ.get("HF_HOME", "~/.cache/huggingface"))
    if os.environ.get("HF_TOKEN") or (home / "token").is_file():
        return Finding("Hugging Face token", "ok", "there")
    advice = "none of recount's files needs one; it only raises the rate limit (HF_TOKEN)"
    return Finding("Hugging Face token", "missing", "none", advice)


def _sources(project: Project) -> Iterator[Finding]:
    """Tell of each data set and weights whether they are there; a released checkpoint that lacks stops nothing else."""
    needed = {name for run in project.runs if not run.checkpoint for name in run.weights}
    only_released = {name for run in project.runs for name in run.weights} - needed
    for source, folder in needed_sources(project):
        absent = [file for file in source.files() if not file.optional and not is_there(file, folder)]
        by_hand = [file.path for file in absent if not file.urls and not on_mirror(source, file)]
        if isinstance(source, Dataset) and pictures_by_hand(source, folder):
            yield _pictures(source, folder)
        elif (folder / MANIFEST).is_file() and (changed := _changed(folder)):
            advice = (
                f"move it away; `recount {'fetch' if isinstance(source, Dataset) else 'fetch-weights'} {source.name}`"
            )
            yield Finding(source.name, "problem", changed, advice)
        elif (folder / MANIFEST).is_file():
            yield Finding(source.name, "ok", "fetched and checked")
        elif by_hand:
            advice = f"{source.by_hand or source.homepage} ({source.licence}); put {', '.join(by_hand)} below {folder}"
            verdict: Verdict = "missing" if source.name in only_released else "problem"
            yield Finding(source.name, verdict, "must be had by hand", advice)
        elif absent:
            yield Finding(source.name, "ok", f"not there; recount fetches it ({len(absent)} files, {source.licence})")
        else:
            yield Finding(source.name, "ok", "there, not checked yet")


def _changed(folder: Path) -> str:
    """Return which file of a folder has another size than when it was fetched, in words; "": none has."""
    try:
        entries = Ledger(folder).entries
    except DataError as error:
        return str(error)
    for name, entry in entries.items():
        if (folder / name).is_file() and (folder / name).stat().st_size != entry.bytes:
            return f"{name} is not what was fetched: its size is another"
    return ""


def _failed(project: Project) -> Iterator[Finding]:
    """Tell how fetching and preparing failed last, whatever older files are there."""
    for job, text in failed_of_data(project).items():
        yield Finding(job[1], "missing", one_line(text, LONGEST_REASON), f"`recount {' '.join(job)}` tries again")


def _unmet_needs(project: Project) -> Iterator[Finding]:
    """Tell of prepared training sets that lack what a system makes its targets from."""
    trained = [(run.system, run.training) for run in project.trainings if run.training and not run.checkpoint]
    for system, split in dict.fromkeys(trained):
        index, needs = project.root / project.index(split), system_schema(system).get("needs", [])
        if needs and index.is_file():
            try:
                check_needs(read_index(index, split.split), needs, system)
            except DataError as error:
                *found, advice = str(error).splitlines()
                yield Finding(f"{split.dataset}/{split.split}", "problem", "; ".join(found), advice)


def _pictures(source: Dataset, folder: Path) -> Finding:
    advice = (
        f"{source.by_hand} ({source.licence}); here is {folder}; "
        f"then run recount fetch {source.name} and recount prepare {source.name}"
    )
    if any(file.unpack and file.urls for file in source.files()) and not (folder / MANIFEST).is_file():
        found = "not there; recount fetches it, its pictures only if their server allows it"
        return Finding(source.name, "missing", found, advice)
    return Finding(source.name, "problem", "its pictures must be had by hand", advice)

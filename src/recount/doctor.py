"""``recount doctor``: is this machine ready? A line for each thing that a run needs, with what to do where it lacks."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil
from rich.console import Console
from rich.markup import escape

from recount import provenance
from recount.data.dataset import MANIFEST, Dataset
from recount.fetching.fetch import MIRROR_VARIABLE, is_web
from recount.planning import needed_sources
from recount.settings.project import Project

CONDA_MINIMUM = (24, 7, 1)  # what Snakemake asks for
MODEL_GB = 5.0  # of free disk below which runs at paper size fail: a network with its optimiser's state
TIMEOUT = 30

Verdict = Literal["ok", "missing", "problem"]
MARKS: dict[Verdict, str] = {"ok": "[green]ok[/]", "missing": "[yellow]--[/]", "problem": "[red]!![/]"}


@dataclass(frozen=True)
class Finding:
    """One line: what was looked at, what was found, what to do ("" if nothing).

    ``missing`` is something that only some uses need; ``problem`` stops the chosen suite.
    """

    subject: str
    verdict: Verdict
    found: str
    advice: str = ""


def examine(project: Project) -> list[Finding]:
    """Return all findings for a project, in the order they are told."""
    checks: tuple[Callable[[Project], Iterator[Finding]], ...] = (
        _python, _gpu, _memory, _disk, _conda, _slurm, _mirror, _tokens, _sources,
    )  # fmt: skip
    return [finding for check in checks for finding in check(project)]


def show(findings: list[Finding], console: Console) -> None:
    """Print the findings, a line or two each."""
    width = max(len(finding.subject) for finding in findings)
    for finding in findings:
        line = f"{MARKS[finding.verdict]}  {finding.subject:<{width}}  {escape(finding.found)}"
        console.print(line, highlight=False, soft_wrap=True)
        if finding.advice:
            console.print(f"    {'':<{width}}  → {escape(finding.advice)}", highlight=False, soft_wrap=True)


def _output(*command: str) -> str | None:
    try:
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=TIMEOUT).stdout
    except (OSError, subprocess.SubprocessError):
        return None


def _python(project: Project) -> Iterator[Finding]:
    yield Finding("Python", "ok", f"{platform.python_version()} in {sys.prefix}")  # older ones cannot install recount


def _gpu(project: Project) -> Iterator[Finding]:
    cards = provenance.visible_gpus()
    if cards:
        names = ", ".join(f"{card['name']} ({card['memory_mb']} MB, driver {card['driver']})" for card in cards)
        wanted = project.config.gpus_per_job
        if wanted > len(cards) and project.config.device != "cpu":
            yield Finding("GPU", "problem", names, f"gpus_per_job is {wanted}: set it to {len(cards)} or fewer")
        else:
            yield Finding("GPU", "ok", names)
        return
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
    why = f"none: CUDA_VISIBLE_DEVICES is {hidden!r}" if hidden is not None else "none: nvidia-smi names no card"
    if project.config.device == "cuda":
        yield Finding("GPU", "problem", why, "device is cuda: install the driver, or set device: auto")
    elif project.suite.comparable:
        yield Finding(
            "GPU", "missing", why, f"suite {project.suite.name} takes weeks on a processor; mini needs no GPU"
        )
    else:
        yield Finding("GPU", "ok", f"{why}; suite {project.suite.name} runs on the processor")


def _memory(project: Project) -> Iterator[Finding]:
    total, needed = psutil.virtual_memory().total / 1e6, project.suite.training_mem_mb
    free = psutil.virtual_memory().available / 1e9
    found = f"{total / 1e3:.1f} GB, {free:.1f} GB free; a training job asks for {needed} MB"
    if total < needed:
        yield Finding("memory", "problem", found, "close other programs, or run on a machine with more")
    else:
        yield Finding("memory", "ok", found)


def _disk(project: Project) -> Iterator[Finding]:
    for folder in dict.fromkeys((project.config.resources, project.config.results)):
        place = project.root / folder
        while not place.exists():
            place = place.parent
        free = shutil.disk_usage(place).free / 1e9
        writable = os.access(place, os.W_OK)
        found = f"{free:.1f} GB free" + ("" if writable else ", not writable")
        if not writable:
            yield Finding(
                f"disk: {folder}", "problem", found, f"make {place} writable, or set another folder in config.yaml"
            )
        elif free < MODEL_GB:
            advice = f"less than {MODEL_GB:g} GB; recount plan says what is to be fetched"
            yield Finding(f"disk: {folder}", "problem" if project.suite.comparable else "missing", found, advice)
        else:
            yield Finding(f"disk: {folder}", "ok", found)


def _conda(project: Project) -> Iterator[Finding]:
    text = _output("conda", "info", "--json")
    if text is None:
        yield Finding("conda", "missing", "not found", "only --use-conda needs it; everything runs without")
        return
    try:
        version = json.loads(text)["conda_version"]
        numbers = tuple(int(part) for part in version.split(".")[:3])
    except (json.JSONDecodeError, KeyError, ValueError):
        yield Finding("conda", "missing", "conda info --json answers something else", "reinstall it, or do without")
        return
    if numbers < CONDA_MINIMUM:
        wanted = ".".join(map(str, CONDA_MINIMUM))
        yield Finding("conda", "missing", version, f"Snakemake asks for {wanted} or newer with --use-conda")
    else:
        yield Finding("conda", "ok", version)


def _slurm(project: Project) -> Iterator[Finding]:
    text = _output("sinfo", "--noheader", "--format=%P %D %t")
    if text is None:
        yield Finding("SLURM", "missing", "no sinfo that answers", "only --profile profiles/slurm needs it")
        return
    partitions = "; ".join(line.strip() for line in text.splitlines() if line.strip())
    plugin = _output(sys.executable, "-c", "import snakemake_executor_plugin_slurm") is not None
    if plugin:
        yield Finding("SLURM", "ok", partitions or "no partition")
    else:
        yield Finding(
            "SLURM", "missing", partitions, "Snakemake's plugin for it is not installed: docs/slurm.md has the command"
        )


def _mirror(project: Project) -> Iterator[Finding]:
    mirror = os.environ.get(MIRROR_VARIABLE)
    if not mirror:
        yield Finding("mirror", "ok", f"none ({MIRROR_VARIABLE} is not set)")
    elif is_web(mirror):
        yield Finding("mirror", "ok", f"{mirror} (asked first; not tried now)")
    elif Path(mirror).is_dir():
        yield Finding("mirror", "ok", f"{mirror} (asked first)")
    else:
        yield Finding("mirror", "problem", f"{mirror} is no folder", f"mount it, or unset {MIRROR_VARIABLE}")


def _tokens(project: Project) -> Iterator[Finding]:
    """The Hub's files that recount names need no token; one only raises the rate limit."""
    home = Path(os.environ.get("HF_HOME", Path.home() / ".cache" / "huggingface"))
    if os.environ.get("HF_TOKEN") or (home / "token").is_file():
        yield Finding("Hugging Face token", "ok", "there")
    else:
        advice = "none of recount's files needs one; it only raises the rate limit (HF_TOKEN)"
        yield Finding("Hugging Face token", "missing", "none", advice)


def _sources(project: Project) -> Iterator[Finding]:
    """Tell of each data set and weights whether they are there, and what must be done by hand.

    Without a released checkpoint only its own rows are missing; without data or base weights, all that needs them.
    """
    needed = {name for run in project.runs if not run.checkpoint for name in run.weights}
    only_released = {name for run in project.runs for name in run.weights} - needed
    for source, folder in needed_sources(project):
        absent = [file for file in source.files() if not file.optional and not (folder / file.path).is_file()]
        by_hand = [file.path for file in absent if not file.urls]
        if isinstance(source, Dataset) and source.lacks_pictures(folder):
            yield _pictures(source, folder)
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


def _pictures(source: Dataset, folder: Path) -> Finding:
    """Tell how to get the pictures of a data set, of which an address may deliver only the annotation."""
    advice = f"{source.by_hand} ({source.licence}); here is {folder}; "
    advice += f"then run recount fetch {source.name} and recount prepare {source.name}"
    tried = any(file.unpack and file.urls for file in source.files())
    if tried and not (folder / MANIFEST).is_file():
        found = "not there; recount fetches it, its pictures only if their server allows it"
        return Finding(source.name, "missing", found, advice)
    return Finding(source.name, "problem", "its pictures must be had by hand", advice)

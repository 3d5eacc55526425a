"""What a step that began and did not end well leaves: ``attempts/<step>/<job>.json``.

It lies below results/<suite>/ or, of steps whose files all suites share, below resources/. ``recount.jobs`` writes a
record when a step begins, and removes it when it succeeds. One without an end is of a step that still runs, or was
killed without a word. Whatever older files lie around, what the step should have made is missing then; data that were
prepared before are as good as they were, and that the last attempt failed is told. The file is never declared to
Snakemake, which deletes what it declares. As long as a step lives it touches its record, so that one on another machine
that died is told from one that runs. How far a training has come stands in ``progress.json`` beside its saved state.
"""

import os
import socket
import time
from pathlib import Path
from typing import ClassVar, Literal

from recount.results.files import JsonRecord, ResultsError
from recount.settings.project import Project, Run

OF_DATA = ("fetch", "fetch-weights", "prepare")  # steps whose files all suites share
BEAT, LOST = 15.0, 120.0  # seconds between signs of life; after so many without one a step is taken for dead
PROGRESS = "progress.json"
LOG_LINES, LINE_LENGTH, LOG_BYTES = 5, 300, 500_000


class Attempt(JsonRecord):
    """Content of an attempt: when it began, where, and how it ended (``error`` None: it said nothing)."""

    STEP: ClassVar[str] = ""  # the step that it is of

    step: str
    job: str
    began: str
    host: str
    process: int
    until: str = ""  # when its scheduler was to end it, where that was known
    made_from: str = ""  # SHA-256 of the settings, code and data that it worked with
    killed: int = 0  # attempts before it, in a row, that were killed without a word
    error: str | None = None
    # walltime: it saved its state in time; ended: somebody ended it (SIGTERM, Ctrl-C); failed: the same again would
    # fail again; error: another time it may succeed; killed: one of its processes was
    end: Literal["", "walltime", "ended", "failed", "error", "killed"] = ""

    @property
    def was_killed(self) -> bool:
        """Return whether it, or one of its processes, was killed without a word."""
        return self.error is None or self.end == "killed"

    @property
    def text(self) -> str:
        """Return what became of it, in words."""
        if self.end == "walltime":
            return f"{self.step} is not finished: {self.error}"
        if self.error is not None:
            return f"{self.step} failed: {self.error}"
        why = "memory, or its machine failed" if self.until else "memory, time limit"
        return f"{self.step} began and did not end: it still runs, or was killed ({why})"


class TrainingProgress(JsonRecord):
    """How far a training has come: a stage's epochs and steps, counted from 1, and the seconds that it still takes."""

    STEP: ClassVar[str] = "recount train"

    stage: str
    epoch: int
    epochs: int
    step: int  # of this epoch
    steps: int
    loss: float | None  # mean of the epoch so far
    seconds_left: float | None  # of this stage
    device: str  # cpu, or the card's name


def predict_job(run: Run, benchmark: str) -> str:
    """Return the job of predicting a benchmark with a run: its evaluation, and the split that is read."""
    split = run.benchmarks[benchmark]
    return f"{run.evaluation_id}/{split.dataset}/{split.split}"


def attempt_path(project: Project, step: str, job: str) -> Path:
    """Return the record of a step's last attempt at a job."""
    below = Path(project.config.resources) if step in OF_DATA else project.results
    return project.root / below / "attempts" / step / f"{job.replace('/', '.')}.json"


def last_sign(project: Project, step: str, job: str) -> tuple[Attempt, float] | None:
    """Return an attempt that has not ended well, and the seconds since its last sign of life; errors: ``read``."""
    path = attempt_path(project, step, job)
    try:
        return Attempt.read(path), max(time.time() - path.stat().st_mtime, 0.0)
    except FileNotFoundError:
        return None


def is_alive(attempt: Attempt, silent: float) -> bool:
    """Return whether a step still works: its process on this machine, or signs of life from another one."""
    if attempt.error is not None or silent > LOST:
        return False
    return attempt.host != socket.gethostname() or is_process(attempt.process)


def is_process(number: int) -> bool:
    """Return whether there is such a process on this machine."""
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        pass
    return True


def failed(project: Project, step: str, job: str) -> str:
    """Return how the last attempt of a step at ``job`` failed, in words; "" where it did not."""
    return _text(attempt_path(project, step, job))


def _text(path: Path) -> str:
    try:
        return Attempt.read(path).text
    except FileNotFoundError:
        return ""
    except ResultsError as error:
        return f"the record of its last attempt is {error.what}"


def log_end(path: Path) -> str:
    """Return the end of a log, at most ``LOG_BYTES``; "" if there is none, OSError if it cannot be read."""
    try:
        with path.open("rb") as stream:
            stream.seek(max(0, stream.seek(0, os.SEEK_END) - LOG_BYTES))
            return stream.read(LOG_BYTES).decode("utf-8", "replace")
    except FileNotFoundError:
        return ""


def log_tail(path: Path) -> str:
    """Return the last lines of a log, or "" if there is none."""
    try:
        text = log_end(path)
    except OSError as error:
        return f"{path}: cannot be read: {error.strerror}"
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return "\n".join(line[:LINE_LENGTH] for line in lines[-LOG_LINES:])


def failed_of_data(project: Project) -> dict[tuple[str, ...], str]:
    """Return how fetching and preparing what the project's runs read failed last: command and arguments -> words."""
    splits = [split for run in project.runs for split in run.splits]
    jobs = [("fetch", split.dataset) for split in splits]
    jobs += [("fetch-weights", name) for run in project.runs for name in run.weights]
    jobs += [("prepare", f"{split.dataset}/{split.preparation}") for split in splits]
    found = {(step, *job.split("/")): failed(project, step, job) for step, job in dict.fromkeys(jobs)}
    return {job: text for job, text in found.items() if text}


def failed_of_suite(project: Project) -> dict[Path, str]:
    """Return how the last attempts at the suite's results failed, in words, by their records."""
    paths = sorted((project.root / project.results / "attempts").rglob("*.json"))
    return {path: text for path in paths if (text := _text(path))}


def last_attempt(project: Project, step: str, job: str) -> Attempt | None:
    """Return the record of the last attempt, if it did not end well; None where there is none that can be read."""
    try:
        found = last_sign(project, step, job)
    except ResultsError:
        return None
    return None if found is None else found[0]


def times_killed(project: Project, step: str, job: str, attempts: int) -> int:
    """Return how many of the last ``attempts`` at a job were killed without a word, which mostly is for memory.

    Those that left no record count, too: they were killed before they could write one.
    """
    last = last_attempt(project, step, job) if attempts else None
    return attempts if last is None else min(attempts, last.killed + last.was_killed)

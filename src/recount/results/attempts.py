"""What a step that began and did not end well leaves: ``attempts/<step>/<job>.json``.

It lies below results/<suite>/ or, of steps whose files all suites share, below resources/. A record is written when a
step begins and removed when it succeeds. One that has no end is of a step that still runs, or that was killed without a
word (out of memory, walltime). Whatever older files lie around, what the step should have made is missing then; data
that were prepared before are as good as they were, and that the last attempt failed is told. The file is never declared
to Snakemake, which deletes what it declares. As long as the step lives it touches its record, so that one on another
machine that died is told from one that runs. How far a training has come stands in ``progress.json`` beside its saved
state.
"""

import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import ClassVar

from recount.results.files import JsonRecord, ResultsError, SaveError
from recount.settings.project import Project, Run

OF_DATA = ("fetch", "fetch-weights", "prepare")  # steps whose files all suites share
LONGEST = 2000  # characters of an error that are kept
BEAT, LOST = 15.0, 120.0  # seconds between signs of life; after so many without one a step is taken for dead
PROGRESS = "progress.json"
LOG_LINES, LINE_LENGTH = 5, 300


class Attempt(JsonRecord):
    """Content of an attempt: when it began, where, and how it failed (None: it said nothing)."""

    STEP: ClassVar[str] = ""  # the step that it is of

    step: str
    job: str
    began: str
    host: str
    process: int
    error: str | None = None

    @property
    def text(self) -> str:
        """Return what became of it, in words."""
        if self.error is not None:
            return f"{self.step} failed: {self.error}"
        return f"{self.step} began and did not end: it still runs, or was killed (memory, time limit)"


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


def _path(project: Project, step: str, job: str) -> Path:
    below = Path(project.config.resources) if step in OF_DATA else project.results
    return project.root / below / "attempts" / step / f"{job.replace('/', '.')}.json"


@contextmanager
def attempt(project: Project, step: str, job: str) -> Iterator[None]:
    """Note that a step works on ``job`` (a run, a data set), and how it failed if it does."""
    path = _path(project, step, job)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    noted = Attempt(step=step, job=job, began=now, host=socket.gethostname(), process=os.getpid())
    noted.write(path)
    ended = threading.Event()
    threading.Thread(target=_beat, args=(path, ended), daemon=True).start()
    try:
        yield
    except BaseException as error:
        ended.set()
        noted.error = (str(error) or type(error).__name__)[:LONGEST]
        with suppress(SaveError):  # what the step failed of is told; the record that it began is there
            noted.write(path)
        raise
    ended.set()
    path.unlink(missing_ok=True)


def _beat(path: Path, ended: threading.Event) -> None:
    while not ended.wait(BEAT):
        with suppress(OSError):
            os.utime(path)


def last_attempt(project: Project, step: str, job: str) -> tuple[Attempt, float] | None:
    """Return an attempt that has not ended well, and the seconds since its last sign of life; errors: ``read``."""
    path = _path(project, step, job)
    try:
        return Attempt.read(path), max(time.time() - path.stat().st_mtime, 0.0)
    except FileNotFoundError:
        return None


def is_alive(attempt: Attempt, silent: float) -> bool:
    """Return whether a step still works: its process on this machine, or signs of life from another one."""
    if attempt.error is not None or silent > LOST:
        return False
    if attempt.host != socket.gethostname():
        return True
    try:
        os.kill(attempt.process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        pass
    return True


def failed(project: Project, step: str, job: str) -> str:
    """Return how the last attempt of a step at ``job`` failed, in words; "" where it did not."""
    return _text(_path(project, step, job))


def _text(path: Path) -> str:
    try:
        return Attempt.read(path).text
    except FileNotFoundError:
        return ""
    except ResultsError as error:
        return f"the record of its last attempt is {error.what}"


def log_tail(path: Path) -> str:
    """Return the last lines of a log, or "" if there is none."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return ""
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

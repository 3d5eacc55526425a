"""A step as a job of a scheduler: which attempt it is, when its time ends, and what is left of an attempt.

The workflow tells a job its attempt and, on a cluster, its minutes. An attempt after a failure that would only come
again ends at once: what has failed once in a workflow is tried again by the next one, or when its settings, code or
data have changed. SIGTERM ends a step with a word; a training saves its state first (``Limit.deferred``).
"""

import json
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

from recount.errors import UserError
from recount.provenance import output_of
from recount.results import attempts
from recount.results.attempts import Attempt, attempt_path, last_attempt
from recount.results.files import SaveError, file_digest, now, text_digest
from recount.settings.project import Project

# Environment variables. The workflow tells its jobs which attempt it is, and on a cluster how many minutes they have; a
# user whose scheduler nobody asks says when all must have ended, in seconds since 1970.
ATTEMPT, MINUTES, UNTIL = "RECOUNT_ATTEMPT", "RECOUNT_MINUTES", "RECOUNT_UNTIL"
LONGEST = 2000  # characters of an error that are kept
LAST_SECONDS = 10.0  # before the end, in which nothing begins: the processes around this one have to end, too


class WalltimeError(UserError):
    """A training has saved its state, because the time of its job ends; the job goes on when it is started again."""


class KilledError(UserError):
    """A process of several was killed without a word, mostly for memory."""


class EndedError(SystemExit):
    """Somebody ended this process: a scheduler whose limit was reached, or a user."""


class Limit:
    """The end of this job's time, and whether somebody ends it now."""

    def __init__(self) -> None:
        self.end, self.told = end_of_job(), False

    def reached(self, seconds: float = 0.0) -> bool:
        """Return whether no ``seconds`` are left before this job is ended."""
        return self.told or (self.end is not None and time.time() + seconds + LAST_SECONDS >= self.end)

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Only note SIGTERM while this lasts: whoever asks ``reached`` saves what there is."""

        def note(signum: int, frame: Any) -> None:
            self.told = True

        with _on_sigterm(note):
            yield


@contextmanager
def _on_sigterm(handler: Any) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def end_of_job() -> float | None:
    """Return when this job is ended by its scheduler, in seconds since 1970; None: nobody says."""
    for name in (UNTIL, "SLURM_JOB_END_TIME"):
        if text := os.environ.get(name):
            with suppress(ValueError):
                return float(text)
            raise UserError(f"{name} = {text!r}: expected seconds since 1970, for instance $(date -d '+24 hours' +%s)")
    if job := os.environ.get("SLURM_JOB_ID"):
        if task := os.environ.get("SLURM_ARRAY_TASK_ID"):  # which squeue does not know by the job's own number
            job = f"{os.environ.get('SLURM_ARRAY_JOB_ID')}_{task}"
        with suppress(ValueError):  # no squeue, no such job, no limit
            answer = output_of("squeue", "--noheader", f"--jobs={job}", "--format=%e") or ""
            return datetime.fromisoformat(answer.strip()).timestamp()
    if minutes := os.environ.get(MINUTES):
        return _start_of_job() + 60 * float(minutes)
    return None


def _start_of_job() -> float:
    """Return when the script began that the scheduler started: it leads the session."""
    with suppress(psutil.Error, OSError):
        return psutil.Process(os.getsid(0)).create_time()
    return psutil.Process().create_time()


@contextmanager
def attempt(project: Project, step: str, job: str, made_from: Mapping[str, Any] | None = None) -> Iterator[None]:
    """Note that a step works on ``job`` (a run, a data set), and how it ended if not well.

    ``made_from`` are the digests of what it works with. Where an earlier attempt of the same workflow failed with the
    same ones, this raises its error at once.
    """
    path, number = attempt_path(project, step, job), int(os.environ.get(ATTEMPT) or 1)
    digest = text_digest(json.dumps(made_from, sort_keys=True)) if made_from else ""
    earlier = last_attempt(project, step, job) if number > 1 else None
    if earlier is not None and earlier.end == "failed" and digest and earlier.made_from == digest:
        raise UserError(f"attempt {number} is not made, because nothing has changed since the last: {earlier.error}")
    end = end_of_job()
    noted = Attempt(
        step=step,
        job=job,
        began=now(),
        host=socket.gethostname(),
        process=os.getpid(),
        until=_time(end) if end else "",
        made_from=digest,
        killed=earlier.killed + earlier.was_killed if earlier is not None else 0,
    )
    noted.write(path)
    ended = threading.Event()
    threading.Thread(target=_beat, args=(path, ended), daemon=True).start()
    try:
        with _on_sigterm(_ended):
            yield
    except BaseException as error:
        ended.set()
        noted.error, noted.end = (str(error) or type(error).__name__)[:LONGEST], _kind_of(error)
        with suppress(SaveError):  # what the step failed of is told; the record that it began is there
            noted.write(path)
        raise
    ended.set()
    path.unlink(missing_ok=True)


def _beat(path: Path, ended: threading.Event) -> None:
    while not ended.wait(attempts.BEAT):
        with suppress(OSError):
            os.utime(path)


def digests(*paths: Path) -> dict[str, str]:
    """Return the SHA-256 of files by path; "" for those that cannot be read."""
    found = {}
    for path in paths:
        found[str(path)] = ""
        with suppress(OSError):
            found[str(path)] = file_digest(path)
    return found


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def _ended(signum: int, frame: Any) -> None:
    raise EndedError("recount: ended by SIGTERM: its scheduler's time limit, or somebody's scancel or kill")


def _kind_of(error: BaseException) -> Any:
    if isinstance(error, WalltimeError):
        return "walltime"
    if isinstance(error, KilledError):
        return "killed"
    if not isinstance(error, Exception):
        return "ended"
    # disks, drivers and memory may do better another time
    return "error" if isinstance(error, OSError | RuntimeError | MemoryError | SaveError) else "failed"

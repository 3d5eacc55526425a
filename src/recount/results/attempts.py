"""What a step that began and did not end well leaves: ``attempts/<step>/<job>.json`` below results/<suite>/.

A record is written when a step begins and removed when it succeeds. One that has no end is of a step that still runs,
or that was killed without a word (out of memory, walltime). Whatever older files lie around, what the step should have
made is missing then. The file is never declared to Snakemake, which deletes what it declares.
"""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import ClassVar

from recount.results.files import JsonRecord, ResultsError
from recount.settings.project import Project

LONGEST = 2000  # characters of an error that are kept


class Attempt(JsonRecord):
    """Content of an attempt: when it began, where, and how it failed (None: it said nothing)."""

    STEP: ClassVar[str] = "recount verify --mend"

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


def _path(project: Project, step: str, job: str) -> Path:
    return project.root / project.results / "attempts" / step / f"{job.replace('/', '.')}.json"


@contextmanager
def attempt(project: Project, step: str, job: str) -> Iterator[None]:
    """Note that a step works on ``job`` (a run, a data set), and how it failed if it does."""
    path = _path(project, step, job)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    noted = Attempt(step=step, job=job, began=now, host=socket.gethostname(), process=os.getpid())
    noted.write(path)
    try:
        yield
    except BaseException as error:
        noted.error = (str(error) or type(error).__name__)[:LONGEST]
        noted.write(path)
        raise
    path.unlink(missing_ok=True)


def failed(project: Project, step: str, job: str) -> str:
    """Return how the last attempt of a step at ``job`` failed, in words; "" where it did not."""
    try:
        return Attempt.read(_path(project, step, job)).text
    except FileNotFoundError:
        return ""
    except ResultsError as error:
        return str(error)

"""The reference run of a suite, ``reference/<suite>/``: a run with several seeds that recount comes with.

``scores.csv`` has each measured number, ``predictions.csv`` the SHA-256 of each file of predictions, ``reference.json``
machine, kernels, packages, commit, data, settings, and the digests of the other two.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from pydantic import Field

from recount.results.files import CsvTable, JsonRecord, Made, ResultsError, file_digest
from recount.results.run_record import Provenance
from recount.settings.project import Project

FOLDER = "reference"
RECORD = "reference.json"
STEP = "recount reference --write"


@dataclass(frozen=True, slots=True)
class ReferenceScore:
    """A metric of one seed's predictions on a split with one selection."""

    system: str
    variant: str
    seed: int
    dataset: str  # <data set>/<split>
    selection: str
    metric: str
    value: float
    n: int | None


@dataclass(frozen=True, slots=True)
class ReferenceFile:
    """A file of predictions, below results/<suite>."""

    path: str
    sha256: str


SCORES = CsvTable(ReferenceScore, STEP)
FILES = CsvTable(ReferenceFile, STEP)
TABLES = {"scores.csv": SCORES, "predictions.csv": FILES}


class Reference(JsonRecord):
    """Content of reference.json."""

    STEP: ClassVar[str] = STEP

    suite: str
    when: str
    seeds: list[int]
    made: Made  # content: the tables beside it; data: digests of the data of all runs
    origin: Provenance  # of all runs alike: commit, machine, packages
    planned: dict[str, str]  # of each training, the digest of its settings
    code: dict[str, str]  # of each system, that of its training's code
    threads: int | None = None  # of a training
    seconds: dict[str, float] = Field(default_factory=dict)  # of a processor: train/<system>/<variant>, or a step's job

    @property
    def title(self) -> str:
        """Return in words which run it is."""
        commit = f"commit {(self.origin.commit or 'unknown')[:7]}"
        return f"{commit}, seeds {', '.join(map(str, self.seeds))}, {machine(self.origin)}"


def machine(origin: Provenance) -> str:
    """Return the processor and its kernels, or the cards."""
    cards = [str(card.get("name")) for card in origin.hardware.get("gpus", ())]
    kernels = origin.hardware.get("kernels")
    return ", ".join(cards or [str(origin.hardware.get("cpu", "unknown")), *([str(kernels)] if kernels else [])])


def folder_of(project: Project) -> Path:
    """Return where the reference of the suite is."""
    return project.root / FOLDER / project.suite.name


def read_record(folder: Path) -> Reference | None:
    """Return the record of a reference; None where there is none. A ``ResultsError`` where it is damaged."""
    try:
        return Reference.read(folder / RECORD)
    except FileNotFoundError:
        return None


def read(folder: Path) -> tuple[Reference, list[ReferenceScore], list[ReferenceFile]] | None:
    """Return a reference, None where there is none; a ``ResultsError`` where a file is not what was written."""
    record = read_record(folder)
    if record is None:
        return None
    for name in TABLES:
        if not (folder / name).is_file() or file_digest(folder / name) != record.made.content.get(name):
            raise ResultsError(folder / name, "is not what was written with reference.json", f"`{STEP}` makes both")
    return record, SCORES.read(folder / "scores.csv"), FILES.read(folder / "predictions.csv")

"""What ``recount rehearse`` measured on a device: ``resources/rehearsals/<device>.json``, for ``recount plan``."""

import re
from contextlib import suppress
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from recount.results.files import Fields, JsonRecord, ResultsError

FOLDER = "rehearsals"  # below the resources


class Rehearsed(Fields):
    """What one training took; memory and files in MB (10^6 bytes). Of a failed one only some is there."""

    run: str
    when: str = ""
    code: str = ""  # digest of the training step's code
    data: Literal["prepared", "generated"] = "generated"
    weights: Literal["own", "random"] = "own"  # random: the base weights were not there, or not wanted
    precision: str = ""
    batch: int = 0  # samples of a step of the recipe
    batch_taken: int = 0  # of the steps that were measured; fewer on a processor at paper size
    steps: int = 0  # that were measured
    seconds_per_step: float | None = None  # median, computing and waiting, of a whole batch
    waiting: float | None = None  # share of it in which the device waits for data
    parts: int = 1  # that the batch was computed in, because it did not fit whole
    peak_memory_mb: float | None = None  # of the process
    peak_gpu_memory_mb: float | None = None
    state_mb: float | None = None  # of an unfinished training, on disk
    save_seconds: float | None = None
    model_mb: float | None = None
    seconds_per_image: dict[str, float] = Field(default_factory=dict)  # by benchmark
    cut_to: int | None = (
        None  # side in pixels that pictures were cut to for predicting; seconds are scaled to all of it
    )
    absent: list[str] = Field(default_factory=list)  # benchmarks whose own pictures are not here: drawn ones stood in
    resumed: str = ""  # how a resumed training compares with the unbroken one: "equal", or in words
    told: list[str] = Field(default_factory=list)  # what does not fit, and what was or would be done
    error: str = ""


class Rehearsals(JsonRecord):
    """Rehearsals on one device, by run."""

    STEP: ClassVar[str] = "recount rehearse"

    device: str
    kind: Literal["cuda", "cpu"]
    memory_mb: int  # of the card, else of the machine
    rehearsed: dict[str, Rehearsed] = Field(default_factory=dict)


def rehearsals_path(resources: Path, device: str) -> Path:
    """Return where the rehearsals on a device of that name are."""
    return resources / FOLDER / f"{re.sub(r'[^A-Za-z0-9]+', '-', device).strip('-')}.json"


def add_rehearsals(path: Path, found: Rehearsals) -> None:
    """Write ``found``, with the earlier rehearsals of other runs that the file holds; a damaged file is replaced."""
    try:
        earlier = Rehearsals.read(path).rehearsed
    except (FileNotFoundError, ResultsError):
        earlier = {}
    found.model_copy(update={"rehearsed": earlier | found.rehearsed}).write(path)


def read_rehearsals(resources: Path) -> list[Rehearsals]:
    """Return the rehearsals on all devices that have some that can be read."""
    found = []
    for path in sorted((resources / FOLDER).glob("*.json")):
        with suppress(FileNotFoundError, ResultsError):
            found.append(Rehearsals.read(path))
    return found

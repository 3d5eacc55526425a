"""What a training run leaves: run.json (``RunRecord``), and history.csv with a row per epoch."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import BeforeValidator, Field

from recount.results.files import Fields, JsonRecord, ResultsError, write_rows

RUN = "run.json"
HISTORY = "history.csv"
STATE = "state.pt"  # of a training that goes on; in a folder of its own until the record is there

#: a number that is NaN where the file has null
Number = Annotated[float, BeforeValidator(lambda value: float("nan") if value is None else value)]


class Selection(Fields):
    """A model of a run: which epoch, which file, and what it scored on the samples that chose it."""

    epoch: int
    model: str
    sha256: str
    on: dict[str, Number] = Field(default_factory=dict)


class RecordedSplit(Fields):
    """A split of a prepared data set."""

    dataset: str
    split: str
    preparation: str


class RecordedRun(Fields):
    """The run as it was planned (``settings.project.Run``, whose other fields are here, too)."""

    suite: str = ""
    system: str
    variant: str
    seed: int
    size: str = ""
    protocol: str = ""
    checkpoint: str | None = None
    training: RecordedSplit | None = None


class Cost(Fields):
    """What the run took; None where it was not measured, as for a released checkpoint that was only read."""

    wall_seconds: float | None = None
    gpu_seconds: float | None = None
    peak_memory_mb: float | None = None
    peak_gpu_memory_mb: float | None = None
    parameters_total: int | None = None
    parameters_trained: int | None = None
    flops_per_window: float | None = None
    window: list[int] | None = None
    steps: int | None = None
    seconds_per_step: float | None = None


class Provenance(Fields):
    """What the run was made with (``recount.provenance.collect``)."""

    recount: str = ""
    commit: str | None = None
    dirty: bool | None = None
    command: list[str] = Field(default_factory=list)
    python: str = ""
    packages: dict[str, str] = Field(default_factory=dict)
    hardware: dict[str, Any] = Field(default_factory=dict)
    device: str = ""
    device_chosen: str = ""  # the card with its driver and CUDA, or why the processor
    code: str = ""
    data: dict[str, str] = Field(default_factory=dict)


class CheckpointFile(Fields):
    """The released file that a run was read from."""

    file: str
    sha256: str


class RunRecord(JsonRecord):
    """Content of run.json; settings of the system and recipe have all their defaults."""

    SCHEMA: ClassVar[int] = 3
    OLDEST: ClassVar[int] = 3
    STEP: ClassVar[str] = "recount train"

    run: RecordedRun
    selections: dict[str, Selection] = Field(min_length=1)  # "last", and those that a selection chose
    settings: dict[str, Any] = Field(default_factory=dict)
    recipe: dict[str, Any] = Field(default_factory=dict)
    precision_used: str = ""  # what the device could do of the recipe's precision
    determinism_used: str = ""  # "seeded" or "bitwise", which on a processor is all there is
    targets: str = ""  # what made the training's targets: "ready maps", "own kernel", or "" where neither did
    provenance: Provenance = Provenance()
    cost: Cost = Cost()
    status: str = ""  # "trained" or "checkpoint"
    planned: str = ""  # SHA-256 of all that the training depends on (``provenance.run_settings``)
    history_sha256: str = ""  # of history.csv
    feeding: dict[str, int] = Field(default_factory=dict)  # loader processes, threads, memory for pictures
    training_samples: int | None = None
    processes: int | None = None
    parts: int | None = None  # in how many sittings the training was done
    checkpoint: CheckpointFile | None = None  # the released file, where one was read

    @property
    def precision_of_evaluation(self) -> Any:
        """Return the ``Precision`` in which the run's recipe evaluates."""
        return self.recipe.get("evaluation_precision") or self.recipe["precision"]

    @property
    def computed_on(self) -> str:
        """Return the names of the cards that a training saw and used, or of the processor; "" where nobody noted it."""
        hardware = self.provenance.hardware
        cards = hardware.get("gpus") if self.provenance.device.startswith("cuda") else None
        cards = cards if isinstance(cards, list) else []
        names = [str(card["name"]) for card in cards if isinstance(card, dict) and "name" in card]
        return ", ".join(dict.fromkeys(names)) or str(hardware.get("cpu") or self.provenance.device)

    @property
    def id(self) -> str:
        """Return ``<system>/<variant>/seed<k>``."""
        return f"{self.run.system}/{self.run.variant}/seed{self.run.seed}"


def read_run_record(folder: Path) -> RunRecord:
    """Return the run.json of a finished run's folder; without one, too, this is a ResultsError."""
    path = folder / RUN
    try:
        return RunRecord.read(path)
    except FileNotFoundError:
        raise ResultsError(path, "no such file: this run is not trained", "`recount train` does it") from None


def write_history(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write history.csv; the columns are all that a row has, in the order in which they first appear."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    texts = [["" if row.get(name) is None else str(row[name]) for name in columns] for row in rows]
    write_rows(path, columns, texts)


class ModelRecord(JsonRecord):
    """What lies beside a model file, written with it: whose it is, and the file's digest."""

    STEP: ClassVar[str] = "recount train"

    run: str
    selection: Selection


def write_model_record(folder: Path, run_id: str, selection: Selection) -> None:
    """Write ``<model>.json`` beside a model."""
    ModelRecord(run=run_id, selection=selection).write((folder / selection.model).with_suffix(".json"))

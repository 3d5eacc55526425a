"""Predictions of a run on a benchmark, ``seed<k>.csv``; ``seed<k>.timing.json``: times, and made from what."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from recount.results.files import CsvTable, Fields, JsonRecord, Made, ResultsError, made_anew

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

STEP = "recount predict"


@dataclass(frozen=True, slots=True)
class PredictionRow:
    """A sample predicted with one selection of a run; ``predicted_count`` is NaN where the output is not finite."""

    id: str
    image: str
    prompt: str
    true_count: float
    predicted_count: float
    selection: str


PREDICTIONS = CsvTable(PredictionRow, STEP, nothing="nan")


@dataclass(frozen=True, slots=True)
class Predictions:
    """Predictions of one run with one selection on one benchmark, in the order of the file."""

    ids: tuple[str, ...]
    images: tuple[str, ...]
    true: NDArray[np.float64]
    predicted: NDArray[np.float64]

    @property
    def not_finite(self) -> list[str]:
        """Return the ids of predictions that are NaN or infinite."""
        import numpy as np

        return [self.ids[place] for place in np.flatnonzero(~np.isfinite(self.predicted))]


class SelectionTiming(Fields):
    """Seconds in the network: of all images, and of each; ``ties`` and ``left_out`` where counts come by caption."""

    images: int
    seconds: float
    seconds_per_image: dict[str, float] = Field(default_factory=dict)
    ties: list[str] | None = None
    left_out: list[str] | None = None


class Timing(JsonRecord):
    """Content of a timing.json: where predictions were made, what from, and how long each selection took."""

    SCHEMA: ClassVar[int] = 2
    OLDEST: ClassVar[int] = 2
    STEP: ClassVar[str] = STEP

    made: Made
    device: str
    precision: str
    threads: int | None = None
    selections: dict[str, SelectionTiming]


def timing_path(predictions: Path) -> Path:
    """Return the file of the times of a predictions CSV."""
    return predictions.with_suffix(".timing.json")


def read_predictions(source: Path | bytes, where: str = "") -> dict[str, Predictions]:
    """Return the predictions in a CSV by selection, each sample once. Arguments: as for ``CsvTable.read``."""
    import numpy as np

    by_selection: dict[str, list[PredictionRow]] = defaultdict(list)
    for row in PREDICTIONS.read(source, where):
        by_selection[row.selection].append(row)
    found = {}
    for selection, rows in by_selection.items():
        twice = [name for name, times in Counter(row.id for row in rows).items() if times > 1]
        if twice:
            raise ResultsError(where or str(source), f"damaged: it has {twice[0]} twice", made_anew(STEP))
        found[selection] = Predictions(
            ids=tuple(row.id for row in rows),
            images=tuple(row.image for row in rows),
            true=np.array([row.true_count for row in rows]),
            predicted=np.array([row.predicted_count for row in rows]),
        )
    return found

"""What a prepared data set says of itself: summary.json and raw.csv beside its index.csv.

Each row of index.csv names the SHA-256 of its picture, points and boxes, so that the SHA-256 of index.csv, the *data
digest*, stands for all that a run can read. summary.json records it; raw.csv lists the raw files behind it.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from pydantic import Field

from recount.results.files import CsvTable, Fields, JsonRecord, ResultsError, file_digest

SUMMARY = "summary.json"
RAW = "raw.csv"


@dataclass(frozen=True, slots=True)
class RawFile:
    """A raw file that a data set was prepared from."""

    path: str  # below the folder of raw files: ``<dataset>/<path>``
    sha256: str


RAW_FILES = CsvTable(RawFile, "recount prepare")


class RawFiles(Fields):
    """Where the raw files lie, and the digest of their list."""

    folder: str = ""  # of all data sets, relative to the prepared folder
    files: int = 0
    sha256: str = ""  # of raw.csv


class Pictures(Fields):
    """What was noticed of the pictures: how many, or which prepared files."""

    number: int = 0
    grey: int = 0
    resized: int = 0
    with_unapplied_exif_orientation: list[str] = Field(default_factory=list)
    transparent: list[str] = Field(default_factory=list)  # laid on white
    repaired: dict[str, float] = Field(default_factory=dict)  # share of the rows that are filled with grey


class Samples(Fields):
    """What was noticed of the samples of a split, or of all; points before the size rule dropped or merged any."""

    samples: int = 0
    images: int = 0
    points: int = 0
    boxes: int = 0
    count: float = 0
    points_prepared: int = 0
    points_outside: int = 0
    points_coincident: int = 0
    points_merged: int = 0
    counts_that_are_not_points: int = 0  # samples whose count is not the number of their points, in sets with points
    count_prepared: float = 0
    count_min: float | None = None
    count_median: float | None = None
    count_mean: float | None = None
    count_max: float | None = None
    samples_with_points_outside: dict[str, int] = Field(default_factory=dict)
    samples_mostly_outside: list[str] = Field(default_factory=list)  # a larger share than a whole split may have

    @property
    def share_outside(self) -> float:
        """Return the share of the points that lie outside their picture."""
        return self.points_outside / self.points if self.points else 0.0


class Summary(JsonRecord):
    """Content of summary.json."""

    SCHEMA: ClassVar[int] = 2
    OLDEST: ClassVar[int] = 2
    STEP: ClassVar[str] = "recount prepare"

    dataset: str
    preparation: str
    data_digest: str = ""  # the SHA-256 of index.csv; set when that is written
    raw: RawFiles = RawFiles()
    title: str = ""
    licence: str = ""
    publishable: bool = False
    size_rule: str = ""
    points_outside_are: str = ""
    accepted: str = ""  # why so many points lie outside their pictures, where somebody had to say it
    whole: Samples = Samples()
    splits: dict[str, Samples] = Field(default_factory=dict)
    pictures: Pictures = Pictures()


def prepare_again(folder: Path) -> str:
    """Return what makes the prepared data in ``folder`` anew, for messages."""
    return f"`recount prepare {' '.join(folder.absolute().parts[-2:])}` makes it anew"


def read_summary(folder: Path) -> Summary:
    """Return the summary of the prepared data in ``folder``. FileNotFoundError, ResultsError: as ``Summary.read``."""
    try:
        return Summary.read(folder / SUMMARY)
    except ResultsError as error:
        raise ResultsError(error.where, error.what, prepare_again(folder)) from None


def data_digest(index: Path) -> str:
    """Return the data digest that summary.json records; a ``ResultsError`` unless index.csv is the file it is of."""
    try:
        recorded = read_summary(index.parent).data_digest
        found = file_digest(index)
    except OSError as error:
        raise ResultsError(error.filename, str(error.strerror), prepare_again(index.parent)) from None
    if found != recorded:
        what = f"damaged: its sha256 is {found[:12]}, expected {recorded[:12]} ({SUMMARY})"
        raise ResultsError(index, what, prepare_again(index.parent))
    return recorded


def raw_root(folder: Path, summary: Summary) -> Path:
    """Return the folder of raw files behind the prepared data in ``folder``."""
    return Path(os.path.normpath(folder.absolute() / summary.raw.folder))

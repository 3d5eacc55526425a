"""What a paper printed: ``papers/<paper>/published.csv``, written by hand; ``value`` stays the printed text."""

from dataclasses import dataclass
from pathlib import Path

from recount.results.files import CsvTable


@dataclass(frozen=True, slots=True)
class PublishedRow:
    """A printed number: in which table and row, of which system, on what, where it stands, what is odd about it."""

    table: str
    row: str
    system: str
    variant: str
    benchmark: str
    metric: str
    value: str
    source: str
    note: str


PUBLISHED = CsvTable(PublishedRow)


def read_published(folder: Path) -> list[PublishedRow]:
    """Return what a paper's folder says was printed; nothing where it has no published.csv."""
    path = folder / "published.csv"
    return PUBLISHED.read(path) if path.is_file() else []

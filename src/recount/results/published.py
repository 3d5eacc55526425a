"""What a paper printed: ``papers/<paper>/published.csv``, written by hand; ``value`` stays the printed text."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from recount.metrics import ALL
from recount.results.files import CsvTable
from recount.settings.base import ConfigError, absent
from recount.settings.paper import Paper
from recount.settings.project import Project


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


def check_published(project: Project) -> None:
    """Refuse a published.csv with a line that no table of its paper can show, or whose value is no number."""
    problems = []
    for paper in project.papers.values():
        path = paper.published
        where = path.relative_to(project.root) if path.is_relative_to(project.root) else path
        lines = read_published(paper.folder)
        problems += [f"{where}: {problem}" for problem in _problems(paper, lines)]
    if problems:
        raise ConfigError("\n".join(problems))


def _problems(paper: Paper, lines: list[PublishedRow]) -> Iterator[str]:
    places = [(line.table, line.row, line.benchmark, line.metric) for line in lines]
    times = Counter(place for place in places if place[0] in paper.tables)
    yield from (f"{', '.join(place)}: is there {number} times" for place, number in times.items() if number > 1)
    for number, line in enumerate(lines, start=2):
        where, table = f"line {number}", paper.tables.get(line.table)
        try:
            float(line.value)
        except ValueError:
            yield f"{where}: value = {line.value!r}: not a number"
        if table is not None:
            yield from absent(f"{where}: row", f"row of {line.table}", line.row, [row.key for row in table.rows])
            yield from absent(f"{where}: benchmark", f"benchmark of {line.table}", line.benchmark, table.on)
            yield from absent(f"{where}: metric", "metric", line.metric, ALL)
        elif get_close_matches(line.table, paper.tables, cutoff=0.8):
            yield from absent(f"{where}: table", "table", line.table, paper.tables)

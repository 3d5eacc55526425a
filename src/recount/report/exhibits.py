"""What a paper's page shows besides its claims and tables: exhibits, made from a ``Context``, shown by one template."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from recount.report.numbers import interval, number, present

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from recount.report.gallery import AnswerTable, Gallery
    from recount.report.sources import Sources
    from recount.report.tables import TableView
    from recount.settings.experiment import Experiment
    from recount.settings.paper import Paper

WIDE = 48  # letters; columns with longer texts wrap
Value = str | int | float | None


@dataclass(frozen=True)
class Plot:
    """A figure of the page: its files' stem, the inlined SVG, its caption; one with a heading is folded under it."""

    name: str
    svg: str
    caption: str
    aspect: str
    heading: str = ""


@dataclass(frozen=True)
class Cell:
    """A cell of a sheet."""

    value: Value  # what CSV files hold and sorting goes by; None or NaN: nothing
    text: str = ""  # how it is shown; "": the value with the digits that an error deserves
    ends: tuple[float, float] | None = None  # a 95 % interval, shown below; columns of their own in a CSV
    below: str = ""  # small print
    hint: str = ""  # shown when pointed at
    links: tuple[tuple[str, str], ...] = ()  # (address, words) to be listed instead of the text
    alarm: bool = False  # whether the small print is a warning

    @property
    def empty(self) -> bool:
        """Whether there is nothing to show."""
        return not self.value if isinstance(self.value, str) else self.value is None or not present(self.value)

    @property
    def shown(self) -> str:
        """Return the text of the cell."""
        if self.empty:
            return "–"
        return self.text or (number(self.value) if isinstance(self.value, float) else str(self.value))

    @property
    def small(self) -> str:
        """Return what stands below it."""
        return self.below or (interval(*self.ends, float(self.value or 0)) if self.ends else "")


@dataclass(frozen=True)
class Line:
    """A row of a sheet: its cells or bare values, its class, what the page's filter finds it by, its anchor."""

    values: tuple[Cell | Value, ...]
    css: str = ""
    marks: str = ""
    anchor: str = ""

    @property
    def cells(self) -> list[Cell]:
        """Return every value as a cell."""
        return [value if isinstance(value, Cell) else Cell(value) for value in self.values]


@dataclass(frozen=True)
class Sheet:
    """A table of an exhibit, on the page and as files."""

    file: str  # stem of its files
    title: str
    heads: tuple[str, ...]
    lines: tuple[Line, ...]
    hints: tuple[tuple[str, str], ...] = ()  # (head, what it means)
    groups: tuple[tuple[str, int], ...] = ()  # (words, columns that they span) of a line above the heads
    folded: bool = False  # under its title
    note: str = ""  # small print above it

    def numeric(self, column: int) -> bool:
        """Return whether a column holds numbers."""
        values = [line.cells[column].value for line in self.lines]
        return not any(isinstance(value, str) and value for value in values) and any(v is not None for v in values)

    @property
    def file_heads(self) -> Iterator[str]:
        """Yield the heads as files have them: one that stands there twice begins with the words above it."""
        above = [words for words, span in self.groups for _ in range(span)] or [""] * len(self.heads)
        for head, words in zip(self.heads, above, strict=True):
            yield f"{words} {head}".strip() if self.heads.count(head) > 1 else head

    @property
    def columns(self) -> Iterator[tuple[str, str, bool]]:
        """Yield head, hint and whether it holds numbers, of each column."""
        hints = dict(self.hints)
        return ((head, hints.get(head, ""), self.numeric(n)) for n, head in enumerate(self.heads))

    @property
    def alignment(self) -> str:
        """Return l, r or w (wide, wraps) for each column."""
        longest = [max((len(line.cells[n].shown) for line in self.lines), default=0) for n in range(len(self.heads))]
        return "".join("r" if self.numeric(n) else "w" if size > WIDE else "l" for n, size in enumerate(longest))


@dataclass(frozen=True)
class Exhibit:
    """A section of a paper's page; what is empty is not shown."""

    id: str  # end of its anchor
    title: str
    sentence: str = ""  # what it is and where it comes from
    figures: tuple[Plot, ...] = ()
    tables: tuple[Sheet, ...] = ()
    findings: tuple[tuple[str, str], ...] = ()  # (in a few words, the sentence that says it)
    galleries: tuple[Gallery, ...] = ()
    answers: tuple[AnswerTable, ...] = ()
    notes: tuple[str, ...] = ()
    short: str = ""  # how the contents call it, if not by the title
    glance: str = ""  # the finding that the front page may repeat


@dataclass(frozen=True)
class Variant:
    """A variant that a paper's tables show: its ids, its label there, and whether the first table has it."""

    system: str
    variant: str
    label: str
    first: bool = True

    @property
    def key(self) -> tuple[str, str]:
        """Return system and variant."""
        return self.system, self.variant


@dataclass(frozen=True)
class Context:
    """What exhibits of a paper are made from: the files, the paper, and the variants that its tables show."""

    sources: Sources
    name: str
    paper: Paper
    tables: tuple[TableView, ...]
    variants: tuple[Variant, ...]
    save: Callable[[Figure, str, str, str], Any]  # (figure, name, caption, heading to fold it under)

    def plot(self, figure: Figure, name: str, caption: str, heading: str = "") -> Plot:
        """Save a figure of this paper and return it for the page."""
        return self.save(figure, f"{self.name}-{name}", caption, heading)

    @property
    def experiments(self) -> dict[str, Experiment]:
        """Return the experiments of the systems that the paper's tables name, in their order."""
        names = dict.fromkeys(run.partition("/")[0] for run in self.paper.runs)
        return {name: self.sources.project.experiments[name] for name in names}

    @property
    def comparable(self) -> bool:
        """Whether measured and published numbers may be set against each other."""
        return self.sources.project.suite.comparable

    @property
    def labels(self) -> dict[str, str]:
        """Return how the paper's own variants are called in its tables."""
        return {variant.variant: variant.label for variant in reversed(self.variants)}

"""A paper's page: its tables, claims, exhibits; pictures have a page of their own."""

import re
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from markupsafe import Markup
from matplotlib.figure import Figure

from recount.metrics import metric as metric_of
from recount.report import claims, export, figures, numbers, prompt_tests, sections
from recount.report.equations import equations
from recount.report.exhibits import Context, Exhibit, Plot, Sheet
from recount.report.pages.findings import Finding, findings
from recount.report.pages.site import Page
from recount.report.recipes import recipes
from recount.report.sources import Sources
from recount.report.tables import TIMES, TableView, paper_tables
from recount.report.words import said
from recount.settings.paper import Paper

PartOf = Callable[[str, str, Any], Any]


class ShownTable(NamedTuple):
    """A table with its figures, and how the two systems of a table of times compare: (metric, words)."""

    view: TableView
    plots: tuple[Plot, ...]
    ratios: tuple[tuple[str, str], ...]


class PaperView(NamedTuple):
    """All that is shown of a paper, on its page and on the front page."""

    name: str
    paper: Paper
    tables: list[ShownTable]
    claims: list[claims.ClaimView]
    claims_plot: Plot | None
    exhibits: list[Exhibit]
    findings: list[Finding]
    glance: Plot | None  # of the front page

    @property
    def page(self) -> Page:
        """Return the paper's page."""
        here = [exhibit for exhibit in self.exhibits if not exhibit.galleries]
        links = [(table.view.id, table.view.short_title) for table in self.tables]
        links += [(f"{self.name}-claims", "Claims")] if self.claims else []
        links += [(f"{self.name}-{exhibit.id}", exhibit.short or exhibit.title) for exhibit in here]
        content = {"view": self, "exhibits": here, "terms": list(self._terms())}
        title = self.paper.short_title or self.name
        return Page(f"{self.name}/index.html", title, "paper.html.j2", (self.name,), tuple(links), content)

    @property
    def pictures(self) -> Page | None:
        """Return the page of its pictures, if it has any."""
        shown = [exhibit for exhibit in self.exhibits if exhibit.galleries]
        ids = tuple(f"{self.name}-{exhibit.id}" for exhibit in shown)
        links = tuple((id_, exhibit.short or exhibit.title) for id_, exhibit in zip(ids, shown, strict=True))
        content = {"view": self, "exhibits": shown}
        file, title = f"{self.name}/pictures.html", self.paper.short_title or self.name
        return Page(file, "Pictures", "pictures.html.j2", ids, links, content, under=title) if shown else None

    @property
    def where(self) -> str:
        """Return where and when the paper appeared."""
        venue, year = self.paper.venue, str(self.paper.year or "")
        return venue if year in venue else ", ".join(filter(None, [venue, year]))

    def _terms(self) -> Iterator[tuple[str, str]]:
        """Yield what the metrics of its tables are."""
        for name in dict.fromkeys(column.metric for table in self.tables for column in table.view.columns):
            yield metric_of(name).label, metric_of(name).title


class PaperMaker:
    """Makes what is shown of papers, and writes their tables and figures below ``folder``."""

    def __init__(self, sources: Sources, folder: Path, part_of: PartOf) -> None:
        self.sources, self.folder, self.part_of = sources, folder, part_of
        self.project = sources.project

    def view(self, name: str) -> PaperView:
        """Return all that is shown of a paper."""
        paper, tables = self.project.papers[name], tuple(paper_tables(self.sources, name))
        context = Context(self.sources, name, paper, tables, sections.variants_of(tables), self.plot)
        judged = claims.claim_views(self.sources, name, tables)
        selections = sections.selection_rows(self.sources, tables)
        with_rmse = any(column.metric == "rmse" for table in tables for column in table.columns)
        heavy = {place: sections.influential(context, place) for place in self.sources.places() if with_rmse}
        behind = self.part_of(name, "curves", lambda *_: {})(self.sources, paper, sections.paper_metric(tables))
        exhibits = [
            *self.part_of(name, "exhibits", lambda _: ())(context),
            *prompt_tests.exhibits(context),
            *sections.answers(context),
            *sections.selection(context, selections),
            *recipes(context),
            *equations(context),
            *sections.curves(context, behind),
            *sections.photographs(context),
            *sections.errors(context, heavy),
            *sections.cost(context),
        ]
        for sheet in chain.from_iterable(exhibit.tables for exhibit in exhibits):
            self.write(sheet.file, export.sheet_files(sheet))
        if judged:
            sheet = claims.claim_sheet(name, judged)
            self.write(sheet.file, export.sheet_files(sheet))
        return PaperView(
            name,
            paper,
            [self._table(table) for table in tables],
            judged,
            self._claims_plot(context, judged),
            exhibits,
            findings(context, exhibits, judged, selections),
            self._glance(context),
        )

    def write(self, name: str, texts: dict[str, str]) -> None:
        """Write a table's files."""
        for suffix, text in texts.items():
            (self.folder / "tables" / f"{name}.{suffix}").write_text(text, encoding="utf-8")

    def sheet(self, sheet: Sheet) -> Sheet:
        """Write a sheet's files, and return it."""
        self.write(sheet.file, export.sheet_files(sheet))
        return sheet

    def plot(self, figure: Figure, name: str, caption: str, heading: str = "") -> Plot:
        """Write a figure's files, and return it for the page."""
        svg = figures.save(figure, self.folder / "figures", name, caption)
        box = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', svg)
        aspect = f"{box.group(1)} / {box.group(2)}" if box else "2"
        return Plot(name, Markup(svg), caption, aspect, heading)

    def _table(self, table: TableView) -> ShownTable:
        self.write(table.file, export.table_files(table))
        return ShownTable(table, tuple(self._forests(table)), tuple(_ratios(table)))

    def _forests(self, table: TableView) -> Iterator[Plot]:
        """Yield the table's first metric on each of its data; what stands for several benchmarks is drawn once."""
        first = {column.used: place for place, column in reversed(list(enumerate(table.columns)))}
        for used, place in sorted(first.items(), key=lambda entry: entry[1]):
            column = table.columns[place]
            shown = metric_of(column.metric)
            figure = figures.forest(table, place) if shown.scored else None
            if figure is not None:
                own_axis = "as printed, on an axis of their own, because only order and direction compare"
                published = "published" if column.comparable else own_axis
                caption = said("forest", title=table.short_title, metric=shown.label, where=used, published=published)
                yield self.plot(figure, f"{table.file}-{used.replace('/', '-')}-{column.metric}", caption)

    def _claims_plot(self, context: Context, judged: list[claims.ClaimView]) -> Plot | None:
        effects = claims.relative_effects(judged)
        if effects.empty:
            return None
        low, high = map(numbers.percent, figures.EFFECTS)
        return context.plot(figures.claims_forest(effects), "claims", said("claims", low=low, high=high))

    def _glance(self, context: Context) -> Plot | None:
        for table in context.tables:
            if table.columns and metric_of(table.columns[0].metric).scored:
                figure = figures.glance(table, context.name)
                if figure is not None:
                    caption = said("glance", title=table.short_title, where=table.columns[0].used)
                    return context.plot(figure, "glance", caption)
        return None


def address(name: str, anchor: str) -> str:
    """Return where an anchor of a paper's page lies, from the report's folder."""
    return f"{quote(name)}/index.html#{anchor}"


def _ratios(table: TableView) -> Iterator[tuple[str, str]]:
    if len(table.rows) != 2:
        return
    one, other = table.rows
    for place, column in enumerate(table.columns):
        cells = (one.cells[place], other.cells[place])
        printed = [cell.published.value for cell in cells if cell.published and cell.published.value]
        here = [cell.value for cell in cells if cell.value]
        words = []
        for what, values in (("published", printed), ("measured here", here)):
            if len(values) == 2:
                pair = " : ".join(f"{value:g}" if values is printed else numbers.number(value) for value in values)
                words.append(f"{what} {pair} = {values[0] / values[1]:.2f}")
        if words and column.metric in TIMES:
            yield f"{metric_of(column.metric).label}, {one.label} : {other.label}", "; ".join(words)

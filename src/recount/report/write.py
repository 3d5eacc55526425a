"""``recount report``: read a suite's results and write ``reports/<suite>/`` in one move.

The page is one file that needs nothing else: styles, script, figures and pictures are inside it, and a content security
policy forbids everything from elsewhere. Beside it lie the tables (CSV, LaTeX, Markdown) and the figures (SVG, PNG).
"""

from __future__ import annotations

import base64
import hashlib
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure

from recount import datasets, papers
from recount.metrics import metric as metric_of
from recount.report import export, figures, numbers, prompt_tests, sections
from recount.report.claims import (
    EVIDENCE,
    VERDICTS,
    ClaimView,
    claim_sheet,
    claim_views,
    relative_effects,
    tally,
    values_text,
)
from recount.report.equations import equations
from recount.report.exhibits import Cell, Context, Exhibit, Line, Plot, Sheet
from recount.report.provenance_view import shared_and_differing
from recount.report.recipes import recipes
from recount.report.sources import Sources
from recount.report.summary import best_rows, findings
from recount.report.tables import MARKS, SELECTIONS, STATUSES, TIMES, TableView, paper_tables, status_counts
from recount.settings.paper import Paper
from recount.settings.project import Project

TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class ShownTable:
    """A paper's table, its forests, and how the two systems of a table of times compare: (metric, words)."""

    view: TableView
    plots: tuple[Plot, ...]
    ratios: tuple[tuple[str, str], ...]


@dataclass
class PaperView:
    """What the page says about a paper; ``selections`` and ``influential`` are for the page's summary."""

    name: str
    paper: Paper
    tables: list[ShownTable]
    claims: list[ClaimView]
    claims_plot: Plot | None
    exhibits: list[Exhibit] = field(default_factory=list)
    selections: list[sections.SelectionRow] = field(default_factory=list)
    influential: list[sections.Influential] = field(default_factory=list)


def write_report(project: Project) -> Path:
    """Write the report of the project's suite from the files that exist.

    Returns:
        the path of index.html. The old report is replaced only once the new one is complete.
    """
    figures.use_style()
    target = project.root / project.report
    building = target.with_name(f".{target.name}.{os.getpid()}")
    shutil.rmtree(building, ignore_errors=True)
    for folder in ("tables", "figures"):
        (building / folder).mkdir(parents=True)
    try:
        html = Page(project, building).render()
        (building / "index.html").write_text(html, encoding="utf-8")
        _replace(building, target)
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return target / "index.html"


def _replace(building: Path, target: Path) -> None:
    """Move a finished folder into the place of another; a folder cannot be overwritten, so the old one steps aside."""
    aside = target.with_name(f".{target.name}.old.{os.getpid()}")
    if target.exists():
        target.rename(aside)
    building.rename(target)
    shutil.rmtree(aside, ignore_errors=True)


class Page:
    """The page of a suite; ``folder`` is where tables/ and figures/ are written."""

    def __init__(self, project: Project, folder: Path) -> None:
        self.project = project
        self.folder = folder
        self.sources = Sources(project)
        self.comparable = project.suite.comparable

    def render(self) -> str:
        """Return the HTML of the whole page."""
        views = [self._paper(name) for name in self.project.papers]
        tables = [table.view for view in views for table in view.tables]
        first = [(view.paper, [table.view for table in view.tables]) for view in views]
        best = [f"{paper.short_title}, {said}" for paper, mine in first for said in best_rows(mine)]
        selections = list(chain.from_iterable(view.selections for view in views))
        heavy = list(chain.from_iterable(view.influential for view in views))
        shared, differing, per_run = shared_and_differing(self.sources.runs)
        script = (TEMPLATES / "page.js").read_text(encoding="utf-8")
        data = self._data()
        return (
            _environment()
            .get_template("page.html.j2")
            .render(
                project=self.project,
                suite=self.project.suite,
                comparable=self.comparable,
                papers=views,
                counts=status_counts(tables),
                tally=tally(claim for view in views for claim in view.claims),
                findings=[*best, *findings(tables, selections, heavy)],
                runs=self.sources.runs,
                data=data,
                shared=shared,
                differing=differing,
                per_run=per_run,
                problems=self.sources.problems,
                style=Markup((TEMPLATES / "page.css").read_text(encoding="utf-8")),
                script=Markup(script),
                script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
            )
        )

    def _paper(self, name: str) -> PaperView:
        tables = tuple(paper_tables(self.sources, name))
        paper = self.project.papers[name]
        context = Context(self.sources, name, paper, tables, sections.variants_of(tables), self._plot)
        claims = claim_views(self.sources, name, tables)
        view = PaperView(
            name, paper, [self._table(table) for table in tables], claims, self._claims_plot(context, claims), []
        )
        view.selections = sections.selection_rows(self.sources, tables)
        with_rmse = any(column.metric == "rmse" for table in tables for column in table.columns)
        heavy = {place: sections.influential(context, place) for place in self.sources.places() if with_rmse}
        view.influential = list(chain.from_iterable(heavy.values()))
        behind = papers.part(name, "curves", lambda *_: {})
        metric = sections.paper_metric(tables)
        for exhibit in chain(
            papers.part(name, "exhibits", lambda _: ())(context),
            prompt_tests.exhibits(context),
            sections.answers(context),
            sections.selection(context, view.selections),
            recipes(context),
            equations(context),
            sections.curves(context, behind(self.sources, paper, metric)),
            sections.photographs(context),
            sections.errors(context, heavy),
            sections.cost(context),
        ):
            view.exhibits.append(exhibit)
            self._write_sheets(*exhibit.tables)
        if claims:
            self._write_sheets(claim_sheet(name, claims))
        return view

    def _write(self, name: str, texts: dict[str, str]) -> None:
        for suffix, text in texts.items():
            (self.folder / "tables" / f"{name}.{suffix}").write_text(text, encoding="utf-8")

    def _write_sheets(self, *sheets: Sheet) -> None:
        for sheet in sheets:
            self._write(sheet.file, export.sheet_files(sheet))

    def _plot(self, figure: Figure, name: str, caption: str, heading: str = "") -> Plot:
        svg = figures.save(figure, self.folder / "figures", name, caption)
        box = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', svg)
        aspect = f"{box.group(1)} / {box.group(2)}" if box else "2"
        return Plot(name, Markup(svg), caption, aspect, heading)

    def _table(self, table: TableView) -> ShownTable:
        self._write(table.file, export.table_files(table))
        return ShownTable(table, tuple(self._forests(table)), tuple(_ratios(table)))

    def _forests(self, table: TableView) -> Iterator[Plot]:
        """Yield a forest for each benchmark, of the table's first metric."""
        for column in table.columns:
            shown = metric_of(column.metric)
            drawn = shown.scored and column.metric == table.columns[0].metric
            figure = figures.forest(table, column.benchmark, column.metric, self.comparable) if drawn else None
            if figure is not None:
                published = (
                    "published"
                    if self.comparable
                    else ("as printed, on an axis of their own, because only order and direction compare")
                )
                caption = (
                    f"{table.title}: {shown.label} on {column.stand_in or column.benchmark} with 95 % bootstrap "
                    f"interval over images; diamonds: {published}. Red: no better than the best constant."
                )
                name = f"{table.file}-{column.benchmark.replace('/', '-')}-{column.metric}"
                yield self._plot(figure, name, caption)

    def _claims_plot(self, context: Context, claims: list[ClaimView]) -> Plot | None:
        effects = relative_effects(claims)
        if effects.empty:
            return None
        low, high = map(numbers.percent, figures.EFFECTS)
        caption = (
            "Every comparison that a claim makes: by how much the arm that should be better is better, as a share of "
            "the other's value, with 95 % intervals where predictions are there. Right of the line the claim is right. "
            f"A dashed mark is a claimed amount. Effects beyond {low} or {high} are drawn at the edge; the numbers "
            "are with each claim."
        )
        return context.plot(figures.claims_forest(effects), "claims", caption)

    def _data(self) -> Sheet:
        """Return what stands for each benchmark."""
        lines = []
        for place in self.sources.places():
            entry = datasets.load(place.dataset) if place.dataset in datasets.names() else None
            counts = self.sources.counts(place.dataset, place.preparation, place.split)
            ends = f"{numbers.count(counts.min())} to {numbers.count(counts.max())}" if len(counts) else ""
            title, licence = (entry.title, entry.licence) if entry else (place.dataset, "")
            objects = Cell(float(counts.sum()), numbers.count(counts.sum()))
            here = f"{title} ({place})"
            lines.append(Line((place.benchmark, here, place.preparation, len(counts), objects, ends, licence)))
        heads = ("Benchmark of the papers", "Here", "Preparation", "Images", "Objects", "Per image", "Licence")
        sheet = Sheet("data", "What stands for each benchmark", heads, tuple(lines))
        self._write_sheets(sheet)
        return sheet


def _ratios(table: TableView) -> Iterator[tuple[str, str]]:
    """Yield how the rows of a two-row table compare in each column that is a time: printed and here."""
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


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    names = ("number", "signed", "percent", "count", "present", "interval")
    environment.filters |= {name: getattr(numbers, name) for name in names}
    environment.globals |= {
        "metric": metric_of,
        "interval": numbers.interval,
        "present": numbers.present,
        "values_text": values_text,
        "scale_marks": MARKS,
        "statuses": STATUSES,
        "selections": SELECTIONS,
        "verdicts": VERDICTS,
        "evidence": EVIDENCE,
    }
    return environment

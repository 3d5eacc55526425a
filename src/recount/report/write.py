"""``recount report``: read a suite's results and write ``reports/<suite>/`` in one move.

The page is one file that needs nothing else, and a content security policy forbids everything from elsewhere. Beside it
lie the tables (CSV, LaTeX, Markdown) and the figures (SVG, PNG).
"""

import base64
import hashlib
import os
import re
import shutil
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure

from recount import datasets
from recount.chain import MADE
from recount.judging.verdicts import RULES
from recount.metrics import metric as metric_of
from recount.provenance import step_digest
from recount.report import claims, export, figures, numbers, prompt_tests, sections
from recount.report.equations import equations
from recount.report.exhibits import Cell, Context, Exhibit, Line, Plot, Sheet
from recount.report.provenance_view import chains, health, shared_and_differing
from recount.report.recipes import recipes
from recount.report.simulated import simulated_sheet
from recount.report.sources import Sources
from recount.report.summary import best_rows, findings
from recount.report.tables import MARKS, SELECTIONS, STATUSES, TIMES, TableView, paper_tables, status_counts
from recount.report.words import said
from recount.results.attempts import failed_of_data
from recount.results.files import Made, note_tables
from recount.settings.paper import RULES_SINCE, Paper
from recount.settings.project import Project

TEMPLATES = Path(__file__).parent / "templates"


class _ShownTable(NamedTuple):
    view: TableView
    plots: tuple[Plot, ...]
    ratios: tuple[tuple[str, str], ...]  # how the two systems of a table of times compare: (metric, words)


class _PaperView(NamedTuple):
    name: str
    paper: Paper
    tables: list[_ShownTable]
    claims: list[claims.ClaimView]
    claims_plot: Plot | None
    exhibits: list[Exhibit]
    selections: list[sections.SelectionRow]  # these and the influential images are for the page's summary
    influential: list[sections.Influential]


def write_report(project: Project, part_of: Callable[[str, str, Any], Any]) -> Path:
    """Write the report from the files that exist and return its index.html; an old one is replaced at the end.

    ``part_of`` gives what is particular to a paper's page (``recount.papers.part``).
    """
    figures.use_style()
    target = project.root / project.report
    building, aside = (target.with_name(f".{target.name}{kind}.{os.getpid()}") for kind in ("", ".old"))
    shutil.rmtree(building, ignore_errors=True)
    for folder in ("tables", "figures"):
        (building / folder).mkdir(parents=True)
    try:
        page = Page(project, building, part_of)
        (building / "index.html").write_text(page.render(), encoding="utf-8")
        made = Made(results=page.sources.chain.tables_now(), code=step_digest("report"))
        files = sorted(path.relative_to(building).as_posix() for path in building.rglob("*") if path.is_file())
        note_tables(building / MADE["report"], files, made)
        if target.exists():  # a folder cannot be overwritten, so the old one steps aside
            target.rename(aside)
        building.rename(target)
        shutil.rmtree(aside, ignore_errors=True)
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return target / "index.html"


class Page:
    """The page of a suite; ``folder`` is where tables/ and figures/ are written."""

    def __init__(self, project: Project, folder: Path, part_of: Callable[[str, str, Any], Any]) -> None:
        self.project = project
        self.part_of = part_of
        self.folder = folder
        self.sources = Sources(project)
        self.comparable = project.suite.comparable

    def render(self) -> str:
        """Return the HTML of the whole page."""
        views = [self._paper(name) for name in self.project.papers]
        tables = [table.view for view in views for table in view.tables]
        best = []
        for view in views:
            found = best_rows([table.view for table in view.tables])
            best += [f"{view.paper.short_title}, {words}" for words in found]
        selections = list(chain.from_iterable(view.selections for view in views))
        heavy = list(chain.from_iterable(view.influential for view in views))
        shared, differing, per_run = shared_and_differing(self.sources.runs)
        script = (TEMPLATES / "page.js").read_text(encoding="utf-8")
        template = _environment().get_template("page.html.j2")
        return template.render(
            project=self.project,
            suite=self.project.suite,
            comparable=self.comparable,
            papers=views,
            counts=status_counts(tables),
            tallies=list(claims.tallies([c for view in views for c in view.claims], self.project.suite.pictures)),
            fidelity=self._fidelity(),
            simulated=simulated_sheet(),
            rules=f"{RULES} of {RULES_SINCE}",
            findings=[*best, *findings(tables, selections, heavy)],
            runs=self.sources.runs,
            data=self._data(),
            health=self._health(),
            failed={
                " ".join(job): text.replace(f"{self.project.root}/", "")
                for job, text in failed_of_data(self.project).items()
            },
            shared=shared,
            differing=differing,
            per_run=per_run,
            chains=chains(self.sources),
            problems=self.sources.problems,
            style=Markup((TEMPLATES / "page.css").read_text(encoding="utf-8")),
            script=Markup(script),
            script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        )

    def _paper(self, name: str) -> _PaperView:
        tables = tuple(paper_tables(self.sources, name))
        paper = self.project.papers[name]
        context = Context(self.sources, name, paper, tables, sections.variants_of(tables), self._plot)
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
        sheets = [sheet for exhibit in exhibits for sheet in exhibit.tables]
        for sheet in [*sheets, claims.claim_sheet(name, judged)] if judged else sheets:
            self._write(sheet.file, export.sheet_files(sheet))
        shown, influential = [self._table(table) for table in tables], list(chain.from_iterable(heavy.values()))
        plot = self._claims_plot(context, judged)
        return _PaperView(name, paper, shown, judged, plot, exhibits, selections, influential)

    def _write(self, name: str, texts: dict[str, str]) -> None:
        for suffix, text in texts.items():
            (self.folder / "tables" / f"{name}.{suffix}").write_text(text, encoding="utf-8")

    def _plot(self, figure: Figure, name: str, caption: str, heading: str = "") -> Plot:
        svg = figures.save(figure, self.folder / "figures", name, caption)
        box = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', svg)
        aspect = f"{box.group(1)} / {box.group(2)}" if box else "2"
        return Plot(name, Markup(svg), caption, aspect, heading)

    def _table(self, table: TableView) -> _ShownTable:
        self._write(table.file, export.table_files(table))
        return _ShownTable(table, tuple(self._forests(table)), tuple(_ratios(table)))

    def _forests(self, table: TableView) -> Iterator[Plot]:
        for column in table.columns:
            shown = metric_of(column.metric)
            drawn = shown.scored and column.metric == table.columns[0].metric
            figure = figures.forest(table, column.benchmark, column.metric, self.comparable) if drawn else None
            if figure is not None:
                own_axis = "as printed, on an axis of their own, because only order and direction compare"
                published = "published" if self.comparable else own_axis
                where = column.stand_in or column.benchmark
                caption = said("forest", title=table.title, metric=shown.label, where=where, published=published)
                name = f"{table.file}-{column.benchmark.replace('/', '-')}-{column.metric}"
                yield self._plot(figure, name, caption)

    def _claims_plot(self, context: Context, judged: list[claims.ClaimView]) -> Plot | None:
        effects = claims.relative_effects(judged)
        if effects.empty:
            return None
        low, high = map(numbers.percent, figures.EFFECTS)
        return context.plot(figures.claims_forest(effects), "claims", said("claims", low=low, high=high))

    def _fidelity(self) -> Sheet:
        sheet = claims.fidelity_sheet(self.sources.fidelity)
        if sheet.lines:
            self._write(sheet.file, export.sheet_files(sheet))
        return sheet

    def _data(self) -> Sheet:
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
        self._write(sheet.file, export.sheet_files(sheet))
        return sheet

    def _health(self) -> Sheet:
        sheet = health(self.sources.prepared())
        self._write(sheet.file, export.sheet_files(sheet))
        return sheet


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


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {name: getattr(numbers, name) for name in ("number", "signed", "percent", "count")}
    environment.globals |= {"metric": metric_of, "interval": numbers.interval, "present": numbers.present}
    environment.globals |= {"values_text": claims.values_text, "scale_marks": MARKS, "statuses": STATUSES}
    environment.globals |= {"selections": SELECTIONS, "verdicts": claims.VERDICTS, "evidence": claims.EVIDENCE}
    return environment

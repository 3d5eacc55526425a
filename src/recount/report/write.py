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
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from recount import datasets
from recount.judging.published_log import LogError
from recount.papers.gigacount import LogEvidence, log_evidence
from recount.report import export, figures, numbers
from recount.report.caption_section import CaptionSection, caption_section
from recount.report.claims import (
    EVIDENCE,
    VERDICTS,
    ClaimView,
    claim_table,
    claim_views,
    relative_effects,
    tally,
    values_text,
)
from recount.report.gallery import Gallery, Shown, gallery
from recount.report.protocol import READINGS, SystemRecipes, recipe_table, recipes
from recount.report.provenance_view import shared_and_differing
from recount.report.published_curves import published_curves
from recount.report.sections import (
    CostRow,
    Influential,
    PlainTable,
    PrintedSize,
    Ratio,
    SelectionRow,
    Variant,
    best_rows,
    cost_rows,
    cost_table,
    findings,
    histories,
    influence_table,
    influential,
    paper_metric,
    printed_sizes,
    selection_rows,
    selection_table,
    shown_predictions,
    size_table,
    time_ratios,
    training_curves,
    variants_of,
)
from recount.report.sources import Sources
from recount.report.tables import MARKS, SELECTIONS, STATUSES, TIMES, TableView, paper_tables, status_counts
from recount.report.text_export import write_sheets
from recount.report.text_section import TextSection, text_section
from recount.settings.project import Project

TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class Plot:
    """A figure of the page: its files' stem, the inlined SVG and what it shows."""

    name: str
    svg: Markup
    caption: str
    aspect: str
    heading: str = ""


@dataclass
class PaperView:
    """Everything the page says about a paper."""

    name: str
    paper: Any
    tables: list[TableView]
    forests: dict[str, list[Plot]] = field(default_factory=dict)
    ratios: dict[str, list[Ratio]] = field(default_factory=dict)
    selection: list[SelectionRow] = field(default_factory=list)
    selection_plots: list[Plot] = field(default_factory=list)
    curves: list[Plot] = field(default_factory=list)
    galleries: list[Gallery] = field(default_factory=list)
    errors: list[Plot] = field(default_factory=list)
    influence: list[tuple[str, list[Influential], Plot]] = field(default_factory=list)
    costs: list[CostRow] = field(default_factory=list)
    cost_plot: Plot | None = None
    sizes: list[PrintedSize] = field(default_factory=list)
    log: LogEvidence | None = None
    log_plot: Plot | None = None
    recipes: list[SystemRecipes] = field(default_factory=list)
    claims: list[ClaimView] = field(default_factory=list)
    claims_plot: Plot | None = None
    text: TextSection | None = None
    captions: CaptionSection | None = None


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
    """The page of a suite.

    Args:
        project: the configuration.
        folder: where tables/ and figures/ are written.
    """

    def __init__(self, project: Project, folder: Path) -> None:
        self.project = project
        self.folder = folder
        self.sources = Sources(project)
        self.comparable = project.suite.comparable
        self._benchmark_number = 0

    def render(self) -> str:
        """Return the HTML of the whole page."""
        papers = [self._paper(name) for name in self.project.papers]
        tables = [table for paper in papers for table in paper.tables]
        selections = [row for paper in papers for row in paper.selection]
        heavy = [entry for paper in papers for _, entries, _ in paper.influence for entry in entries]
        shared, differing, per_run = shared_and_differing(self.sources.runs)
        script = (TEMPLATES / "page.js").read_text(encoding="utf-8")
        return (
            _environment()
            .get_template("page.html.j2")
            .render(
                project=self.project,
                suite=self.project.suite,
                comparable=self.comparable,
                papers=papers,
                counts=status_counts(tables),
                statuses=STATUSES,
                selections=SELECTIONS,
                verdicts=VERDICTS,
                evidence=EVIDENCE,
                tally=tally(view for paper in papers for view in paper.claims),
                readings=READINGS,
                findings=[
                    *(f"{view.paper.short_title}, {said}" for view in papers for said in best_rows(view.tables)),
                    *findings(tables, selections, heavy),
                ],
                runs=self.sources.runs,
                datasets=[self._dataset(place) for place in self.sources.benchmarks()],
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
        tables = paper_tables(self.sources, name)
        view = PaperView(name, self.project.papers[name], tables)
        for table in tables:
            self._export(table)
            view.forests[table.name] = self._forests(table)
            view.ratios[table.name] = time_ratios(table, TIMES)
        variants = variants_of(tables)
        selection = next((table.selection for table in tables), "last")
        view.selection = selection_rows(self.sources, tables)
        view.selection_plots = self._selection_plots(name, view.selection)
        self._add_log(view)
        view.curves = self._curves(view, variants, paper_metric(tables))
        view.captions = caption_section(self.sources, name, variants, self._plot)
        for place in self.sources.benchmarks():
            self._add_benchmark(view, place, variants, selection)
        view.costs = cost_rows(self.sources, variants)
        view.cost_plot = self._cost_plot(view)
        view.sizes = printed_sizes(self.sources.published[name], variants, view.costs)
        view.recipes = recipes(self.project, name, tables)
        view.text = text_section(self.sources, name, variants, self._plot)
        if view.text:
            write_sheets(view.text, name, self.folder / "tables")
        self._add_claims(view)
        self._export_all(view)
        return view

    def _export(self, table: TableView) -> None:
        for suffix, write in (("csv", export.as_csv), ("tex", export.as_latex), ("md", export.as_markdown)):
            (self.folder / "tables" / f"{table.file}.{suffix}").write_text(write(table), encoding="utf-8")

    def _export_plain(self, name: str, table: PlainTable) -> None:
        """Write a table that is not one of a paper's own."""
        texts = {
            "csv": export.csv_table(table.heads, table.rows),
            "tex": export.latex_table(table.caption, table.heads, table.rows, table.alignment),
            "md": export.markdown_table(table.caption, table.heads, table.rows, table.alignment),
        }
        for suffix, text in texts.items():
            (self.folder / "tables" / f"{name}.{suffix}").write_text(text, encoding="utf-8")

    def _export_all(self, view: PaperView) -> None:
        self._export_plain(f"{view.name}-recipes", recipe_table(view.recipes))
        if view.claims:
            self._export_plain(f"{view.name}-claims", claim_table(view.claims))
        if view.selection:
            self._export_plain(f"{view.name}-selection", selection_table(view.selection))
        if view.costs:
            self._export_plain(f"{view.name}-cost", cost_table(view.costs))
        if view.sizes:
            self._export_plain(f"{view.name}-parameters", size_table(view.sizes))
        for place, entries, _ in view.influence:
            self._export_plain(f"{view.name}-influence-{place.replace('/', '-')}", influence_table(place, entries))

    def _plot(self, figure: Any, name: str, caption: str, heading: str = "") -> Plot:
        svg = figures.save(figure, self.folder / "figures", name, caption)
        box = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', svg)
        aspect = f"{box.group(1)} / {box.group(2)}" if box else "2"
        return Plot(name, Markup(svg), caption, aspect, heading)

    def _forests(self, table: TableView) -> list[Plot]:
        plots = []
        for column in table.columns:
            shown = numbers.metric(column.metric)
            if not shown.scored or column.metric != table.columns[0].metric:
                continue
            figure = figures.forest(table, column.benchmark, column.metric, self.comparable)
            if figure is not None:
                name = f"{table.file}-{column.benchmark.replace('/', '-')}-{column.metric}"
                published = (
                    "; diamonds: published"
                    if self.comparable
                    else "; diamonds: as printed, on an axis of their own, because only order and direction compare"
                )
                caption = (
                    f"{table.title}: {shown.label} on {column.stand_in or column.benchmark} with 95 % bootstrap "
                    f"interval over images{published}. Red: no better than the best constant."
                )
                plots.append(self._plot(figure, name, caption))
        return plots

    def _selection_plots(self, paper: str, rows: list[SelectionRow]) -> list[Plot]:
        plots = []
        for benchmark in dict.fromkeys(row.benchmark for row in rows):
            table = pd.DataFrame([vars(row) for row in rows if row.benchmark == benchmark])
            metric = rows[0].metric
            label = numbers.metric(metric).label
            caption = f"{label} on {benchmark} of the same runs under the ways to choose the weights."
            name = f"{paper}-selection-{benchmark.replace('/', '-')}"
            plots.append(self._plot(figures.selection_dumbbells(table, metric), name, caption))
        return plots

    def _add_claims(self, view: PaperView) -> None:
        view.claims = claim_views(self.sources, view.name, view.tables)
        effects = relative_effects(view.claims)
        if effects.empty:
            return
        caption = (
            "Every comparison that a claim makes: by how much the arm that should be better is better, as a share of "
            "the other's value, with 95 % intervals where predictions are there. Right of the line the claim is right; "
            f"a dashed mark is a claimed amount. What is beyond {numbers.percent(figures.EFFECTS[0])} or "
            f"{numbers.percent(figures.EFFECTS[1])} stands at the edge; the numbers are with each claim."
        )
        view.claims_plot = self._plot(figures.claims_forest(effects), f"{view.name}-claims", caption)

    def _add_log(self, view: PaperView) -> None:
        path = self.sources.evidence(view.name).get("evallog")
        if path is None:
            return
        try:
            evidence = log_evidence(path, view.paper, self.sources.published[view.name])
        except LogError as error:
            self.sources.problem(path, str(error))
            return
        view.log = evidence
        marks = [(row.run, f"{row.mae:g}", row.found.epoch, row.mae) for row in evidence.rows if row.found is not None]
        printed = evidence.headline.mae if evidence.headline else None
        figure = figures.published_log({run.name: run.run for run in evidence.runs}, marks, printed)
        caption = (
            "The authors' evaluation log: MAE on the test images and learning rate of the runs that printed numbers "
            "come from. Circles: the evaluations that became rows of Table 3."
        )
        view.log_plot = self._plot(figure, f"{view.name}-published-log", caption)

    def _curves(self, view: PaperView, variants: list[Variant], metric: str) -> list[Plot]:
        plots = []
        curves = training_curves(self.sources.runs, variants, metric)
        if len(curves.runs):
            behind = published_curves(self.sources, view.name, view.log, curves)
            label, best = numbers.metric(metric).label, numbers.metric(metric).best
            grey = ", the authors' own in grey" if behind else ""
            scale = (
                f"{label} on {curves.watched} images during training, ours in colour{grey}."
                if self.comparable
                else f"Shape of training, ours in colour{grey}: {label} on {curves.watched} images as a multiple of "
                f"the run's own {best}, against the share of training. Absolute values are not comparable in this "
                "suite."
            )
            figure = figures.curves_over_log(curves, behind, self.comparable)
            heading = "Over the published log" if behind else "All runs"
            plots.append(self._plot(figure, f"{view.name}-curves", scale, heading))
        runs = histories(self.sources.runs, variants)
        if runs:
            caption = f"Loss and {numbers.in_a_sentence(numbers.metric(metric).label)} of every run's first seed."
            plots.append(self._plot(figures.training_panels(runs, metric), f"{view.name}-runs", caption, "Run by run"))
        return plots

    def _add_benchmark(
        self, view: PaperView, place: tuple[str, str, str, str], variants: list[Variant], selection: str
    ) -> None:
        shown = shown_predictions(self.sources, place, variants, selection)
        if not shown:
            return
        _, dataset, split, _ = place
        stem = f"{view.name}-{dataset}-{split}"
        notice = self._dataset(place)["notice"]
        pictures = gallery(
            self.sources, self._benchmark_number, place, shown, SELECTIONS.get(selection, selection), notice
        )
        self._benchmark_number += 1
        if pictures is not None:
            view.galleries.append(pictures)
        if view.captions is None:  # which has the matrices of every way to choose the epoch
            view.errors.append(self._answers(shown, f"{dataset}/{split}", stem, paper_metric(view.tables)))
        heavy = influential(self.sources, place, variants, selection)
        if heavy and any(column.metric == "rmse" for table in view.tables for column in table.columns):
            shares = pd.DataFrame([{"label": e.label, "image": e.image, "share": e.share} for e in heavy])
            caption = f"The three images that carry most of each system's squared error on {dataset}/{split}."
            view.influence.append(
                (f"{dataset}/{split}", heavy, self._plot(figures.influence_bars(shares), f"{stem}-influence", caption))
            )

    def _answers(self, shown: list[Shown], place: str, stem: str, metric: str) -> Plot:
        """Draw what was answered for what was there: counts as dots, answers by caption as confusion matrices."""
        predictions = {entry.label: entry.predictions for entry in shown}
        if metric == "accuracy":
            caption = (
                f"Confusion matrices on {place}: the share of pictures of each true number (row) by answer (column)."
            )
            return self._plot(figures.confusions(predictions), f"{stem}-confusions", caption)
        caption = f"Predicted against true count on {place}; the line is exact."
        return self._plot(figures.predicted_against_true(predictions), f"{stem}-scatter", caption)

    def _cost_plot(self, view: PaperView) -> Plot | None:
        metric = paper_metric(view.tables)
        values = {
            (row.system, row.variant): row.cells[0].value
            for table in reversed(view.tables)
            for row in table.rows
            if row.cells and row.cells[0].metric == metric and row.cells[0].value is not None
        }
        labels = {
            name: system.label for paper in self.project.papers.values() for name, system in paper.systems.items()
        }
        points = [
            {
                "system": labels[row.variant.system],
                "seconds": row.values["wall_seconds"],
                "value": values.get(_key(row)),
            }
            for row in view.costs
        ]
        table = pd.DataFrame(points).dropna() if points else pd.DataFrame()
        if table.empty:
            return None
        caption = f"{numbers.metric(metric).label} against training time on this machine; one dot per variant."
        return self._plot(figures.cost_against_value(table, metric), f"{view.name}-cost", caption)

    def _dataset(self, place: tuple[str, str, str, str]) -> dict[str, Any]:
        """Return what is known of the data set behind a benchmark."""
        benchmark, name, split, preparation = place
        facts: dict[str, Any] = {"benchmark": benchmark, "place": f"{name}/{split}", "preparation": preparation}
        entry = datasets.load(name) if name in datasets.names() else None
        counts = self.sources.counts(name, preparation, split)
        facts["images"], facts["objects"] = len(counts), float(counts.sum())
        facts["range"] = (float(counts.min()), float(counts.max())) if len(counts) else None
        facts["title"] = entry.title if entry else name
        facts["licence"] = entry.licence if entry else ""
        publishable = entry is None or entry.publishable or entry.embedded
        facts["notice"] = (
            ""
            if publishable
            else "The licence of these photographs does not let them be published: keep this page to yourself."
        )
        return facts


def _key(row: CostRow) -> tuple[str, str]:
    return row.variant.system, row.variant.variant


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": numbers.number,
        "signed": numbers.signed,
        "percent": numbers.percent,
        "big": numbers.big,
        "seconds": numbers.seconds,
        "count": numbers.count,
        "megabytes": numbers.megabytes,
    }
    environment.globals |= {
        "metric": numbers.metric,
        "interval": numbers.interval,
        "present": numbers.present,
        "in_a_sentence": numbers.in_a_sentence,
        "values_text": values_text,
        "scale_marks": MARKS,
    }
    return environment

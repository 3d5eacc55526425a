"""``recount report``: read a suite's results and write ``reports/<suite>/`` in one move.

The folder needs nothing else: a front page, a page for each paper (and one of its pictures), all verdicts, provenance,
how to read it. Beside them lie the tables (CSV, LaTeX, Markdown), the figures (SVG, PNG) and the pictures.
"""

import os
import shutil
from pathlib import Path

from recount import datasets
from recount.chain import MADE
from recount.judging.verdicts import RULES
from recount.provenance import step_digest
from recount.report import claims, figures, numbers
from recount.report.exhibits import Cell, Line, Sheet
from recount.report.pages.browse import browse_page
from recount.report.pages.front import front_page
from recount.report.pages.paper import PaperMaker, PaperView, PartOf
from recount.report.pages.site import Page, write_pages
from recount.report.provenance_view import differing_cells, hands, health, shared_and_differing
from recount.report.sections import chosen_by, variants_of
from recount.report.simulated import simulated_sheet
from recount.report.sources import Sources
from recount.results.attempts import failed_of_data
from recount.results.files import Made, note_tables
from recount.settings.paper import RULES_SINCE
from recount.settings.project import Project


def write_report(project: Project, part_of: PartOf, so_far: str = "") -> Path:
    """Write the report from the files that exist and return its index.html; an old one is replaced at the end.

    ``part_of`` gives what is particular to a paper's page (``recount.papers.part``); ``so_far`` says at the top of each
    page what is still to come.
    """
    figures.use_style()
    target = project.root / project.report
    building, aside = (target.with_name(f".{target.name}{kind}.{os.getpid()}") for kind in ("", ".old"))
    shutil.rmtree(building, ignore_errors=True)
    for folder in ("tables", "figures"):
        (building / folder).mkdir(parents=True)
    try:
        report = _Report(project, building, part_of, so_far)
        report.write()
        made = Made(results=report.sources.chain.tables_now(), code=step_digest("report"))
        files = sorted(path.relative_to(building).as_posix() for path in building.rglob("*") if path.is_file())
        note_tables(building / MADE["report"], files, made)
        if target.exists():  # a folder cannot be overwritten, so the old one steps aside
            target.rename(aside)
        building.rename(target)
        shutil.rmtree(aside, ignore_errors=True)
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return target / "index.html"


class _Report:
    """The pages of a suite, written below ``folder``."""

    def __init__(self, project: Project, folder: Path, part_of: PartOf, so_far: str) -> None:
        self.project, self.folder, self.so_far = project, folder, so_far
        self.sources = Sources(project)
        self.maker = PaperMaker(self.sources, folder, part_of)

    def write(self) -> None:
        """Write all pages."""
        views = [self.maker.view(name) for name in self.project.papers]
        of_papers = [page for view in views for page in (view.page, view.pictures) if page is not None]
        pages = [
            front_page(self.sources, views),
            *of_papers,
            *self._browse(views),
            self._verdicts(views),
            self._provenance(),
            _reading(),
        ]
        shared = {
            "project": self.project,
            "suite": self.project.suite,
            "comparable": self.project.suite.comparable,
            "rules": f"{RULES} of {RULES_SINCE}",
            "problems": self.sources.problems,
            "so_far": self.so_far,
            "statuses_there": list(dict.fromkeys(mark for view in views for mark in _statuses(view))),
        }
        write_pages(self.folder, pages, shared)

    def _browse(self, views: list[PaperView]) -> list[Page]:
        tables = [[table.view for table in view.tables] for view in views]
        wanted = [(variant, chosen_by(mine)) for mine in tables for variant in variants_of(mine)]
        page = browse_page(self.sources, self.folder, wanted)
        return [page] if page else []

    def _verdicts(self, views: list[PaperView]) -> Page:
        fidelity = claims.fidelity_sheet(self.sources.fidelity)
        if fidelity.lines:
            self.maker.sheet(fidelity)
        judged = [claim for view in views for claim in view.claims]
        tallies = list(claims.tallies(judged, self.project.suite.pictures))
        content = {"papers": views, "fidelity": fidelity, "tallies": tallies}
        released = [("fidelity", "Released files")] if fidelity.lines else []
        links = (("board", "Counted again"), *released, ("audit", "Audit"))
        holds = ("board", "fidelity", "audit")
        return Page("verdicts.html", "All verdicts", "verdicts.html.j2", holds, links, content)

    def _provenance(self) -> Page:
        shared, differing, per_run = shared_and_differing(self.sources.runs)
        who = hands(self.sources)
        content = {
            "hands": self.maker.sheet(who) if who.lines else who,
            "noted": [*self.sources.hands.apart, *self.sources.hands.twice],
            "runs": self.sources.runs,
            "data": self.maker.sheet(self._data()),
            "health": self.maker.sheet(health(self.sources.prepared())),
            "failed": {
                " ".join(job): text.replace(f"{self.project.root}/", "")
                for job, text in failed_of_data(self.project).items()
            },
            "shared": shared,
            "differing": differing,
            "per_run": per_run,
            "chains": self.sources.chains,
            "agreement": self.sources.agreement,
            "differing_cells": self.maker.sheet(differing_cells(found)) if (found := self.sources.agreement) else None,
        }
        holds = ("provenance", "hands", "chain", "data", "data-health", "problems", "reference")
        links = (
            *([("hands", "Who ran what")] if who.lines else []),
            ("chains", "Chains"),
            ("data", "Data"),
            *([("reference", "Reference")] if found else []),
        )
        return Page("provenance.html", "Provenance", "provenance.html.j2", holds, links, content)

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
        return Sheet("data", "What stands for each benchmark", heads, tuple(lines))


def _reading() -> Page:
    content = {"simulated": simulated_sheet()}
    return Page("reading.html", "How to read this", "reading.html.j2", ("reading",), (), content, searchable=False)


def _statuses(view: PaperView) -> list[str]:
    return [status for table in view.tables for row in table.view.rows for status in row.marks]

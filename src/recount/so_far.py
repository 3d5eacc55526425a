"""``recount report --so-far``: what a suite's predictions say before all are there, as ``reports/<suite>-so-far/``.

Its scores and verdicts lie in a temporary folder: nothing that the suite's own tables, report and records are made from
is touched.
"""

import shutil
from copy import copy
from pathlib import Path
from tempfile import TemporaryDirectory

from recount.errors import UserError
from recount.judging.judge import judge
from recount.papers import part
from recount.report.write import write_report
from recount.results.verdicts import LOOKS
from recount.scoring.score import score
from recount.settings.project import Project


def write_so_far(project: Project) -> Path:
    """Write the pages of the papers of which some run has been predicted, and return their index.html.

    Raises:
        UserError: nothing has been predicted.
    """
    done = [
        run for run in project.runs
        if all((project.root / project.predictions(run, name)).is_file() for name in run.benchmarks)
    ]  # fmt: skip
    named = {f"{run.system}/{run.variant}" for run in done}
    shown = copy(project)
    shown.papers = {name: paper for name, paper in project.papers.items() if named & set(paper.runs)}
    shown.report = project.so_far
    if not shown.papers:
        raise UserError(f"{project.results}: no run is predicted yet, so there is nothing to report")
    with TemporaryDirectory() as folder:
        shown.tables = Path(folder)
        if (looks := project.root / project.results / LOOKS).is_file():
            shutil.copy(looks, folder)
        score(shown)
        judge(shown)
        return write_report(
            shown, part, f"{len(done)} of {len(project.runs)} runs; the whole report will be {project.report}"
        )

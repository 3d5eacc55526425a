"""What is particular to a paper's page, a module per paper, found by the paper's name; a paper needs none.

Outside packages add theirs by the entry point ``recount.papers``. A module may have:

* ``exhibits(context)``: sections of the page, see ``recount.report.exhibits``;
* ``curves(sources, paper, metric)``: the authors' own evaluations during training, name -> columns epoch, value;
* ``EVIDENCE``: name of a file below ``papers/<paper>/evidence`` -> function from the folder of fetched data sets to its
  rows (dataclasses), for ``recount evidence``.
"""

from dataclasses import astuple, fields
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from pkgutil import iter_modules
from typing import Any

from recount.errors import UserError
from recount.results.files import write_rows
from recount.settings.base import unknown
from recount.settings.project import Project


def part(paper: str, name: str, default: Any) -> Any:
    """Return what a paper's module calls ``name``, or ``default`` where there is no such thing."""
    if paper in {module.name for module in iter_modules(__path__)}:
        return getattr(import_module(f"{__name__}.{paper}"), name, default)
    for point in entry_points(group=__name__, name=paper):
        return getattr(point.load(), name, default)
    return default


def make_evidence(project: Project, paper: str) -> list[Path]:
    """Compute a paper's evidence, write it beside its paper.yaml, return the files; DataError: a set is not fetched."""
    if paper not in project.papers:
        raise UserError(f"{paper}: {unknown('paper', paper, project.papers)}")
    if not (makers := part(paper, "EVIDENCE", {})):
        raise UserError(f"{paper}: recount computes no evidence of this paper; what it has was transcribed by hand")
    tables = {name: make(project.root / project.raw) for name, make in makers.items()}
    paths = []
    for name, rows in tables.items():
        path = project.papers[paper].folder / "evidence" / f"{name}.csv"
        columns = [field.name for field in fields(rows[0])]
        write_rows(path, columns, [[str(value) for value in astuple(row)] for row in rows])
        paths.append(path)
    return paths

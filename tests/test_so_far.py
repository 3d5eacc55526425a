"""``recount report --so-far``: pages of what is predicted, that touch nothing of the whole suite's."""

from pathlib import Path

import pytest

from projects import csv_rows
from recount.errors import UserError
from recount.results.attempts import Attempt, attempt_path
from recount.settings.project import Project
from recount.so_far import write_so_far
from small_project import make_project, predict

GOOD = {"last": [1.0] * 6}


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """Return a project of two runs, one of which is predicted, and whose last scoring failed."""
    found = make_project(tmp_path, seeds=[0, 1])
    predict(found, "good/full/seed0", GOOD)
    record = attempt_path(found, "score", "small")
    record.parent.mkdir(parents=True, exist_ok=True)
    Attempt(step="score", job="small", began="", host="here", process=1, error="no space left").write(record)
    return found


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_it_says_what_is_to_come_and_touches_nothing_of_the_suite(project: Project) -> None:
    before = content(project.root / project.results)
    for _ in range(2):
        page = write_so_far(project)
    assert page == project.root / "reports/small-so-far/index.html"
    told = "1 of 2 runs; the whole report will be reports/small"
    pages = sorted(page.parent.rglob("*.html"))
    assert len(pages) > 1
    assert all(told in path.read_text(encoding="utf-8") for path in pages)
    assert content(project.root / project.results) == before
    assert [path.name for path in (project.root / "reports").iterdir()] == ["small-so-far"]
    mae = next(row for row in csv_rows(page.parent / "tables" / "paper-table1.csv") if row["row"] == "good_row")
    assert (mae["value"], mae["reason"]) == ("1.0", "1 of 2 seeds")


def test_papers_without_a_prediction_wait(project: Project) -> None:
    project.papers["later"] = project.papers["paper"].model_copy(update={"tables": {}})
    assert not (write_so_far(project).parent / "later").exists()
    assert set(project.papers) == {"paper", "later"}


def test_without_a_prediction_it_is_one_line(tmp_path: Path) -> None:
    project = make_project(tmp_path)
    with pytest.raises(UserError, match=r"^results/small: no run is predicted yet, so there is nothing to report$"):
        write_so_far(project)
    assert not (tmp_path / "reports").exists()

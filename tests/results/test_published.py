"""What is checked of a published.csv before anything runs: one line for each mistake, none passes silently."""

from pathlib import Path

import pytest

from recount.results.published import check_published
from recount.settings.base import ConfigError
from recount.settings.project import load
from small_project import make_project

ROOT = Path(__file__).resolve().parents[2]
HEAD = "table,row,system,variant,benchmark,metric,value,source,note"
RIGHT = "table1,good_row,good,full,shown/test,mae,12.5,the paper,"


def test_our_own_papers_have_nothing_to_mend() -> None:
    check_published(load(ROOT))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (RIGHT.replace("12.5", "12x"), "line 2: value = '12x': not a number"),
        (RIGHT.replace("good_row", "god_row"), "line 2: row = god_row: there is no such row of table1; the nearest"),
        (RIGHT.replace(",mae,", ",mea,"), "line 2: metric = mea: there is no such metric; the nearest is mae"),
        (RIGHT.replace("shown/test", "shown/tset"), "line 2: benchmark = shown/tset: there is no such benchmark of"),
        (RIGHT.replace("table1", "tabel1"), "line 2: table = tabel1: there is no such table; the nearest is table1"),
        (f"{RIGHT}\n{RIGHT}", "table1, good_row, shown/test, mae: is there 2 times"),
    ],
)
def test_a_wrong_line_is_named(tmp_path: Path, line: str, message: str) -> None:
    project = make_project(tmp_path)
    (paper,) = project.papers.values()
    paper.published.write_text(f"{HEAD}\n{line}\n", encoding="utf-8")
    with pytest.raises(ConfigError) as error:
        check_published(project)
    (said,) = str(error.value).splitlines()
    assert message in said
    assert said.startswith(f"papers/{paper.name}/published.csv: ")


def test_what_stands_in_no_table_of_the_paper_is_left_alone(tmp_path: Path) -> None:
    project = make_project(tmp_path)
    (paper,) = project.papers.values()
    paper.published.write_text(f"{HEAD}\nliterature,,MCNN,,nwpu/test,mae,232.5,elsewhere,\n", encoding="utf-8")
    check_published(project)

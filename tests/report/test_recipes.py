"""Which recipe each row used, from the project's own papers and suites."""

from pathlib import Path

import pytest

from recount.report.exhibits import Cell, Context
from recount.report.recipes import HEADS, recipes
from recount.report.sections import variants_of
from recount.report.sources import Sources
from recount.report.tables import paper_tables
from recount.settings.project import Project, load

Found = dict[str, dict[str, Cell]]  # anchor -> head -> cell
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def project() -> Project:
    return load(ROOT, {"papers": ["gigacount"], "suite": "mini"})


@pytest.fixture(scope="module")
def found(project: Project) -> Found:
    sources = Sources(project)
    tables = tuple(paper_tables(sources, "gigacount"))
    paper = project.papers["gigacount"]
    (exhibit,) = recipes(Context(sources, "gigacount", paper, tables, variants_of(tables), lambda *_: None))
    lines = [line for sheet in exhibit.tables for line in sheet.lines]
    return {line.anchor: dict(zip(HEADS, line.cells, strict=True)) for line in lines}


def of(found: Found, system: str, variant: str) -> dict[str, Cell]:
    return found[f"gigacount-recipe-{system}-{variant}"]


@pytest.mark.parametrize(
    ("variant", "reading"), [("full", "as the code"), ("schedule_linear", "as the paper's text"), ("clean", "clean")]
)
def test_every_variant_says_how_its_recipe_is_read(found: Found, variant: str, reading: str) -> None:
    assert of(found, "gigacount", variant)["Recipe"].shown == reading


def test_every_variant_of_a_network_has_a_row(project: Project, found: Found) -> None:
    assert len(found) == len(project.papers["gigacount"].runs)


def test_switches_of_settings_and_of_the_recipe_are_listed(found: Found) -> None:
    assert of(found, "gigacount", "full")["Switches"].shown == "nothing"
    assert of(found, "gigacount", "stage4")["Switches"].shown == "stage4: true"
    assert "schedule.name: linear" in of(found, "gigacount", "schedule_linear")["Switches"].shown


def test_what_the_suite_changes_in_one_variant_is_not_called_the_papers(found: Found) -> None:
    recipe = of(found, "gigacount", "scheduler")
    assert recipe["Switches"].shown == "nothing"
    assert "epochs: " in recipe["This suite also"].shown


def test_epochs_chosen_on_test_are_told_from_those_chosen_on_held_out(found: Found) -> None:
    assert of(found, "gigacount", "full")["Epoch chosen on"].shown == "ucf_qnrf/test ⚑ (test images)"
    clean = of(found, "gigacount", "clean")
    assert clean["Trained on"].shown == "ucf_qnrf/train_1081"
    assert clean["Epoch chosen on"].shown == "ucf_qnrf/held_out_120"
    assert of(found, "dm_count", "vgg19_released")["Epoch chosen on"].empty


def test_rows_that_a_variant_fills_are_linked(found: Found) -> None:
    links = dict(of(found, "gigacount", "full")["Rows"].links)
    assert "#gigacount-table1-gigacount-full" in links


def test_variant_that_the_suite_leaves_out_says_why(found: Found) -> None:
    assert "left out" in of(found, "gigacount", "odconv")["Variant"].small

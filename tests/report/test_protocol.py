"""Which recipe each row used, from the project's own papers and suites."""

from __future__ import annotations

from pathlib import Path

import pytest

from recount.report.protocol import Recipe, recipes
from recount.report.sources import Sources
from recount.report.tables import paper_tables
from recount.settings.project import Project, load

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def project() -> Project:
    return load(ROOT, {"papers": ["gigacount"], "suite": "mini"})


@pytest.fixture(scope="module")
def found(project: Project) -> dict[tuple[str, str], Recipe]:
    tables = paper_tables(Sources(project), "gigacount")
    systems = recipes(project, "gigacount", tables)
    return {(recipe.system, recipe.variant): recipe for system in systems for recipe in system.recipes}


def test_every_variant_says_how_its_recipe_is_read(project: Project, found: dict[tuple[str, str], Recipe]) -> None:
    assert len(found) == sum(len(entry.variants) for entry in project.papers["gigacount"].systems.values())
    assert found["gigacount", "full"].reading == "as_code"
    assert found["gigacount", "schedule_linear"].reading == "as_paper"
    assert found["gigacount", "clean"].reading == "clean"


def test_switches_of_settings_and_of_the_recipe_are_listed(found: dict[tuple[str, str], Recipe]) -> None:
    assert found["gigacount", "full"].switches == ()
    assert found["gigacount", "stage4"].switches == (("stage4", "true"),)
    assert ("schedule.name", "linear") in found["gigacount", "schedule_linear"].switches


def test_what_the_suite_changes_in_one_variant_is_not_called_the_papers(found: dict[tuple[str, str], Recipe]) -> None:
    recipe = found["gigacount", "scheduler"]
    assert recipe.switches == ()
    assert any(key == "epochs" for key, _ in recipe.suite)


def test_epochs_chosen_on_test_are_told_from_those_chosen_on_held_out(found: dict[tuple[str, str], Recipe]) -> None:
    assert (found["gigacount", "full"].chosen_on, found["gigacount", "full"].on_test) == ("ucf_qnrf/test", True)
    clean = found["gigacount", "clean"]
    assert (clean.trained_on, clean.chosen_on, clean.on_test) == ("ucf_qnrf/train_1081", "ucf_qnrf/held_out_120", False)
    assert found["dm_count", "vgg19_released"].chosen_on == ""


def test_rows_that_a_variant_fills_are_linked(found: dict[tuple[str, str], Recipe]) -> None:
    anchors = [anchor for anchor, _ in found["gigacount", "full"].rows]
    assert "gigacount-table1-gigacount-full" in anchors


def test_variant_that_the_suite_leaves_out_says_why(found: dict[tuple[str, str], Recipe]) -> None:
    assert "left out" in found["gigacount", "odconv"].not_run

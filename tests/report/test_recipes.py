"""Which recipe each row used, from the project's own papers and suites."""

from pathlib import Path

import pytest

from recount.report.exhibits import Cell, Context
from recount.report.recipes import HEADS, recipes
from recount.report.sections import variants_of
from recount.report.sources import Sources
from recount.report.tables import paper_tables
from recount.settings.drift import compared, flat, resolved_values
from recount.settings.project import Project, load
from recount.settings.recipe import Recipe

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
    lines = [line for sheet in exhibit.tables if "-recipes-" in sheet.file for line in sheet.lines]
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
    assert of(found, "dm_count", "vgg19")["Switches"].shown == "nothing"
    assert of(found, "gigacount", "stage4")["Switches"].shown == "stage4: true, patience: none"
    assert "schedule.name: linear" in of(found, "gigacount", "schedule_linear")["Switches"].shown


def test_what_the_suite_changes_in_one_variant_is_not_called_the_papers(found: Found) -> None:
    recipe = of(found, "gigacount", "scheduler")
    assert recipe["Switches"].shown == "patience: none"
    assert "epochs: " in recipe["This suite also"].shown


def test_epochs_chosen_on_test_are_told_from_those_chosen_on_held_out(found: Found) -> None:
    assert of(found, "gigacount", "full")["Epoch chosen on"].shown == "ucf_qnrf/test ⚑ (test images)"
    clean = of(found, "gigacount", "clean")
    assert clean["Trained on"].shown == "ucf_qnrf/train_1081"
    assert clean["Epoch chosen on"].shown == "ucf_qnrf/held_out_120"
    assert of(found, "dm_count", "vgg19_released")["Epoch chosen on"].empty
    assert of(found, "css_ccnn", "rotation")["Epoch chosen on"].shown == "20% of them, held out"


def test_rows_that_a_variant_fills_are_linked(found: Found) -> None:
    links = dict(of(found, "gigacount", "full")["Rows"].links)
    assert "#gigacount-table1-gigacount-full" in links


def test_variant_that_the_suite_leaves_out_says_why(found: Found) -> None:
    assert "left out" in of(found, "gigacount", "odconv")["Variant"].small


# ------------------------------------------------------------------------------------------------- official and ours

PAPER = load(ROOT, {"suite": "paper"})
TRAINED = [
    (system, name)
    for system, entry in PAPER.experiments.items()
    for name, variant in entry.variants.items()
    if not variant.reads and not variant.checkpoint
]


@pytest.mark.parametrize(("system", "variant"), TRAINED)
def test_no_recipe_drifts_from_the_official_one(system: str, variant: str) -> None:
    lines = compared(PAPER, system, variant)
    assert [f"{line.key} is {line.ours}, official.yaml says {line.drifted}" for line in lines if line.drifted] == []


@pytest.mark.parametrize(("system", "variant"), TRAINED)
def test_every_key_of_a_recipe_has_its_official_value(system: str, variant: str) -> None:
    """A key that nobody compared with the code is not silently recount's own."""
    plain = {f"recipe.{key}": value.lower() for key, value in flat(Recipe().model_dump(mode="json")).items()}
    values = {key: value for key, value in resolved_values(PAPER, system, variant).items() if key.startswith("recipe.")}
    said = {line.key for line in compared(PAPER, system, variant)}
    switched = flat({"recipe": PAPER.experiments[system].variants[variant].recipe})
    assert [
        key for key, value in values.items() if value.lower() != plain[key] and key not in said | set(switched)
    ] == []


def test_what_differs_says_why_and_what_does_not_says_nothing() -> None:
    lines = [line for system, variant in TRAINED for line in compared(PAPER, system, variant)]
    assert all(bool(line.why) == (line.official != line.ours) for line in lines)


def test_a_changed_recipe_is_a_drift(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PAPER.suite.systems["dm_count"].__dict__, "recipe", {"epochs": 1000})
    (line,) = [line for line in compared(PAPER, "dm_count", "vgg19") if line.drifted]
    assert (line.key, line.official, line.ours, line.drifted) == ("recipe.epochs", "1001", "1000", "1001")


def test_the_page_shows_official_and_ours_at_paper_size(project: Project) -> None:
    sources = Sources(project)
    tables = tuple(paper_tables(sources, "gigacount"))
    paper = project.papers["gigacount"]
    (exhibit,) = recipes(Context(sources, "gigacount", paper, tables, variants_of(tables), lambda *_: None))
    sheet = next(sheet for sheet in exhibit.tables if sheet.file == "gigacount-official-gigacount")
    rows = {
        (line.cells[0].shown, line.cells[1].shown): [cell.shown for cell in line.cells[2:5]] for line in sheet.lines
    }
    full = PAPER.experiments["gigacount"].variants["full"].label
    assert rows[full, "recipe.epochs"] == ["600", "600", "–"]
    assert rows[full, "recipe.patience"][:2] == ["4", "none"]
    clean = PAPER.experiments["gigacount"].variants["clean"].label
    assert rows[clean, "recipe.precision"] == ["fp16", "fp32", "no overflow decides which steps are skipped"]

"""Which recipe each row of a table used: what the released code does, what the paper's text says, what a suite changes.

Everything is read from paper.yaml and the suite: a variant names only what it switches against the released code.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from recount.report.provenance_view import flat
from recount.report.sections import PlainTable
from recount.report.tables import TableView
from recount.settings.experiment import PaperSystem, Variant
from recount.settings.project import Project
from recount.settings.suite import SuiteSystem, SuiteVariant

READINGS = {
    "as_code": ("as the code", "what the released code does"),
    "as_paper": ("as the paper's text", "what the paper's text says, where the code differs"),
    "clean": ("clean", "nothing is chosen on test data"),
}


@dataclass(frozen=True)
class Recipe:
    """How one variant of a system is run.

    Attributes:
        reading: key of READINGS.
        switches: what it changes against the released code's settings, as (key, value).
        suite: what the suite changes in this variant alone, over that.
        chosen_on: which samples its best epoch may be chosen on, in the papers' names; "" where nothing is chosen.
        on_test: whether these are the test samples.
        trained_on: the papers' name of its training split, or the name of a released checkpoint.
        rows: (anchor, label) of the tables' rows that show it.
        not_run: why this suite leaves it out, or "".
    """

    system: str
    variant: str
    label: str
    reading: str
    switches: tuple[tuple[str, str], ...]
    suite: tuple[tuple[str, str], ...]
    trained_on: str
    chosen_on: str
    on_test: bool
    note: str
    rows: tuple[tuple[str, str], ...]
    not_run: str


@dataclass(frozen=True)
class SystemRecipes:
    """A system's source, what the suite changes in all its variants, and the variants."""

    system: str
    label: str
    citation: str
    quoted_because: str
    suite: tuple[tuple[str, str], ...]
    recipes: tuple[Recipe, ...]


def recipes(project: Project, paper: str, tables: Sequence[TableView]) -> list[SystemRecipes]:
    """Return, for each system of a paper, where its recipe comes from and how each of its variants differs."""
    found = []
    for name, entry in project.papers[paper].systems.items():
        suite = project.suite.systems.get(name)
        found.append(
            SystemRecipes(
                system=name,
                label=entry.label,
                citation=entry.citation,
                quoted_because=entry.quoted_because,
                suite=tuple(_of_suite(suite)) if suite else (),
                recipes=tuple(_recipe(project, name, entry, key, tables) for key in entry.variants),
            )
        )
    return found


def _of_suite(suite: SuiteSystem) -> Iterable[tuple[str, str]]:
    """Yield what a suite sets for all variants of a system: its size first."""
    yield "size", suite.size
    yield from _pairs(suite)


def _pairs(entry: SuiteSystem | SuiteVariant | Variant) -> Iterable[tuple[str, str]]:
    """Yield settings and recipe as (key, value), truth values as YAML writes them."""
    for key, value in (*flat(entry.settings).items(), *flat(entry.recipe).items()):
        yield key, value.lower() if value in ("True", "False") else value


def _recipe(project: Project, system: str, entry: PaperSystem, name: str, tables: Sequence[TableView]) -> Recipe:
    variant = entry.variants[name]
    suite = project.suite.systems.get(system)
    own = suite.variants.get(name) if suite else None
    clean = variant.protocol == "clean"
    held_out = (clean and entry.clean_held_out) or entry.held_out or ""
    on_test = "" if clean or variant.checkpoint else entry.selected_on_test or ""
    trained_on = (clean and entry.clean_trained_on) or entry.trained_on or ""
    return Recipe(
        system=system,
        variant=name,
        label=variant.label,
        reading=variant.protocol,
        switches=tuple(_pairs(variant)),
        suite=tuple(_pairs(own)) if own else (),
        trained_on=f"released weights {variant.checkpoint}" if variant.checkpoint else trained_on,
        chosen_on="" if variant.checkpoint else on_test or held_out,
        on_test=bool(on_test),
        note=variant.note,
        rows=tuple(
            (f"{table.id}-{row.anchor}", f"{table.title.split('. ')[0].split(':')[0]}: {row.label}")
            for table in tables
            for row in table.rows
            if (row.system, row.variant) == (system, name)
        ),
        not_run=project.not_run(system, name, entry),
    )


def recipe_table(systems: Sequence[SystemRecipes]) -> PlainTable:
    """Return the recipes as a table of texts, for export."""
    heads = ["System", "Variant", "Recipe", "Switches", "Trained on", "Epoch chosen on", "Note"]
    cells = [
        [
            entry.label, recipe.label, READINGS[recipe.reading][0],
            ", ".join(f"{key}: {value}" for key, value in recipe.switches), recipe.trained_on,
            recipe.chosen_on + (" (test images)" if recipe.on_test else ""), recipe.note,
        ]
        for entry in systems
        for recipe in entry.recipes
    ]  # fmt: skip
    return PlainTable("Which recipe each variant uses", heads, cells, "lllwllw")

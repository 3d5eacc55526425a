"""Which recipe each row of a table used: what the released code does, what the paper's text says, what a suite changes.

Everything is read from the settings: a variant names only what it switches against the released code.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from recount.report.exhibits import Cell, Context, Exhibit, Line, Sheet
from recount.report.provenance_view import flat
from recount.report.words import WORDS, said

if TYPE_CHECKING:
    from recount.settings.experiment import Experiment, Variant
    from recount.settings.suite import SuiteSystem, SuiteVariant

READINGS = WORDS["readings"]
HEADS = ("Variant", "Recipe", "Switches", "This suite also", "Trained on", "Epoch chosen on", "Rows")


def recipes(context: Context) -> Iterator[Exhibit]:
    """Yield, for each system of a paper, where its recipe comes from and how each of its variants differs."""
    experiments = list(context.experiments.items())
    sheets = [_sheet(context, *experiment, folded=n > 0) for n, experiment in enumerate(experiments)]
    quoted = [f"{context.sources.label_of(row)} ({row.quoted})" for row in context.paper.quoted.values()]
    smaller = "" if context.comparable else ", and what this suite makes smaller in all of them"
    notes = (f"Quoted only: {'; '.join(quoted)}.",) if quoted else ()
    title, words = "Paper against code: which recipe each row used", said("recipes", smaller=smaller)
    yield Exhibit("recipes", title, words, tables=tuple(sheets), notes=notes, short="Paper against code")


def _sheet(context: Context, name: str, entry: Experiment, *, folded: bool) -> Sheet:
    suite = context.sources.project.suite.systems.get(name)
    variants = [run.partition("/")[2] for run in context.paper.runs if run.partition("/")[0] == name]
    counts = [f"{len(variants)} variant{'' if len(variants) == 1 else 's'}"]
    for reading, (words, _) in READINGS.items():
        times = sum(entry.variants[variant].protocol == reading for variant in variants)
        counts += [f"{times} {words}"] if times and reading != "as_code" else []
    return Sheet(
        file=f"{context.name}-recipes-{name}",
        title=f"{entry.label}: {' · '.join([*filter(None, [entry.citation]), *counts])}",
        heads=HEADS,
        lines=tuple(_line(context, name, entry, variant) for variant in variants),
        folded=folded,
        note=f"This suite, in all of them: size: {suite.size}, {_words(suite)}".rstrip(", ") if suite else "",
    )


def _line(context: Context, system: str, entry: Experiment, name: str) -> Line:
    project, variant = context.sources.project, entry.variants[name]
    suite = project.suite.systems.get(system)
    own = suite.variants.get(name) if suite else None
    data = entry.data_of(name)
    trained_on = f"reads the training of {entry.variants[variant.reads].label}" if variant.reads else data.trained_on
    chosen_on = f"{data.selected_on_test} ⚑ (test images)" if data.selected_on_test else data.held_out or ""
    chosen_on = "" if variant.checkpoint else chosen_on
    label, meaning = READINGS[variant.protocol]
    not_run = project.not_run(system, name)
    rows = [
        (f"#{table.id}-{row.anchor}", f"{table.short_title}: {row.label}")
        for table in context.tables
        for row in table.rows
        if (row.system, row.variant) == (system, name)
    ]
    return Line(
        (
            Cell(variant.label, below="; ".join(filter(None, [variant.note, not_run and f"not run here: {not_run}"]))),
            Cell(label, hint=meaning),
            _words(variant) or "nothing",
            _words(own) if own else "",
            f"released weights {variant.checkpoint}" if variant.checkpoint else trained_on,
            chosen_on,
            Cell("; ".join(words for _, words in rows), links=tuple(rows)),
        ),
        anchor=f"{context.name}-recipe-{system}-{name}",
    )


def _words(entry: SuiteSystem | SuiteVariant | Variant) -> str:
    pairs = (flat(entry.settings) | flat(entry.recipe)).items()
    return ", ".join(f"{key}: {value.lower() if value in ('True', 'False') else value}" for key, value in pairs)

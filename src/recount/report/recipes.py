"""Which recipe each row of a table used: what the released code does, what the paper's text says, what a suite changes.

Everything is read from the settings: a variant names only what it switches against the released code. What the code and
the text say themselves stands in ``official.yaml``, beside it what recount resolves to at paper size.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from recount.report.exhibits import Cell, Context, Exhibit, Line, Sheet
from recount.report.words import WORDS, said
from recount.settings.base import merged
from recount.settings.drift import compared, lowered
from recount.settings.project import Project, default_recipe, load

if TYPE_CHECKING:
    from recount.settings.experiment import Experiment, Variant
    from recount.settings.suite import SuiteSystem, SuiteVariant

READINGS = WORDS["readings"]
OFFICIAL_HEADS = ("Variant", "Setting", "Official", "Ours", "Why they differ", "Source")
HEADS = ("Variant", "Recipe", "Switches", "This suite also", "Trained on", "Epoch chosen on", "Rows")


def recipes(context: Context) -> Iterator[Exhibit]:
    """Yield, for each system of a paper, where its recipe comes from and how each of its variants differs."""
    experiments = list(context.experiments.items())
    full = at_paper_size(context.sources.project)
    sheets = []
    for number, (name, entry) in enumerate(experiments):
        sheets.append(_sheet(context, name, entry, folded=number > 0))
        if full and name in full.official:
            sheets.append(_official_sheet(context, full, name, entry))
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


def at_paper_size(project: Project) -> Project | None:
    """Return the project with suite paper, in which official values are ours or differ for a reason; None: no such."""
    if not project.official or not (project.root / "suites" / "paper.yaml").is_file():
        return None
    return (
        project
        if project.suite.name == "paper"
        else load(project.root, {"suite": "paper", "papers": project.config.papers})
    )


def _official_sheet(context: Context, full: Project, name: str, entry: Experiment) -> Sheet:
    variants = [run.partition("/")[2] for run in context.paper.runs if run.partition("/")[0] == name]
    variants = [each for each in variants if not entry.variants[each].reads and not entry.variants[each].checkpoint]
    lines: list[Line] = []
    shown: dict[str, tuple[str, str]] = {}
    for variant in variants:
        label = READINGS[entry.variants[variant].protocol][0]
        for each in compared(full, name, variant):
            if (
                shown.setdefault(each.key, (each.official, each.ours)) != (each.official, each.ours)
                or variant == variants[0]
            ):
                recipe = Cell(entry.variants[variant].label, below=label)
                lines.append(Line((recipe, each.key, each.official, each.ours, each.why, each.source)))
    source = full.official[name].source
    return Sheet(
        file=f"{context.name}-official-{name}",
        title=f"{entry.label}: official values and ours, at paper size",
        heads=OFFICIAL_HEADS,
        lines=tuple(lines),
        folded=True,
        note=f"Official: {source}, unless another source stands there. Further variants: only what is otherwise there.",
    )


def _line(context: Context, system: str, entry: Experiment, name: str) -> Line:
    project, variant = context.sources.project, entry.variants[name]
    suite = project.suite.systems.get(system)
    own = suite.variants.get(name) if suite else None
    data = entry.data_of(name)
    trained_on = f"reads the training of {entry.variants[variant.reads].label}" if variant.reads else data.trained_on
    share = merged(default_recipe(system) or {}, variant.recipe).get("held_out", 0.0)
    of_training = f"{share:.0%} of them, held out" if share else ""
    chosen_on = f"{data.selected_on_test} ⚑ (test images)" if data.selected_on_test else data.held_out or of_training
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
    return ", ".join(f"{key}: {value}" for key, value in (lowered(entry.settings) | lowered(entry.recipe)).items())

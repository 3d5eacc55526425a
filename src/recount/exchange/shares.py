"""``recount plan --share K/N``: the K-th of N people's part of a suite's trainings, the same whoever asks.

The rule. What is dealt out is a system at one seed, with all its variants: what a claim about an ablation compares is
then trained by one person on one machine, and each part is an experiment of its own that can be judged. What would be
dearer than an equal part is dealt out training by training. The dearest comes first, and goes to whoever has fewest
hours so far. Hours are those of the plan for one named card, whatever card is here and whatever was trained or
rehearsed here; a training of unknown cost counts as much as the known ones do on average.
"""

import json
import shlex
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from recount.documents import Document, Sheet
from recount.errors import UserError
from recount.provenance import planned
from recount.rehearsal import costs
from recount.results.files import text_digest
from recount.settings.base import absent
from recount.settings.project import Project

CARD = "T4"  # whose hours are shared where none is named: as most of what is published
RULE = (
    "Dealt out is a system at one seed with all its variants, so that one person trains what an ablation's claim "
    "compares; what is dearer than an equal part, training by training; the dearest first, to whoever has fewest hours."
)


@dataclass(frozen=True, slots=True)
class Part:
    """One person's trainings (``system/variant/seedK``), and their hours."""

    trainings: tuple[str, ...]
    hours: float


@dataclass(frozen=True, slots=True)
class Shares:
    """A suite dealt out: every training is in one part."""

    suite: str
    basis: str  # of the hours
    plan: str  # digest of what was dealt out: equal wherever the parts are
    parts: tuple[Part, ...]


def parse_share(text: str) -> tuple[int, int]:
    """Return K and N of ``K/N``."""
    first, _, last = text.partition("/")
    if not (first.isascii() and first.isdigit() and last.isascii() and last.isdigit()) or not 1 <= int(first) <= int(
        last
    ):
        raise UserError(f"--share {text}: expected K/N, the K-th of N parts, for instance 2/5")
    return int(first), int(last)


def deal(project: Project, people: int, card: str | None = None) -> Shares:
    """Return the project's trainings in so many parts; UserError where there are fewer trainings than people."""
    if card is not None and (problems := [*absent("--card", "card", card, costs.cards())]):
        raise UserError("\n".join(problems))
    if project.config.budget_gpu_hours is not None:
        raise UserError("--share: budget_gpu_hours chooses by what is here, so that parts would differ: set it to null")
    hours = training_hours(project, card or CARD)
    if len(hours) < people:
        raise UserError(f"--share: {len(hours)} trainings cannot be shared by {people} people: give fewer")
    loads = [(0.0, 0, place) for place in range(people)]  # hours and trainings so far
    parts: list[list[str]] = [[] for _ in range(people)]
    for unit in _units(hours, people):
        load, number, place = min(loads)
        parts[place] += unit
        loads[place] = (round(load + sum(hours[name] for name in unit), 9), number + len(unit), place)
    settings = [(run.id, planned(project, run)) for run in project.trainings]
    whole = text_digest(json.dumps([people, sorted(hours.items()), sorted(settings)]))[:8]
    every = tuple(Part(tuple(sorted(part)), sum(hours[name] for name in part)) for part in parts)
    return Shares(project.suite.name, f"model of {card or CARD}, else as published", whole, every)


def training_hours(project: Project, card: str) -> dict[str, float]:
    """Return the hours of each training on a card, by id; they are the same on every machine."""
    found: dict[str, float | None] = {}
    for run in project.trainings:
        quoted, _ = project.gpu_hours(run.system, run.variant)
        modelled = None if quoted == 0 else costs.modelled_hours(project, run, card)
        found[run.id] = quoted if modelled is None else round(modelled, 6)
    known = [value for value in found.values() if value]
    usual = sum(known) / len(known) if known else 1.0
    return {run: usual if value is None else value for run, value in found.items()}


def _units(hours: Mapping[str, float], people: int) -> Sequence[tuple[str, ...]]:
    """Return what is dealt out, the dearest first."""
    grouped = defaultdict[tuple[str, str], list[str]](list)
    for run in hours:
        system, _, seed = run.split("/")
        grouped[system, seed].append(run)
    equal = sum(hours.values()) / people

    def cost(unit: Iterable[str]) -> float:
        return sum(hours[name] for name in unit)

    def dearest_first(units: Iterable[tuple[str, ...]]) -> list[tuple[str, ...]]:
        return sorted(units, key=lambda unit: (-round(cost(unit), 6), -len(unit), unit))

    units = list[tuple[str, ...]]()
    for group in grouped.values():
        units += [(name,) for name in sorted(group)] if cost(group) > equal else [tuple(sorted(group))]
    units = dearest_first(units)
    while len(units) < people:
        largest = max(units, key=len)
        units.remove(largest)
        units = dearest_first([*units, *((name,) for name in largest)])
    return units


def chosen(project: Project, part: Part) -> list[str]:
    """Return what ``only`` is to say so that these trainings, and what reads them, are run: as short as it can be."""
    mine, seeds = {*part.trainings}, len(project.config.seeds)
    found = defaultdict[str, list[int]](list)
    for run in project.runs:
        if run.training_id in mine:
            found[f"{run.system}/{run.variant}"].append(run.seed)
    whole = {name for name, has in found.items() if len(has) == seeds}
    return [
        entry
        for name, has in found.items()
        for entry in ([name] if name in whole else [f"{name}/seed{k}" for k in has])
    ]


def document(project: Project, shares: Shares, mine: int) -> Document:
    """Return one part as a document: what is in it, and the commands that run and hand in exactly that."""
    part, people = shares.parts[mine - 1], len(shares.parts)
    only = chosen(project, part)
    given = {**project.overrides, "suite": shares.suite, "seeds": [*project.config.seeds], "only": only}
    total = sum(each.hours for each in shares.parts)
    number = sum(len(each.trainings) for each in shares.parts)
    lines = [
        f"Share {mine} of {people} of suite {shares.suite}: {len(part.trainings)} of {number} trainings, "
        f"{part.hours:,.4g} of {total:,.4g} GPU hours ({shares.basis})",
        RULE,
        f"Plan {shares.plan}: whoever shares must see the same word; else settings, seeds or recount differ.",
    ]
    after = [
        f"Run it: recount run --config {in_shell(given)}",
        f"Hand it in: recount export share{mine}of{people}.zip --by NAME --config {in_shell(given | {'only': []})}",
    ]
    heads = ("Share", "Trainings", "GPU hours", "Systems")
    rows = [
        (f"{place}{' (this one)' if place == mine else ''}", str(len(each.trainings)), f"{each.hours:,.4g}",
         ", ".join(sorted({name.partition("/")[0] for name in each.trainings})))
        for place, each in enumerate(shares.parts, start=1)
    ]  # fmt: skip
    sheets = [Sheet("Shares", heads, rows), Sheet("This share", ("Training",), [(name,) for name in part.trainings])]
    content: dict[str, Any] = asdict(shares) | {
        "share": mine,
        "only": only,
        "rule": RULE,
        "run": after[0].removeprefix("Run it: "),
    }
    table = [(place, name) for place, each in enumerate(shares.parts, start=1) for name in each.trainings]
    return Document(f"Share {mine} of {people}", lines, sheets, content, ("share", "training"), table, after)


def in_shell(settings: Mapping[str, Any]) -> str:
    """Return settings as what follows ``--config`` in a shell."""
    told = (
        value if isinstance(value, str) else json.dumps(value, separators=(",", ":")) for value in settings.values()
    )
    return " ".join(shlex.quote(f"{key}={value}") for key, value in zip(settings, told, strict=True))

"""The sections of a paper on text-guided systems, ready for the template: tables, pictures and figures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from recount.papers.t2icount import (
    LOG,
    TRIVIAL,
    UNREAD,
    Blind,
    EvidenceError,
    RealTable,
    TrainLog,
    UnreadPrompts,
    prompt_blind,
    real_tables,
    train_log,
    unread_prompts,
)
from recount.report import text_figures
from recount.report.sections import Variant
from recount.report.sources import Sources
from recount.report.text_guided import (
    MapRow,
    PromptGallery,
    PromptRow,
    benchmarks_of,
    map_rows,
    not_tested,
    prompt_gallery,
    prompt_rows,
    prompt_tested,
)

PROMPT_TESTS = "prompt_tests"  # the rows of published.csv that were measured by PrACo


@dataclass
class TextSection:
    """What a paper's article says about prompts; empty parts are not shown.

    Attributes:
        prompts, plot: the table "does it read the prompt?" and its figure.
        places: test -> where it was made.
        quoted: published scores of the same tests: label -> metric -> text; ``quoted_source``: where they are printed.
        notes: what could not be tested, and why.
        gallery: the same picture asked for two of its classes.
        maps: where attention and similarity lie.
        real, blind: the paper's tables on their real annotation.
        unread: what CLIP-Count's defect does to the real prompts.
        log, log_plot: the authors' training log.
    """

    prompts: list[PromptRow] = field(default_factory=list)
    plot: Any = None
    places: dict[str, list[str]] = field(default_factory=dict)
    quoted: dict[str, dict[str, str]] = field(default_factory=dict)
    quoted_source: str = ""
    notes: list[str] = field(default_factory=list)
    gallery: PromptGallery | None = None
    maps: list[MapRow] = field(default_factory=list)
    real: list[RealTable] = field(default_factory=list)
    blind: list[Blind] = field(default_factory=list)
    unread: list[UnreadPrompts] = field(default_factory=list)
    log: TrainLog | None = None
    log_plot: Any = None

    @property
    def parts(self) -> list[tuple[str, str]]:
        """Return the sections that a page shows: end of the anchor, and title in the contents."""
        there = {
            ("real", "On the real annotation"): self.real,
            ("prompts", "Does it read the prompt?"): self.prompts,
            ("asked", "One picture, two prompts"): self.gallery,
            ("maps", "Where the maps lie"): self.maps,
            ("trainlog", "What the training log shows"): self.log,
        }
        return [place for place, content in there.items() if content]


def text_section(
    sources: Sources, name: str, variants: Sequence[Variant], plot: Callable[[Any, str, str], Any]
) -> TextSection | None:
    """Return the sections of a paper on prompts, or None if it has neither prompt tests nor evidence of that kind.

    Args:
        sources: the files.
        name: of the paper.
        variants: what its tables show, in their order.
        plot: writes a figure: (figure, name, caption) -> what the template shows.
    """
    evidence = sources.evidence(name)
    own = [variant for variant in variants if variant.system in sources.project.papers[name].systems]
    entries = prompt_tested(sources, own)
    if not entries and not {TRIVIAL, UNREAD, LOG} & evidence.keys():
        return None
    section = TextSection(prompts=prompt_rows(entries), maps=map_rows(entries))
    section.places = {test: benchmarks_of(entries, test) for test in ("pairs", "negative_prompts", "mosaics", "maps")}
    section.notes = [f"{entry.variant.label}: {reason}" for entry in entries for reason in entry.reasons()]
    section.notes += [f"{label}: no prompt tests were made; logs/ says why" for label in not_tested(sources, own)]
    section.gallery = prompt_gallery(sources, entries, f"{name}-asked")
    section.quoted, section.quoted_source = _quoted(sources.published[name])
    if section.prompts:
        caption = (
            "Does it read the prompt? Left: mean count when pictures are asked for their majority, for a minority and "
            "for a class that is not there. Right: PrACo's NP and NMN. Where marks lie on each other, the prompt is "
            "ignored."
        )
        section.plot = plot(text_figures.prompt_answers(section.prompts), f"{name}-prompts", caption)
    _add_evidence(section, sources, name, plot)
    return section


def _quoted(published: pd.DataFrame) -> tuple[dict[str, dict[str, str]], str]:
    rows = published[published["table"] == PROMPT_TESTS]
    quoted = {str(label): dict(zip(mine["metric"], mine["value"], strict=True)) for label, mine in rows.groupby("row")}
    return quoted, "; ".join(dict.fromkeys(rows["source"]))


def _add_evidence(section: TextSection, sources: Sources, name: str, plot: Callable[[Any, str, str], Any]) -> None:
    files = sources.evidence(name)
    if TRIVIAL in files:
        try:
            section.real = real_tables(files[TRIVIAL], sources.project.papers[name], sources.published[name])
            section.blind = prompt_blind(section.real)
        except EvidenceError as error:
            sources.problem(files[TRIVIAL], str(error))
    if UNREAD in files:
        try:
            section.unread = unread_prompts(files[UNREAD])
        except EvidenceError as error:
            sources.problem(files[UNREAD], str(error))
    if LOG in files:
        try:
            section.log = train_log(files[LOG])
        except EvidenceError as error:
            sources.problem(files[LOG], str(error))
            return
        caption = (
            "The authors' training log: validation errors of every evaluated epoch; dashed: their median, shaded: one "
            "standard deviation. Circles: epochs that were the best so far and were tested; red: the one selected."
        )
        section.log_plot = plot(text_figures.validation_noise(section.log), f"{name}-trainlog", caption)

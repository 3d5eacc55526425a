"""The section on a paper that counts by captions (CountCLIP): what its printed numbers show, beside what was measured.

Everything is computed: from ``papers/countclip`` (``evaluation.evidence_countclip``) and from our predictions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import binomtest

from recount.judging.countclip_evidence import (
    BASELINE,
    BEST,
    END,
    LARGE,
    NUMBERS,
    Evidence,
    EvidenceError,
    Panel,
    evidence,
)
from recount.report import caption_figures
from recount.report.sections import Variant, predictions_of
from recount.report.sources import Sources

STATES = {END: "last", BEST: "best_on_test"}
FILES = ("confusions", "epochs", "cut_77", "leak")


@dataclass(frozen=True)
class Answers:
    """What a variant answered on a benchmark with one way to choose the epoch.

    Attributes:
        variant, label, selection: whose answers; "published" panels have their figure's name as ``source``.
        n, correct: images, right answers.
        low, high: exact (Clopper-Pearson) 95 % interval of the accuracy.
        deviation: mean of |answer - truth|.
        recall: of each number, two to ten; NaN where no image has it.
        large: recall over seven to ten.
    """

    variant: str
    label: str
    selection: str
    source: str
    n: int
    correct: int
    low: float
    high: float
    deviation: float
    recall: tuple[float, ...]
    large: float

    @property
    def accuracy(self) -> float:
        """Return the share of right answers."""
        return self.correct / self.n


@dataclass
class CaptionSection:
    """What the article says about counting by captions; ``found`` is None where the evidence cannot be read."""

    found: Evidence | None = None
    labels: dict[str, str] = field(default_factory=dict)
    leaks: int = 0
    differences: Any = None
    recovered: Any = None
    weights: Any = None
    matrices: dict[str, Any] = field(default_factory=dict)
    measured: list[Answers] = field(default_factory=list)
    printed: list[Answers] = field(default_factory=list)
    places: list[str] = field(default_factory=list)


def caption_section(
    sources: Sources, paper: str, variants: Sequence[Variant], plot: Callable[..., Any]
) -> CaptionSection | None:
    """Return the section of a paper that has printed confusion matrices; None for other papers.

    Args:
        sources: the project's files.
        paper: its name.
        variants: that its tables show.
        plot: writes a figure: (figure, name, caption).
    """
    files = sources.evidence(paper)
    if any(name not in files for name in FILES):
        return None
    section = CaptionSection(labels={variant.variant: variant.label for variant in variants})
    try:
        section.found = evidence(sources.project.root / "papers" / paper)
    except EvidenceError as error:
        sources.problem(files["confusions"], str(error))
        return section
    section.leaks = len(pd.read_csv(files["leak"]))
    _add_published_figures(section, paper, plot)
    _add_measured(section, sources, paper, variants, plot)
    return section


def _add_published_figures(section: CaptionSection, paper: str, plot: Callable[..., Any]) -> None:
    found = section.found
    assert found is not None
    section.differences = plot(
        caption_figures.against_baseline(found.baseline, section.labels),
        f"{paper}-against-baseline",
        "Printed accuracy minus that of the untrained baseline: after ten epochs, and at the epoch chosen on the test "
        "images.",
    )
    section.recovered = plot(
        caption_figures.recovered_epochs(found.runs, found.baseline.baseline, section.labels),
        f"{paper}-recovered-epochs",
        "Accuracy on CountBench after each epoch of the runs that the notebook's history printed; the line is the "
        "untrained baseline.",
    )
    section.weights = plot(
        caption_figures.weights_by_number(),
        f"{paper}-lambda",
        "Lambda by number from the class counts of the authors' training set (equations 3 to 6, as coded).",
    )
    for state in (END, BEST):
        panels = [panel for panel in found.panels if panel.state == state and panel.figure != "fig3"]
        tables = {f"{_label(section, panel.variant)}": as_predictions(panel) for panel in panels}
        section.matrices[f"published, {state}"] = plot(
            caption_figures.confusions(tables),
            f"{paper}-published-confusions-{STATES[state]}",
            f"Printed confusion matrices, {state}: the share of pictures of each true number (row) by answer (column).",
        )
        section.printed += [
            answers(panel.variant, _label(section, panel.variant), STATES[state], panel.name, as_predictions(panel))
            for panel in panels
        ]


def _label(section: CaptionSection, variant: str) -> str:
    return section.labels.get(variant, variant)


def _add_measured(
    section: CaptionSection, sources: Sources, paper: str, variants: Sequence[Variant], plot: Callable[..., Any]
) -> None:
    """Add our answers, a matrix per variant for each way to choose the epoch; the editions never mix."""
    system = {run.system for run in sources.project.runs if run.system == paper}
    for place in sources.benchmarks():
        for selection in STATES.values():
            shown = _shown(sources, place, variants, selection)
            if not shown or not system:
                continue
            where = f"{place[1]}/{place[2]}"
            section.places.append(where)
            section.measured += [
                answers(entry.variant, entry.label, selection, where, entry.predictions) for entry in shown
            ]
            section.matrices[f"measured on {where}, {selection.replace('_', ' ')}"] = plot(
                caption_figures.confusions({entry.label: entry.predictions for entry in shown}),
                f"{paper}-confusions-{place[1]}-{place[2]}-{selection}",
                f"Measured on {where}, {selection.replace('_', ' ')}: the share of pictures of each true number (row) "
                "by answer (column).",
            )


@dataclass(frozen=True)
class _Entry:
    variant: str
    label: str
    predictions: pd.DataFrame


def _shown(
    sources: Sources, place: tuple[str, str, str, str], variants: Sequence[Variant], selection: str
) -> list[_Entry]:
    entries = []
    for variant in variants:
        found = predictions_of(sources, place[1], place[2], variant, selection)
        if found is not None:
            _, chosen, predictions = found
            there = set(sources.predictions_by_variant[(*place[1:3], variant.system, variant.variant)]["selection"])
            # An untrained baseline has one kind of weights only, which stands for both.
            if chosen == selection or there == {"last"}:
                entries.append(_Entry(variant.variant, variant.label, predictions))
    return entries


def as_predictions(panel: Panel) -> pd.DataFrame:
    """Return a printed matrix as one row per image: true_count, predicted_count."""
    true, answer = np.meshgrid(NUMBERS, NUMBERS, indexing="ij")
    times = panel.matrix.ravel()
    return pd.DataFrame(
        {"true_count": np.repeat(true.ravel(), times), "predicted_count": np.repeat(answer.ravel(), times)}
    )


def answers(variant: str, label: str, selection: str, source: str, predictions: pd.DataFrame) -> Answers:
    """Return accuracy with its exact interval, mean absolute deviation and recalls of predictions."""
    finite = predictions.dropna(subset=["true_count", "predicted_count"])
    true, answer = finite["true_count"].to_numpy(), finite["predicted_count"].to_numpy()
    right = true == answer
    interval = binomtest(int(right.sum()), len(finite)).proportion_ci(0.95, "exact")
    of_number = [right[true == number] for number in NUMBERS]
    large = right[np.isin(true, LARGE)]
    return Answers(
        variant=variant,
        label=label,
        selection=selection,
        source=source,
        n=len(finite),
        correct=int(right.sum()),
        low=float(interval.low),
        high=float(interval.high),
        deviation=float(np.abs(answer - true).mean()),
        recall=tuple(float(each.mean()) if len(each) else float("nan") for each in of_number),
        large=float(large.mean()) if len(large) else float("nan"),
    )


def baseline_of(rows: Sequence[Answers], selection: str) -> Answers | None:
    """Return the untrained baseline's answers among ``rows``."""
    return next((row for row in rows if row.variant == BASELINE and row.selection == selection), None)

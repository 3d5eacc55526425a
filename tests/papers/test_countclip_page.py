"""CountCLIP's exhibits: what printed matrices and recovered epochs show."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from golden_tools import golden
from recount.judging.countclip_evidence import BEST, NUMBERS, evidence, read_panels
from recount.papers.countclip import curves, findings, images_of
from recount.report.sections import answer_line
from recount.report.sources import Sources
from recount.settings.project import load

ROOT = Path(__file__).parents[2]
PAPER = ROOT / "papers/countclip"


def test_a_printed_matrix_as_images_has_its_own_accuracy_recall_and_deviation() -> None:
    panels = read_panels(PAPER / "evidence/confusions.csv")
    panel = next(panel for panel in panels if panel.state == BEST and panel.variant == "baseline")
    _, _, _, right, accuracy, deviation, _, *recalls = answer_line("x", panel.name, "", images_of(panel)).cells
    assert right.shown == "140 of 509"
    assert [cell.value for cell in recalls] == pytest.approx(list(panel.matrix.diagonal() / panel.matrix.sum(axis=1)))
    assert deviation.value == pytest.approx(
        (panel.matrix * np.abs(np.subtract.outer(NUMBERS, NUMBERS))).sum() / panel.n
    )
    assert accuracy.ends is not None
    assert accuracy.ends[0] < 140 / 509 < accuracy.ends[1]


def test_printed_matrices_as_images_have_the_golden_deviation() -> None:
    want = golden("countclip")["cases"]["confusion_metrics"]["outputs"]
    for panel in read_panels(PAPER / "evidence/confusions.csv"):
        deviation = answer_line("x", panel.name, "", images_of(panel)).cells[5]
        assert deviation.value == pytest.approx(want[f"{panel.name} {panel.label}"]["mean_abs_deviation"], abs=1e-9)


def test_a_number_without_images_has_no_recall_and_failed_answers_are_left_out() -> None:
    table = pd.DataFrame({"true_count": [2.0, 2.0, 3.0], "predicted_count": [2.0, float("nan"), 4.0]})
    _, _, _, right, _, deviation, large, two, three, four, *_ = answer_line("A", "set/test", "last", table).cells
    assert (right.shown, deviation.value) == ("1 of 2", 0.5)
    assert (two.value, three.value) == (1.0, 0.0)
    assert four.empty and large.empty
    assert len(NUMBERS) == 9


def test_findings_are_computed_from_the_printed_numbers() -> None:
    said = "\n".join(f"{head} {words}" for head, words in findings(evidence(PAPER), {}, leaks=2))
    assert "The headline is 7 images. 147 of 509 are right instead of 140." in said
    assert "21 of 540 captions lose their number word" in said
    assert said.count("Exchanged panel:") == 3
    assert "Recall on eight to ten is 25.9 % before training. After ten epochs it is at most 4.0 %" in said


def test_recovered_accuracies_are_shares() -> None:
    project = load(ROOT, {"papers": []})
    runs = curves(Sources(project), project.papers["countclip"], "accuracy")
    assert len(runs) == 3
    assert all(run["value"].between(0, 1).all() and list(run["epoch"]) == list(range(1, 11)) for run in runs.values())
    assert curves(Sources(project), project.papers["countclip"], "mae") == {}

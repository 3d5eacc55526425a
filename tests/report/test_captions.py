"""The report's section on counting by captions: what printed matrices and our answers show."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from recount.judging.countclip_evidence import BEST, read_panels
from recount.report.caption_section import answers, as_predictions

PANELS = Path(__file__).parents[2] / "papers" / "countclip" / "evidence" / "confusions.csv"


def test_a_printed_matrix_as_images_has_its_own_accuracy_recall_and_deviation() -> None:
    panel = next(panel for panel in read_panels(PANELS) if panel.state == BEST and panel.variant == "baseline")
    row = answers("baseline", "untrained", "best_on_test", panel.name, as_predictions(panel))
    assert (row.n, row.correct) == (509, 140)
    assert row.recall == pytest.approx(tuple(panel.recall))
    assert row.deviation == pytest.approx(panel.mean_absolute_deviation)
    assert (row.low, row.high) == pytest.approx(panel.interval())
    assert row.low < row.accuracy < row.high


def test_a_number_without_images_has_no_recall_and_failed_answers_are_left_out() -> None:
    table = pd.DataFrame({"true_count": [2.0, 2.0, 3.0], "predicted_count": [2.0, np.nan, 4.0]})
    row = answers("a", "A", "last", "set/test", table)
    assert (row.n, row.correct, row.deviation) == (2, 1, 0.5)
    assert row.recall[:2] == (1.0, 0.0)
    assert np.isnan(row.recall[2]) and np.isnan(row.large)

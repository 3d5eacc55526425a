"""The section on GigaCount's published log, from the project's own paper.yaml, published.csv and log."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
import yaml

from recount.papers.gigacount import LogEvidence, log_evidence, published_conflicts
from recount.settings.paper import Paper

FOLDER = Path(__file__).parents[2] / "papers/gigacount"


@pytest.fixture(scope="module")
def evidence() -> LogEvidence:
    paper = Paper.model_validate(yaml.safe_load((FOLDER / "paper.yaml").read_text(encoding="utf-8")))
    published = pd.read_csv(FOLDER / "published.csv", dtype=str).fillna("")
    return log_evidence(FOLDER / "evidence/evallog.csv", paper, published)


def test_all_six_rows_of_table_3_are_found(evidence: LogEvidence) -> None:
    assert [(row.found.line, row.run) for row in evidence.rows if row.found] == [
        (49, "N"), (807, "S"), (356, "A"), (1307, "B"), (429, "A"), (1365, "B"),
    ]  # fmt: skip
    assert all(row.found is not None and row.found.is_best for row in evidence.rows)


def test_stage_4_and_augmentation_share_their_runs(evidence: LogEvidence) -> None:
    assert {run: len(labels) for run, labels in evidence.shared.items()} == {"A": 2, "B": 2}
    assert ["Stage 4" in evidence.shared["A"][0], "augmentation" in evidence.shared["A"][1]] == [True, True]


def test_headline_is_not_in_the_log(evidence: LogEvidence) -> None:
    assert evidence.headline is not None
    assert (evidence.headline.mae, evidence.headline.rmse) == (103.3, 198.0)
    assert evidence.headline_occurs == (False, False)
    assert evidence.best == (1762, 525, 106.07, 196.37)
    assert evidence.late.n == 17


def test_differences_with_and_without_selection(evidence: LogEvidence) -> None:
    printed = {pair.horizon: (pair.printed, pair.at_horizon) for pair in evidence.pairs}
    assert printed == {
        30: (pytest.approx(259.78), pytest.approx(335.28)),
        150: (pytest.approx(18.12), pytest.approx(24.99)),
        200: (pytest.approx(8.02), pytest.approx(17.41)),
    }


def test_paired_runs_differ_in_their_learning_rate(evidence: LogEvidence) -> None:
    pair = next(pair for pair in evidence.pairs if pair.horizon == 150)
    assert (pair.peaks, pair.starts) == ((0.005, 0.003), (8, 3))


def test_scheduled_runs_at_30_epochs_spread_widely(evidence: LogEvidence) -> None:
    horizon, bests = evidence.at_short_horizon
    assert horizon == 30
    assert dict(bests) == {"N": 456.75, "A": 179.95, "S": 196.97, "B": 228.2}


def test_mcnn_is_printed_with_another_rmse_in_the_literature(evidence: LogEvidence) -> None:
    mcnn = [conflict for conflict in evidence.conflicts if conflict.system == "mcnn" and conflict.metric == "rmse"]
    assert {float(value) for conflict in mcnn for _, value, _ in conflict.values} == {515.0, 426.0}


def test_sources_that_agree_are_no_conflict() -> None:
    rows = [
        ("table1", "a", "mae", "9"),
        ("table1", "a", "rmse", "12"),
        ("survey", "", "mae", "9"),
        ("survey", "", "rmse", "12"),
    ]
    published = pd.DataFrame(rows, columns=["table", "row", "metric", "value"]).assign(
        system="a", variant="", benchmark="ucf_qnrf/test", source="s", note=""
    )
    assert published_conflicts(published) == []

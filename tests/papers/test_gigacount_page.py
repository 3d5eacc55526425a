"""The exhibit on GigaCount's published log, from the project's own paper.yaml, published.csv and log."""

import re
from pathlib import Path

import pandas as pd
import pytest

from recount.judging.published_log import best_run
from recount.papers.gigacount import Log, conflicts, findings, read
from recount.settings.paper import Paper, read_paper

FOLDER = Path(__file__).parents[2] / "papers/gigacount"


@pytest.fixture(scope="module")
def paper() -> Paper:
    return read_paper(FOLDER, "paper.yaml")


@pytest.fixture(scope="module")
def published() -> pd.DataFrame:
    return pd.read_csv(FOLDER / "published.csv", dtype=str).fillna("")


@pytest.fixture(scope="module")
def log(paper: Paper, published: pd.DataFrame) -> Log:
    return read(FOLDER / "evidence/evallog.csv", paper, published)


@pytest.fixture(scope="module")
def said(log: Log, published: pd.DataFrame) -> str:
    return "\n".join(f"{head} {words}" for head, words in findings(log, published, {"mcnn": "MCNN"}))


def test_all_six_rows_of_table_3_are_found(log: Log) -> None:
    assert [(found.line, row.run) for row, found in log.ablations] == [
        (49, "N"), (807, "S"), (356, "A"), (1307, "B"), (429, "A"), (1365, "B"),
    ]  # fmt: skip
    assert all(found.is_best for _, found in log.ablations)


def test_stage_4_and_augmentation_share_their_runs(said: str) -> None:
    shared = re.findall(r"([^;\n]*Stage 4[^;]*); ([^;]*augmentation[^;]*): all are read off run (\w)\.", said)
    assert [run for _, _, run in shared] == ["A", "B"]
    assert said.count("all are read off run") == 2
    assert said.count("Two ablations that share both runs cannot be told apart") == 1


def test_headline_is_not_in_the_log(log: Log, said: str) -> None:
    assert log.headline is not None
    assert (log.headline.mae, log.headline.rmse) == (103.3, 198.0)
    assert "neither number occurs in any evaluation" in said
    assert "106.07 / 196.37 (epoch 525, line 1762)" in said
    assert "The mean of its 17 evaluations" in said
    best = best_run(log.runs).best()
    assert best is not None
    assert (best["mae"], best["rmse"]) == (106.07, 196.37)


@pytest.mark.parametrize(
    ("horizon", "printed", "itself"), [(30, "+259.8", "+335.3"), (150, "+18.12", "+24.99"), (200, "+8.02", "+17.41")]
)
def test_differences_with_and_without_selection(said: str, horizon: int, printed: str, itself: str) -> None:
    assert f"printed difference {printed} MAE, at epoch {horizon} itself {itself}." in said


def test_paired_runs_differ_in_their_learning_rate(said: str) -> None:
    assert "highest learning rate 0.005 against 0.003; the warm-up was begun 8 times against 3." in said


def test_the_row_without_a_scheduler_had_one(said: str) -> None:
    assert "The learning rate of run N changes after 29 of its 30 epochs" in said


def test_scheduled_runs_at_30_epochs_spread_widely(said: str) -> None:
    assert "Lowest test MAE up to epoch 30: run N 456.75, run A 179.95, run S 196.97, run B 228.20." in said


def test_mcnn_is_printed_with_another_rmse_in_the_literature(said: str) -> None:
    assert "MCNN on ucf_qnrf/test, RMSE: 515.0 (paper text Table 1) against 426" in said


def test_sources_that_agree_are_no_conflict() -> None:
    rows = [(*at, *number) for at in (("table1", "a"), ("survey", "")) for number in (("mae", "9"), ("rmse", "12"))]
    published = pd.DataFrame(rows, columns=["table", "row", "metric", "value"]).assign(
        system="a", variant="", benchmark="ucf_qnrf/test", source="s", note=""
    )
    assert list(conflicts(published, {})) == []

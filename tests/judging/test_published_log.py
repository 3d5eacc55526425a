"""What GigaCount's published log shows; the numbers asserted are those of its specification, sections 5, 8, 10."""

from pathlib import Path

import pandas as pd
import pytest

from golden_tools import shared
from recount.errors import UserError
from recount.judging.published_log import (
    LoggedRun,
    best_run,
    find_pair,
    late_evaluations,
    logged_runs,
    occurs,
    read_log,
    restarts,
    schedule_starts,
)

OURS = Path(__file__).parents[2] / "papers/gigacount/evidence/evallog.csv"
A, B, N, S = (218, 579), (1141, 1849), (26, 61), (778, 930)


@pytest.fixture(scope="module")
def runs() -> dict[tuple[int, int], LoggedRun]:
    return {run.lines: run for run in logged_runs(read_log(OURS))}


def test_our_copy_of_the_log_is_the_published_one() -> None:
    pd.testing.assert_frame_equal(read_log(OURS), read_log(shared("published", "gigacount_evallog.csv")))


def test_resumed_segments_are_one_run(runs: dict[tuple[int, int], LoggedRun]) -> None:
    assert {lines: run.epochs for lines, run in runs.items() if lines in (N, S, A, B)} == {
        N: 30,
        S: 128,
        A: 300,
        B: 600,
    }


@pytest.mark.parametrize(
    ("mae", "rmse", "horizon", "line", "epoch", "lines"),
    [
        (456.75, 739.2, 30, 49, 20, N),
        (196.97, 331.67, 30, 807, 25, S),
        (135.05, 246.41, 150, 356, 115, A),
        (116.93, 217.17, 150, 1307, 140, B),
        (121.76, 227.49, 200, 429, 175, A),
        (113.74, 214.18, 200, 1365, 190, B),
    ],
)
def test_table_3_is_the_best_test_error_up_to_each_horizon(
    runs: dict[tuple[int, int], LoggedRun],
    mae: float,
    rmse: float,
    horizon: int,
    line: int,
    epoch: int,
    lines: tuple[int, int],
) -> None:
    found = find_pair(list(runs.values()), mae, rmse, horizon)
    assert found is not None
    assert (found.line, found.epoch, found.run.lines, found.is_best) == (line, epoch, lines, True)


@pytest.mark.parametrize(
    ("lines", "epoch", "mae", "rmse"),
    [
        (A, 150, 156.09, 271.77),
        (B, 150, 131.10, 250.72),
        (A, 200, 131.93, 238.35),
        (B, 200, 114.52, 221.40),
        (N, 30, 576.54, 869.01),
        (S, 30, 241.26, 421.15),
    ],
)
def test_without_selection_the_numbers_are_higher(
    runs: dict[tuple[int, int], LoggedRun], lines: tuple[int, int], epoch: int, mae: float, rmse: float
) -> None:
    there = runs[lines].at(epoch)
    assert there is not None
    assert (there["mae"], there["rmse"]) == (mae, rmse)


def test_headline_numbers_are_nowhere_in_the_log(runs: dict[tuple[int, int], LoggedRun]) -> None:
    every = list(runs.values())
    assert not occurs(every, "mae", 103.3)
    assert not occurs(every, "rmse", 198.0)
    assert occurs(every, "mae", 106.07)
    assert find_pair(every, 103.3, 198.0) is None


def test_best_and_late_evaluations_of_the_longest_run(runs: dict[tuple[int, int], LoggedRun]) -> None:
    run = best_run(list(runs.values()))
    best, late = run.best(), late_evaluations(run, 500)
    assert best is not None
    assert (run.lines, best["line"], best["epoch"], best["mae"], best["rmse"]) == (B, 1762, 525, 106.07, 196.37)
    assert tuple(run.evaluations.iloc[-1][["mae", "rmse"]]) == (107.93, 202.68)
    assert late.n == 17
    assert (late.mae_mean, late.rmse_mean) == (pytest.approx(109.32, abs=0.01), pytest.approx(203.88, abs=0.01))
    assert (late.mae_sd, late.mae_min, late.mae_max) == (pytest.approx(2.56, abs=0.005), 106.07, 115.28)


@pytest.mark.parametrize(
    ("lines", "epochs"),
    [
        (N, [1]),
        (S, [1, 41, 46, 51]),
        (A, [1, 41, 81, 121, 133, 136, 141, 146, 151, 161, 173, 191, 201, 241, 245, 271, 277, 281, 291]),
        (B, [1, 61, 91, 251, 271, 291, 331, 371]),
    ],
)
def test_warm_up_begins_anew_at_each_resume(
    runs: dict[tuple[int, int], LoggedRun], lines: tuple[int, int], epochs: list[int]
) -> None:
    assert [start.epoch for start in schedule_starts(runs[lines])] == epochs


def test_run_without_a_scheduler_warms_up_and_restarts(runs: dict[tuple[int, int], LoggedRun]) -> None:
    (start,) = schedule_starts(runs[N])
    assert start.initial == pytest.approx(1e-4, abs=2e-6)
    assert start.highest == 0.01
    assert restarts(runs[N]) == [25]


def test_longest_run_restarts_where_its_schedule_says(runs: dict[tuple[int, int], LoggedRun]) -> None:
    assert [epoch for epoch in restarts(runs[B]) if epoch >= 90] == [90, 140, 200, 470, 550]


def test_run_without_learning_rates_has_no_starts() -> None:
    lines = pd.DataFrame(
        {"line": [1], "segment": [1], "kind": ["eval"], "epoch": [5], "total_epochs": [9], "loss": [None]}
        | {"lr_after_step": [None], "mae": [3.0], "rmse": [4.0]}
    )
    (run,) = logged_runs(lines)
    assert schedule_starts(run) == []
    assert restarts(run) == []


def test_log_without_a_column_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text("line,segment,kind,epoch,total_epochs,loss,mae,rmse\n")
    with pytest.raises(UserError, match="no column lr_after_step"):
        read_log(path)

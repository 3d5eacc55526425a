"""Cells of the papers' tables, from a small project with predictions made by the test."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from links import complete_run
from projects import csv_rows
from records import run_record
from recount.metrics import MAE, NAE, RMSE
from recount.scoring.measured import Measurements
from recount.scoring.score import score
from recount.settings.project import Project
from small_project import SUITE, TRUE, cells_of, make_project, predict, write_index, write_index_rows


def cell(project: Project, **wanted: str) -> dict[str, str]:
    found = cells_of(project, **{"table": "table1", "metric": "mae", **wanted})
    assert len(found) == 1, found
    return found[0]


ERRORS = [1.0, -2.0, 5.0, -30.0, 20.0, 0.0]


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return make_project(tmp_path)


@pytest.fixture
def finished(project: Project) -> Project:
    """Return the project with a run that made ``ERRORS``."""
    predict(project, "good/full/seed0", {"last": ERRORS})
    return project


def test_a_finished_run_is_scored_with_an_interval(finished: Project) -> None:
    predicted = np.add(TRUE, ERRORS)
    for metric in (MAE, RMSE, NAE):
        row = cell(finished, row="good/full", seed="0", metric=metric.name)
        assert float(row["value"]) == pytest.approx(metric(TRUE, predicted))
        assert float(row["ci_low"]) < float(row["value"]) < float(row["ci_high"])
        assert (row["status"], row["selection"], row["n"], row["dataset"]) == ("trained", "last", "6", "dots/test")


def test_systems_of_unlike_preparation_are_compared_on_the_count_before_it(project: Project) -> None:
    merged = json.dumps({"original_count": 12})
    rows = [[n, "test", "", "", 9, 8, 8, "", "", a] for n, a in (("s0", merged), ("s1", "{}"))]
    write_index_rows(project.root, rows)
    split = project.run("good", "full", 0).benchmarks["shown/test"]
    assert Measurements(project).original_counts(split) == {"s0": 12, "s1": 9}


def test_every_selection_is_scored(project: Project) -> None:
    predict(project, "good/full/seed0", {"last": ERRORS, "best_on_test": [0.0] * 6})
    values = {
        row["selection"]: float(row["value"])
        for row in cells_of(project, table="table1", row="good/full", seed="all", metric="mae")
    }
    assert values == {"last": pytest.approx(58 / 6), "best_on_test": 0}


def test_the_mean_over_seeds_has_a_standard_deviation_and_a_wider_interval(tmp_path: Path) -> None:
    project = make_project(tmp_path, seeds=[0, 1, 2])
    for seed, error in enumerate((4.0, 8.0, 12.0)):
        predict(project, f"good/full/seed{seed}", {"last": [error] * 6})
    row = cell(project, row="good/full", seed="all")
    assert (float(row["value"]), float(row["sd"])) == (8, 4)
    assert float(row["ci_low"]) < 8 < float(row["ci_high"])
    assert [float(cell(project, row="good/full", seed=str(seed))["value"]) for seed in range(3)] == [4, 8, 12]


def test_a_missing_seed_is_left_out_and_said_not_averaged_as_zero(tmp_path: Path) -> None:
    project = make_project(tmp_path, seeds=[0, 1, 2])
    for seed in (0, 2):
        predict(project, f"good/full/seed{seed}", {"last": [8.0] * 6})
    row = cell(project, row="good/full", seed="all")
    assert float(row["value"]) == 8
    assert row["reason"].startswith("2 of 3 seeds")
    absent = cell(project, row="good/full", seed="1")
    assert (absent["status"], absent["value"], absent["reason"]) == ("missing", "", "training was not run")


def test_seeds_on_different_samples_have_no_common_interval(tmp_path: Path) -> None:
    project = make_project(tmp_path, seeds=[0, 1])
    predict(project, "good/full/seed0", {"last": ERRORS})
    predict(project, "good/full/seed1", {"last": ERRORS}, left_out=("s4", "s5"))  # as the protocol of captions may
    row = cell(project, row="good/full", seed="all")
    assert row["ci_low"] == ""
    assert "different samples" in row["reason"]


def test_a_run_that_was_not_run_says_so(project: Project) -> None:
    row = cell(project, row="good/full")
    assert (row["status"], row["seed"], row["reason"]) == ("missing", "all", "training was not run")


def test_a_failed_run_shows_the_last_lines_of_its_log(project: Project) -> None:
    path = project.root / project.log("train", "good", "full", "seed0")
    path.parent.mkdir(parents=True)
    path.write_text("\n".join(f"line {k}" for k in range(20)) + "\nout of memory\n")
    row = cell(project, row="good/full")
    assert (row["reason_kind"], row["log"].splitlines()[-2:]) == ("failed", ["line 19", "out of memory"])
    assert "line 15" not in row["log"]
    assert row["reason"] == "training failed or is not finished; its log is logs/small/train/good/full/seed0.log"


def test_a_failed_prediction_shows_its_own_log(project: Project) -> None:
    run = project.run("good", "full", 0)
    run_record().write(project.root / project.run_folder(run) / "run.json")
    complete_run(project, run)
    path = project.root / project.log("predict", "good", "full", "seed0")
    path.parent.mkdir(parents=True)
    path.write_text("no such picture\n")
    row = cell(project, row="good/full")
    assert (row["reason_kind"], row["log"]) == ("failed", "no such picture")
    assert row["reason"].startswith("prediction failed")


def test_absent_data_is_the_reason_before_all_others(project: Project) -> None:
    (project.root / project.data / "dots" / "original" / "index.csv").unlink()
    path = project.root / project.log("fetch", "dots")
    path.parent.mkdir(parents=True)
    path.write_text("put dots.zip into resources/raw/dots\n")
    row = cell(project, row="good/full")
    assert row["reason"].startswith("data absent: dots is not prepared")
    assert (row["reason_kind"], row["log"]) == ("absent data", "put dots.zip into resources/raw/dots")
    assert cell(project, row="constant/one")["status"] == "missing"


def test_what_the_suite_skips_is_missing_with_its_reason(project: Project) -> None:
    assert cell(project, row="good/unrun")["reason"] == "takes too long"


def test_a_checkpoint_without_a_file_is_missing_and_one_with_predictions_is_marked(tmp_path: Path) -> None:
    project = make_project(tmp_path / "without")
    assert "good_weights" in cell(project, row="good/released")["reason"]
    project = make_project(tmp_path / "with", checkpoints={"good_weights": "weights.pth"})
    predict(project, "good/released/seed0", {"last": ERRORS})
    assert cell(project, row="good/released", seed="all")["status"] == "checkpoint"


def test_a_system_that_recount_does_not_run_is_quoted(project: Project) -> None:
    row = cell(project, row="old")
    assert (row["status"], float(row["value"]), row["reason"]) == ("quoted", 33.3, "its code is not public")
    assert cell(project, row="old", metric="rmse")["status"] == "missing"


def test_a_benchmark_that_the_suite_has_nothing_for_is_missing(project: Project) -> None:
    row = cell(project, table="other", row="good/full")
    assert row["reason"] == "suite small has nothing that stands for hidden/test"


def test_constant_predictors_stand_beside_every_column(project: Project) -> None:
    expected = {"one": 1, "training_mean": 30, "training_median": 20, "best_constant": 25}
    for name, value in expected.items():
        row = cell(project, row=f"constant/{name}")
        assert row["status"] == "trivial"
        assert float(row["value"]) == pytest.approx(MAE(TRUE, [value] * 6))
        assert f"predicts {value}" in row["reason"]
    assert "shown/train (n = 3)" in cell(project, row="constant/training_mean")["reason"]


def test_constants_are_below_the_tables_that_ask_for_them(project: Project) -> None:
    assert {row["table"] for row in cells_of(project, row="constant/zero")} == {"table1"}


def test_predictions_that_are_not_finite_are_named_and_not_scored(project: Project) -> None:
    predict(project, "good/full/seed0", {"last": [math.nan, *ERRORS[1:]]})
    row = cell(project, row="good/full", seed="all")
    assert (row["status"], row["value"]) == ("missing", "")
    assert row["reason"] == "1 of 6 predictions are not finite: s0"


def test_damaged_predictions_are_missing_not_an_error(project: Project) -> None:
    predict(project, "good/full/seed0", {"last": ERRORS}).write_text("id,selection\nx,last\n")
    where = "results/small/predictions/dots/test/good/full/seed0.csv: damaged: "
    row = cell(project, row="good/full")
    assert (row["status"], row["reason_kind"]) == ("missing", "damaged")
    assert row["reason"].startswith(f"{where}its content is not what was written (expected ")
    complete_run(project, project.run("good", "full", 0))
    row = cell(project, row="good/full")
    assert (row["status"], row["reason_kind"]) == ("missing", "damaged")
    assert row["reason"].startswith(f"{where}no column image")


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ("s5,s5.jpg,,7.0,7.0,last\n", "", "it lacks s5 (1 of 6 samples)"),
        ("s5,s5.jpg,,7.0,7.0,last\n", "s9,s9.jpg,,7.0,7.0,last\n", "it lacks s5 (1 of 6 samples)"),
        ("s5,s5.jpg", "s9,s9.jpg,,7.0,7.0,last\ns5,s5.jpg", "it has what the benchmark lacks: s9 (1 of 6 samples)"),
        (",,7.0,", ",,8.0,", "it has another true count of s5 (1 of 6 samples)"),
        ("s5,s5.jpg", "s0,s0.jpg,,3.0,4.0,last\ns5,s5.jpg", "damaged: it has s0 twice; `recount"),
    ],
)
def test_predictions_of_other_samples_than_the_benchmark_has_are_damaged(
    tmp_path: Path, old: str, new: str, why: str
) -> None:
    project = make_project(tmp_path)
    path = predict(project, "good/full/seed0", {"last": ERRORS})
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    complete_run(project, project.run("good", "full", 0))
    row = cell(project, row="good/full")
    assert (row["status"], row["value"], row["reason_kind"]) == ("missing", "", "damaged")
    assert why in row["reason"]


def test_true_counts_that_are_not_public_are_the_same_as_themselves(project: Project) -> None:
    hidden = [math.nan, *TRUE[1:]]
    write_index(project.root, [(f"s{k}", "test", count) for k, count in enumerate(hidden)])
    predict(project, "good/full/seed0", {"last": ERRORS}, hidden)
    predictions = Measurements(project).predictions("good/full/seed0", "shown/test")
    assert math.isnan(predictions["last"].true[0])


def test_a_cell_without_the_record_of_a_training_is_missing(project: Project) -> None:
    predict(project, "good/full/seed0", {"last": ERRORS})
    (project.root / project.run_folder(project.run("good", "full", 0)) / "run.json").unlink()
    row = cell(project, row="good/full")
    assert (row["status"], row["reason"]) == ("missing", "training was not run")


def test_one_image_that_carries_the_squared_error_is_said(project: Project) -> None:
    predict(project, "good/full/seed0", {"last": [1.0, 1.0, 1.0, 1.0, 90.0, 1.0]})
    assert cell(project, row="good/full", seed="0", metric="rmse")["reason"].startswith("s4 alone carries 100%")
    assert cell(project, row="good/full", metric="rmse", seed="all")["reason_kind"] == "dominated"
    assert cell(project, row="good/full", seed="0")["reason"] == ""


def test_cost_is_scored_from_the_run_and_the_times(project: Project) -> None:
    folder = project.root / project.run_folder(project.run("good", "full", 0))
    record = run_record(cost={"steps": 50, "seconds_per_step": 3.6}, provenance={"device": "cpu"})
    record.write(folder / "run.json")
    predict(project, "good/full/seed0", {"last": ERRORS}, seconds=0.25)
    hours = cell(project, table="cost", row="good/full", seed="0", metric="train_hours_100_epochs")
    assert float(hours["value"]) == pytest.approx(1)
    assert hours["reason"] == "from 5 epochs on cpu"
    seconds = cell(project, table="cost", row="good/full", seed="0", metric="inference_seconds_per_image")
    assert float(seconds["value"]) == 0.25
    parameters = cell(project, table="cost", row="good/full", metric="parameters_total")
    assert parameters["reason"] == "recount does not measure parameters_total"


def test_influence_lists_the_images_that_move_the_error_most(finished: Project) -> None:
    score(finished)
    rows = csv_rows(finished.root / "results" / "small" / "influence.csv")
    assert [row["id"] for row in rows[:2]] == ["s3", "s4"]
    assert float(rows[0]["share_of_squared_error"]) == pytest.approx(900 / 1330)
    rest = np.delete(TRUE, 3), np.delete(np.add(TRUE, ERRORS), 3)
    assert float(rows[0]["rmse_without"]) == pytest.approx(RMSE(*rest))
    assert float(rows[0]["mae_effect"]) == pytest.approx(58 / 6 - MAE(*rest))
    assert float(rows[1]["rmse_without_this_and_larger"]) == pytest.approx(math.sqrt(30 / 4))


def test_strata_split_the_error_by_true_count(finished: Project) -> None:
    score(finished)
    rows = csv_rows(finished.root / "results" / "small" / "strata.csv")
    mae = {row["stratum"]: float(row["value"]) for row in rows if row["metric"] == "mae"}
    assert mae == {
        "1-10": 1, "11-50": 5, "51-200": 30, ">200": 20,
        "low": 0.5, "middle": 3.5, "high": 25,
    }  # fmt: skip
    assert {row["n"] for row in rows if row["kind"] == "tercile"} == {"2"}


def test_scoring_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    project = make_project(tmp_path, seeds=[0, 1])
    for seed in (0, 1):
        predict(project, f"good/full/seed{seed}", {"last": ERRORS})
    first = score(project).read_bytes()
    assert score(project).read_bytes() == first


def test_a_project_without_any_prediction_is_scored_all_the_same(project: Project) -> None:
    statuses = {row["status"] for row in cells_of(project)}
    assert statuses == {"missing", "quoted", "trivial"}


def test_an_index_without_the_split_makes_cells_missing_not_an_error(project: Project) -> None:
    write_index(project.root, [("t0", "train", 4)])
    assert "no sample is in split 'test'" in cell(project, row="constant/one")["reason"]


def test_counts_by_caption_have_their_own_constants(tmp_path: Path) -> None:
    table = {"title": "T", "on": "captions/test", "metrics": ["accuracy"], "rows": ["good/full"], "floor": "constants"}
    benchmarks = {**SUITE["benchmarks"], "captions/test": {"dataset": "dots", "split": "test"}}
    project = make_project(tmp_path, paper={"tables": {"captions": table}}, suite={**SUITE, "benchmarks": benchmarks})
    write_index(tmp_path, [(f"s{k}", "test", count) for k, count in enumerate([2, 3, 3, 4])])
    frequent = cell(project, table="captions", row="constant/most_frequent", metric="accuracy")
    assert (float(frequent["value"]), frequent["reason"][:10]) == (0.5, "predicts 3")
    guess = cell(project, table="captions", row="constant/uniform_guess", metric="accuracy")
    assert float(guess["value"]) == pytest.approx(1 / 3)
    deviation = cell(project, table="captions", row="constant/uniform_guess", metric="mean_absolute_deviation")
    assert float(deviation["value"]) == pytest.approx((1 + 2 / 3 + 2 / 3 + 1) / 4)

"""Metrics against the golden values and published count lists, and at their edges."""

import csv
import json
import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from golden_tools import golden, shared
from recount.metrics import (
    ACCURACY,
    ALL,
    MAE,
    MEAN_ABSOLUTE_DEVIATION,
    METRICS,
    NAE,
    RMSE,
    SRE,
    metric,
)
from recount.scoring.groups import confusion

counts = st.lists(st.tuples(st.integers(0, 3000), st.floats(0, 5000)), min_size=1, max_size=30)


def fsc147_counts() -> dict[str, list[int]]:
    with shared("mirror", "fsc147", "fsc147_counts.csv").open(newline="") as stream:
        rows = list(csv.reader(stream))[1:]
    splits = json.loads(shared("mirror", "fsc147", "data", "Train_Test_Val_FSC_147.json").read_text())
    by_image = {row[0]: int(row[1]) for row in rows}
    return {split: [by_image[image] for image in images] for split, images in splits.items() if split in splits}


def test_errors_are_those_of_clip_ebc() -> None:
    case = golden("crowd_eval")["cases"]["errors"]
    true, predicted = case["inputs"]["gt"], case["inputs"]["pred"]
    assert MAE(true, predicted) == pytest.approx(case["outputs"]["mae"])
    assert RMSE(true, predicted) == pytest.approx(case["outputs"]["rmse"])


def test_metric_definitions() -> None:
    for case in golden("trivial_baselines")["cases"]["metric_units"]["outputs"]:
        for error in (MAE, RMSE, NAE, SRE):
            assert error(case["truth"], case["prediction"]) == pytest.approx(case[error.name], abs=1e-12)


@pytest.mark.parametrize("split", ["val", "test"])
def test_trivial_predictors_on_the_real_count_lists(split: str) -> None:
    true = fsc147_counts()[split]
    for constant in golden("trivial_baselines")["cases"]["real_count_lists"]["outputs"][f"FSC-147 {split}"][
        "constant"
    ].values():
        for error in (MAE, RMSE, NAE, SRE):
            assert error(true, [constant["value"]] * len(true)) == pytest.approx(constant[error.name], rel=1e-9)


def test_count_by_caption_metrics_are_those_of_the_printed_confusion_matrices() -> None:
    expected = golden("countclip")["cases"]["confusion_metrics"]["outputs"]
    with shared("published", "countclip_confusions.csv").open(newline="") as stream:
        rows = [row for row in csv.DictReader(stream) if row["figure"] + row["panel"] == "fig3a"]
    numbers = range(2, 11)
    true, predicted = [], []
    for row in rows:
        for number in numbers:
            times = int(row[f"pred_{number}"])
            true += [int(row["true"])] * times
            predicted += [number] * times
    case = expected["fig3a baseline"]
    assert 100 * ACCURACY(true, predicted) == pytest.approx(case["accuracy_percent"], rel=1e-9)
    assert MEAN_ABSOLUTE_DEVIATION(true, predicted) == pytest.approx(case["mean_abs_deviation"], rel=1e-9)
    matrix = confusion(true, predicted, list(numbers))
    np.testing.assert_allclose(100 * matrix.diagonal() / matrix.sum(axis=1), case["recall_percent"])


# counts and errors in steps of 1/1024: squares of numbers below 1e-160 are zero, and no picture shows so few
exact_counts = st.lists(st.tuples(st.integers(0, 3000), st.integers(0, 5000 * 1024)), min_size=1, max_size=30)


@given(exact_counts)
def test_rmse_is_at_least_mae(pairs: list[tuple[int, int]]) -> None:
    true, steps = zip(*pairs, strict=True)
    predicted = [step / 1024 for step in steps]
    assert RMSE(true, predicted) >= MAE(true, predicted) * (1 - 1e-12)


@given(counts)
def test_a_perfect_predictor_has_no_error(pairs: list[tuple[int, float]]) -> None:
    true = [count for count, _ in pairs]
    assert [METRICS[name](true, true) for name in ("mae", "rmse", "nae", "sre", "accuracy")] == [0, 0, 0, 0, 1]


def test_an_image_without_objects_counts_with_its_plain_error() -> None:
    assert NAE([0, 10], [3, 10]) == 1.5
    assert SRE([0], [3]) == 3


def test_a_single_image_is_its_own_mean() -> None:
    assert (MAE([5], [7.25]), RMSE([5], [7.25])) == (2.25, 2.25)


@pytest.mark.parametrize("name", METRICS)
def test_a_nan_prediction_makes_every_metric_nan(name: str) -> None:
    assert math.isnan(METRICS[name]([1, 2], [1, math.nan]))


@pytest.mark.parametrize(("true", "predicted"), [([], []), ([1, 2], [1]), ([[1]], [[1]])])
def test_lists_that_do_not_belong_together_are_refused(true: list, predicted: list) -> None:
    with pytest.raises(ValueError, match="equally long"):
        MAE(true, predicted)


def test_a_metric_is_known_by_its_id_and_an_unknown_one_keeps_its_name() -> None:
    assert all(metric(name).name == name for name in ALL)
    assert metric("accuracy").is_share
    assert (metric("beauty_of_it").label, metric("beauty_of_it").better) == ("beauty of it", None)


def test_the_ids_of_metrics_are_known_without_numpy() -> None:
    code = "import sys; from recount import metrics; print(sorted({'numpy', 'torch', 'pandas'} & set(sys.modules)))"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"

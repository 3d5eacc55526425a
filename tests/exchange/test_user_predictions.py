"""Anyone's predictions: formats, matching, clear errors, and the published errors of known predictors."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from golden_tools import golden, shared
from recount.errors import UserError
from recount.exchange.user_predictions import PREDICTED, TRUE, read_counts, score_files
from recount.metrics import MAE, RMSE
from recount.scoring.statistics import calibration

TRUTH = "image,count\na.jpg,10\nb.jpg,20\nc.jpg,300\nd.jpg,4\n"


@pytest.fixture
def truth(tmp_path: Path) -> Path:
    return write(tmp_path / "truth.csv", TRUTH)


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def counts_of(path: Path, text: str) -> dict[str, float]:
    return {image: count for (image, _), count in read_counts(write(path, text), PREDICTED).counts.items()}


FORMATS = {
    "csv": "image,count\na.jpg,2\nb.jpg,1.5\n",
    "csv with other names and columns": "split,Filename,pred\ntest,a.jpg,2\ntest,b.jpg,1.5\n",
    "csv with points": 'image,points\na.jpg,"[[1, 2], [3, 4]]"\nb.jpg,1.5\n',
    "tabs": "image\tcount\na.jpg\t2\nb.jpg\t1.5\n",
    "blanks without header": "a.jpg 2\nb.jpg 1.5\n",
    "comma without header": "a.jpg,2\nb.jpg,1.5\n",
    "json lines": '{"image": "a.jpg", "points": [[1, 2], [3, 4]]}\n\n{"image": "b.jpg", "count": 1.5}\n',
    "json list": '[{"image": "a.jpg", "count": 2}, {"id": "b.jpg", "prediction": 1.5}]',
    "json object": '{"a.jpg": [[1, 2], [3, 4]], "b.jpg": 1.5}',
    "json object of annotations": '{"a.jpg": {"points": [[1, 2], [3, 4]], "H": 9}, "b.jpg": {"count": 1.5}}',
    "windows": "\ufeffimage,count\r\na.jpg,2\r\nb.jpg,1.5\r\n",
}


@pytest.mark.parametrize("name", FORMATS)
def test_formats(name: str, tmp_path: Path) -> None:
    assert counts_of(tmp_path / "p", FORMATS[name]) == {"a.jpg": 2, "b.jpg": 1.5}


def test_points_may_stand_one_per_line(tmp_path: Path) -> None:
    assert counts_of(tmp_path / "p", "image,x,y\na.jpg,1,2\na.jpg,3,4\nb.jpg,5,6\n") == {"a.jpg": 2, "b.jpg": 1}


def test_a_file_with_both_counts_is_truth_or_prediction_as_asked(tmp_path: Path) -> None:
    path = write(tmp_path / "p.csv", "id,image,prompt,true_count,predicted_count\n1,a.jpg,cats,3,5\n")
    assert read_counts(path, TRUE).counts == {("a.jpg", "cats"): 3}
    assert read_counts(path, PREDICTED).counts == {("a.jpg", "cats"): 5}


ERRORS = {
    "": "is empty",
    "image,count\n": "nothing else",
    "image,size\na.jpg,3\n": "columns are image, size; expected one of image",
    "image,count\na.jpg,many\n": "line 2: a.jpg: 'many' is not a number",
    "image,count\na.jpg,nan\n": "line 2: a.jpg: the count is nan; it must be finite",
    "image,count\na.jpg,inf\n": "must be finite",
    "image,count\na.jpg,3\na.jpg,4\n": "line 3: a.jpg: occurs twice",
    "image,count\na.jpg,3,4\n": "line 2: 3 columns, but line 1 has 2",
    '{"image": "a.jpg", "count": 3}\n{oops}\n': "line 2: not valid JSON",
    '{"image": "a.jpg", "count": 3}\n{"image": "b.jpg"}\n': "line 2: expected an object with one of image",
    '{"image": "a.jpg", "count": NaN}': "must be finite",
    '{"image": "a.jpg", "points": [1, 2]}': "points must be a list of",
    '{"image": "a.jpg", "count": true}': "neither a number nor a list",
    "x,y\n1,2\n": "columns are x, y; expected one of image",
}


@pytest.mark.parametrize("text", ERRORS)
def test_errors_name_the_line_and_what_is_wrong(text: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        read_counts(write(tmp_path / "p.csv", text), PREDICTED)
    assert ERRORS[text] in str(caught.value)
    assert "p.csv" in str(caught.value)


def test_many_errors_are_counted(tmp_path: Path) -> None:
    text = "image,count\n" + "".join(f"i{k},x\n" for k in range(9))
    with pytest.raises(UserError, match="and 4 more"):
        read_counts(write(tmp_path / "p.csv", text), PREDICTED)


def test_true_counts_below_0_are_an_error_and_predictions_below_0_are_said(tmp_path: Path, truth: Path) -> None:
    negative = write(tmp_path / "n.csv", "image,count\na.jpg,-3\n")
    with pytest.raises(UserError, match=r"line 2: a\.jpg: the count is -3; it must not be below 0"):
        score_files([negative], negative)
    name = next(iter(read_counts(truth, TRUE).counts))[0]
    scores = score_files([write(tmp_path / "p.csv", f"image,count\n{name},-3\n")], truth, only_predicted=True)
    assert scores.systems[0].negative == 1
    assert "1 predictions are below 0; they count as they are" in scores.text()


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.csv: no such file"):
        read_counts(tmp_path / "none.csv", PREDICTED)


def test_a_picture_is_not_a_file_of_counts(tmp_path: Path) -> None:
    (tmp_path / "p.jpg").write_bytes(b"\xff\xd8\xff\xe0")
    with pytest.raises(UserError, match="not a text file"):
        read_counts(tmp_path / "p.jpg", PREDICTED)


# ------------------------------------------------------------------------------------------------------------ matching


def test_the_order_of_the_files_does_not_matter(tmp_path: Path, truth: Path) -> None:
    path = write(tmp_path / "p.csv", "image,count\nd.jpg,4\nc.jpg,290\na.jpg,13\nb.jpg,20\n")
    scores = score_files([path], truth)
    assert scores.systems[0].metrics["mae"].value == pytest.approx(13 / 4)
    assert scores.images == 4


def test_images_without_a_prediction_are_an_error_unless_left_out_on_request(tmp_path: Path, truth: Path) -> None:
    path = write(tmp_path / "p.csv", "image,count\na.jpg,13\nb.jpg,20\n")
    with pytest.raises(UserError, match=r"2 images have no prediction: c\.jpg, d\.jpg\n.*only-predicted"):
        score_files([path], truth)
    scores = score_files([path], truth, only_predicted=True)
    assert (scores.images, scores.left_out) == (2, 2)


def test_images_that_the_truth_does_not_have_are_an_error(tmp_path: Path, truth: Path) -> None:
    path = write(tmp_path / "p.csv", TRUTH + "e.jpg,3\n")
    with pytest.raises(UserError, match=r"1 images are not in .*truth\.csv: e\.jpg"):
        score_files([path], truth, only_predicted=True)


def test_names_that_differ_in_suffix_get_a_hint(tmp_path: Path, truth: Path) -> None:
    path = write(tmp_path / "p.csv", TRUTH.replace(".jpg", ".png"))
    with pytest.raises(UserError, match="differ in folder or suffix"):
        score_files([path], truth)


def test_prompts_tell_lines_on_one_image_apart(tmp_path: Path) -> None:
    truth = write(tmp_path / "truth.csv", "image,prompt,count\na.jpg,cats,3\na.jpg,dogs,1\n")
    path = write(tmp_path / "p.csv", "image,prompt,count\na.jpg,dogs,1\na.jpg,cats,5\n")
    assert score_files([path], truth).systems[0].metrics["mae"].value == 1


def test_prompts_are_dropped_where_one_file_has_none_and_they_are_not_needed(tmp_path: Path, truth: Path) -> None:
    path = write(tmp_path / "p.csv", "image,prompt,count\n" + TRUTH.split("\n", 1)[1].replace(".jpg,", ".jpg,cats,"))
    assert score_files([path], truth).systems[0].metrics["mae"].value == 0
    assert score_files([truth], path).systems[0].metrics["mae"].value == 0
    several = write(tmp_path / "q.csv", "image,prompt,count\na.jpg,cats,1\na.jpg,dogs,1\n")
    with pytest.raises(UserError, match="several prompts on one image"):
        score_files([several], truth)


# ------------------------------------------------------------------------------------------------------------- scoring


@pytest.fixture
def fsc147(tmp_path: Path) -> tuple[Path, list[str]]:
    """The count list of FSC-147, and the images of its test split."""
    splits = json.loads(shared("mirror", "fsc147", "data", "Train_Test_Val_FSC_147.json").read_text())
    return shared("mirror", "fsc147", "fsc147_counts.csv"), splits["test"]


def test_published_errors_come_out_of_a_prediction_file(fsc147: tuple[Path, list[str]], tmp_path: Path) -> None:
    truth, images = fsc147
    path = write(tmp_path / "p.csv", "image,count\n" + "".join(f"{image},0\n" for image in images))
    scores = score_files([path], truth, only_predicted=True)
    published = golden("trivial_baselines")["cases"]["real_count_lists"]["outputs"]["FSC-147 test"]
    metrics = scores.systems[0].metrics
    for name in ("mae", "rmse", "nae", "sre"):
        assert metrics[name].value == pytest.approx(published["constant"]["zero"][name], rel=1e-9)
    assert scores.best_constant[:2] == pytest.approx((36.5, 45.96806722689075))
    assert [image for image, *_ in scores.systems[0].influential[:2]] == ["1123.jpg", "7611.jpg"]
    assert scores.systems[0].rmse_without[1] == pytest.approx(94.48815239362521)


def test_two_systems_are_compared_on_the_same_images(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    true = rng.integers(1, 200, 80)
    truth = write(tmp_path / "t.csv", "image,count\n" + "".join(f"{k},{count}\n" for k, count in enumerate(true)))
    paths = []
    for name, error in (("good", 3), ("bad", 30)):
        noisy = np.abs(true + rng.normal(0, error, 80))
        paths.append(
            write(tmp_path / name, "\n".join(json.dumps({"image": str(k), "count": c}) for k, c in enumerate(noisy)))
        )
    scores = score_files(paths, truth)
    assert scores.differences["mae"].high < 0
    assert scores.differences["mae"].p_value < 0.001
    assert "good minus" in scores.text()
    with pytest.raises(UserError, match="give one, or two"):
        score_files([*paths, paths[0]], truth)


def test_strata_and_calibration(tmp_path: Path, truth: Path) -> None:
    path = write(tmp_path / "p.csv", "image,count\na.jpg,5\nb.jpg,10\nc.jpg,150\nd.jpg,2\n")
    system = score_files([path], truth).systems[0]
    assert system.calibration.slope.value == pytest.approx(0.5)
    assert system.calibration.intercept == pytest.approx(0)
    assert system.calibration.bias.value == pytest.approx(-167 / 4)
    assert {name: (images, mae.value) for kind, name, images, mae, *_ in system.strata if kind == "count"} == {
        "1-10": (2, 3.5),
        "11-50": (1, 10),
        ">200": (1, 150),
    }


def test_whole_numbers_have_an_accuracy(tmp_path: Path, truth: Path) -> None:
    path = write(tmp_path / "p.csv", TRUTH.replace("300", "301"))
    assert score_files([path], truth).systems[0].metrics["accuracy"].value == 0.75
    broken = write(tmp_path / "q.csv", TRUTH.replace("300", "300.5"))
    assert "accuracy" not in score_files([broken], truth).systems[0].metrics


def test_one_image_is_scored_without_intervals(tmp_path: Path) -> None:
    truth = write(tmp_path / "t.csv", "a,3\n")
    path = write(tmp_path / "p.csv", "a,5\n")
    scores = score_files([path], truth)
    assert scores.systems[0].metrics["mae"].value == 2
    assert math.isnan(scores.systems[0].metrics["mae"].low)
    assert "mae       2\n" in scores.text()


def test_perfect_predictions_are_scored(truth: Path) -> None:
    scores = score_files([truth, truth], truth)
    assert scores.systems[0].metrics["rmse"].high == 0
    assert scores.systems[0].influential == []
    assert scores.differences["rmse"].p_value == 1


def test_the_text_says_what_a_constant_would_reach(truth: Path) -> None:
    constant = [15.0] * 4
    text = score_files([truth], truth).text()
    true = [10, 20, 300, 4]
    assert f"best constant (15, an oracle): MAE {MAE(true, constant):.4g}, RMSE {RMSE(true, constant):.4g}" in text


# --------------------------------------------------------------------------------------------------------- calibration


def test_the_slope_has_an_interval_around_the_true_one() -> None:
    rng = np.random.default_rng(1)
    true = rng.uniform(10, 500, 300)
    slope = calibration(true, 0.8 * true + rng.normal(0, 15, 300)).slope
    assert slope.low < 0.8 < slope.high
    assert slope.high - slope.low < 0.05


def test_equal_true_counts_have_a_bias_and_no_slope() -> None:
    result = calibration([5, 5, 5], [6, 7, 8])
    assert result.bias.value == 2
    assert math.isnan(result.slope.value)


def test_a_shift_changes_the_bias_and_not_the_slope() -> None:
    true, predicted = np.array([3.0, 9, 40, 77]), np.array([5.0, 7, 44, 70])
    plain, shifted = calibration(true, predicted), calibration(true, predicted + 100)
    assert shifted.bias.value == pytest.approx(plain.bias.value + 100)
    assert shifted.slope.value == pytest.approx(plain.slope.value)

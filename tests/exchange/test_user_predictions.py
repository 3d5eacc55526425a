"""Anyone's predictions: formats, matching, clear errors, and the published errors of known predictors."""

import json
import math
import re
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from golden_tools import golden, shared
from recount.cli import app
from recount.errors import UserError
from recount.exchange.user_files import Role, read_table
from recount.exchange.user_predictions import score_files
from recount.metrics import MAE, RMSE
from recount.results.predictions import PREDICTIONS, PredictionRow
from recount.scoring.statistics import calibration

TRUTH = "image,count\na.jpg,10\nb.jpg,20\nc.jpg,300\nd.jpg,4\n"


@pytest.fixture
def truth(tmp_path: Path) -> Path:
    return write(tmp_path / "truth.csv", TRUTH)


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8", newline="")
    return path


def counts_of(path: Path, text: str, role: Role = "prediction") -> dict[str, float]:
    table = read_table(write(path, text), role)
    return {image: entry.count for (image, _), entry in table.by_key(table.name_columns[0]).items()}


FORMATS = {
    "csv": "image,count\na.jpg,2\nb.jpg,1.5\n",
    "csv with other names and columns": "split,Filename,pred\ntest,a.jpg,2\ntest,b.jpg,1.5\n",
    "csv with points": 'image,points\na.jpg,"[[1, 2], [3, 4]]"\nb.jpg,1.5\n',
    "csv with tuples, as pandas writes them": 'image,points\na.jpg,"[(1, 2), (3, 4)]"\nb.jpg,1.5\n',
    "tabs": "image\tcount\na.jpg\t2\nb.jpg\t1.5\n",
    "semicolons": "Image Name;predCount\na.jpg;2\nb.jpg;1.5\n",
    "blanks without header": "a.jpg 2\nb.jpg 1.5\n",
    "comma without header": "a.jpg,2\nb.jpg,1.5\n",
    "quoted names": 'image,count,note\n"a.jpg",2,"x, ""y""\nz"\nb.jpg,1.5,\n',
    "json lines": '{"image": "a.jpg", "points": [[1, 2], [3, 4]]}\n\n{"image": "b.jpg", "points": 1.5}\n',
    "json lines with every legal character": '{"image": "a.jpg", "count": 2, "note": "x\u2028\u2029\x85y"}\r\n'
    '{"image": "b.jpg", "count": 1.5}',
    "json list": '[{"image": "a.jpg", "count": 2}, {"image": "b.jpg", "count": 1.5}]',
    "json object": '{"a.jpg": [[1, 2], [3, 4]], "b.jpg": 1.5}',
    "json object of annotations": '{"a.jpg": {"points": [[1, 2], [3, 4]], "H": 9}, "b.jpg": {"points": 1.5}}',
    "windows": "\ufeffimage,count\r\na.jpg,2\r\nb.jpg,1.5\r\n",
    "truth beside": "image,gt,count\na.jpg,9,2\nb.jpg,9,1.5\n",
}


@pytest.mark.parametrize("name", FORMATS)
def test_formats(name: str, tmp_path: Path) -> None:
    assert counts_of(tmp_path / "p", FORMATS[name]) == {"a.jpg": 2, "b.jpg": 1.5}


POINTS = {
    "rows": "image,x,y\n7,1,2\n8,,\n7,3,4.5\n",
    "cells": 'image,points\n7,"[[1, 2], [3, 4.5, 0.9]]"\n8,[]\n',
    "json": '{"7": [[1, 2], [3, 4.5]], "8": []}',
    "json with numbers that agree": '{"id": 7, "points": [[1, 2], [3, 4.5]], "count": 2}\n'
    '{"id": 8, "points": [], "count": 0}',
    "text": "7 2 1 2 3 4.5 \n8 0\n",
    "text with sigmas": "7 2 1 2 5 9 3 3 4.5 6 10 3\n8 0\n",
    "boxes": '{"7": {"points": [[1, 2], [3, 4.5]], "boxes": [[0, 0, 10, 14.97], [9, 0, 21, 16]]}, '
    '"8": {"points": [], "boxes": []}}',
    "rows with boxes": "image,x,y,box_w,box_h\n7,1,2,10,14.97\n8,,,,\n7,3,4.5,12,16\n",
}


@pytest.mark.parametrize("name", POINTS)
def test_points(name: str, tmp_path: Path) -> None:
    table = read_table(write(tmp_path / "p", POINTS[name]), "prediction")
    seven, eight = table.by_key(table.name_columns[0]).values()
    assert (seven.count, eight.count, eight.names) == (2, 0, ("8",))
    assert seven.points.tolist() == [[1, 2], [3, 4.5]] and eight.points.shape == (0, 2)
    if "sigmas" in name or "boxes" in name:
        np.testing.assert_allclose(seven.radii, [[5, 9], [6, 10]], atol=0.01)
        assert eight.radii.shape == (0, 2)


def test_a_crowd_in_one_cell_is_read(tmp_path: Path) -> None:
    points = json.dumps([[k / 7, k] for k in range(20_000)])
    assert counts_of(tmp_path / "p", f'image,points\na.jpg,"{points}"\n') == {"a.jpg": 20_000}


COLUMNS = "image,count,pred_count\na.jpg,3,5\nb.jpg,10,20\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (COLUMNS, "2 columns could be the prediction: count, pred_count; choose with --column"),
        ("image,count,yolo\na.jpg,3,5\n", "2 columns could be the prediction: count, yolo"),
        ("image,pred,predicted\na.jpg,3,5\n", "2 columns could be the prediction: pred, predicted"),
        ("image,x,y,count\na.jpg,3,5,1\n", "2 columns could be the prediction: count, x, y"),
        ('{"image": "a", "count": 3, "points": [[1, 2]]}', "2 columns could be the prediction: count, points"),
        ("image,gt\na.jpg,3\n", "no column is called like a prediction or count: columns are image, gt"),
        ("image,size\na.jpg,3\n", "columns are image, size"),
        ("x,y\n1,2\n", "no column names the image: columns are x, y; expected one of image"),
        ("image,count,Count\na.jpg,3,4\n", "line 1: the column 'count' occurs twice"),
        ("image;count,x\na.jpg;3,4\n", "may both separate its columns"),
    ],
)
def test_columns_are_named_or_refused(text: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=re.escape(said)):
        read_table(write(tmp_path / "p.csv", text), "prediction")


def test_the_truths_column_is_not_taken_for_the_prediction_and_can_be_chosen(tmp_path: Path) -> None:
    path = write(tmp_path / "p.csv", COLUMNS)
    assert [entry.count for entry in read_table(path, "truth").entries] == [3, 10]
    assert [entry.count for entry in read_table(path, "prediction", "Pred Count").entries] == [5, 20]
    assert [entry.count for entry in read_table(path, "prediction", "count").entries] == [3, 10]
    with pytest.raises(UserError, match=r"--column yolo: no such column; columns are image, count, pred_count"):
        read_table(path, "prediction", "yolo")
    truth = write(tmp_path / "t.csv", "image,count\na.jpg,3\nb.jpg,10\n")
    assert "every prediction equals the truth" in score_files([path], truth, column="count").text()
    assert "every prediction" not in score_files([path], truth, column="pred_count").text()


def test_recounts_own_predictions_are_scored_by_selection(tmp_path: Path) -> None:
    both = product(("last", "best"), range(3))
    rows = [PredictionRow(f"s{k}", f"s{k}.jpg", "cups", k, 2.0 * k, name) for name, k in both]
    rows.append(PredictionRow("=1+1", "=1+1.jpg", "cups", 4.0, 4.0, "last"))
    PREDICTIONS.write(tmp_path / "seed0.csv", rows)
    own = tmp_path / "seed0.csv"
    with pytest.raises(UserError, match="several selections: last, best; choose with --selection"):
        score_files([own], own)
    for names in ("s0,0\ns1,1\ns2,2\n=1+1,4\n", "s0.jpg,0\ns1.jpg,1\ns2.jpg,2\n=1+1.jpg,4\n"):
        truth = write(tmp_path / "t.csv", "image,count\n" + names)
        scores = score_files([own], truth, selection="last")
        assert scores.systems[0].metrics["mae"].value == 3 / 4
    assert score_files([own], own, selection="best").images == 3
    with pytest.raises(UserError, match="--selection first: no such selection; it has last, best"):
        score_files([own], own, selection="first")
    with pytest.raises(UserError, match=r"--selection last: .* has no column selection"):
        score_files([truth], truth, selection="last")


def test_a_file_with_both_counts_is_truth_or_prediction_as_asked(tmp_path: Path) -> None:
    path = write(tmp_path / "p.csv", "id,image,prompt,true_count,predicted_count\n1,a.jpg,cats,3,5\n")
    for role, count in (("truth", 3), ("prediction", 5)):
        table = read_table(path, role)
        assert {key: entry.count for key, entry in table.by_key("image").items()} == {("a.jpg", "cats"): count}


def deep(depth: int) -> str:
    return "[" * depth + "]" * depth


ERRORS = {
    "": "is empty",
    "image,count\n": "nothing else",
    "image,count\na.jpg,many\n": "line 2, column count: a.jpg: 'many' is not a number",
    "image,count\na.jpg,\n": "line 2, column count: a.jpg: it is empty",
    "image,count\na.jpg,nan\n": "line 2, column count: a.jpg: it is nan; it must be finite",
    "image,count\na.jpg,inf\n": "it is inf; it must be finite",
    "image,count\na.jpg,true\n": "'true' is not a number",
    "image,count\na.jpg,1_000\n": "'1_000' is not a number",
    "image;count\na.jpg;1,5\n": "'1,5' is not a number",
    "image,count\n,5\n": "line 2, column count: : the image's name in column image is empty",
    "image,count\na.jpg,1e300\n": "1e+300 is more than 9007199254740992",
    f"image,count\na.jpg,{'9' * 5000}\n": "it is inf; it must be finite",
    'image,count\na.jpg,"3\n': "line 2: not a readable row",
    "image,count\na.jpg,3\na.jpg,4\n": "line 3, column count: a.jpg: occurs twice, first in line 2",
    "image,count\na.jpg,3,4\n": "line 2: 3 columns, but line 1 has 2",
    "image,x,y\na.jpg,3,4\na.jpg,3,\n": "a.jpg: line 3, column y: it is empty",
    "image,x,y\na.jpg,3,4\na.jpg,,\n": "a.jpg: line 2: a row has no x and y",
    "7 2 1 2 3\n8 0\n": "7: line 1: it says '2' points; 3 numbers follow",
    "7 2 1 2 3 4\n8 1 1 -\n": "8: line 2: '-' is not a number",
    '{"image": "a.jpg", "count": 3}\n{oops}\n': "line 2: not valid JSON",
    '{"a.jpg": 3,\n "b.jpg": oops}': "line 2: not valid JSON: Expecting value (character 11)",
    '{"image": "a.jpg", "count": 3}\n{"image": "b.jpg"}\n': "line 2, column count: b.jpg: it is missing",
    '{"image": "a.jpg", "count": NaN}': "must be finite",
    '{"image": "a.jpg", "count": null}': "it is empty",
    '{"image": "a.jpg", "points": [1, 2]}': "points must be a list of [x, y]; point 1 is 1",
    '{"image": "a.jpg", "points": [[1, true]]}': "point 1: True is neither a number",
    '{"a.jpg": [[1, 2], [3, "x"]]}': "key a.jpg, column value: a.jpg: point 2: 'x' is not a number",
    '{"image": "a.jpg", "count": true}': "True is neither a number nor a list",
    '{"a.jpg": {"points": [[1, 2]], "boxes": [[1, 2, 3]]}}': "boxes must be a list of [x1, y1, x2, y2]",
    f'{{"a.jpg": {"9" * 5000}}}': "it is inf; it must be finite",
    '{"a.jpg": 3, "b.jpg": 10, "a.jpg": 300}': "the key a.jpg occurs twice",
    '{"image": "a.jpg", "count": 1, "more": {"x": 1, "x": 2}}': "the key x occurs twice",
    '{"image": "a.jpg", "count": 1}\n{"image": "b.jpg", "count": 1, "count": 2}': "line 2: the key count occurs twice",
    '[{"image": "a.jpg", "count": 1}, {"image": "a.jpg", "count": 2}]': "entry 2, column count: a.jpg: occurs twice",
    '["a.jpg", 3]': "entry 1: expected an object with an image",
    "[]": "no image is in it",
    ",": "no image is in it",
    deep(100_000): "nested too deeply",
    f'{{"image": "a", "count": 1}}\n{deep(100_000)}': "nested too deeply",
    f'image,points\na.jpg,"{deep(100_000)}"\n': "nested too deeply",
}


@pytest.mark.parametrize("text", ERRORS, ids=range(len(ERRORS)))
def test_errors_name_the_line_and_what_is_wrong(text: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        counts_of(tmp_path / "p.csv", text)
    assert ERRORS[text] in str(caught.value)
    assert str(caught.value).startswith(f"{tmp_path / 'p.csv'}: ") and "\n" not in str(caught.value)


def test_many_errors_are_counted(tmp_path: Path) -> None:
    text = "image,count\n" + "".join(f"i{k},x\n" for k in range(9))
    with pytest.raises(UserError, match="and 4 more"):
        read_table(write(tmp_path / "p.csv", text), "prediction")


def test_true_counts_below_0_are_an_error_and_predictions_below_0_are_said(tmp_path: Path, truth: Path) -> None:
    negative = write(tmp_path / "n.csv", "image,count\na.jpg,-3\n")
    with pytest.raises(UserError, match=r"line 2, column count: a\.jpg: the count is -3; it must not be below 0"):
        score_files([negative], negative)
    scores = score_files([negative], truth, only_predicted=True)
    assert "1 predictions are below 0; they count as they are: a.jpg (line 2, column count)" in scores.text()


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.csv: no such file"):
        read_table(tmp_path / "none.csv", "truth")
    with pytest.raises(UserError, match="cannot be read: Is a directory"):
        read_table(tmp_path, "truth")


def test_a_picture_is_not_a_file_of_counts(tmp_path: Path) -> None:
    (tmp_path / "p.jpg").write_bytes(b"\xff\xd8\xff\xe0")
    with pytest.raises(UserError, match="not a text file"):
        read_table(tmp_path / "p.jpg", "prediction")


CORPUS = [text.encode() for text in (*FORMATS.values(), *POINTS.values(), *ERRORS) if len(text) < 2000]
SPLICES = [
    b",", b";", b"\t", b"\n", b"\r", b'"', b"{", b"}", b"[", b"]", b":", b"(", b" ", b"\0", b"\xff", b"\xef\xbb\xbf",
    b"nan", b"-", b"1e999", b"9" * 400, b"null", b"true", b"image", b"count", b"points", b"boxes", b"x", b"y",
    b"selection", b"prompt", "\u2028".encode(), "½".encode(), b"\\ud800", b"[[1,2]]", b"id", b"{}", b"[]",
]  # fmt: skip
edits = st.lists(st.tuples(st.floats(0, 1), st.integers(0, 12), st.sampled_from(SPLICES)), min_size=1, max_size=4)


@given(st.sampled_from(CORPUS), edits, st.sampled_from(["truth", "prediction"]))
@settings(max_examples=400)
def test_whatever_a_file_holds_it_is_read_or_refused_in_words(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, changes: list[tuple[float, int, bytes]], role: Role
) -> None:
    for place, gone, splice in changes:
        start = int(place * len(content))
        content = content[:start] + splice + content[start + gone :]
    path = tmp_path_factory.getbasetemp() / "fuzzed"
    path.write_bytes(content)
    try:
        table = read_table(path, role)
        table.by_key(table.name_columns[0])
    except UserError as error:
        message = str(error)
        assert message.startswith(f"{path}: ") and len(message) < 3000
        message.encode()
    else:
        assert all(math.isfinite(entry.count) and entry.names for entry in table.entries) and table.entries
        score_files([path], path, selection=table.selection or None, column=table.column, truth_column=table.column)


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


def test_names_that_do_not_match_are_told_with_the_nearest(tmp_path: Path, truth: Path) -> None:
    path = write(tmp_path / "p.csv", TRUTH.replace("c.jpg", "c_jpg"))
    with pytest.raises(UserError, match=r"csv: c_jpg \(the nearest there is c\.jpg\)\n.*no prediction: c\.jpg"):
        score_files([path], truth)


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
    assert [found.image for found in scores.systems[0].influential[:2]] == ["1123.jpg", "7611.jpg"]
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
    assert {found.name: (found.images, found.mae.value) for found in system.strata if found.kind == "count"} == {
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


@pytest.mark.parametrize("suffix", [".txt", ".json", ".csv", ".md", ".html"])
def test_scores_are_written_in_every_form(truth: Path, tmp_path: Path, suffix: str) -> None:
    mine = write(tmp_path / "mine.csv", TRUTH.replace("300", "290"))
    command = ["score", "--predictions", str(mine), "--truth", str(truth), "--output", str(tmp_path / f"out{suffix}")]
    answer = CliRunner().invoke(app, command)
    assert answer.exit_code == 0 and answer.stdout == f"{tmp_path / f'out{suffix}'}\n", answer.output
    assert "2.5" in (tmp_path / f"out{suffix}").read_text()  # the MAE

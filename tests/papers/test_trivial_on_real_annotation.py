"""Trivial predictors on the real annotations, against the golden values."""

from __future__ import annotations

import csv
import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from golden_tools import golden, shared
from recount.metrics import MAE
from recount.papers.trivial_on_real_annotation import COLUMNS, Trivial, trivial_rows, write_trivial_rows
from recount.scoring.statistics import bootstrap

BENCHMARKS = {
    "FSC-147 val": ("fsc147", "val"),
    "FSC-147 test": ("fsc147", "test"),
    "FSC-147-S v1": ("fsc147s", "v1"),
    "FSC-147-S v2": ("fsc147s", "v2"),
    "CARPK test": ("carpk", "test"),
}
PREDICTORS = {
    "zero": "zero",
    "one": "one",
    "two": "two",
    "three": "three",
    "FSC-147 train mean": "fsc147_train_mean",
    "FSC-147 train median": "fsc147_train_median",
    "CARPK train mean": "carpk_train_mean",
    "CARPK train median": "carpk_train_median",
    "mean of FSC-147 train images of class cars": "fsc147_cars_mean",
    "median of FSC-147 train images of class cars": "fsc147_cars_median",
    "oracle median of this set (smallest MAE of any constant)": "best_constant_mae",
    "oracle mean of this set (smallest RMSE of any constant)": "best_constant_rmse",
    "oracle per-class mean (uses the set's own counts)": "class_mean",
    "oracle per-class median (uses the set's own counts)": "class_median",
    "per-class train mean, else train mean": "train_class_mean",
    "per-class train median, else train median": "train_class_median",
    "majority count (what a prompt-blind perfect counter would say)": "prompt_blind",
}
METRICS = ("mae", "rmse", "nae", "sre")
EVIDENCE = Path(__file__).parents[2] / "papers/t2icount/evidence/trivial_on_real_annotation.csv"


@cache
def measured() -> dict[tuple[str, str, str, str], Trivial]:
    rows = trivial_rows(shared("mirror"))
    return {(row.dataset, row.split, row.predictor, row.metric): row for row in rows}


def real() -> dict[str, Any]:
    return golden("trivial_baselines")["cases"]["real_count_lists"]["outputs"]


@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_trivial_row_is_the_golden_one(name: str) -> None:
    want = real()[name]
    rows = {**want["constant"], **{key: want[key] for key in PREDICTORS if key in want}}
    assert set(rows) <= set(PREDICTORS)
    for label, values in rows.items():
        for metric in METRICS:
            row = measured()[(*BENCHMARKS[name], PREDICTORS[label], metric)]
            assert row.value == pytest.approx(values[metric], rel=1e-9, abs=1e-9), (label, metric)
            assert row.n == want["description"]["n"]


def test_fsc147_test_without_its_two_dominant_pictures() -> None:
    want = real()["FSC-147 test"]["without 1123.jpg and 7611.jpg"]
    for label, name in (("zero", "zero"), ("train mean", "fsc147_train_mean"), ("train median", "fsc147_train_median")):
        for metric in METRICS:
            row = measured()[("fsc147", "test_without_1123_7611", name, metric)]
            assert (row.value, row.n) == (pytest.approx(want[label][metric], rel=1e-9), want["n"])


def test_a_constant_beats_the_published_results_on_fsc147s() -> None:
    best = measured()[("fsc147s", "v1", "best_constant_mae", "mae")]
    blind = measured()[("fsc147s", "v1", "prompt_blind", "mae")]
    assert best.value < 4.69 < blind.value < 48.42
    assert best.oracle
    assert blind.oracle


def test_intervals_contain_the_value_and_are_those_of_the_plain_bootstrap() -> None:
    for row in measured().values():
        assert row.ci_low - 1e-9 <= row.value <= row.ci_high + 1e-9
    row = measured()[("fsc147s", "v1", "zero", "mae")]
    file = shared("mirror", "fsc147s", "asset", "FSC-147-S-v1.json")
    counts = [entry["count"] for entry in json.loads(file.read_text()).values()]
    plain = bootstrap(MAE, counts, [0.0] * len(counts))
    assert (row.ci_low, row.ci_high) == pytest.approx((plain.low, plain.high), rel=0.03)


def test_rows_are_written_as_a_table(tmp_path: Path) -> None:
    write_trivial_rows(measured().values(), tmp_path / "rows.csv")
    with (tmp_path / "rows.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == COLUMNS
    assert len(rows) == len(measured())


def test_without_annotation_files_there_are_no_rows(tmp_path: Path) -> None:
    assert trivial_rows(tmp_path) == []


def test_committed_evidence_is_what_the_annotation_says() -> None:
    with EVIDENCE.open(newline="") as file:
        committed = list(csv.DictReader(file))
    assert len(committed) == len(measured())
    for found in committed:
        row = measured()[(found["dataset"], found["split"], found["predictor"], found["metric"])]
        numbers = [float(found[name]) for name in ("value", "ci_low", "ci_high", "n")]
        assert numbers == pytest.approx([row.value, row.ci_low, row.ci_high, row.n], rel=1e-9)
        assert (found["label"], found["oracle"]) == (row.label, str(row.oracle))

"""``recount evidence``: files computed from annotations are the golden ones, and the committed ones."""

import csv
import json
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from golden_tools import golden, shared
from projects import ROOT, copy_settings
from recount.cli import app
from recount.data.sample import RawSample
from recount.metrics import MAE
from recount.papers import part
from recount.papers.t2icount_evidence import Trivial, trivial_rows, unread_of
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


@pytest.fixture
def house(tmp_path: Path) -> Path:
    """Return a project folder without evidence whose data sets are those of the mirror."""
    return copy_settings(tmp_path, "evidence")


def run(house: Path, paper: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.chdir(house)
    return CliRunner().invoke(app, ["evidence", paper])


@pytest.mark.parametrize("paper", ["t2icount", "countclip"])
def test_committed_evidence_is_what_the_command_makes(house: Path, paper: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (house / "resources").mkdir()
    (house / "resources/raw").symlink_to(shared("mirror"))
    result = run(house, paper, monkeypatch)
    assert result.exit_code == 0, result.output
    for name in part(paper, "EVIDENCE", {}):
        path = Path("papers") / paper / "evidence" / f"{name}.csv"
        assert str(house / path) in result.output
        made, committed = ([*csv.reader((root / path).open(newline=""))] for root in (house, ROOT))
        assert made[0] == committed[0]
        for mine, theirs in zip(made, committed, strict=True):
            assert [_value(text) for text in mine] == [_value(text) for text in theirs]


def _value(text: str) -> Any:
    try:
        return pytest.approx(float(text), rel=1e-9)
    except ValueError:
        return text


def test_missing_annotation_says_what_to_fetch(house: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = run(house, "t2icount", monkeypatch)
    assert result.exit_code == 1
    assert "run `recount fetch fsc147` first" in result.output


@pytest.mark.parametrize(
    ("paper", "words"),
    [("gigacount", "recount computes no evidence of this paper"), ("nobody", "there is no such paper; there are")],
)
def test_a_paper_without_computed_evidence_is_told(
    house: Path, paper: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = run(house, paper, monkeypatch)
    assert result.exit_code == 1
    assert words in result.output


def test_unread_prompts_are_the_golden_ones() -> None:
    want = golden("clip_count")["cases"]["one_token_names"]["outputs"]
    rows = {
        (row.dataset, row.split): row
        for row in part("t2icount", "EVIDENCE", {})["clip_count_unread_prompts"](shared("mirror"))
    }
    for split in ("train", "val", "test"):
        row, expected = rows["fsc147", split], want[split]
        assert (row.prompts, row.unread) == (expected["images"], expected["images_one_token"])
        assert (row.names, row.unread_names) == (expected["classes"], expected["classes_one_token"])


def named(*prompts: str) -> list[RawSample]:
    nowhere = np.zeros((0, 2), np.float32)
    return [RawSample(f"s{k}", "test", None, nowhere, 1, prompt) for k, prompt in enumerate(prompts)]


def test_names_of_one_token_are_unread_and_all_alike() -> None:
    row = unread_of("x", "test", named("apples", "apples", "eggs"))
    assert (row.prompts, row.unread, row.names, row.unread_names, row.told_apart) == (3, 3, 2, 2, 1)


def test_a_longer_name_loses_its_last_token() -> None:
    row = unread_of("x", "test", named("green peas", "green apples", "red apples"))
    assert (row.unread, row.told_apart) == (0, 2)  # "green" twice, "red"


def test_an_outside_package_brings_what_is_particular_to_its_paper(monkeypatch: pytest.MonkeyPatch) -> None:
    brought = SimpleNamespace(EVIDENCE={"mine": list})
    monkeypatch.setattr("recount.papers.entry_points", lambda **_: [SimpleNamespace(load=lambda: brought)])
    assert part("theirs", "EVIDENCE", {}) == brought.EVIDENCE
    assert part("theirs", "exhibits", None) is None

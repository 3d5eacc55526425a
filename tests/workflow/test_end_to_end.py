"""The whole way once, with the real commands on embedded crowds: one run that works, one whose training fails."""

from pathlib import Path

import pytest
from house import ROOT, Answer, copy_config, snakemake

from projects import csv_rows, experiment, write_project

pytestmark = pytest.mark.more

TRAIN, TEST = "ucf_qnrf/train", "ucf_qnrf/test"
DIVERGING = {
    "label": "at a learning rate at which nothing is learned",
    "recipe": {"optimiser": {"lr": 1.0e30}},
}
EXPERIMENTS = {
    "mcnn": experiment("MCNN", {"rgb": "MCNN", "diverging": DIVERGING}, trained_on=TRAIN, evaluated_on=[TEST]),
}
PAPER = {"tables": {"table1": {"title": "Table 1", "on": TEST, "rows": ["mcnn/rgb", "mcnn/diverging"]}}}
SUITE = {
    "title": "For the test from end to end",
    "comparable": False,
    "why_not_comparable": "it is a test",
    "benchmarks": {TRAIN: {"dataset": "crowd", "split": "train"}, TEST: {"dataset": "crowd", "split": "test"}},
    "systems": {"mcnn": {"size": "mini", "recipe": {"epochs": 2}}},
}


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    work = tmp_path_factory.mktemp("end_to_end") / "work"
    write_project(work, experiments=EXPERIMENTS, papers={"demo": PAPER}, suite=SUITE, config={"suite": "mini"})
    copy_config(work)
    return work


@pytest.fixture(scope="module")
def answer(work: Path) -> Answer:
    snakefile = str(ROOT / "Snakefile")
    return snakemake("--snakefile", snakefile, "--cores", "2", work=work, source=ROOT / "src", environment={})


def scores(work: Path, variant: str) -> list[dict[str, str]]:
    return [row for row in csv_rows(work / "results" / "mini" / "scores.csv") if row["variant"] == variant]


def test_a_diverging_training_run_fails_with_the_reason_in_its_log(work: Path, answer: Answer) -> None:
    assert answer.code != 0, answer.text
    log = (work / "logs/mini/train/mcnn/diverging/seed0.log").read_text(encoding="utf-8")
    assert "loss" in log
    assert "Traceback" not in log


def test_the_other_run_is_scored(work: Path, answer: Answer) -> None:
    found = scores(work, "rgb")
    assert found, answer.text
    assert {row["status"] for row in found} == {"trained"}


def test_the_failed_run_is_missing_with_the_last_lines_of_its_log(work: Path, answer: Answer) -> None:
    found = scores(work, "diverging")
    assert {row["status"] for row in found} == {"missing"}
    last_line = (work / "logs/mini/train/mcnn/diverging/seed0.log").read_text(encoding="utf-8").strip().splitlines()[-1]
    assert last_line[:60] in found[0]["log"]


def test_the_report_is_there_and_shows_both(work: Path, answer: Answer) -> None:
    assert (work / "reports" / "mini" / "index.html").is_file()
    page = "".join(path.read_text(encoding="utf-8") for path in (work / "reports" / "mini").rglob("*.html"))
    assert "MCNN" in page
    assert "at a learning rate at which nothing is learned" in page

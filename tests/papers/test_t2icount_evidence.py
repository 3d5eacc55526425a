"""T2ICount's public evidence: what is said of it is what the files hold."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from golden_tools import golden
from recount.papers.t2icount import (
    EvidenceError,
    RealTable,
    prompt_blind,
    real_tables,
    train_log,
    unread_prompts,
)
from recount.settings.project import load

ROOT = Path(__file__).parents[2]
EVIDENCE = ROOT / "papers/t2icount/evidence"


@pytest.fixture(scope="module")
def tables() -> dict[str, RealTable]:
    paper = load(ROOT, {"papers": ["t2icount"], "suite": "paper"}).papers["t2icount"]
    published = pd.read_csv(ROOT / "papers/t2icount/published.csv", dtype=str).fillna("")
    return {table.name: table for table in real_tables(EVIDENCE / "trivial_on_real_annotation.csv", paper, published)}


def test_the_shown_numbers_are_the_golden_ones(tables: dict[str, RealTable]) -> None:
    want = golden("trivial_baselines")["cases"]["real_count_lists"]["outputs"]["FSC-147-S v1"]
    rows = {row.name: row for row in tables["table2"].rows}
    assert rows["two"].cells["fsc147s/v1", "mae"].value == pytest.approx(want["constant"]["two"]["mae"])
    blind = want["majority count (what a prompt-blind perfect counter would say)"]
    assert rows["prompt_blind"].cells["fsc147s/v1", "rmse"].value == pytest.approx(blind["rmse"])


def test_published_rows_stand_among_the_trivial_ones_by_error(tables: dict[str, RealTable]) -> None:
    table = tables["table2"]
    there = [row for row in table.rows if ("fsc147s/v1", "mae") in row.cells]
    errors = [row.cells["fsc147s/v1", "mae"].value for row in there]
    assert errors == sorted(errors)
    names = [row.name for row in there]
    assert names.index("two") < names.index("t2icount") < names.index("prompt_blind") < names.index("clip_count")


def test_a_constant_beats_every_published_system_on_fsc147s_only(tables: dict[str, RealTable]) -> None:
    below = {benchmark: (number, len(printed)) for t in tables.values() for benchmark, *_, number, printed in t.beaten}
    assert below["fsc147s/v1"] == (0, 3)
    assert below["fsc147s/v2"] == (0, 6)
    assert below["carpk/test"][0] == below["carpk/test"][1] > 0


def test_a_number_printed_once_is_shown_once(tables: dict[str, RealTable]) -> None:
    published = [row.label for row in tables["table1"].rows if row.kind == "published"]
    assert len(published) == len(set(published))
    assert "T2ICount" in published
    assert "T2ICount, released weights" not in published


def test_numbers_are_written_as_printed(tables: dict[str, RealTable]) -> None:
    vlcounter = next(row for row in tables["table2"].rows if row.name == "vlcounter")
    assert vlcounter.cells["fsc147s/v2", "mae"].text == "33.10"


def test_constants_that_differ_between_benchmarks_lose_their_number(tables: dict[str, RealTable]) -> None:
    best = next(row for row in tables["table2"].rows if row.name == "best_constant_mae")
    assert best.label == "best constant for MAE"
    assert best.cells["fsc147s/v1", "mae"].source == "best constant for MAE (2)"
    assert best.kind == "oracle"


def test_the_prompt_blind_counter_is_set_beside_the_published_systems(tables: dict[str, RealTable]) -> None:
    v1, v2 = prompt_blind(list(tables.values()))
    assert v1.cell.value == pytest.approx(46.24, abs=0.005)
    assert [(label, cell.text) for label, cell in v1.within] == [("VLCounter", "35.24"), ("CLIP-Count", "48.42")]
    assert [label for label, _ in v1.below] == ["T2ICount"]
    assert {label for label, _ in v2.within} == {"VLCounter", "CLIP-Count", "DAVE"}


def test_a_file_of_another_form_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("epoch,loss\n1,2\n")
    with pytest.raises(EvidenceError, match="no column val_mae"):
        train_log(tmp_path / "log.csv")
    with pytest.raises(EvidenceError, match="no column dataset"):
        unread_prompts(tmp_path / "log.csv")


def test_unread_prompts_are_shares_of_the_benchmark() -> None:
    rows = {row.benchmark: row for row in unread_prompts(EVIDENCE / "clip_count_unread_prompts.csv")}
    assert rows["fsc147/test"].share == pytest.approx(779 / 1190)


def test_best_epoch_choice_is_as_noisy_as_the_specification_says() -> None:
    log = train_log(EVIDENCE / "trainlog.csv")
    assert (log.epochs, log.evaluated[0].epoch, log.evaluated[-1].epoch) == (105, 50, 104)
    mae, rmse = log.spreads
    assert (mae.lowest, mae.lowest_epoch, mae.highest) == (13.79, 60, 19.82)
    assert (mae.median, mae.sd) == (16.38, pytest.approx(1.44, abs=0.005))
    assert (rmse.lowest, rmse.median, rmse.highest) == (57.29, 70.12, 87.97)


def test_one_percent_of_the_score_is_a_quarter_of_the_test_error() -> None:
    log = train_log(EVIDENCE / "trainlog.csv")
    assert log.runner_up is not None
    assert (log.selected.epoch, log.runner_up.epoch) == (60, 51)
    assert log.runner_up.score / log.selected.score == pytest.approx(1.01, abs=0.005)
    assert log.runner_up.test_mae / log.selected.test_mae == pytest.approx(1.27, abs=0.005)


def test_a_log_without_validation_is_an_error(tmp_path: Path) -> None:
    table = pd.read_csv(EVIDENCE / "trainlog.csv")
    table[table["val_mae"].isna()].to_csv(tmp_path / "log.csv", index=False)
    with pytest.raises(EvidenceError, match="no epoch"):
        train_log(tmp_path / "log.csv")


@pytest.mark.parametrize(
    ("source", "system"), [("CLIP-Count", "clip_count"), ("models/CLIPCount", "clip_count"), ("CounTX", "countx")]
)
def test_numbers_of_others_are_not_booked_as_t2icounts(source: str, system: str) -> None:
    published = pd.read_csv(ROOT / "papers/t2icount/published.csv", dtype=str).fillna("")
    theirs = published[(published["table"] == "third_party") & published["source"].str.contains(source)]
    assert len(theirs)
    assert set(theirs["system"]) == {system}

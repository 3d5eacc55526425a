"""T2ICount's public evidence: what is said of it is what the files hold."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from golden_tools import golden
from recount.errors import UserError
from recount.papers.t2icount import (
    LOG,
    UNREAD,
    Record,
    below_a_constant,
    curves,
    log_findings,
    prompt_blind,
    read,
    real_cells,
    unread_names,
)
from recount.report.sources import Sources
from recount.settings.project import Project, load

ROOT = Path(__file__).parents[2]
EVIDENCE = ROOT / "papers/t2icount/evidence"
Cells = dict[tuple[str, str, str], Record]  # by name, benchmark, metric


@pytest.fixture(scope="module")
def project() -> Project:
    return load(ROOT, {"papers": ["t2icount"], "suite": "paper"})


@pytest.fixture(scope="module")
def tables(project: Project) -> dict[str, Any]:
    published = pd.read_csv(ROOT / "papers/t2icount/published.csv", dtype=str).fillna("")
    trivial = read(EVIDENCE / "trivial_on_real_annotation.csv")
    names = ("table1", "table2", "table3")
    return {name: real_cells(name, project.papers["t2icount"], trivial, published) for name in names}


@pytest.fixture(scope="module")
def minority(tables: dict[str, Any]) -> Cells:
    return {(cell["name"], cell["benchmark"], cell["metric"]): cell for cell in tables["table2"]}


def test_the_shown_numbers_are_the_golden_ones(minority: Cells) -> None:
    want = golden("trivial_baselines")["cases"]["real_count_lists"]["outputs"]["FSC-147-S v1"]
    assert minority["two", "fsc147s/v1", "mae"]["value"] == pytest.approx(want["constant"]["two"]["mae"])
    blind = want["majority count (what a prompt-blind perfect counter would say)"]
    assert minority["prompt_blind", "fsc147s/v1", "rmse"]["value"] == pytest.approx(blind["rmse"])


def test_a_constant_beats_every_published_system_on_fsc147s_only(tables: dict[str, Any]) -> None:
    found = dict(entry for cells in tables.values() for entry in below_a_constant(cells))
    assert found.keys() == {"fsc147s/v1:", "fsc147s/v2:"}
    assert "“always 2” has an MAE of 3.53" in found["fsc147s/v1:"]
    assert "none of the 3 published systems is below it" in found["fsc147s/v1:"]
    assert "none of the 6 published systems is below it" in found["fsc147s/v2:"]


def test_a_number_printed_once_is_shown_once(tables: dict[str, Any]) -> None:
    published = {cell["label"] for cell in tables["table1"] if cell["kind"] == "published"}
    assert "T2ICount" in published
    assert "T2ICount, released weights" not in published


def test_numbers_are_written_as_printed(minority: Cells) -> None:
    assert minority["vlcounter", "fsc147s/v2", "mae"]["text"] == "33.10"


def test_constants_that_differ_between_benchmarks_lose_their_number(minority: Cells) -> None:
    best = minority["best_constant_mae", "fsc147s/v1", "mae"]
    assert (best["label"], best["kind"]) == ("best constant for MAE", "oracle")
    assert best["source"] == "best constant for MAE (2)"


def test_the_prompt_blind_counter_is_set_beside_the_published_systems(tables: dict[str, Any]) -> None:
    v1, v2 = (words for _, words in prompt_blind(tables["table2"]))
    assert v1.startswith("has an MAE of 46.24")
    assert v1.endswith("above it: VLCounter 35.24, CLIP-Count 48.42; below it: T2ICount 4.69.")
    assert "above it: VLCounter 33.10, CLIP-Count 45.59, DAVE 46.36; below" in v2


@pytest.mark.parametrize(("name", "absent"), [(LOG, "val_mae"), (UNREAD, "dataset")])
def test_a_file_of_another_form_is_an_error(name: str, absent: str, tmp_path: Path) -> None:
    (tmp_path / f"{name}.csv").write_text("epoch,loss\n1,2\n")
    with pytest.raises(UserError, match=f"no column {absent}"):
        read(tmp_path / f"{name}.csv")


def test_unread_prompts_are_shares_of_the_benchmark() -> None:
    found = dict(unread_names(read(EVIDENCE / f"{UNREAD}.csv")))
    (said,) = (words for head, words in found.items() if head.startswith("fsc147/test"))
    assert said.startswith("779 of 1190 (65 %)")
    assert not any(head.startswith(("fsc147/train", "fsc147/val")) for head in found)


def test_best_epoch_choice_is_as_noisy_as_the_specification_says() -> None:
    mae, rmse, choice = (words for _, words in log_findings(read(EVIDENCE / f"{LOG}.csv")))
    assert mae.startswith("is 13.79 (epoch 60) to 19.82 over these epochs, median 16.38, standard deviation 1.44.")
    assert rmse.startswith("is 57.29 (epoch 51) to 87.97 over these epochs, median 70.12")
    assert "epoch 60 with 72.74, test 11.95 / 98.2. Epoch 51 was 0.9 % behind by that score" in choice
    assert choice.endswith("its test MAE is 15.23, 27 % higher.")


def test_a_log_without_validation_is_an_error(tmp_path: Path) -> None:
    table = pd.read_csv(EVIDENCE / "trainlog.csv")
    table[table["val_mae"].isna()].to_csv(tmp_path / f"{LOG}.csv", index=False)
    with pytest.raises(UserError, match="no epoch"):
        read(tmp_path / f"{LOG}.csv")


def test_validation_errors_of_the_log_count_epochs_from_one(project: Project) -> None:
    (run,) = curves(Sources(project), project.papers["t2icount"], "mae").values()
    assert run["epoch"].min() >= 1
    assert run["value"].notna().all()
    assert curves(Sources(project), project.papers["t2icount"], "accuracy") == {}


@pytest.mark.parametrize(
    ("source", "system"), [("CLIP-Count", "clip_count"), ("models/CLIPCount", "clip_count"), ("CounTX", "countx")]
)
def test_numbers_of_others_are_not_booked_as_t2icounts(source: str, system: str) -> None:
    published = pd.read_csv(ROOT / "papers/t2icount/published.csv", dtype=str).fillna("")
    theirs = published[(published["table"] == "third_party") & published["source"].str.contains(source)]
    assert len(theirs)
    assert set(theirs["system"]) == {system}

"""Weights that systems start from: what suites name is declared, and files are fetched and checked like data."""

import math
from pathlib import Path

import pytest
from fetch_tools import sha256
from typer.testing import CliRunner

from recount.cli import app
from recount.data.dataset import DataError, RemoteFile
from recount.fetching.fetch import fetch
from recount.fetching.weights import WEIGHTS, Weights
from recount.settings import project as config

ROOT = Path(__file__).resolve().parents[2]
BODY = b"\x80\x02weights" * 99  # begins as a pickle


def some(digest: str | None = None) -> Weights:
    return Weights("vgg", "A VGG", "https://vgg.test", "BSD", RemoteFile("vgg.pth", (), digest), "ask the authors")


def in_mirror(folder: Path, body: bytes = BODY) -> Path:
    (folder / "mirror" / "vgg").mkdir(parents=True, exist_ok=True)
    (folder / "mirror" / "vgg" / "vgg.pth").write_bytes(body)
    return folder / "mirror"


def named_in(value: object) -> list[str]:
    if isinstance(value, dict):
        return [name for item in value.values() for name in named_in(item)]
    return [value] if isinstance(value, str) and value.startswith(config.WEIGHTS) else []


@pytest.mark.parametrize("suite", ["mini", "open", "paper"])
def test_every_file_that_a_suite_names_is_declared(suite: str) -> None:
    project = config.load(ROOT, {"suite": suite, "papers": []})
    whole = {f"weights:{entry.name}/{entry.file.path}" for entry in WEIGHTS.values()}
    folders = tuple(f"{place.removesuffix('.tgz')}/" for place in whole if place.endswith(".tgz"))
    assert [name for name in named_in(project.suite.model_dump()) if not name.startswith((*folders, *whole))] == []


def test_suite_paper_trains_no_crowd_system_from_random_weights() -> None:
    project = config.load(ROOT, {"suite": "paper", "papers": ["gigacount"]})
    random = {run.id for run in project.runs if not run.weights}
    assert {name.split("/")[0] for name in random} == {"mcnn", "css_ccnn"}  # as their authors do


def test_a_digest_of_which_the_first_digits_are_public_is_checked(tmp_path: Path) -> None:
    right = fetch(some(sha256(BODY)[:8]), tmp_path / "weights", mirror=in_mirror(tmp_path))
    assert right["files"][0]["sha256"] == sha256(BODY)
    with pytest.raises(DataError, match=r"SHA-256 is .* expected 00000000…"):
        fetch(some("00000000"), tmp_path / "others", mirror=in_mirror(tmp_path))


def test_another_file_than_at_the_first_download_is_refused(tmp_path: Path) -> None:
    fetch(some(), tmp_path / "weights", mirror=in_mirror(tmp_path))
    (tmp_path / "weights" / "vgg" / "vgg.pth").unlink()
    with pytest.raises(DataError, match="as recorded at the first download"):
        fetch(some(), tmp_path / "weights", mirror=in_mirror(tmp_path, BODY + b"other"))


def test_every_checkpoint_is_judged_by_numbers_on_benchmarks_that_there_are(tmp_path: Path) -> None:
    benchmarks = config.load(ROOT, {"suite": "paper", "papers": []}).benchmarks
    numbers = [number for entry in WEIGHTS.values() for number in (*entry.judge, *entry.others)]
    assert {number.on for number in numbers} <= benchmarks.keys()
    assert all(0 < number.mae < (number.rmse or math.inf) and number.source for number in numbers)
    told = list(WEIGHTS["clip_count_paper"].told())
    assert "to be judged by: fsc147/test: MAE 17.45, RMSE 104.88 (README of songrise/CLIP-Count@ba57fd0)" in told
    assert "others got: fsc147/test: MAE 17.364, RMSE 105.235 (a third party)" in told


def test_numbers_are_told_after_the_fetching(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    (tmp_path / "weights" / "css_ccnn_qnrf").mkdir(parents=True)
    (tmp_path / "weights" / "css_ccnn_qnrf" / "stage2_cssccnn.pth").write_bytes(BODY)
    answer = CliRunner().invoke(app, ["fetch-weights", "css_ccnn_qnrf", "--config", f"resources={tmp_path}"])
    assert answer.exit_code == 0
    assert "to be judged by: ucf_qnrf/test: MAE 437, RMSE 722.3" in answer.output


@pytest.mark.parametrize(
    ("command", "nearest"),
    [
        (["fetch", "fsc174"], "fsc174: there is no such data set; the nearest is fsc147"),
        (["prepare", "ucf_qnfr"], "ucf_qnfr: there is no such data set; the nearest is ucf_qnrf"),
        (
            ["fetch-weights", "clip_vitb16"],
            "clip_vitb16: there is no such file of weights; the nearest is clip_vit_b16",
        ),
    ],
)
def test_name_that_is_none_is_one_line_with_the_nearest(
    monkeypatch: pytest.MonkeyPatch, command: list[str], nearest: str
) -> None:
    monkeypatch.chdir(ROOT)
    answer = CliRunner().invoke(app, command)
    assert (answer.exit_code, answer.output) == (1, f"recount: {nearest}\n")


def test_weights_without_an_address_say_how_to_get_them_by_hand(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"(?s)only by hand.*ask the authors.*licence: BSD"):
        fetch(some(), tmp_path)

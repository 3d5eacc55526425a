"""Weights that systems start from: what suites name is declared, and files are fetched and checked like data."""

from __future__ import annotations

from pathlib import Path

import pytest
from fetch_tools import sha256

from recount.data.dataset import DataError, RemoteFile
from recount.fetching.fetch import fetch
from recount.fetching.weights import WEIGHTS, Weights
from recount.settings import project as config

ROOT = Path(__file__).resolve().parents[2]
BODY = b"weights" * 99


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
    assert set(named_in(project.suite.model_dump())) <= {
        f"weights:{entry.name}/{entry.file.path}" for entry in WEIGHTS.values()
    }


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
        fetch(some(), tmp_path / "weights", mirror=in_mirror(tmp_path, b"other"))


def test_weights_without_an_address_say_how_to_get_them_by_hand(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"(?s)only by hand.*ask the authors.*licence: BSD"):
        fetch(some(), tmp_path)

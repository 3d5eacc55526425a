"""Merging strangers' exports: what is hostile is one line, and a merge that dies leaves no half of a folder."""

import json
import signal
import stat
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from recount.cli import app
from recount.exchange.crate import export
from recount.exchange.merge import merge
from recount.provenance import VERSION
from recount.scoring.score import score
from small_project import make_project, predict


@pytest.fixture
def handed_in(tmp_path: Path) -> Path:
    """Return an export."""
    project = make_project(tmp_path / "theirs")
    (tmp_path / "theirs/Snakefile").touch()
    record = tmp_path / "theirs" / project.results / "runs/good/full/seed0/run.json"
    record.parent.mkdir(parents=True)
    record.write_text(json.dumps({"run": {"suite": "small"}, "provenance": {"recount": VERSION}}))
    predict(project, "good/full/seed0", {"last": [1.0, 2, 3, 4, 5, 6]})
    score(project)
    return export(project, tmp_path / "theirs.zip").path


def link(archive: zipfile.ZipFile) -> None:
    entry = zipfile.ZipInfo("results/runs/good/full/seed0/model.json")
    entry.external_attr = (stat.S_IFLNK | 0o777) << 16
    archive.writestr(entry, "/etc/passwd")


HOSTILE: list[tuple[Callable[[zipfile.ZipFile], None], str]] = [
    (lambda archive: archive.writestr("../../evil.csv", "x"), "leads out of the export"),
    (lambda archive: archive.writestr("/evil.csv", "x"), "leads out of the export"),
    (link, "is a link, and no export has any"),
    (lambda archive: archive.writestr("results/hands.json", "[" * 100_000), "hands.json: damaged"),
    (lambda archive: archive.writestr("results/looks.json", b"\0" * 65_000_000), "looks like a decompression bomb"),
    (lambda archive: archive.writestr("results/runs/a/b/seed1/run.json", "{}"), "runs/a/b/seed1/run.json"),
]


@pytest.mark.parametrize(("add", "said"), HOSTILE, ids=["up", "absolute", "link", "deep", "bomb", "record"])
def test_a_merge_of_a_hostile_zip_is_one_line_and_leaves_nothing(
    handed_in: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, add: Callable[[zipfile.ZipFile], None], said: str
) -> None:
    with zipfile.ZipFile(handed_in, "a", zipfile.ZIP_DEFLATED) as archive:
        add(archive)
    monkeypatch.chdir(make_project(tmp_path / "ours").root)
    before = sorted(tmp_path.rglob("*"))
    done = CliRunner().invoke(app, ["merge", str(handed_in)])
    assert done.exit_code == 1 and isinstance(done.exception, SystemExit), done.output
    assert said in done.stderr and str(handed_in) in done.stderr and "Traceback" not in done.stderr
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut", b"\x1f\x8b\x08"], ids=["empty", "cut", "gzip"])
def test_what_is_no_zip_file_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    monkeypatch.chdir(make_project(tmp_path / "ours").root)
    (tmp_path / "x.zip").write_bytes(content)
    done = CliRunner().invoke(app, ["merge", str(tmp_path / "x.zip")])
    assert done.exit_code == 1 and "neither a folder nor a readable zip file" in done.stderr


KILLED = """
import os, signal, sys
from pathlib import Path
from recount.exchange import merge
from recount.settings.project import load
merge._verify = lambda staged: os.kill(os.getpid(), signal.SIGKILL)  # all is written, nothing is in its place
merge.merge(load(Path(sys.argv[1])), [Path(sys.argv[2])])
"""


def test_a_merge_that_is_killed_leaves_no_results_folder(handed_in: Path, tmp_path: Path) -> None:
    ours = make_project(tmp_path / "ours")
    done = subprocess.run([sys.executable, "-c", KILLED, ours.root, handed_in], check=False)
    assert done.returncode == -signal.SIGKILL
    assert not (ours.root / ours.results).exists()
    merge(ours, [handed_in])
    assert [path.name for path in (ours.root / "results").iterdir()] == ["small"]  # and nothing of the killed one

"""What the system refuses, a full disk above all, is one line with the path and what to do, whatever the command."""

import json
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from typer.testing import CliRunner

from people import may_not_read
from recount.cli import app
from recount.report.sources import Sources
from recount.results.reason import Missing
from recount.results.run_record import RUN
from recount.scoring.measured import Measurements
from recount.scoring.score import score
from recount.settings.project import Project
from small_project import make_project, predict


@pytest.fixture
def scored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """Return a project with scores, in its folder."""
    project = make_project(tmp_path)
    predict(project, "good/full/seed0", {"last": [1, 2, 3, 4, 5, 6]})
    score(project)
    (tmp_path / "Snakefile").touch()
    monkeypatch.chdir(tmp_path)
    return project


@contextmanager
def no_room_beyond(size: int) -> Iterator[None]:
    """Let this process write no file of more bytes, which it meets like a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def said_by(*command: str) -> str:
    """Return the one line that a failing command says, without its first word."""
    done = CliRunner().invoke(app, list(command))
    assert done.exit_code == 1, done.output
    *_, line = done.stderr.strip().split("\n")
    assert line.startswith("recount: ") and isinstance(done.exception, SystemExit), done.output
    return line.removeprefix("recount: ")


@pytest.mark.parametrize("target", ["e.zip", "e"])
def test_an_export_without_room_is_one_line_and_leaves_nothing(scored: Project, target: str) -> None:
    before = set(scored.root.iterdir())
    with no_room_beyond(5000):
        line = said_by("export", target)
    assert "File too large: the file system" in line and str(target) in line
    assert set(scored.root.iterdir()) == before


def test_a_report_without_room_is_one_line(scored: Project) -> None:
    with no_room_beyond(5000):
        line = said_by("report")
    assert "reports/" in line and "File too large: the file system" in line


def test_scores_without_room_are_one_line(scored: Project) -> None:
    with no_room_beyond(500):
        assert ".csv: cannot be written: File too large: the file system" in said_by("score")


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (["export", "n" * 300], f"{'n' * 300}: File name too long: shorten the name"),
        (["compare", "n" * 300, "b"], f"{'n' * 300}: File name too long: shorten the name"),
        (["export", "config.yaml/e"], "config.yaml: File exists: move away"),
        (["report", "--config", f"reports={'n' * 300}"], "tables: File name too long: shorten the name"),
    ],
    ids=["export", "compare", "place", "report"],
)
def test_a_name_that_cannot_be_is_one_line(scored: Project, command: list[str], said: str) -> None:
    assert said in said_by(*command)


def test_deep_json_is_one_line(scored: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECOUNT_CONFIG", "[" * 100_000)
    assert "nested too deeply" in said_by("score")


def test_a_working_directory_that_is_gone_is_one_line(scored: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    (scored.root / "gone").mkdir()
    monkeypatch.chdir(scored.root / "gone")
    (scored.root / "gone").rmdir()
    assert "the working directory is gone" in said_by("score")


def test_a_folder_whose_name_is_not_utf_8_is_one_line(scored: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    odd = os.fsdecode(os.fsencode(scored.root) + b"/caf\xe9")
    Path(odd).mkdir()
    monkeypatch.chdir(odd)
    assert "its name is not UTF-8" in said_by("report")


def test_a_home_that_is_not_known_is_one_line(scored: Project) -> None:
    assert "~nobody-here/papers: this home is not known" in said_by("score", "--config", "papers=[~nobody-here/papers]")


def test_results_that_may_not_be_read_are_missing_cells_with_the_reason(scored: Project) -> None:
    predictions = scored.root / scored.predictions(scored.run("good", "full", 0), "shown/test")
    log = scored.root / scored.log("train", "good", "full", "seed0")
    log.parent.mkdir(parents=True)
    log.touch()
    for closed in (predictions, predictions.parent):
        what = r"seed0\.csv: (damaged: )?cannot be read: Permission denied"
        with may_not_read(closed), pytest.raises(Missing, match=what):
            Measurements(scored).predictions("good/full/seed0", "shown/test")
    with may_not_read(predictions):
        sources = Sources(scored)
        assert sources.predictions.empty
        assert 'seed0.csv", "damaged: cannot be read: Permission denied; `recount' in json.dumps(sources.problems)
    (scored.root / scored.run_folder(scored.run("good", "full", 0)) / RUN).unlink()
    with may_not_read(log), pytest.raises(Missing, match="training failed") as missing:
        Measurements(scored).record("good/full/seed0")
    assert "seed0.log: cannot be read: Permission denied" in missing.value.reason.log

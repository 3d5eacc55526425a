"""``recount status``: what each run is doing, from files alone."""

import json
import os
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from projects import csv_rows, experiment
from recount.cli import app
from recount.jobs import attempt
from recount.results import attempts
from recount.results.attempts import LOST, PROGRESS, Attempt, TrainingProgress
from recount.settings.project import Project
from recount.status import RunState, document, states
from recount.training import progress
from recount.training.progress import Reporter
from small_project import TRUE, make_project, predict

JOB = "good/full/seed0"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.chdir(tmp_path)
    return make_project(tmp_path)


def of_full(project: Project) -> RunState:
    return next(state for state in states(project) if state.run == JOB)


def begun(project: Project, host: str, process: int, silent: float = 0) -> Path:
    """Leave the record of a training that began and has not ended, touched ``silent`` seconds ago."""
    path = project.root / project.results / "attempts/train/good.full.seed0.json"
    Attempt(step="train", job=JOB, began="2026-01-01T00:00:00+00:00", host=host, process=process).write(path)
    os.utime(path, (time.time() - silent,) * 2)
    return path


def note(project: Project) -> None:
    folder = project.root / project.results / "checkpoints" / JOB
    TrainingProgress(
        stage="density", epoch=3, epochs=60, step=12, steps=40, loss=0.25, seconds_left=5400, device="NVIDIA H200"
    ).write(folder / PROGRESS)


def log(project: Project, text: str, age: float = 3600) -> None:
    path = project.root / project.log("train", *JOB.split("/"))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    os.utime(path, (time.time() - age,) * 2)


def gone() -> int:
    """Return the id of a process that has ended."""
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    return ended.pid


def test_what_is_not_begun_waits_and_what_is_left_out_says_why(project: Project) -> None:
    found = {state.run: state for state in states(project)}
    assert (found[JOB].state, found[JOB].step) == ("waiting", "train")
    assert found["good/unrun"].state == "skipped" and found["good/unrun"].text == "takes too long"
    (project.root / "resources/data/dots/original/index.csv").unlink()
    assert of_full(project).text == "not prepared: dots (original)"


def test_a_training_says_how_far_it_has_come(project: Project) -> None:
    begun(project, "node7", 1)
    note(project)
    state = of_full(project)
    assert state.state == "running"
    said = "train, density epoch 3/60, step 12/40, loss 0.25, 1.5 h left, NVIDIA H200, node7, process 1"
    assert state.text == said
    assert (state.epoch, state.in_epoch, state.loss, state.seconds_left) == (3, 12, 0.25, 5400)


@pytest.mark.parametrize(
    ("host", "alive", "silent", "state", "told"),
    [
        ("node7", True, 1, "running", "node7"),
        (
            "node7",
            True,
            LOST + 100,
            "failed",
            "on node7 (memory, time limit, or the machine): no sign of life for 4 min",
        ),
        ("here", True, 1, "running", ""),
        ("here", False, 1, "failed", "is gone"),
        ("here", True, LOST + 1, "failed", "no sign of life"),  # its number is another process's now
    ],
)
def test_who_died_does_not_run_for_ever(
    project: Project, host: str, alive: bool, silent: float, state: str, told: str
) -> None:
    log(project, "one\ntwo\n")
    begun(project, socket.gethostname() if host == "here" else host, os.getpid() if alive else gone(), silent)
    found = of_full(project)
    assert found.state == state and told in found.text, found
    assert found.tail == ("one\ntwo" if state == "failed" else "")


def test_a_failure_has_its_message_and_the_end_of_its_log(project: Project) -> None:
    log(project, "".join(f"line {k}\n" for k in range(9)))
    with suppress(ValueError), attempt(project, "train", JOB):
        raise ValueError("the loss is not finite")
    found = of_full(project)
    assert (found.state, found.text) == ("failed", "train failed: the loss is not finite")
    assert found.tail.splitlines() == [f"line {k}" for k in range(4, 9)]
    answer = CliRunner().invoke(app, ["status"])
    assert "| line 8" in answer.stdout and "logs/small/train/good/full/seed0.log" in answer.stdout


@pytest.mark.parametrize(("age", "state"), [(3600, "failed"), (1, "waiting")])
def test_a_log_without_result_is_of_a_job_that_failed_but_not_while_it_is_written(
    project: Project, age: float, state: str
) -> None:
    log(project, "ModuleNotFoundError: No module named 'torch'\n", age)
    assert of_full(project).state == state


def test_what_was_moved_away_after_it_ended_well_waits(project: Project) -> None:
    log(project, "INFO train epoch 1\n/somewhere/results/small/runs/good/full/seed0/run.json\n")
    assert of_full(project).state == "waiting"


def test_a_run_is_done_when_all_its_results_are_there(project: Project) -> None:
    written = predict(project, JOB, {"last": [0.0] * len(TRUE)})
    assert of_full(project).state == "done"
    written.unlink()
    assert (of_full(project).state, of_full(project).step) == ("waiting", "predict")


def test_steps_at_work_are_alive_and_touch_their_record(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attempts, "BEAT", 0.01)
    with attempt(project, "train", JOB):
        path = next((project.root / project.results / "attempts/train").glob("*.json"))
        os.utime(path, (1, 1))
        until = time.monotonic() + 20
        while path.stat().st_mtime < 2 and time.monotonic() < until:
            time.sleep(0.01)
        assert of_full(project).state == "running"
    assert of_full(project).state == "waiting"


def test_the_reporter_notes_epoch_step_and_time_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "NOTE_SECONDS", 0)
    with Reporter(tmp_path, torch.device("cpu")) as reporter:
        reporter.begin_stage("first", epochs=3, steps=4, done=5)
        assert TrainingProgress.read(tmp_path / PROGRESS).seconds_left is None
        reporter.step(0.5)
    found = TrainingProgress.read(tmp_path / PROGRESS)
    assert (found.stage, found.epoch, found.epochs, found.step, found.steps) == ("first", 2, 3, 2, 4)
    assert found.loss == 0.5 and found.device == "cpu" and found.seconds_left is not None
    with Reporter(tmp_path / "other", torch.device("cpu"), shown=False) as silent:
        silent.begin_stage("first", 3, 4, 0)
    assert not (tmp_path / "other").exists()


def test_every_form_says_the_same_in_eighty_columns_and_a_pipe(project: Project) -> None:
    begun(project, "node7", 1)
    note(project)
    plain = CliRunner().invoke(app, ["status"]).stdout
    assert all(len(line) < 80 for line in plain.splitlines())
    assert "running  good/full/seed0: train, density epoch 3/60" in plain and "takes too long: good/unrun" in plain
    found = json.loads(CliRunner().invoke(app, ["status", "--json"]).stdout)
    assert {run["run"]: run["state"] for run in found["runs"]}[JOB] == "running"
    for suffix in (".csv", ".md", ".html", ".txt", ".json"):
        answer = CliRunner().invoke(app, ["status", "--output", f"out{suffix}"])
        assert answer.stdout == f"out{suffix}\n" and JOB in Path(f"out{suffix}").read_text()
    assert {row["run"]: row["seconds_left"] for row in csv_rows(Path("out.csv"))}[JOB] == "5400.0"


def test_watching_ends_when_nothing_runs_or_waits(project: Project) -> None:
    log(project, "an error\n")
    answer = CliRunner().invoke(app, ["status", "--watch"])
    assert answer.exit_code == 0 and "1 failed" in answer.stdout


def test_it_loads_no_torch(project: Project) -> None:
    code = (
        "import sys; from recount.cli import app; app(['status'], standalone_mode=False); print('torch' in sys.modules)"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).endswith("report: waiting\nFalse\n")


def test_a_run_of_two_papers_is_told_in_both(tmp_path: Path) -> None:
    good = experiment("Good", {"full": "full", "unrun": "u", "released": "r"}, trained_on="shown/train",
                      evaluated_on=["shown/test"])  # fmt: skip
    project = make_project(tmp_path, experiments={"good": good})
    (tmp_path / "papers/second").mkdir()
    for name in ("paper.yaml", "published.csv"):
        (tmp_path / "papers/second" / name).write_bytes((tmp_path / "papers/paper" / name).read_bytes())
    project = Project(tmp_path)
    assert [state.paper for state in states(project) if state.run == JOB] == ["paper", "second"]
    assert "Suite small" in document(project).plain[0] and "2 waiting, 1 skipped" in document(project).plain[0]

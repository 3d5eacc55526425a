"""What an attempt at a job leaves for the next: a limit of time, SIGTERM, failures that would only come again."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from accelerate.state import AcceleratorState

from prepared import written_pictures
from projects import experiment, write_project
from recount import jobs
from recount.errors import UserError
from recount.jobs import WalltimeError, attempt, end_of_job
from recount.results.attempts import failed, last_attempt, times_killed
from recount.results.files import file_digest
from recount.results.run_record import RunRecord
from recount.settings.project import Project, Run, load
from recount.training import checkpoints
from recount.training.loop import Trainer
from recount.training.run import train
from recount.verify import Verification

TRAIN, TEST = "ucf_qnrf/train", "ucf_qnrf/test"
EXPERIMENTS = {"mcnn": experiment("MCNN", {"rgb": "MCNN"}, trained_on=TRAIN, evaluated_on=[TEST])}
PAPER = {"tables": {"table1": {"title": "Table 1", "on": TEST, "metrics": ["mae"], "rows": ["mcnn/rgb"]}}}
SUITE = {
    "title": "small",
    "comparable": False,
    "benchmarks": {TRAIN: {"dataset": "crowd", "split": "train"}, TEST: {"dataset": "crowd", "split": "test"}},
    "systems": {"mcnn": {"size": "mini", "recipe": {"epochs": 4, "batch_size": 2, "evaluate_every": 2}}},
}


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return made(tmp_path / "one")


def made(root: Path) -> Project:
    write_project(root, experiments=EXPERIMENTS, papers={"paper": PAPER}, suite=SUITE, config={"suite": "small"})
    written_pictures(root / "resources/data/crowd/original", ["train"] * 4)  # nothing to evaluate on is there
    return load(root)


def run_of(project: Project) -> Run:
    return project.run("mcnn", "rgb", 0)


def trained(project: Project) -> None:
    AcceleratorState._reset_state(reset_partial_state=True)
    train(project, run_of(project))


def model(project: Project) -> str:
    return file_digest(project.root / project.run_folder(run_of(project)) / "model.safetensors")


@pytest.mark.parametrize("signalled", [False, True], ids=["limit", "sigterm"])
def test_a_training_whose_time_ends_is_saved_and_goes_on_to_the_same_model(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, signalled: bool
) -> None:
    whole = made(tmp_path / "whole")
    trained(whole)
    made_step, steps = Trainer._train_step, []

    def step(trainer: Trainer, *batch: object) -> None:
        made_step(trainer, *batch)  # type: ignore[arg-type]
        steps.append(trainer.progress.steps_done)
        if len(steps) == 3:
            if signalled:
                os.kill(os.getpid(), signal.SIGTERM)
            else:
                trainer.limit.end = time.time()

    monkeypatch.setattr(Trainer, "_train_step", step)
    with pytest.raises(WalltimeError, match=r"epoch 2, step 1.*started again, it goes on from there"):
        trained(project)
    record = last_attempt(project, "train", "mcnn/rgb/seed0")
    assert record is not None and record.end == "walltime"
    assert "is not finished" in failed(project, "train", "mcnn/rgb/seed0")
    monkeypatch.setenv(jobs.ATTEMPT, "2")
    trained(project)
    assert steps == list(range(1, 9))
    assert model(project) == model(whole)
    assert failed(project, "train", "mcnn/rgb/seed0") == ""


def test_a_training_that_ends_between_its_model_and_its_record_keeps_its_state(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    def killed(record: RunRecord, path: Path) -> None:
        raise Killed(path)

    project = load(project.root, {"checkpoint_minutes": 0})
    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr(RunRecord, "write", killed)
        trained(project)
    state = project.root / project.checkpoint_folder(run_of(project)) / "state.pt"
    assert state.is_file()
    shutil.rmtree(project.root / "results/small/attempts")  # SIGKILL leaves no word
    left = {Path(finding.path).name: finding for finding in Verification(project).findings()}
    assert left["model.safetensors"].kind == "aside"
    assert not any(finding.unfit for finding in left.values())
    digest = model(project)
    trained(project)
    assert model(project) == digest and not state.parent.exists()


def test_after_a_failure_the_same_is_not_tried_again_in_one_workflow(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture = project.root / "resources/data/crowd/original/images/0.png"
    whole = picture.read_bytes()
    picture.write_bytes(whole[:-1] + b"x")
    with pytest.raises(UserError, match=r"0\.png") as first:
        trained(project)
    monkeypatch.setenv(jobs.ATTEMPT, "2")
    for _ in range(2):
        with pytest.raises(UserError, match="attempt 2 is not made, because nothing has changed since") as again:
            trained(project)
        assert str(first.value) in str(again.value)
    picture.write_bytes(whole)
    monkeypatch.setenv(jobs.ATTEMPT, "1")  # the user starts the workflow again
    trained(project)


def test_after_a_failure_other_settings_are_tried(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails() -> None:
        with attempt(project, "train", "a/b/seed0", {"settings": "one"}):
            raise UserError("the loss is not finite")

    def begins(settings: str) -> bool:
        with attempt(project, "train", "a/b/seed0", {"settings": settings}):
            return True

    with pytest.raises(UserError):
        fails()
    monkeypatch.setenv(jobs.ATTEMPT, "2")
    with pytest.raises(UserError, match="not made"):
        begins("one")
    assert begins("two")


@pytest.mark.parametrize("error", [OSError("a disk"), RuntimeError("CUDA error: an ECC error"), MemoryError()])
def test_what_may_do_better_another_time_is_tried_again(
    project: Project, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    for number in ("1", "2"):
        monkeypatch.setenv(jobs.ATTEMPT, number)
        with pytest.raises(type(error)), attempt(project, "train", "a/b/seed0", {"settings": "one"}):
            raise error


KILLED = """
import os, signal, sys
from pathlib import Path
from recount.jobs import attempt
from recount.settings.project import load
with attempt(load(Path(sys.argv[1])), "train", "a/b/seed0"):
    os.kill(os.getpid(), getattr(signal, sys.argv[2]))
    import time; time.sleep(60)
"""


def ended_by(project: Project, name: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", KILLED, str(project.root), name]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_only_attempts_killed_without_a_word_ask_for_more_memory(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = (project, "train", "a/b/seed0")
    assert times_killed(*job, attempts=2) == 2  # killed before they could write anything
    assert ended_by(project, "SIGKILL").returncode == -signal.SIGKILL
    assert times_killed(*job, attempts=0) == 0  # a workflow started anew asks for what it did first
    assert times_killed(*job, attempts=1) == 1
    monkeypatch.setenv(jobs.ATTEMPT, "2")
    with pytest.raises(WalltimeError), attempt(*job):
        raise WalltimeError("saved")
    monkeypatch.setenv(jobs.ATTEMPT, "3")
    assert times_killed(*job, attempts=2) == 1
    ended_by(project, "SIGKILL")
    assert times_killed(*job, attempts=3) == 2


def test_a_step_ended_by_sigterm_says_so(project: Project) -> None:
    done = ended_by(project, "SIGTERM")
    assert done.returncode == 1
    assert done.stderr.strip() == "recount: ended by SIGTERM: its scheduler's time limit, or somebody's scancel or kill"
    assert "ended by SIGTERM" in failed(project, "train", "a/b/seed0")


def test_the_end_of_a_job_is_what_the_user_the_scheduler_or_the_workflow_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (jobs.UNTIL, "SLURM_JOB_END_TIME", "SLURM_JOB_ID", jobs.MINUTES):
        monkeypatch.delenv(name, raising=False)
    assert end_of_job() is None
    monkeypatch.setenv(jobs.MINUTES, "30")
    found = end_of_job()
    assert found is not None and found <= time.time() + 1800
    squeue = tmp_path / "squeue"
    squeue.write_text("#!/bin/sh\necho 2030-01-01T00:00:00\n")
    squeue.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    assert end_of_job() == time.mktime((2030, 1, 1, 0, 0, 0, 0, 0, -1))
    monkeypatch.setenv("SLURM_JOB_END_TIME", "1900000000")
    assert end_of_job() == 1_900_000_000
    monkeypatch.setenv(jobs.UNTIL, "tomorrow")
    with pytest.raises(UserError, match="RECOUNT_UNTIL = 'tomorrow': expected seconds since 1970"):
        end_of_job()


def test_a_training_that_the_disk_has_no_room_for_stops_before_its_first_step(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Trainer, "_train_step", lambda *_: pytest.fail("a step was made"))
    monkeypatch.setattr(checkpoints.shutil, "disk_usage", lambda _: _Disk(1000))
    with pytest.raises(UserError, match=r"0\.00 GB are free, and 0\.\d\d GB are needed for states of .* models of"):
        trained(project)


class _Disk:
    def __init__(self, free: int) -> None:
        self.free = free

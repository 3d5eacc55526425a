"""A training that is longer than SLURM's time for a job: it saves its state, is resubmitted, and goes on.

SLURM counts time in minutes: a job has two of them here, and a training has 3.6 of steps, beside the
starts of Snakemake and PyTorch in each job. On a quiet machine these are three jobs.
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import slurm
from small_training import RUN, STEPS

from recount.results.run_record import RunRecord

HERE = Path(__file__).parent
pytestmark = slurm.MARKS


def test_a_training_longer_than_its_jobs_goes_on_in_the_next_and_makes_no_step_twice(
    cluster: dict[str, str], work: Path
) -> None:
    whole = work.with_name("whole")
    shutil.copytree(work, whole)
    command = [sys.executable, "-m", "recount", "train", "mcnn/rgb/seed0"]
    environment = slurm.environment_with(work.parent / "src", {})
    subprocess.run(command, cwd=whole, env=environment, check=True, capture_output=True)

    shutil.copy(HERE / "slow_training.py", work.parent / "src" / "recount" / "__main__.py")
    (work / "profiles").symlink_to(work.parent / "profiles")
    slurm.resume_nodes(cluster)
    options = [
        "--profile",
        str(work.parent / "profiles/slurm"),
        *slurm.PROFILES["slurm"],
        "--config",
        "walltime=2",
        "device=cpu",
    ]
    options += ["--allowed-rules", "train", "--", f"{RUN}/run.json"]
    answer = slurm.snakemake(work.parent, work, cluster, *options)
    said = answer.stdout + answer.stderr
    assert answer.returncode == 0, said

    jobs, attempts = zip(*(line.split(";") for line in (work / "jobs.txt").read_text().splitlines()), strict=True)
    assert 3 <= len(set(jobs)) == len(jobs) <= 8  # more than three where starting takes half a minute and more
    assert list(attempts) == [str(number + 1) for number in range(len(jobs))]
    assert (work / "steps.txt").read_text().split() == [str(number + 1) for number in range(STEPS)]
    assert "as its job's time is over; started again, it goes on from there" in said
    assert (work / RUN / "model.safetensors").read_bytes() == (whole / RUN / "model.safetensors").read_bytes()
    unbroken, resumed = (RunRecord.read(folder / RUN / "run.json") for folder in (whole, work))
    assert resumed.cost.steps == unbroken.cost.steps == STEPS
    assert (
        json.loads((work / RUN / "run.json").read_text())["selections"]
        == json.loads((whole / RUN / "run.json").read_text())["selections"]
    )
    assert not list((work / "results/mini/attempts").rglob("*.json"))

"""A tiny suite is interrupted at random moments: what is left is as in an unbroken run, or named as missing.

RECOUNT_INTERRUPTIONS says how often: a job, the workflow, both are killed, the disk fills, by turns.
"""

import os
import random
import resource
import shutil
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from house import ROOT, copy_config

from projects import csv_rows, experiment, write_project

pytestmark = [pytest.mark.more, pytest.mark.timeout(1800)]

TRAIN, TEST = "ucf_qnrf/train", "ucf_qnrf/test"
VARIANTS = {"rgb": "MCNN", "slow": {"label": "slower", "recipe": {"optimiser": {"lr": 1e-5}}}}
EXPERIMENTS = {"mcnn": experiment("MCNN", VARIANTS, trained_on=TRAIN, evaluated_on=[TEST], selected_on_test=TEST)}
PAPER = {"tables": {"table1": {"title": "Table 1", "on": TEST, "metrics": ["mae"], "rows": ["mcnn/rgb", "mcnn/slow"]}}}
SUITE = {
    "title": "small",
    "comparable": False,
    "why_not_comparable": "it is a test",
    "benchmarks": {TRAIN: {"dataset": "crowd", "split": "train"}, TEST: {"dataset": "crowd", "split": "test"}},
    "systems": {"mcnn": {"size": "mini", "recipe": {"epochs": 2, "evaluate_every": 1, "evaluate_from": 0}}},
}
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "RECOUNT_CONFIG": '{"checkpoint_minutes": 0}'}
SNAKEMAKE = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile"), "--cores", "2", "--keep-going"]
KINDS = ("job", "workflow", "both", "disk")


def started(work: Path, *more: str, largest: int | None = None) -> subprocess.Popen[bytes]:
    """Start the workflow; no file of its jobs may be larger than ``largest`` bytes, as on a disk nearly full."""

    out = (work / "snakemake.txt").open("wb")
    command = [*SNAKEMAKE, "--config", "checkpoint_minutes=0", *more]
    process = subprocess.Popen(command, cwd=work, env=ENVIRONMENT, stdout=out, stderr=out, start_new_session=True)
    if largest is not None:  # Python ignores the signal, and a larger file is an error as on a full disk
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (largest, largest))
    return process


def recount(work: Path, *command: str) -> subprocess.CompletedProcess[str]:
    given = ["--config", "checkpoint_minutes=0"]
    line = [sys.executable, "-m", "recount", *command, *given]
    return subprocess.run(line, cwd=work, env=ENVIRONMENT, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Path:
    work = tmp_path_factory.mktemp("interrupted") / "fresh"
    write_project(work, experiments=EXPERIMENTS, papers={"demo": PAPER}, suite=SUITE, config={"suite": "mini"})
    copy_config(work)
    return work


@pytest.fixture(scope="module")
def whole(fresh: Path) -> tuple[Path, float]:
    """Return an unbroken run, and the seconds it took."""
    work = fresh.with_name("whole")
    shutil.copytree(fresh, work)
    began = time.monotonic()
    assert started(work).wait() == 0, (work / "snakemake.txt").read_text()
    return work, time.monotonic() - began


def cells(work: Path) -> dict[str, tuple[str, str]]:
    """Return value and status of each cell of the table."""
    rows = csv_rows(work / "results/mini/scores.csv")
    rows = [row for row in rows if row["seed"] == "all" and row["metric"] == "mae"]
    found = {f"{row['variant']} {row['selection']}": (row["value"], row["status"]) for row in rows}
    assert all(row["reason"] for row in rows if row["status"] == "missing")
    return found


def end(process: subprocess.Popen[bytes], kind: str) -> None:
    below = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
    if kind in ("workflow", "both"):
        process.kill()
    if kind in ("job", "both"):
        for child in below:
            with suppress(psutil.NoSuchProcess):
                child.kill()
    process.wait()
    for child in below:  # of a killed workflow, its jobs go on, as on a cluster
        with suppress(psutil.NoSuchProcess):
            child.wait(timeout=120)


@pytest.mark.parametrize("number", range(int(os.environ.get("RECOUNT_INTERRUPTIONS", "1"))))
def test_an_interrupted_suite_is_as_an_unbroken_one_or_says_what_is_missing(
    number: int, fresh: Path, whole: tuple[Path, float], tmp_path: Path
) -> None:
    unbroken, seconds = whole
    rng = random.Random(number)
    kind = KINDS[number % len(KINDS)]
    work = tmp_path / "work"
    shutil.copytree(fresh, work)
    largest = int(10 ** rng.uniform(2.5, 6)) if kind == "disk" else None
    process = started(work, largest=largest)
    if kind == "disk":
        process.wait()
    else:
        time.sleep(rng.uniform(0.1, 1.0) * seconds)
        end(process, kind)
    said = f"{kind}, {largest}: "
    assert "Traceback" not in "".join(log.read_text() for log in (work / "logs").rglob("*.log")), said
    verified = recount(work, "verify")
    assert verified.returncode == 0, said + verified.stdout + verified.stderr
    scored = recount(work, "score")
    assert scored.returncode == 0, said + scored.stderr
    expected = cells(unbroken)
    for name, (value, status) in cells(work).items():
        assert status == "missing" or (value, status) == expected[name], (said, name)

    assert started(work, "--unlock").wait() == 0
    assert started(work, "--rerun-incomplete").wait() == 0, said + (work / "snakemake.txt").read_text()[-3000:]
    assert cells(work) == expected
    for path in (unbroken / "results/mini/predictions").rglob("*.csv"):
        assert (work / path.relative_to(unbroken)).read_bytes() == path.read_bytes(), said
    verified = recount(work, "verify", "--full")
    assert verified.returncode == 0, said + verified.stdout

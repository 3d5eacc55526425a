"""Who may only read a project plans what it would run, as its owner would; a run is refused in one line."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from house import Answer, House
from test_front_door import jobs

from recount.planning import UNREAD

READ_ONLY = 'mount --bind "$0" "$0" && mount -o remount,ro,bind "$0" && exec "$@"'
NAMESPACE = ["unshare", "--map-root-user", "--mount", "bash", "-c", READ_ONLY]


def read_only(house: House, closed: Path, *options: str) -> Answer:
    """Return what Snakemake says where a folder is on a disk that can only be read."""
    try:
        possible = subprocess.run([*NAMESPACE, str(closed), "true"], capture_output=True, check=False).returncode == 0
    except OSError:
        possible = False
    if not possible:
        pytest.skip("a disk that can only be read needs a mount, which this machine does not allow")
    snakefile, source = house.folder / "Snakefile", house.folder / "src"
    done = subprocess.run(
        [*NAMESPACE, str(closed), sys.executable, "-m", "snakemake", "--snakefile", str(snakefile), *options,
         "--quiet", "host"],
        cwd=house.work, env=os.environ | {"PYTHONPATH": str(source)}, text=True, check=False,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    return Answer(done.returncode, done.stdout)


def test_a_dry_run_on_a_disk_that_can_only_be_read_finds_the_same_jobs(house: House) -> None:
    assert house.run().code == 0
    (house.source / "systems" / "alpha.py").write_text("WIDTH = 2\n")  # told by Snakemake's records alone
    wanted = jobs(house.snakemake("--dry-run"))
    assert wanted["train"] == 2
    for closed in (house.work, house.work / "results"):
        answer = read_only(house, closed, "--dry-run")
        assert (answer.code, jobs(answer)) == (0, wanted), answer.text
    answer = read_only(house, house.work, "--cores", "1")
    assert answer.code == 1
    assert answer.text.count(f"{house.work}/.snakemake: cannot be written to, so only a dry run (-n) works here") == 1
    assert "Traceback" not in answer.text
    answer = read_only(house, house.work / "results", "--cores", "1")
    assert f"{house.work}/results/mini: cannot be written to, so only a dry run" in answer.text


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read all")
def test_records_that_may_not_be_read_are_told(house: House) -> None:
    assert house.run().code == 0
    records = house.work / ".snakemake"
    (records / "metadata").chmod(0)
    records.chmod(0o555)
    try:
        answer = house.snakemake("--dry-run")
    finally:
        records.chmod(0o755)
        (records / "metadata").chmod(0o755)
    assert answer.code == 0, answer.text
    assert f"{records}: {UNREAD}: jobs are told by the times of files alone" in answer.text

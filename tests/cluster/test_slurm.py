"""The workflow on a real SLURM with two nodes: a tiny suite comes to its report through all that goes wrong on the way.

At the first attempt one training job is killed with scancel, one uses more memory than it asked for; a third drains the
node it runs on. While the scores are made, squeue does not answer for half a minute. So with the profile of Snakemake's
own plugin for SLURM, and with that for any scheduler, told to use sbatch. Run with ``make test-cluster``,
which installs the cluster plugins beside the environment.
"""

import shutil
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest
import slurm
from house import EVERY_JOB, House

HERE = Path(__file__).parent

pytestmark = slurm.MARKS

KILLED, HUNGRY, DRAINING = "train alpha/full/seed0", "train alpha/small/seed0", "train beta/full/seed0"


@dataclass(frozen=True)
class Start:
    """A line of jobs.txt."""

    command: str
    attempt: int
    node: str
    card: str
    memory: str


def new_house(folder: Path) -> House:
    """Return a house whose jobs meet troubles on their way."""
    house = House(folder)
    shutil.copy(house.source / "__main__.py", house.source / "stand_in_command.py")
    shutil.copy(HERE / "cluster_command.py", house.source / "__main__.py")
    suite = house.work / "suites" / "mini.yaml"
    limits = "".join(f"{kind}_mem_mb: 700\n{kind}_minutes: 5\n" for kind in ("training", "evaluation"))
    suite.write_text(suite.read_text() + limits)
    return house


def starts(house: House) -> list[Start]:
    """Return all starts of recount on the cluster, in order."""
    lines = (house.work / "jobs.txt").read_text(encoding="utf-8").splitlines()
    fields = [line.split(";") for line in lines]
    return [Start(command, int(attempt), *rest) for command, attempt, *rest in fields]


@pytest.fixture(scope="module", params=slurm.PROFILES)
def troubled(
    request: pytest.FixtureRequest, cluster: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> House:
    """Return a house that has been run through all the troubles, with the profile as it is."""
    house = new_house(tmp_path_factory.mktemp("cluster"))
    (house.work / "profiles").symlink_to(house.folder / "profiles")  # as where the two are one folder
    profile = str(house.folder / "profiles" / request.param)
    house.options = ["--profile", profile, *slurm.PROFILES[request.param]]
    slurm.resume_nodes(cluster)
    house.answer = slurm.snakemake(house.folder, house.work, cluster, *house.options)
    assert house.answer.returncode == 0, house.answer.stdout + house.answer.stderr
    return house


def test_every_job_is_done_exactly_once(troubled: House) -> None:
    notes = (troubled.work / "calls.txt").read_text(encoding="utf-8").splitlines()
    assert sorted(notes) == EVERY_JOB


def test_only_the_killed_and_the_hungry_job_were_started_again(troubled: House) -> None:
    counts = Counter(start.command for start in starts(troubled))
    assert {command: count for command, count in counts.items() if count > 1} == {KILLED: 2, HUNGRY: 2}


def test_hungry_job_gets_more_memory(troubled: House) -> None:
    assert [start.memory for start in starts(troubled) if start.command == HUNGRY] == ["700M", "1400M"]


def test_nothing_starts_on_the_drained_node(troubled: House) -> None:
    found = starts(troubled)
    drained = next(index for index, start in enumerate(found) if start.command == DRAINING)
    later = [start.node for start in found[drained + 1 :]]
    assert later
    assert found[drained].node not in later


def test_a_job_whose_state_could_not_be_had_is_asked_for_again(troubled: House) -> None:
    its_own_command_says_running = "cluster-generic" in troubled.options[1]
    assert ("is asked again" in troubled.answer.stdout) != its_own_command_says_running


def test_training_gets_a_card(troubled: House) -> None:
    cards = {start.card for start in starts(troubled) if start.command.startswith(("train", "predict", "test-prompts"))}
    assert cards == {"0"}


def test_report_is_there_and_nothing_is_left_to_do(troubled: House, cluster: dict[str, str]) -> None:
    page = (troubled.work / "reports/mini/index.html").read_text(encoding="utf-8")
    assert all(name in page for name in ("alpha/full", "alpha/small", "beta/full"))
    again = slurm.snakemake(troubled.folder, troubled.work, cluster, *troubled.options, "--dry-run")
    assert "Nothing to be done" in again.stdout + again.stderr

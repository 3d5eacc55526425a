"""Snakemake itself is killed with SIGKILL: the next run does what is missing, and nothing twice."""

import shutil
import signal
from pathlib import Path

import pytest
from house import House

HERE = Path(__file__).parent


@pytest.fixture
def house(tmp_path: Path) -> House:
    house = House(tmp_path)
    shutil.copy(house.source / "__main__.py", house.source / "stand_in_command.py")
    shutil.copy(HERE / "killing_command.py", house.source / "__main__.py")
    return house


def test_nothing_is_reported_after_the_user_stopped_the_workflow(house: House) -> None:
    assert house.snakemake("--cores", "1", INTERRUPT="1").code != 0
    calls = house.calls()
    assert any(call.startswith("predict") for call in calls) and "report" not in calls


def test_next_run_goes_on_where_a_killed_workflow_stopped(house: House) -> None:
    assert house.snakemake("--cores", "1").code == -signal.SIGKILL
    done = house.calls()
    assert "fetch dots" in done

    locked = house.run()
    assert locked.code != 0
    assert "--unlock" in locked.text
    assert house.snakemake("--unlock").code == 0
    answer = house.run()
    assert answer.code == 0, answer.text
    rest = house.calls()
    assert not set(done) & set(rest)
    assert len(done) + len(rest) == 14
    assert (house.work / "reports/mini/index.html").exists()

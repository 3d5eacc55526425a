"""Snakemake itself is killed with SIGKILL: the next run does what is missing, and nothing twice."""

from __future__ import annotations

import shutil
import signal
from pathlib import Path

from house import House

HERE = Path(__file__).parent


def test_next_run_goes_on_where_a_killed_workflow_stopped(tmp_path: Path) -> None:
    house = House(tmp_path)
    shutil.copy(house.source / "__main__.py", house.source / "stand_in_command.py")
    shutil.copy(HERE / "killing_command.py", house.source / "__main__.py")
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
    assert len(done) + len(rest) == 12
    assert (house.work / "reports/mini/index.html").exists()

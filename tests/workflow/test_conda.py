"""``--use-conda``, with a stand-in for conda: every job runs in the environment of its rule, with this copy's recount.

What real conda makes of the environment files is not tried here.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from house import HERE, House


def path_with_conda(folder: Path) -> str:
    """Return a PATH with the stand-in conda, laid out as conda's base environment is."""
    programs = folder / "conda" / "bin"
    programs.mkdir(parents=True)
    shutil.copy(HERE / "stand_in_conda.sh", programs / "conda")
    (programs / "conda").chmod(0o755)
    (programs / "activate").write_text('export PATH="$1/bin:$PATH"\n', encoding="utf-8")
    return os.pathsep.join([str(programs), os.environ["PATH"]])


def test_every_job_runs_in_the_environment_of_its_rule(house: House, tmp_path: Path) -> None:
    answer = house.run("--use-conda", PATH=path_with_conda(tmp_path), STAND_IN_PYTHON=sys.executable)
    assert answer.code == 0, answer.text
    assert len(house.calls()) == 12
    environments = (house.work / "environments.txt").read_text(encoding="utf-8").splitlines()
    assert {line: environments.count(line) for line in environments} == {
        "# recount fetch, recount prepare": 2,
        "# recount train, recount predict, recount probe": 7,
        "# recount score, recount judge, recount report": 3,
    }

"""Folders whose names a shell would take for commands: nothing of them is run, and the workflow does its work."""

import json
from pathlib import Path

import pytest
from house import House

ODD = "a b'c\"d$(touch pwned)`touch pwned2`;touch pwned3 &#é"


def settle(house: House, **folders: str) -> None:
    """Write where things are to lie into config.yaml."""
    config = house.work / "config.yaml"
    lines = [line for line in config.read_text().splitlines() if line.partition(":")[0] not in folders]
    config.write_text("\n".join([*lines, *(f"{key}: {json.dumps(value)}" for key, value in folders.items()), ""]))


def test_no_part_of_a_folders_name_is_run_as_a_command(tmp_path: Path) -> None:
    house = House(tmp_path / ODD)
    folders = {kind: str(tmp_path / f"{kind} {ODD}") for kind in ("resources", "results", "reports")}
    settle(house, **folders)
    answer = house.run(TMPDIR=str(tmp_path))
    assert answer.code == 0, answer.text
    assert Path(folders["reports"], "mini/index.html").is_file()
    assert [path for path in tmp_path.rglob("pwned*") if path.name in ("pwned", "pwned2", "pwned3")] == []


@pytest.mark.parametrize(
    ("place", "results", "said"),
    [("house {x}", "results", "its name has one of {}, a wildcard for Snakemake"), ("house", "r{x}", "results = ")],
)
def test_braces_are_refused_in_one_line(tmp_path: Path, place: str, results: str, said: str) -> None:
    house = House(tmp_path / place)
    settle(house, results=results)
    answer = house.snakemake("--dry-run")
    assert answer.code != 0
    assert said in answer.text
    assert "NameError" not in answer.text

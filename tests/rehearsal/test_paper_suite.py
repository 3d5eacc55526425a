"""Suite paper from small files of the real formats without CARPK's pictures: only its own cells are empty."""

import csv
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
for place in (TESTS / "workflow", TESTS / "rehearsal"):
    sys.path.insert(0, str(place))

from house import snakemake  # noqa: E402
from paper_project import write_paper_project  # noqa: E402

pytestmark = pytest.mark.more


def test_without_carpks_pictures_only_its_cells_are_empty(tmp_path: Path) -> None:
    folder, run = tmp_path / "paper", "countx/descriptions"
    write_paper_project(folder, [run])
    answer = snakemake(
        *("--cores", "2", "--config", "suite=paper", "seeds=[0]", f"only=[{run}]"),
        work=folder,
        source=folder / "src",
        environment={"RECOUNT_MIRROR": str(folder / "mirror"), "OMP_NUM_THREADS": "1"},
    )
    assert answer.code == 1, answer.text
    assert answer.text.count("no address is sure to deliver all of it: carpk") == 1
    assert "no address is sure to deliver all of it: fsc147" not in answer.text  # the mirror has it
    with (folder / "results/paper/scores.csv").open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if f"{row['system']}/{row['variant']}" == run]
    assert {row["benchmark"] for row in rows if row["status"] == "missing"} == {"carpk/test"}
    assert "fsc147/test" in {row["benchmark"] for row in rows if row["status"] == "trained"}

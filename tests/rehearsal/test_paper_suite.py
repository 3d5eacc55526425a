"""Suite paper from small files of the real formats without CARPK's pictures: only its own cells are empty."""

import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
for place in (TESTS / "workflow", TESTS / "rehearsal"):
    sys.path.insert(0, str(place))

from house import snakemake  # noqa: E402
from paper_project import write_paper_project  # noqa: E402

pytestmark = [pytest.mark.more, pytest.mark.timeout(1800)]


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
    predicted = {
        path.relative_to(folder).parts[3:5] for path in folder.glob("results/paper/predictions/*/*/countx/**/*.csv")
    }
    known = {"fsc147": ("val", "test"), "fsc147s": ("v1", "v2", "v1_test", "v2_test")}
    assert predicted == {(data, split) for data, splits in known.items() for split in splits}  # and not carpk/test
    scores = (folder / "results/paper/scores.csv").read_text(encoding="utf-8")
    assert all(f",{data}/{splits[0]},last,mae," in scores for data, splits in known.items())
    assert "Could not be fetched (1 data sets and weights):" in answer.text

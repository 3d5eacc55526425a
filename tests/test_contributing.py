"""The examples of CONTRIBUTING.md do what the page says."""

import re
import shutil
from pathlib import Path
from types import ModuleType

import pytest
import torch
import yaml
from PIL import Image

from projects import ROOT, copy_settings, csv_rows
from recount.data.dataset import DataError
from recount.judging.judge import judge
from recount.scoring.score import score
from recount.settings.project import load
from recount.settings.suite import Benchmark, StandIn
from small_systems import batch_of, losses_of_steps, mini
from tiny_pool import TinyPool

PAGE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


def example(language: str, number: int) -> str:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, flags=re.DOTALL)[number]


def module(number: int) -> ModuleType:
    made = ModuleType(f"example{number}")
    exec(
        compile(example("python", number), f"CONTRIBUTING.md, example {number}", "exec", dont_inherit=True), vars(made)
    )
    return made


def test_system_trains_towards_the_count() -> None:
    system = mini(module(0).SYSTEM)
    batch = batch_of(system, TinyPool([(48, 64)], [[[20.0, 20.0]] * 30]))
    losses = losses_of_steps(system, batch, torch.optim.Adam(system.parameters(), lr=0.1), 60)
    assert losses[-1] < losses[0] / 2


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Return a copy of the repository's settings with the paper of the example."""
    folder = copy_settings(tmp_path) / "papers" / "edges_again"
    folder.mkdir()
    (folder / "paper.yaml").write_text(example("yaml", 3), encoding="utf-8")
    (folder / "published.csv").write_text(example("csv", 0), encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize("suite", ["mini", "open", "paper"])
def test_the_paper_adds_its_rows_and_no_training(project: Path, suite: str) -> None:
    every = {run.id for run in load(project, {"suite": suite}).trainings}
    assert every == {run.id for run in load(ROOT, {"suite": suite}).trainings}
    alone = load(project, {"suite": suite, "papers": ["edges_again"]})
    assert {run.id for run in alone.runs} == {"mcnn/rgb/seed0", "dm_count/vgg19/seed0"}


def test_the_paper_has_printed_and_missing_cells_and_a_judged_claim_at_once(project: Path) -> None:
    alone = load(project, {"papers": ["edges_again"]})
    cells = {(cell["row"], cell["metric"]): cell for cell in csv_rows(score(alone))}
    assert (cells["guess", "mae"]["status"], cells["guess", "mae"]["value"]) == ("quoted", "500.0")
    assert cells["mcnn/rgb", "mae"]["status"] == "missing"
    verdicts = {(row["claim"], row["evidence_status"]): row["verdict"] for row in csv_rows(judge(alone))}
    assert verdicts == {("EA-1", "trained"): "not tested", ("EA-1", "published"): "consistent"}


def test_the_paper_may_lie_elsewhere(project: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = tmp_path_factory.mktemp("home") / "edges_again"
    shutil.move(project / "papers" / "edges_again", elsewhere)
    assert list(load(project, {"papers": [str(elsewhere)]}).papers) == ["edges_again"]


def test_experiment_of_the_example_is_valid(project: Path) -> None:
    (project / "experiments" / "edges.yaml").write_text(example("yaml", 0), encoding="utf-8")
    assert load(project).experiments["edges"].variants["coarse"].settings == {"cell": 64}


def test_benchmarks_of_the_examples_are_valid(project: Path) -> None:
    assert {StandIn.model_validate(entry).dataset for entry in yaml.safe_load(example("yaml", 1)).values()} == {"beans"}
    for name, entry in yaml.safe_load(example("yaml", 2)).items():
        assert Benchmark.model_validate(entry).role == name.split("/")[1]


def put_beans(raw: Path) -> Path:
    folder = raw / "beans" / "test"
    folder.mkdir(parents=True)
    Image.new("RGB", (20, 10)).save(folder / "one.jpg")
    return folder


def test_data_set_reads_its_points(tmp_path: Path) -> None:
    (put_beans(tmp_path) / "one.csv").write_text("3,4\n5.5,6\n", encoding="utf-8")
    (sample,) = module(1).DATASET.read(tmp_path)
    assert (sample.id, sample.split, sample.count) == ("one", "test", 2)
    assert sample.points.tolist() == [[3, 4], [5.5, 6]]


def test_missing_points_are_a_defect_of_the_data_set(tmp_path: Path) -> None:
    put_beans(tmp_path)
    with pytest.raises(DataError, match=r"one\.csv"):
        list(module(1).DATASET.read(tmp_path))

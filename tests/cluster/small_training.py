"""A project whose only run is trained in seconds: MCNN on four pictures, in copies of package and workflow."""

import shutil
from pathlib import Path

from house import ROOT, copy_config

from prepared import written_pictures
from projects import experiment, write_project

TRAIN, TEST, STEPS = "ucf_qnrf/train", "ucf_qnrf/test", 180
RUN = "results/mini/runs/mcnn/rgb/seed0"
SUITE = {
    "title": "small",
    "comparable": False,
    "benchmarks": {TRAIN: {"dataset": "crowd", "split": "train"}, TEST: {"dataset": "crowd", "split": "test"}},
}


def small_training(folder: Path, steps: int = STEPS) -> Path:
    """Write the project below a folder, and return where; its training has so many steps, a multiple of four."""
    work = folder / "work"
    shutil.copytree(ROOT / "src" / "recount", folder / "src" / "recount")
    shutil.copytree(ROOT / "workflow", folder / "workflow")
    shutil.copytree(ROOT / "profiles", folder / "profiles")
    shutil.copy(ROOT / "Snakefile", folder)
    experiments = {"mcnn": experiment("MCNN", {"rgb": "MCNN"}, trained_on=TRAIN, evaluated_on=[TEST])}
    paper = {"tables": {"table1": {"title": "Table 1", "on": TEST, "metrics": ["mae"], "rows": ["mcnn/rgb"]}}}
    recipe = {"epochs": steps // 2, "batch_size": 2, "evaluate_every": steps // 4, "evaluate_from": 0}
    suite = SUITE | {"systems": {"mcnn": {"size": "mini", "recipe": recipe}}}
    write_project(work, experiments=experiments, papers={"demo": paper}, suite=suite, config={"suite": "mini"})
    copy_config(work)
    written_pictures(work / "resources/data/crowd/original", ["train"] * 4)
    return work

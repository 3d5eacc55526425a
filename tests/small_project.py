"""A small project in a folder of the test: one paper, one suite, one data set; predictions made by the test."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from links import complete_run
from prepared import written
from projects import csv_rows, experiment, write_project
from recount.results.scores import SCORES
from recount.scoring.score import score
from recount.settings.project import Project, load
from recount.systems.base import System

TRUE = [3.0, 10.0, 40.0, 120.0, 500.0, 7.0]
TRAINING = [10.0, 20.0, 60.0]

EXPERIMENTS: dict[str, Any] = {
    "good": experiment(
        "Good",
        {
            "full": "full",
            "unrun": "not run here",
            "released": {"label": "released weights", "checkpoint": "good_weights"},
        },
        trained_on="shown/train",
        evaluated_on=["shown/test"],
    ),
}
PAPER: dict[str, Any] = {
    "tables": {
        "table1": {
            "title": "Table 1",
            "on": "shown/test",
            "weights": "best_on_test",
            "rows": [
                {"run": "good/full", "label": "Good", "published": "good_row"},
                {"run": "good/released", "label": "Good, released", "published": "good_row"},
                {"run": "good/unrun", "label": "Good, not run"},
                {"id": "old", "label": "Old", "quoted": "its code is not public"},
            ],
            "floor": "constants",
        },
        "other": {"title": "On another benchmark", "on": "hidden/test", "metrics": ["mae"], "rows": ["good/full"]},
        "cost": {
            "title": "Cost",
            "on": "shown/test",
            "metrics": ["train_hours_100_epochs", "inference_seconds_per_image", "parameters_total"],
            "rows": ["good/full"],
        },
    },
}
SUITE: dict[str, Any] = {
    "title": "small",
    "comparable": False,
    "benchmarks": {
        "shown/train": {"dataset": "dots", "split": "train"},
        "shown/test": {"dataset": "dots", "split": "test"},
    },
    "systems": {"good": {"skip": {"takes too long": ["unrun"]}}},
}
PUBLISHED = """table1,good_row,good,full,shown/test,mae,12.5,the paper,
table1,old,old,,shown/test,mae,33.3,the paper,
"""


def write_index(root: Path, rows: list[tuple[str, str, float]]) -> None:
    """Write an index of samples without pictures: id, split, count."""
    write_index_rows(root, [[name, split, "", "", count, 8, 8, "", "", "{}"] for name, split, count in rows])


def write_index_rows(root: Path, rows: list[list[Any]]) -> None:
    """Write the index of the data set "dots" from whole rows."""
    written(root / "resources/data/dots/original/index.csv", rows)


def make_project(
    root: Path, *, experiments: Any = EXPERIMENTS, paper: Any = PAPER, suite: Any = SUITE, **overrides: Any
) -> Project:
    """Write a project; ``overrides`` go over config.yaml."""
    write_project(
        root,
        experiments=experiments,
        papers={"paper": paper},
        suite=suite,
        config={"suite": "small", "seeds": [0], "training_threads": 1},
        published={"paper": PUBLISHED},
    )
    test = [(f"s{k}", "test", count) for k, count in enumerate(TRUE)]
    write_index(root, test + [(f"t{k}", "train", count) for k, count in enumerate(TRAINING)])
    return load(root, overrides)


def let_good_be(system: type[System], monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the system "good" be a class of the test, whose code belongs to no package and so has no digest."""
    monkeypatch.setattr("recount.systems.load", {"good": system}.__getitem__)
    monkeypatch.setattr("recount.provenance.step_digest", lambda step, plugin=None: f"{step} {plugin}")


def predict(
    project: Project,
    run_id: str,
    errors: dict[str, list[float]],
    samples: list[float] = TRUE,
    *,
    left_out: tuple[str, ...] = (),
    seconds: float = 0.5,
) -> Path:
    """Write predictions: the true counts plus ``errors`` by selection, without what the protocol leaves out."""
    system, variant, seed = run_id.split("/")
    path = project.root / project.predictions(project.run(system, variant, int(seed[4:])), "shown/test")
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["id", "image", "prompt", "true_count", "predicted_count", "selection"])
        for selection, wrong in errors.items():
            for k, (true, error) in enumerate(zip(samples, wrong, strict=True)):
                if f"s{k}" not in left_out:
                    writer.writerow([f"s{k}", f"s{k}.jpg", "", repr(true), repr(true + error), selection])
    timing = {"images": len(samples), "seconds": seconds * len(samples), "left_out": left_out or None}
    described = {"device": "cpu", "precision": "fp32", "selections": dict.fromkeys(errors, timing)}
    path.with_suffix(".timing.json").write_text(json.dumps(described))
    complete_run(project, project.run(system, variant, int(seed[4:])))
    return path


def cells_of(project: Project, **wanted: str) -> list[dict[str, str]]:
    """Score the project, and return the rows of scores.csv with these values."""
    rows = csv_rows(score(project))
    assert all(tuple(row) == SCORES.columns for row in rows)
    return [row for row in rows if all(row[key] == value for key, value in wanted.items())]

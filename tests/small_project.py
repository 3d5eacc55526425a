"""A small project in a folder of the test: one paper, one suite, one data set; predictions made by the test."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import yaml

from recount.results.scores import SCORES
from recount.scoring.score import score
from recount.settings.project import Project, load

TRUE = [3.0, 10.0, 40.0, 120.0, 500.0, 7.0]
TRAINING = [10.0, 20.0, 60.0]

PAPER = {
    "title": "A paper",
    "short_title": "Paper",
    "authors": "A. Nonymous",
    "year": 2025,
    "venue": "nowhere",
    "systems": {
        "good": {
            "label": "Good",
            "trained_on": "shown/train",
            "evaluated_on": ["shown/test"],
            "variants": {
                "full": {"label": "full"},
                "unrun": {"label": "not run here"},
                "released": {"label": "released weights", "checkpoint": "good_weights"},
            },
        },
        "old": {"label": "Old", "quoted_because": "its code is not public"},
        "constant": {
            "label": "Constant",
            "trained_on": "shown/train",
            "evaluated_on": ["shown/test"],
            "variants": {"nothing": {"label": "zero", "settings": {"statistic": "zero"}}},
        },
    },
    "tables": {
        "table1": {
            "title": "Table 1",
            "benchmarks": ["shown/test"],
            "selection": "best_on_test",
            "rows": [
                {"label": "Good", "system": "good", "variant": "full", "published": "good_row"},
                {"label": "Good, released", "system": "good", "variant": "released", "published": "good_row"},
                {"label": "Good, not run", "system": "good", "variant": "unrun"},
                {"label": "Old", "system": "old"},
                {"label": "Zero", "system": "constant", "variant": "nothing"},
            ],
        },
        "other": {
            "title": "On another benchmark",
            "benchmarks": ["hidden/test"],
            "metrics": ["mae"],
            "rows": [{"label": "Good", "system": "good", "variant": "full"}],
        },
        "cost": {
            "title": "Cost",
            "benchmarks": ["shown/test"],
            "metrics": ["train_hours_100_epochs", "inference_seconds_per_image", "beauty"],
            "rows": [{"label": "Good", "system": "good", "variant": "full"}],
        },
    },
}
SUITE = {
    "title": "small",
    "comparable": False,
    "benchmarks": {
        "shown/train": {"dataset": "dots", "split": "train"},
        "shown/test": {"dataset": "dots", "split": "test"},
    },
    "systems": {"good": {"variants": {"unrun": {"skip": "takes too long"}}}, "constant": {}},
}
PUBLISHED = """table,row,system,variant,benchmark,metric,value,source,note
table1,good_row,good,full,shown/test,mae,12.5,the paper,
table1,old,old,,shown/test,mae,33.3,the paper,
"""


def write_index(root: Path, rows: list[tuple[str, str, float]]) -> None:
    """Write an index of samples without pictures: id, split, count."""
    write_index_rows(root, [[name, split, "", "", count, 8, 8, "", "", "{}"] for name, split, count in rows])


def write_index_rows(root: Path, rows: list[list[Any]]) -> None:
    """Write the index of the data set "dots" from whole rows."""
    path = root / "resources" / "data" / "dots" / "original" / "index.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["id", "split", "image", "prompt", "count", "width", "height", "points", "boxes", "attributes"])
        writer.writerows(rows)


def make_project(root: Path, **overrides: Any) -> Project:
    (root / "suites").mkdir(parents=True)
    (root / "papers" / "paper").mkdir(parents=True)
    (root / "config.yaml").write_text(yaml.safe_dump({"suite": "small", "seeds": [0], "training_threads": 1}))
    (root / "suites" / "small.yaml").write_text(yaml.safe_dump(SUITE))
    (root / "papers" / "paper" / "paper.yaml").write_text(yaml.safe_dump(PAPER))
    (root / "papers" / "paper" / "published.csv").write_text(PUBLISHED)
    test = [(f"s{k}", "test", count) for k, count in enumerate(TRUE)]
    write_index(root, test + [(f"t{k}", "train", count) for k, count in enumerate(TRAINING)])
    return load(root, overrides)


def predict(
    project: Project, run_id: str, errors: dict[str, list[float]], samples: list[float] = TRUE, seconds: float = 0.5
) -> Path:
    system, variant, seed = run_id.split("/")
    path = project.root / project.predictions(project.run(system, variant, int(seed[4:])), "shown/test")
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["id", "image", "prompt", "true_count", "predicted_count", "selection"])
        for selection, wrong in errors.items():
            for k, (true, error) in enumerate(zip(samples, wrong, strict=True)):
                writer.writerow([f"s{k}", f"s{k}.jpg", "", repr(true), repr(true + error), selection])
    timing = {"images": len(samples), "seconds": seconds * len(samples)}
    described = {"device": "cpu", "precision": "fp32", "selections": dict.fromkeys(errors, timing)}
    path.with_suffix(".timing.json").write_text(json.dumps(described))
    return path


def cells_of(project: Project, **wanted: str) -> list[dict[str, str]]:
    """Score the project, and return the rows of scores.csv with these values."""
    with score(project).open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert all(tuple(row) == SCORES.columns for row in rows)
    return [row for row in rows if all(row[key] == value for key, value in wanted.items())]

"""A project with claims in a folder of the test: two systems, released weights, a constant, and their predictions."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from recount.judging.judge import judge
from recount.results.verdicts import VERDICTS
from recount.settings.project import Project, load

IMAGES = 40
TRUE = np.random.default_rng(0).integers(2, 60, IMAGES).astype(float)
HARDNESS = np.random.default_rng(1).gamma(2.0, 2.0, IMAGES) + 1

SYSTEM = {"trained_on": "shown/train", "evaluated_on": ["shown/test", "other/test"]}
SYSTEMS: dict[str, Any] = {
    "new": SYSTEM
    | {
        "label": "New",
        "variants": {
            "full": {"label": "full"},
            "less": {"label": "less"},
            "untrained": {"label": "untrained", "settings": {"train": False}},
            "released": {"label": "released", "checkpoint": "new_weights", "stands_for": "full"},
        },
    },
    "old": SYSTEM
    | {
        "label": "Old",
        "variants": {
            "full": {"label": "full"},
            "released": {"label": "released", "checkpoint": "old_weights", "stands_for": "full"},
        },
    },
    "quoted": {"label": "Quoted", "quoted_because": "its code is not public"},
    "constant": SYSTEM
    | {"label": "Constant", "variants": {"nothing": {"label": "0", "settings": {"statistic": "zero"}}}},
}
TABLES = {
    "t1": {
        "title": "T1",
        "benchmarks": ["shown/test"],
        "selection": "last",
        "rows": [
            {"label": "New", "system": "new", "variant": "full"},
            {"label": "Old", "system": "old", "variant": "full"},
            {"label": "Quoted", "system": "quoted"},
        ],
    }
}
HEADER = "table,row,system,variant,benchmark,metric,value,source,note\n"


def better_than(better: str = "new/full", worse: str = "old/full", **more: Any) -> dict[str, Any]:
    """Return a claim that one arm has the lower error."""
    claim = {
        "id": "C",
        "statement": "s",
        "better": [better],
        "worse": [worse],
        "benchmarks": ["shown/test"],
        "rule": "r",
    }
    return claim | more


def make_project(
    root: Path,
    claims: list[dict[str, Any]],
    *,
    comparable: bool = True,
    published: str = "",
    size: str = "paper",
    **config: Any,
) -> Project:
    """Write a project with these claims; ``config`` goes over config.yaml."""
    for folder in ("suites", "papers/p"):
        (root / folder).mkdir(parents=True)
    paper = {"title": "P", "short_title": "P", "authors": "A", "year": 2025, "venue": "v"}
    suite = {
        "title": "small",
        "comparable": comparable,
        "why_not_comparable": "other pictures",
        "benchmarks": {
            "shown/train": {"dataset": "dots", "split": "train"},
            "shown/test": {"dataset": "dots", "split": "test"},
            "other/test": {"dataset": "dots", "split": "test"},
        },
        "systems": {"new": {"size": size}, "old": {"size": size}, "constant": {}},
    }
    paper |= {"systems": SYSTEMS, "tables": TABLES, "claims": claims}
    (root / "config.yaml").write_text(yaml.safe_dump({"suite": "small", "seeds": [0, 1, 2], "training_threads": 1}))
    (root / "suites/small.yaml").write_text(yaml.safe_dump(suite))
    (root / "papers/p/paper.yaml").write_text(yaml.safe_dump(paper))
    (root / "papers/p/published.csv").write_text(HEADER + published)
    write_index(root, {})
    return load(root, config)


def write_index(root: Path, majorities: dict[str, float]) -> None:
    """Write the index of the data set, with the majorities of some samples."""
    path = root / "resources/data/dots/original/index.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["id", "split", "image", "prompt", "count", "width", "height", "points", "boxes", "attributes"])
        for k, count in enumerate(TRUE):
            attributes = {"majority_count": majorities[f"s{k}"]} if f"s{k}" in majorities else {}
            writer.writerow([f"s{k}", "test", "", "", count, 8, 8, "", "", json.dumps(attributes)])


def predict(
    project: Project, arm: str, errors: Any, *, seeds: tuple[int, ...] = (0,), selections: tuple[str, ...] = ("last",)
) -> None:
    """Write predictions: true counts plus ``errors`` (a number, one for each image, or a function of the seed)."""
    system, variant = arm.split("/")
    for seed in seeds:
        path = project.root / project.predictions(project.run(system, variant, seed), "shown/test")
        path.parent.mkdir(parents=True, exist_ok=True)
        wrong = np.broadcast_to(errors(seed) if callable(errors) else errors, TRUE.shape)
        with path.open("w", newline="") as stream:
            writer = csv.writer(stream)
            writer.writerow(["id", "image", "prompt", "true_count", "predicted_count", "selection"])
            for selection in selections:
                for k, (count, error) in enumerate(zip(TRUE, wrong, strict=True)):
                    writer.writerow(
                        [f"s{k}", f"s{k}.jpg", "", repr(float(count)), repr(float(count + error)), selection]
                    )


def noisy(factor: float) -> Any:
    """Return a function of the seed: errors of a system, the harder an image the larger."""
    return lambda seed: factor * HARDNESS + np.random.default_rng([seed, int(factor * 10)]).normal(0, 0.2, IMAGES)


def verdicts(project: Project, **wanted: str) -> list[dict[str, str]]:
    """Judge, and return the rows with these values; of retrained runs, if nothing else is asked for."""
    wanted = {"evidence_status": "trained"} | wanted
    path = judge(project)
    with path.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert all(tuple(row) == VERDICTS.columns for row in rows)
    return [row for row in rows if all(row[key] == value for key, value in wanted.items())]


def headline(project: Project, **wanted: str) -> dict[str, str]:
    """Judge, and return the one headline with these values."""
    found = verdicts(project, headline="yes", **wanted)
    assert len(found) == 1, found
    return found[0]

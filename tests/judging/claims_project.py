"""A project with claims in a folder of the test: two systems, released weights, a constant, and their predictions."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from links import complete_run
from prepared import written
from projects import csv_rows, experiment, write_project, write_yaml
from recount.judging.judge import judge
from recount.results.predictions import timing_path
from recount.results.verdicts import VERDICTS
from recount.settings.project import Project, load

IMAGES = 40
TRUE = np.random.default_rng(0).integers(2, 60, IMAGES).astype(float)
MERGED = TRUE - (np.arange(IMAGES) % 4 == 0)  # where a preparation merges two heads of every fourth image
HARDNESS = np.random.default_rng(1).gamma(2.0, 2.0, IMAGES) + 1

DATA: dict[str, Any] = {"trained_on": "shown/train", "evaluated_on": ["shown/test", "other/test"]}
EXPERIMENTS = {
    "new": experiment(
        "New",
        {
            "full": "full",
            "less": {"label": "less", "settings": {"width": 1}},
            "untrained": {"label": "untrained", "settings": {"train": False}},
            "released": {"label": "released", "checkpoint": "new_weights", "stands_for": "full"},
        },
        **DATA,
    ),
    "old": experiment(
        "Old",
        {"full": "full", "released": {"label": "released", "checkpoint": "old_weights", "stands_for": "full"}},
        **DATA,
    ),
}
ROWS = [
    {"run": "new/full", "label": "New"},
    {"run": "old/full", "label": "Old"},
    {"id": "quoted", "label": "Quoted", "quoted": "its code is not public"},
]
OTHERS = ["new/less", "new/untrained", "new/released", "old/released"]
TABLES = {
    "t1": {"title": "T1", "on": "shown/test", "weights": "last", "rows": ROWS},
    "others": {"title": "Others", "on": "shown/test", "weights": "last", "rows": OTHERS},
}


def better_than(arm: str = "new/full", against: str = "old/full", **more: Any) -> dict[str, Any]:
    """Return a claim that one arm has the lower error."""
    claim = {"id": "C", "says": "s", "arm": arm, "against": against, "on": "shown/test", "expect": "lower mae"}
    return claim | more


def make_project(
    root: Path,
    claims: list[dict[str, Any]],
    *,
    comparable: bool = True,
    published: str = "",
    size: str = "paper",
    merges: tuple[str, ...] = (),
    **config: Any,
) -> Project:
    """Write a project with these claims. ``merges``: systems of preparation "merged"; ``config``: over config.yaml."""
    suite = {
        "title": "small",
        "comparable": comparable,
        "why_not_comparable": "other pictures",
        "benchmarks": {
            "shown/train": {"dataset": "dots", "split": "train"},
            "shown/test": {"dataset": "dots", "split": "test"},
            "other/test": {"dataset": "dots", "split": "test"},
        },
        "systems": {
            name: {"size": size, **({"preparation": "merged"} if name in merges else {})} for name in ("new", "old")
        },
    }
    write_project(
        root,
        experiments=EXPERIMENTS,
        papers={"p": {"tables": TABLES, "claims": claims}},
        suite=suite,
        config={"suite": "small", "seeds": [0, 1, 2], "training_threads": 1},
        published={"p": published},
    )
    benchmarks = yaml.safe_load((root / "benchmarks.yaml").read_text())
    write_yaml(
        root / "benchmarks.yaml",
        {name: entry | {"data": f"dots/{name.partition('/')[2]}"} for name, entry in benchmarks.items()},
    )
    write_index(root, {})
    if merges:
        before = [json.dumps({"original_count": count}) for count in TRUE]
        rows = [[f"s{k}", "test", "", "", own, 8, 8, "", "", before[k]] for k, own in enumerate(MERGED)]
        written(root / "resources/data/dots/merged/index.csv", rows)
    return load(root, config)


def write_index(root: Path, majorities: dict[str, float], training: tuple[float, ...] = ()) -> None:
    """Write the index of the data set, with the majorities of some samples and these training counts."""
    known = {name: json.dumps({"majority_count": count}) for name, count in majorities.items()}
    rows = [[f"s{k}", "test", "", "", count, 8, 8, "", "", known.get(f"s{k}", "{}")] for k, count in enumerate(TRUE)]
    rows += [[f"t{k}", "train", "", "", count, 8, 8, "", "", "{}"] for k, count in enumerate(training)]
    written(root / "resources/data/dots/original/index.csv", rows)


def predict(
    project: Project,
    arm: str,
    errors: Any,
    *,
    seeds: tuple[int, ...] = (0,),
    selections: tuple[str, ...] = ("last",),
    images: int = IMAGES,
    true: np.ndarray = TRUE,
) -> None:
    """Write predictions: true counts plus ``errors`` (a number, one for each image, or a function of the seed).

    All but the first ``images`` are left out, as the protocol of a system that reads captions may.
    """
    system, variant = arm.split("/")
    for seed in seeds:
        path = project.root / project.predictions(project.run(system, variant, seed), "shown/test")
        path.parent.mkdir(parents=True, exist_ok=True)
        wrong = np.broadcast_to(errors(seed) if callable(errors) else errors, TRUE.shape)
        with path.open("w", newline="") as stream:
            writer = csv.writer(stream)
            writer.writerow(["id", "image", "prompt", "true_count", "predicted_count", "selection"])
            for selection in selections:
                for k, (count, error) in enumerate(zip(true[:images], wrong[:images], strict=True)):
                    writer.writerow(
                        [f"s{k}", f"s{k}.jpg", "", repr(float(count)), repr(float(count + error)), selection]
                    )
        timing = {"images": IMAGES, "seconds": 1.0, "left_out": [f"s{k}" for k in range(images, IMAGES)]}
        described = {"device": "cpu", "precision": "fp32", "selections": dict.fromkeys(selections, timing)}
        timing_path(path).write_text(json.dumps(described))
        complete_run(project, project.run(system, variant, seed))


def noisy(factor: float) -> Any:
    """Return a function of the seed: errors of a system, the harder an image the larger."""
    return lambda seed: factor * HARDNESS + np.random.default_rng([seed, int(factor * 10)]).normal(0, 0.2, IMAGES)


def verdicts(project: Project, **wanted: str) -> list[dict[str, str]]:
    """Judge, and return the rows with these values; of retrained runs, if nothing else is asked for."""
    wanted = {"evidence_status": "trained"} | wanted
    rows = csv_rows(judge(project))
    assert all(tuple(row) == VERDICTS.columns for row in rows)
    return [row for row in rows if all(row[key] == value for key, value in wanted.items())]


def headline(project: Project, **wanted: str) -> dict[str, str]:
    """Judge, and return the one headline with these values."""
    found = verdicts(project, headline="yes", **wanted)
    assert len(found) == 1, found
    return found[0]

"""Writing small projects for tests: config.yaml, benchmarks.yaml, a suite, experiments and papers."""

import csv
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

HEADER = "table,row,system,variant,benchmark,metric,value,source,note\n"
ABOUT = {"title": "A paper", "short_title": "Paper", "authors": "A. Nonymous", "year": 2025, "venue": "nowhere"}


ROOT = Path(__file__).parents[1]
SETTINGS = ("config.yaml", "benchmarks.yaml", "experiments", "papers", "suites")


def copy_settings(folder: Path, *left_out: str) -> Path:
    """Copy the settings of this repository into a folder, without what is called as ``left_out`` says; return it."""
    for name in SETTINGS:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns(*left_out))
        else:
            shutil.copy(ROOT / name, folder)
    return folder


def experiment(
    label: str, variants: Mapping[str, Any], *, trained_on: str, evaluated_on: list[str], **more: Any
) -> dict[str, Any]:
    """Return an experiment; a variant is its label, or all that is said of it."""
    data = {key: more.pop(key) for key in ("held_out", "selected_on_test") if key in more}
    described = {
        name: {"label": variant} if isinstance(variant, str) else variant for name, variant in variants.items()
    }
    only = {"trained_on": trained_on, "evaluated_on": evaluated_on, **data}
    return {"label": label, "data": {"as_published": only}, "variants": described, **more}


def csv_rows(path: Path) -> list[dict[str, str]]:
    """Return the rows of a CSV file."""
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def write_yaml(path: Path, content: Any) -> None:
    """Write a YAML file and the folders it lies in."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(content, sort_keys=False, allow_unicode=True), encoding="utf-8")


def write_project(
    root: Path,
    *,
    experiments: Mapping[str, Any],
    papers: Mapping[str, Any],
    suite: Mapping[str, Any],
    config: Mapping[str, Any],
    published: Mapping[str, str] | None = None,
) -> None:
    """Write a project. Its benchmarks are all that the suite, the experiments and the papers name.

    Args:
        root: its folder.
        experiments: by system.
        papers: by name; what ``ABOUT`` says need not be said.
        suite: the suite that ``config`` names.
        config: config.yaml.
        published: the lines of each paper's published.csv below the header.
    """
    write_yaml(root / "config.yaml", dict(config))
    write_yaml(root / "suites" / f"{config['suite']}.yaml", dict(suite))
    for name, content in experiments.items():
        write_yaml(root / "experiments" / f"{name}.yaml", content)
    named = [
        *suite.get("benchmarks", {}),
        *(b for e in experiments.values() for b in e.get("prompt_tests", {})),
        *(b for e in experiments.values() for data in e["data"].values() for b in _named(data.values())),
    ]
    for name, paper in papers.items():
        write_yaml(root / "papers" / name / "paper.yaml", ABOUT | paper)
        (root / "papers" / name / "published.csv").write_text(HEADER + (published or {}).get(name, ""))
        named += [b for table in paper.get("tables", {}).values() for b in _named([table["on"]])]
    write_yaml(root / "benchmarks.yaml", {name: _benchmark(name) for name in dict.fromkeys(named)})


def _named(values: Any) -> list[str]:
    return [name for value in values for name in ([value] if isinstance(value, str) else value)]


def _benchmark(name: str) -> dict[str, str]:
    place, _, split = name.partition("/")
    kind = "captions" if place == "captions" else "crowd"
    role = "train" if split.startswith("train") else "held_out" if split.startswith(("val", "held")) else "test"
    return {"title": name, "kind": kind, "role": role}

"""Cells and verdicts are recomputed by a program that shares no line with recount, from its files alone."""

import csv
import math
from pathlib import Path

import numpy as np
import pytest
from recompute import recompute

from judging.claims_project import HARDNESS, MERGED, TRUE, better_than, make_project, noisy, predict, write_index
from projects import csv_rows
from records import run_record
from recount.judging.judge import judge
from recount.scoring.score import score
from recount.settings.project import Project

MODE = 24.0
CLAIMS = [
    better_than(),
    better_than("old/full", "new/full", id="against"),
    better_than(against=["old/full", "new/less", "zero", "best_constant"], id="parts"),
    better_than(expect="lower rmse", id="rmse"),
    better_than(expect="lower bias", id="bias"),
    better_than(expect="higher accuracy", id="accuracy"),
    better_than(expect="higher recall_7_to_10", id="recall"),
    better_than(test="ratio", at_most=0.6, id="ratio"),
    better_than(against="new/untrained", id="fixed"),
    better_than(against="prompt_blind", id="blind"),
    better_than(weights="best_on_test", against="new/untrained", id="chosen"),
    {"id": "number", "says": "s", "arm": "new/full", "on": "shown/test", "expect": "lower mae", "test": "value",
     "published": 5.0},
    {"id": "share", "says": "s", "arm": "new/full", "on": "shown/test", "test": "quantity",
     "bounds": [{"metric": "nearer_to_majority", "at_least": 0.5}]},
    {"id": "mode", "says": "s", "arm": ["new/full", "new/untrained"], "on": "shown/test", "test": "quantity",
     "bounds": [{"metric": "mode_among_wrong", "at_most": 0.125}]},
]  # fmt: skip


def judged(root: Path, seeds: tuple[int, ...], scatter: float) -> Project:
    """Return a project with predictions of every kind, scored and judged."""
    project = make_project(root, CLAIMS, seeds=list(seeds))
    write_index(root, {f"s{k}": count + 3 for k, count in enumerate(TRUE)}, training=(9.0, *4 * (MODE,), 5.0, math.nan))
    hits = np.where(np.arange(len(TRUE)) % 3 > 0, 0.0, 1.0)

    def errors(factor: float, spread: float):  # type: ignore[no-untyped-def]
        def of(seed: int) -> np.ndarray:
            rng = np.random.default_rng([seed, int(100 * factor)])
            return np.round(factor * HARDNESS * np.exp(spread * rng.standard_normal())) * (
                hits + rng.integers(0, 2, len(TRUE))
            )

        return of

    for arm in ("new/full", "old/full", "new/less", "new/untrained"):
        for seed in seeds:
            run = project.run(*arm.split("/"), seed)
            trains = {"train": False} if arm == "new/untrained" else {}
            record = run_record(f"{arm}/seed{seed}", settings=trains, status="trained", run=run.model_dump(mode="json"))
            record.write(project.root / project.run_folder(run) / "run.json")
    predict(project, "new/full", errors(1.0, scatter), seeds=seeds, selections=("last", "best_on_test"))
    predict(project, "old/full", errors(2.0, scatter), seeds=seeds)
    predict(project, "new/less", errors(1.1, 0.05), seeds=seeds)
    predict(project, "new/untrained", noisy(3.0))
    score(project)
    judge(project)
    return project


@pytest.mark.parametrize(("seeds", "scatter"), [(1, 0.05), (2, 0.05), (3, 0.05), (3, 0.6), (5, 0.6)])
def test_independent_program_finds_the_same_cells_and_verdicts(tmp_path: Path, seeds: int, scatter: float) -> None:
    project = judged(tmp_path, tuple(range(seeds)), scatter)
    wrong, counted = recompute(project.root / project.results, {})
    assert wrong == []
    assert counted["not covered"] == 0
    assert counted["cells"] >= 4
    assert counted["claims"] >= len(CLAIMS)
    assert counted["parts"] >= len(CLAIMS)


def test_independent_program_compares_on_the_counts_before_preparation_too(tmp_path: Path) -> None:
    claims = [better_than(), better_than("old/full", "new/full", id="against", expect="lower rmse")]
    project = make_project(tmp_path, claims, merges=("old",))
    predict(project, "new/full", noisy(1.0), seeds=(0, 1, 2))
    predict(project, "old/full", noisy(1.5), seeds=(0, 1, 2), true=MERGED)
    score(project)
    judge(project)
    wrong, counted = recompute(project.root / project.results, {})
    assert (wrong, counted["parts"], counted["not covered"]) == ([], 2, 0)


@pytest.mark.parametrize(
    ("file", "column", "other"),
    [("scores.csv", "value", "9.9"), ("verdicts.csv", "p_value", "0.5"), ("verdicts.csv", "decided", "undecided"),
     ("verdicts.csv", "df", "3.0"), ("verdicts.csv", "image_variance", "0.1")],
)  # fmt: skip
def test_independent_program_sees_a_wrong_number(tmp_path: Path, file: str, column: str, other: str) -> None:
    project = judged(tmp_path, (0, 1, 2), 0.05)
    path = project.root / project.results / file
    rows = csv_rows(path)
    place = next(k for k, row in enumerate(rows) if row[column] not in ("", other) and row.get("part") != "all")
    rows[place][column] = other
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    assert recompute(path.parent, {})[0]


def test_independent_program_imports_nothing_of_recount_and_is_short() -> None:
    text = Path(__file__).with_name("recompute.py").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 300
    lines = [line.split() for line in text.splitlines() if line.startswith(("import ", "from "))]
    assert {words[1] for words in lines} == {"csv", "json", "math", "sys", "functools", "pathlib", "numpy"}

"""Whether a test is exact, near or a stand-in follows from what runs, not from what somebody wrote."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from claims_project import better_than, make_project

from projects import write_yaml
from recount.judging.matching import match
from recount.settings.base import merged
from recount.settings.project import load

OFFICIAL = {
    "new": {"source": "s@1: x", "values": {"recipe.epochs": 3, "recipe.batch_size": 1, "trained_on": "shown/train"}}
}


@pytest.mark.parametrize(
    ("changed", "apart"),
    [
        ({}, ""),
        ({"systems": {"new": {"recipe": {"epochs": 2}}}}, "new/full: recipe.epochs is 2, not 3"),
        ({"systems": {"new": {"variants": {"full": {"recipe": {"epochs": 2}}}}}},
         "new/full: recipe.epochs is 2, not 3"),
        ({"systems": {"new": {"recipe": {"batch_size": 4}}}}, "new/full: recipe.batch_size is 4, not 1"),
        ({"benchmarks": {"shown/train": {"dataset": "rings", "split": "train"}}},
         "; ".join(f"{arm}/full is trained on rings/train, not on dots/train" for arm in ("new", "old"))),
        ({"benchmarks": {"shown/test": {"dataset": "dots", "split": "some"}}}, "tested on dots/some, not on dots/test"),
        ({"systems": {"old": {"recipe": {"epochs": 2}}}}, ""),  # nobody said what old's is
    ],
)  # fmt: skip
def test_what_keeps_a_test_from_being_exact_is_found_in_the_resolved_runs(
    tmp_path: Path, changed: dict[str, Any], apart: str
) -> None:
    make_project(tmp_path, [better_than()])
    suite = yaml.safe_load((tmp_path / "suites/small.yaml").read_text())
    published = {"systems": {"new": {"recipe": {"epochs": 3, "batch_size": 1}}}}
    write_yaml(tmp_path / "suites/small.yaml", merged(merged(suite, published), changed))
    write_yaml(tmp_path / "official.yaml", OFFICIAL)
    project = load(tmp_path)
    (claim,) = project.papers["p"].claims
    assert match(project, claim, "trained") == (("near", apart) if apart else ("exact", ""))
    trained_alone = apart and not apart.startswith("tested")
    assert match(project, claim, "checkpoint")[0] == ("exact" if trained_alone or not apart else "near")


def test_every_claim_of_the_papers_is_exact_in_suite_paper_unless_it_says_why_not() -> None:
    project = load(Path(__file__).parents[2], {"suite": "paper"})
    found = {
        c.id: match(project, c, "trained") for paper in project.papers.values() for c in paper.claims if not c.audits
    }
    said = {claim.id for paper in project.papers.values() for claim in paper.claims if claim.near}
    assert {name: apart for name, (word, apart) in found.items() if word != "exact" and name not in said} == {}


@pytest.mark.parametrize("suite", ["mini", "open"])
def test_every_claim_of_a_small_suite_is_tested_on_stand_ins(suite: str) -> None:
    project = load(Path(__file__).parents[2], {"suite": suite})
    claims = [claim for paper in project.papers.values() for claim in paper.claims if not claim.audits]
    assert {match(project, claim, "trained")[0] for claim in claims} == {"stand-in"}

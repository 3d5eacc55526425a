"""``recount plan --share``: everybody gets a part, the parts are everything, and everybody sees the same parts."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from projects import ROOT
from recount.cli import app
from recount.errors import UserError
from recount.exchange.shares import chosen, deal, parse_share, training_hours
from recount.settings.base import ConfigError
from recount.settings.project import Project, load
from small_project import SUITE, make_project, predict

SMALL = {**SUITE, "benchmarks": {f"shown/{split}": {"dataset": "crowd", "split": split} for split in ("train", "test")}}


def project(suite: str, **overrides: Any) -> Project:
    return load(ROOT, {"suite": suite, "seeds": [0, 1, 2], **overrides})


@pytest.mark.parametrize(("suite", "people"), [("paper", 2), ("paper", 5), ("mini", 3), ("mini", 40)])
def test_the_parts_are_all_trainings_each_once_and_as_equal_as_their_dearest_piece(suite: str, people: int) -> None:
    whole = project(suite)
    dealt = deal(whole, people)
    assert dealt == deal(project(suite), people)
    every = [name for part in dealt.parts for name in part.trainings]
    assert sorted(every) == sorted(run.id for run in whole.trainings)
    equal = sum(part.hours for part in dealt.parts) / people
    dearest = max(training_hours(whole, "T4").values())
    assert all(part.trainings and part.hours <= equal + max(equal, dearest) for part in dealt.parts)
    if people == 2:  # nothing is dearer than half of it all: what an ablation compares stays together
        owners = {}
        for place, part in enumerate(dealt.parts):
            for name in part.trainings:
                owners.setdefault((name.split("/")[0], name.split("/")[2]), set()).add(place)
        assert {len(places) for places in owners.values()} == {1}


@pytest.mark.parametrize("suite", ["mini", "paper"])
def test_what_a_part_is_told_to_run_is_exactly_that_part(suite: str) -> None:
    whole = project(suite)
    evaluations = set()
    for part in deal(whole, 4).parts:
        mine = project(suite, only=chosen(whole, part))
        assert {run.id for run in mine.trainings} == {*part.trainings}
        assert not evaluations & {run.id for run in mine.runs}
        evaluations |= {run.id for run in mine.runs}
    assert evaluations == {run.id for run in whole.runs}


def test_what_was_trained_or_which_card_is_here_changes_no_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = make_project(tmp_path, suite=SMALL, seeds=[0, 1, 2])
    before = deal(whole, 3)
    predict(whole, "good/full/seed1", {"last": [0.0] * 6})
    monkeypatch.setattr("recount.provenance.visible_gpus", lambda: [{"name": "NVIDIA H200"}])
    assert deal(make_project(tmp_path, suite=SMALL, seeds=[0, 1, 2]), 3) == before
    assert [part.trainings for part in before.parts] == [(f"good/full/seed{seed}",) for seed in range(3)]


def test_other_settings_are_another_plan() -> None:
    assert (
        len({deal(project("mini", **more), 2).plan for more in ({}, {"seeds": [0, 1]}, {"papers": ["gigacount"]})}) == 3
    )


@pytest.mark.parametrize("text", ["", "2", "0/5", "6/5", "a/b", "2/5/6", "-1/5", "1/²"])
def test_a_share_is_k_of_n(text: str) -> None:
    with pytest.raises(UserError, match="expected K/N"):
        parse_share(text)


def test_more_people_than_trainings_are_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="3 trainings cannot be shared by 4 people"):
        deal(make_project(tmp_path, suite=SMALL, seeds=[0, 1, 2]), 4)
    with pytest.raises(UserError, match="--card = T5: there is no such card"):
        deal(make_project(tmp_path, suite=SMALL, seeds=[0, 1, 2]), 2, "T5")


def test_a_budget_which_depends_on_what_is_here_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="budget_gpu_hours chooses by what is here"):
        deal(make_project(tmp_path, suite=SMALL, budget_gpu_hours=5), 1)


def test_a_seed_that_is_not_planned_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"only: good/full/seed7: config\.yaml has seeds \[0\]"):
        make_project(tmp_path, suite=SMALL, only=["good/full/seed7"])


def test_the_command_says_the_part_and_how_to_run_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    say = ["plan", "--share", "2/3", "--config", "seeds=[0,1,2]", "systems=[mcnn]", "papers=[gigacount]"]
    answer = CliRunner().invoke(app, say)
    assert answer.exit_code == 0, answer.output
    run = """recount run --config 'seeds=[0,1,2]' 'systems=["mcnn"]' 'papers=["gigacount"]' suite=mini"""
    assert f"""{run} 'only=["mcnn/rgb/seed1"]'""" in answer.stdout
    told = json.loads(CliRunner().invoke(app, [*say, "--json"]).stdout)
    assert (told["share"], told["only"]) == (2, ["mcnn/rgb/seed1"])
    assert CliRunner().invoke(app, [*say, "--next"]).exit_code == 1

"""The cheapest path to verdicts: what claims cost, how likely they are decided, and what a budget chooses by it."""

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from projects import ROOT
from recount import planning
from recount.cheapest import affordable, order, path
from recount.cli import app
from recount.judging.expected import CORRELATION, IMAGE_SD, Expected, expected
from recount.judging.verdicts import power
from recount.settings.base import ConfigError
from recount.settings.project import Project, load
from test_planning import ended


def project(**over: Any) -> Project:
    return load(ROOT, {"suite": "paper", "papers": ["gigacount"], **over})


@dataclass(frozen=True)
class Fake(Expected):
    """A claim whose chance grows by a given table."""

    chances: Mapping[int, float] = field(default_factory=dict)

    def power(self, seeds: int, looks: int) -> float:
        return max([0.0, *(value for key, value in self.chances.items() if key <= seeds)])


def fake(name: str, trainings: str, chances: Mapping[int, float]) -> Fake:
    return Fake("p", SimpleNamespace(id=name), tuple(trainings), (), chances)  # type: ignore[arg-type]


def test_the_claim_that_is_decided_most_an_hour_comes_first_and_shared_trainings_are_paid_once() -> None:
    claims = [fake("dear", "ab", {3: 0.9}), fake("cheap", "b", {3: 0.4}), fake("fact", "c", {1: 1.0})]
    hours = {"a": 10.0, "b": 1.0, "c": 2.0}
    steps = path(claims, hours, (3,))
    assert [(step.runs, step.seeds, step.hours) for step in steps] == [(("c",), 1, 2), (("b",), 3, 3), (("a",), 3, 30)]
    assert [step.total_hours for step in steps] == [2, 5, 35]
    assert [round(step.gain, 3) for step in steps] == [1.0, 0.4, 0.9]


def test_seeds_that_are_there_are_not_paid_again_and_an_unknown_cost_is_no_bargain() -> None:
    claims = [fake("one", "ab", {3: 0.5, 5: 0.8}), fake("two", "x", {3: 1.0})]
    (first, second) = path(claims, {"a": 1.0, "b": 1.0}, (3, 5), {"a": 3, "b": 1})
    assert (first.runs, first.seeds, first.hours, first.gains) == (("b",), 3, 2.0, {"p one": 0.5})
    assert (second.runs, second.hours, second.gains) == (("a", "b"), 4.0, {"p one": pytest.approx(0.3)})


def test_an_expected_chance_is_the_power_of_the_rule_at_the_printed_numbers() -> None:
    (claim,) = [entry for entry in expected(load(ROOT, {"suite": "paper"})) if entry.claim.id == "T2I-7"]
    for finding in claim.findings:
        assert finding is not None and finding.n is not None
        assert [arm.name for arm in finding.arms] == ["t2icount/b_rrc", "t2icount/b"]
        worse, better = (arm.weight for arm in reversed(finding.arms))
        assert finding.effect == pytest.approx(worse - better)
        spread = worse**2 + better**2 - 2 * CORRELATION * worse * better
        assert finding.image_variance == pytest.approx(spread * math.expm1(IMAGE_SD**2) / finding.n)
    assert claim.power(3, 3) == pytest.approx(math.prod(power(finding, 3, 3) for finding in claim.findings if finding))
    assert claim.power(0, 3) == 0
    assert claim.power(3, 3) < claim.power(5, 3) < claim.power(20, 3)


def test_every_claim_that_trainings_decide_is_expected_and_no_audit() -> None:
    suite = load(ROOT, {"suite": "paper"})
    found = {(entry.paper, entry.claim.id): entry for entry in expected(suite)}
    for name, paper in suite.papers.items():
        for claim in paper.claims:
            if claim.audits or claim.whose == "recount":
                assert (name, claim.id) not in found
    for entry in found.values():
        chances = [entry.power(seeds, 3) for seeds in (0, 1, 3, 5, 8)]
        assert all(0 <= chance <= 1 for chance in chances)
        assert all(later > earlier - 0.02 for earlier, later in itertools.pairwise(chances))  # 800 draws


def test_the_order_has_every_training_once_and_what_needs_none_first() -> None:
    suite = project()
    hours, have, _ = planning.by_training(planning._run_costs(suite))
    found = order(suite, hours, have)
    assert sorted(found) == sorted({run.training_id.rpartition("/")[0] for run in suite.trainings})
    free = [training for training in found if hours.get(training) == 0]
    assert found[: len(free)] == free
    places = planning.priorities(suite)
    assert sorted(places, key=lambda name: -places[name]) == found
    assert min(places.values()) > 0


def test_a_budget_chooses_what_decides_most_an_hour_and_says_so() -> None:
    small = planning.within_budget(project(budget_gpu_hours=30))
    hours = [small.gpu_hours(run.system, run.variant)[0] for run in small.trainings]
    assert 0 < sum(hour or 0 for hour in hours) <= 30
    assert {"scheduler", "no_scheduler"} <= {run.variant for run in small.runs}
    assert small.not_run("gigacount", "full") == "beyond the budget of 30 GPU hours"
    assert planning.within_budget(small) is small  # jobs are told what was chosen
    again = load(ROOT, small.config.model_dump(mode="json"))
    assert [run.id for run in again.runs] == [run.id for run in small.runs]
    three = planning.within_budget(project(budget_gpu_hours=30, seeds=[0, 1, 2]))
    spent = [small.gpu_hours(run.system, run.variant)[0] for run in three.trainings]
    assert sum(hour or 0 for hour in spent) <= 30


def test_what_has_ended_stays_chosen_and_is_paid_from_the_budget(tmp_path: Path) -> None:
    ended(tmp_path, "gigacount/augmentation/seed0", 20 * 3600, 200)
    small = planning.within_budget(project(budget_gpu_hours=25, results=str(tmp_path)))
    assert "gigacount/augmentation" in small.config.only
    hours, have, spent = planning.by_training(planning._run_costs(small))
    assert spent == {"gigacount/augmentation": 20}
    assert have == {"gigacount/augmentation": 1}
    fits = affordable(small, hours, have, spent)
    assert sum(hours[training] for training in fits) <= 25


def test_a_budget_in_which_nothing_fits_says_so() -> None:
    only = {"systems": ["gigacount"], "runs": "trained"}
    with pytest.raises(ConfigError, match=r"budget_gpu_hours = 1: not even the first run fits"):
        planning.within_budget(project(budget_gpu_hours=1, **only))


def test_runs_can_be_named_and_a_misspelt_one_is_told_with_the_nearest() -> None:
    assert {run.variant for run in project(only=["gigacount/full"]).runs} == {"full"}
    with pytest.raises(ConfigError, match=r"only = gigacount/ful.*nearest is gigacount/full"):
        project(only=["gigacount/ful"])


def test_the_next_step_is_printed_with_its_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    given = ["plan", "--next", "--config", "suite=paper", "--config", f"results={tmp_path}"]
    result = CliRunner().invoke(app, given)
    assert result.exit_code == 0
    assert "countclip/sched_modal_countplus" in result.output  # in a pipe nothing is folded or cut
    (line,) = [line for line in result.output.splitlines() if line.startswith("Next: ")]
    assert '"only=[' in line
    result = CliRunner().invoke(app, ["plan", "--next"])
    assert "No training that suite mini has left" in result.output


def test_the_first_steps_are_shown_and_the_rest_summed(tmp_path: Path) -> None:
    claims = [fake(f"c{number}", chr(97 + number), {3: 0.5}) for number in range(12)]
    steps = path(claims, {chr(97 + number): 1.0 + number for number in range(12)}, (3,))
    console = Console(width=80, record=True, file=(tmp_path / "out").open("w"))
    planning.show_path(planning.Plan("paper", ["p"], None, {}, path=steps), console)
    assert "2 more steps would decide 1.0 more in 69 hours." in console.export_text()

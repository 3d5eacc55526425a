"""``recount judge``: claims in a paper.yaml become verdicts, from predictions and published numbers that exist."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from claims_project import (
    HARDNESS,
    IMAGES,
    MERGED,
    TRUE,
    better_than,
    headline,
    make_project,
    noisy,
    predict,
    verdicts,
    write_index,
)

from links import complete, complete_run
from projects import csv_rows
from records import maps, negative_prompts, run_record
from recount.data.dataset import RemoteFile
from recount.fetching.weights import WEIGHTS, Number, Weights
from recount.judging.explain import explain
from recount.judging.verdicts import NOMINAL
from recount.metrics import ACCURACY, MAE
from recount.results.run_record import RunRecord
from recount.settings.base import ConfigError
from recount.settings.project import Project, load

THREE = (0, 1, 2)


def test_lower_error_with_three_seeds_holds(tmp_path: Path) -> None:
    project = make_project(tmp_path, [better_than()])
    predict(project, "new/full", noisy(1.0), seeds=THREE)
    predict(project, "old/full", noisy(2.0), seeds=THREE)
    row = headline(project)
    assert (row["verdict"], row["direction"], row["seeds"], row["n"]) == ("holds", "for", "0 1 2", "40")
    assert float(row["value_better"]) < float(row["value_worse"])
    assert 0 < float(row["ci_low"]) < float(row["effect"]) < float(row["ci_high"])
    assert float(row["effect"]) == pytest.approx(float(row["value_worse"]) - float(row["value_better"]))
    assert "over seeds" in row["rule"]
    assert (row["match"], row["decided"], row["level"]) == ("exact", "holds", str(NOMINAL[2]))
    assert (row["look"], row["looks"]) == ("1", "3")


def test_higher_error_with_three_seeds_does_not_hold(tmp_path: Path) -> None:
    project = make_project(tmp_path, [better_than("old/full", "new/full")])
    predict(project, "new/full", noisy(1.0), seeds=THREE)
    predict(project, "old/full", noisy(2.0), seeds=THREE)
    assert headline(project)["verdict"] == "does not hold"


def test_one_seed_leans_and_needs_more(tmp_path: Path) -> None:
    project = make_project(tmp_path, [better_than()], seeds=[0])
    predict(project, "new/full", noisy(1.0))
    predict(project, "old/full", noisy(2.0))
    row = headline(project)
    assert (row["verdict"], row["needed"]) == ("leans for", "3 seeds in each arm")
    assert "assumed" in row["pooled_over"]


def test_released_weights_and_retrained_runs_are_separate_evidence(tmp_path: Path) -> None:
    given = {"new_weights": "a", "old_weights": "b"}
    project = make_project(tmp_path, [better_than()], seeds=[0], checkpoints=given)
    predict(project, "new/released", 1.0)
    predict(project, "old/released", 2.0 * HARDNESS)
    row = headline(project, evidence_status="checkpoint")
    assert (row["verdict"], row["better"], row["seeds"]) == ("holds for the released models", "new/released", "")
    assert (row["subject"], row["look"]) == ("files", "")
    recipe = headline(project)
    assert (recipe["subject"], recipe["verdict"]) == ("recipe", "leans for")
    assert "released models alone" in recipe["reason"]


@pytest.mark.parametrize("weights", ["last", "best_on_held_out", "best_on_test"])
def test_each_selection_is_judged_and_the_claims_own_is_the_headline(tmp_path: Path, weights: str) -> None:
    project = make_project(tmp_path, [better_than(weights=weights)], seeds=[0])
    every = ("last", "best_on_test", "best_on_held_out")
    predict(project, "new/full", noisy(1.0), selections=every)
    predict(project, "old/full", noisy(2.0), selections=every)
    assert {row["selection"] for row in verdicts(project, part="all")} == set(every)
    assert headline(project)["selection"] == weights


def test_headline_is_not_tested_where_the_claims_own_selection_is_not_there(tmp_path: Path) -> None:
    project = make_project(tmp_path, [better_than(weights="best_on_held_out")])
    predict(project, "new/full", noisy(1.0), seeds=THREE, selections=("last", "best_on_held_out"))
    predict(project, "old/full", noisy(2.0), seeds=THREE)
    row = headline(project)
    assert (row["selection"], row["verdict"]) == ("best_on_held_out", "not tested")
    assert "best_on_held_out" in row["reason"]
    assert verdicts(project, part="all", selection="last")[0]["verdict"] == "holds"


def test_constant_and_untrained_arms_belong_to_every_selection_and_need_no_seeds(tmp_path: Path) -> None:
    claims = [better_than("new/untrained", "zero"), better_than(against="zero", id="D")]
    project = make_project(tmp_path, claims, seeds=[0])
    predict(project, "new/untrained", 1.0)
    predict(project, "new/full", 1.0, selections=("last", "best_on_test"))
    assert headline(project, claim="C")["verdict"] == "holds"
    found = {row["selection"]: row["verdict"] for row in verdicts(project, claim="D", part="all")}
    assert found == {"last": "leans for", "best_on_test": "leans for (chosen on test)"}


def test_oracles_are_computed_from_the_true_counts(tmp_path: Path) -> None:
    project = make_project(tmp_path, [better_than(against="best_constant")], seeds=[0])
    predict(project, "new/full", 1.0)
    row = headline(project)
    assert float(row["value_worse"]) == pytest.approx(MAE(TRUE, np.full(IMAGES, np.median(TRUE))))


def test_prompt_blind_arm_needs_the_majorities(tmp_path: Path) -> None:
    project = make_project(tmp_path, [better_than(against="prompt_blind")], seeds=[0])
    predict(project, "new/full", 1.0)
    assert "majority" in headline(project)["reason"]
    write_index(tmp_path, {f"s{k}": count + 50 for k, count in enumerate(TRUE)})
    assert "stale: made from other data (dots/original)" in headline(project)["reason"]
    complete(project)
    row = headline(project)
    assert float(row["value_worse"]) == pytest.approx(50)
    assert row["verdict"] == "leans for"


def test_accuracy_is_better_where_it_is_higher(tmp_path: Path) -> None:
    project = make_project(tmp_path, [better_than(expect="higher accuracy")], seeds=[0])
    right, wrong = np.where(np.arange(IMAGES) < 30, 0, 1), np.where(np.arange(IMAGES) < 5, 0, 1)
    predict(project, "new/full", right)
    predict(project, "old/full", wrong)
    row = headline(project)
    assert float(row["effect"]) == pytest.approx(ACCURACY(TRUE, TRUE + right) - ACCURACY(TRUE, TRUE + wrong))
    assert (row["direction"], row["verdict"]) == ("for", "leans for")


def test_recall_of_large_numbers_is_judged_on_their_images_only(tmp_path: Path) -> None:
    project = make_project(tmp_path, [better_than(expect="higher recall_7_to_10")], seeds=[0])
    large = (TRUE >= 7) & (TRUE <= 10)
    predict(project, "new/full", np.where(large, 0, 1))
    predict(project, "old/full", np.where(large, 1, 0))
    row = headline(project)
    assert (float(row["value_better"]), float(row["value_worse"]), int(row["n"])) == (1, 0, int(large.sum()))


# -------------------------------------------------------------------------------------------------- what goes wrong


def test_ties_are_undecided_and_said(tmp_path: Path) -> None:
    project = make_project(tmp_path, [better_than()], seeds=[0])
    predict(project, "new/full", 1.0)
    predict(project, "old/full", -1.0)
    row = headline(project)
    assert row["verdict"] == "undecided"
    assert "differ on no image" in row["reason"]
    assert row["needed"].startswith("no number would")


def test_predictions_that_are_not_finite_are_not_tested_and_named(tmp_path: Path) -> None:
    project = make_project(tmp_path, [better_than()], seeds=[0])
    predict(project, "new/full", np.where(np.arange(IMAGES) == 3, np.nan, 0.0))
    predict(project, "old/full", 1.0)
    row = headline(project)
    assert row["verdict"] == "not tested"
    assert "s3" in row["reason"]


def test_negative_counts_count_as_they_are_and_are_said(tmp_path: Path) -> None:
    project = make_project(tmp_path, [better_than()], seeds=[0])
    predict(project, "new/full", 1.0)
    predict(project, "old/full", -100.0)
    row = headline(project)
    assert float(row["value_worse"]) == 100
    assert "negative" in row["reason"]


def test_constant_predictions_of_a_trained_system_are_said(tmp_path: Path) -> None:
    project = make_project(tmp_path, [better_than()], seeds=[0])
    predict(project, "new/full", 7.0 - TRUE)
    predict(project, "old/full", noisy(2.0))
    assert "new/full predicts 7 for every image" in headline(project)["reason"]


def test_single_image_has_no_interval(tmp_path: Path) -> None:
    project = make_project(tmp_path, [better_than()], seeds=[0])
    predict(project, "new/full", 1.0, images=1)
    predict(project, "old/full", 2.0, images=1)
    row = headline(project)
    assert (row["verdict"], row["n"], row["ci_low"]) == ("undecided", "1", "")
    assert "one image" in row["reason"]


def test_arms_are_compared_on_the_images_that_both_have(tmp_path: Path) -> None:
    project = make_project(tmp_path, [better_than()], seeds=[0])
    predict(project, "new/full", 1.0)
    predict(project, "old/full", 2.0, images=IMAGES - 5)
    assert headline(project)["n"] == str(IMAGES - 5)


def test_predictions_that_were_cut_are_not_judged(tmp_path: Path) -> None:
    project = make_project(tmp_path, [better_than()], seeds=[0])
    predict(project, "new/full", 1.0)
    predict(project, "old/full", 2.0)
    path = project.root / project.predictions(project.run("old", "full", 0), "shown/test")
    path.write_text("\n".join(path.read_text().splitlines()[:-5]) + "\n")
    row = headline(project)
    assert (row["verdict"], row["reason_kind"]) == ("not tested", "damaged")
    assert "seed0.csv: damaged: its content is not what was written" in row["reason"]


def test_missing_cell_is_not_tested_with_its_reason(tmp_path: Path) -> None:
    project = make_project(tmp_path, [better_than()], seeds=[0])
    predict(project, "new/full", 1.0)
    row = headline(project)
    assert row["verdict"] == "not tested"
    assert "training was not run" in row["reason"]


def test_each_arm_is_judged_with_the_seeds_that_it_has(tmp_path: Path) -> None:
    project = make_project(tmp_path, [better_than()])
    predict(project, "new/full", noisy(1.0), seeds=THREE)
    predict(project, "old/full", noisy(2.0), seeds=(0, 2))
    row = headline(project)
    assert (row["seeds"], row["verdict"]) == ("0 1 2 | 0 2", "leans for")
    assert "old/full: 2 of 3 seeds" in row["reason"]


def test_selections_of_later_seeds_are_judged_where_the_first_is_missing(tmp_path: Path) -> None:
    project = make_project(tmp_path, [better_than()])
    predict(project, "new/full", noisy(1.0), seeds=(1, 2), selections=("last", "best_on_test"))
    predict(project, "old/full", noisy(2.0), seeds=(1, 2), selections=("last", "best_on_test"))
    assert {row["seeds"] for row in verdicts(project, selection="best_on_test")} == {"1 2"}


def test_printed_opponent_leans_at_most_and_the_printed_numbers_are_an_audit(tmp_path: Path) -> None:
    printed = "t1,new/full,new,full,shown/test,mae,5,x,\nt1,quoted,quoted,,shown/test,mae,90,x,\n"
    project = make_project(tmp_path, [better_than(against="quoted")], published=printed)
    predict(project, "new/full", noisy(1.0), seeds=THREE)
    row = headline(project)
    assert (row["verdict"], float(row["value_worse"])) == ("leans for", 90)
    spread, k = float(row["seed_sd"]), 3
    assert float(row["seed_variance"]) == pytest.approx(spread**2 * (1 + 1 / k))
    audit = headline(project, evidence_status="published")
    assert (audit["verdict"], float(audit["effect"]), audit["match"]) == ("consistent", 85, "")


def test_quoted_system_has_no_opponent_on_other_pictures(tmp_path: Path) -> None:
    project = make_project(tmp_path, [better_than(against="quoted")], comparable=False, seeds=[0])
    predict(project, "new/full", 1.0)
    assert "not public" in headline(project)["reason"]


# --------------------------------------------------------------------------------------------------- several parts


def test_claim_over_several_pairs_has_a_verdict_for_each_and_one_for_all(tmp_path: Path) -> None:
    claim = better_than() | {"against": ["old/full", "new/less"]}
    project = make_project(tmp_path, [claim])
    predict(project, "new/full", noisy(1.0), seeds=THREE)
    predict(project, "old/full", noisy(2.0), seeds=THREE)
    predict(project, "new/less", noisy(0.3), seeds=THREE)
    found = {row["part"]: row["verdict"] for row in verdicts(project, selection="last")}
    assert found == {"all": "does not hold", "new/full | old/full": "holds", "new/full | new/less": "does not hold"}


def test_benchmarks_that_are_the_same_images_are_one_part(tmp_path: Path) -> None:
    project = make_project(tmp_path, [better_than() | {"on": ["shown/test", "other/test"]}], seeds=[0])
    predict(project, "new/full", noisy(1.0))
    predict(project, "old/full", noisy(2.0))
    (part,) = [row for row in verdicts(project) if row["part"] != "all"]
    assert (part["benchmark"], part["dataset"]) == ("shown/test + other/test", "dots/test")


def test_the_same_comparison_in_two_claims_is_counted_once(tmp_path: Path) -> None:
    claims = [better_than(), better_than(id="D"), better_than(against="new/less", id="E")]
    claims.append(better_than(id="F", weights="best_on_test"))
    project = make_project(tmp_path, claims)
    for arm, factor in (("new/full", 1.0), ("old/full", 2.0), ("new/less", 1.001)):
        predict(project, arm, noisy(factor), seeds=THREE, selections=("last", "best_on_test"))
    heads = {row["claim"]: row for row in verdicts(project, headline="yes")}
    assert {name: row["same_as"] for name, row in heads.items()} == {"C": "", "D": "p C", "E": "", "F": ""}
    p, q = ([float(heads[name][key]) for name in "CE"] for key in ("p_value", "q_value"))
    assert q == pytest.approx([3 * p[0] / 2, p[1]])  # C and F have the same p here
    assert heads["D"]["q_value"] == heads["C"]["q_value"]


def test_another_set_of_seeds_is_another_look_and_judging_again_is_none(tmp_path: Path) -> None:
    project = make_project(tmp_path, [better_than()], looks=[3])
    for arm, factor in (("new/full", 1.0), ("old/full", 2.0)):
        predict(project, arm, noisy(factor), seeds=(0, 1))
    assert (headline(project)["look"], headline(project)["looks"], headline(project)["level"]) == ("1", "1", "0.05")
    for arm, factor in (("new/full", 1.0), ("old/full", 2.0)):
        predict(project, arm, noisy(factor), seeds=THREE)
    row = headline(project)
    assert (row["look"], row["looks"], row["level"]) == ("2", "2", "0.027")
    record = json.loads((project.root / project.results / "looks.json").read_text())
    assert [look["seeds"] for look in record["looks"]["p/C/trained"]] == ["0 1", "0 1 2"]


def test_a_look_at_one_seed_takes_no_share_of_the_error(tmp_path: Path) -> None:
    project = make_project(tmp_path, [better_than()], looks=[3])
    for seeds, looked in (((0,), ("", "")), (THREE, ("1", "1"))):
        predict(project, "new/full", noisy(1.0), seeds=seeds)
        predict(project, "old/full", noisy(2.0), seeds=seeds)
        row = headline(project)
        assert (row["look"], row["looks"]) == looked
    assert row["level"] == "0.05"


def test_released_models_on_other_pictures_say_nothing_of_a_recipe(tmp_path: Path) -> None:
    given = {"new_weights": "a", "old_weights": "b"}
    project = make_project(tmp_path, [better_than()], seeds=[0], checkpoints=given, comparable=False)
    predict(project, "new/released", 1.0)
    predict(project, "old/released", 2.0 * HARDNESS)
    assert headline(project, evidence_status="checkpoint")["decided"] == "holds"
    assert headline(project)["decided"] == "not tested"


def test_stand_in_pictures_say_a_direction_and_never_that_a_paper_does_not_hold(tmp_path: Path) -> None:
    claims = [better_than(), better_than("old/full", "new/full", id="D")]
    project = make_project(tmp_path, claims, comparable=False)
    for arm, factor in (("new/full", 1.0), ("old/full", 2.0)):
        predict(project, arm, noisy(factor), seeds=THREE)
    heads = {row["claim"]: (row["verdict"], row["decided"], row["match"]) for row in verdicts(project, headline="yes")}
    assert heads["C"] == ("same direction on other pictures", "holds", "stand-in")
    assert heads["D"] == ("opposite direction on other pictures", "does not hold", "stand-in")


@pytest.mark.parametrize("near", [{"near": "the paper prints another split"}, {}])
def test_only_exact_evidence_speaks_of_the_paper(tmp_path: Path, near: dict[str, str]) -> None:
    project = make_project(tmp_path, [better_than(**near)])
    for arm, factor in (("new/full", 1.0), ("old/full", 2.0)):
        predict(project, arm, noisy(factor), seeds=THREE)
    row = headline(project)
    assert (row["match"], row["verdict"].startswith("same")) == (("near", True) if near else ("exact", False))


# -------------------------------------------------------------------------------------------- numbers, ratios, gains


def number(**more: Any) -> dict[str, Any]:
    return better_than() | {"against": [], "test": "value", "published": 3.0} | more


def test_published_number_is_not_tested_where_numbers_are_not_comparable(tmp_path: Path) -> None:
    project = make_project(tmp_path, [number()], comparable=False, seeds=[0])
    predict(project, "new/full", 3.0)
    row = headline(project)
    assert row["verdict"] == "not tested"
    assert "other pictures" in row["reason"]


@pytest.mark.parametrize(("error", "expected"), [(3.1, "holds"), (3.35, "undecided"), (9.0, "does not hold")])
def test_published_number_is_reached_open_or_missed(tmp_path: Path, error: float, expected: str) -> None:
    project = make_project(tmp_path, [number(margin=0.5)])
    predict(project, "new/full", lambda seed: error + 0.1 * seed, seeds=THREE)
    row = headline(project)
    assert row["verdict"] == expected
    assert "not worse than 3 by 0.5" in row["rule"]


@pytest.mark.parametrize(("wrong", "expected"), [(2, "holds"), (4, "holds"), (12, "does not hold")])
def test_published_share_may_be_less_by_the_margin_and_no_more(tmp_path: Path, wrong: int, expected: str) -> None:
    claim = number(expect="higher accuracy", published=0.9, margin=0.08)
    project = make_project(tmp_path, [claim])
    predict(project, "new/full", lambda seed: (np.arange(IMAGES) < wrong + seed % 2) * 1.0, seeds=THREE)
    assert headline(project)["verdict"] == expected


def test_more_or_harder_images_do_not_make_a_printed_number_easier_to_reach(tmp_path: Path) -> None:
    """Printed and measured number are of the same images, so their noise is no excuse."""
    project = make_project(tmp_path, [number()])
    predict(project, "new/full", lambda seed: 1.5 * 3.0 * HARDNESS / HARDNESS.mean() * (1 + 0.01 * seed), seeds=THREE)
    assert headline(project)["verdict"] == "does not hold"


def test_single_released_file_is_no_evidence_for_a_printed_number_but_a_row_of_fidelity(tmp_path: Path) -> None:
    printed = (
        "others,new/released,new,released,shown/test,mae,1.0,x,\nothers,old/released,old,released,shown/test,mae,9,x,\n"
    )
    given = {"new_weights": "a", "old_weights": "b"}
    project = make_project(tmp_path, [number()], published=printed, seeds=[0], checkpoints=given)
    predict(project, "new/released", 1.005)
    predict(project, "old/released", 9.2)
    assert verdicts(project, evidence_status="checkpoint") == []
    rows = csv_rows(project.root / project.results / "fidelity.csv")
    found = {row["arm"]: (row["passed"], float(row["band"])) for row in rows}
    assert found == {"new/released": ("pass", 0.01), "old/released": ("fail", 0.09)}
    assert all(float(row["seconds"]) > 0 and row["source"] == "x" for row in rows)


def test_a_released_file_is_held_against_what_its_publisher_states_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stated = [
        Number("shown/test", 2.0, "a README", band=0.3),
        Number("shown/test", 7.0, "the same, read in another way", run="old/full"),
        Number("shown/train", 2.0, "a README", rmse=3.0),
    ]
    monkeypatch.setitem(WEIGHTS, "new_weights", Weights("new_weights", "", "", "", RemoteFile("a"), judge=stated))
    printed = "others,new/released,new,released,shown/test,mae,1.0,x,\n"
    project = make_project(tmp_path, [number()], published=printed, seeds=[0], checkpoints={"new_weights": "a"})
    predict(project, "new/released", 2.2)
    verdicts(project)
    rows = csv_rows(project.root / project.results / "fidelity.csv")
    assert [(row["benchmark"], row["metric"], row["printed"], row["passed"]) for row in rows] == [
        ("shown/test", "mae", "2.0", "pass"),
        ("shown/train", "mae", "2.0", "not tested"),
        ("shown/train", "rmse", "3.0", "not tested"),
    ]
    assert rows[1]["reason"] == "new/released is not evaluated on shown/train"


def test_systems_of_unlike_preparation_are_compared_on_the_counts_before_it_and_both_errors_are_said(
    tmp_path: Path,
) -> None:
    project = make_project(tmp_path, [better_than()], merges=("old",))
    predict(project, "new/full", noisy(1.0), seeds=THREE)
    predict(project, "old/full", lambda seed: 3.0 * HARDNESS + 0.1 * seed, seeds=THREE, true=MERGED)
    row = headline(project)
    changed = MERGED != TRUE
    on_original = np.abs(3.0 * HARDNESS + 0.1 - changed).mean()
    assert (row["verdict"], float(row["value_worse"])) == ("holds", pytest.approx(on_original, abs=1e-6))
    own = (3.0 * HARDNESS + 0.1).mean()
    said = (
        f"old/full's preparation changes the true count of {changed.sum()} of {IMAGES} images: against its own counts"
    )
    assert f"{said} its MAE is {own:.4g}; both are compared on the counts before preparation" in row["reason"]


def test_without_trainings_a_claim_of_recipe_says_that_config_leaves_them_out(tmp_path: Path) -> None:
    config = {"seeds": [0], "checkpoints": {"new_weights": "a"}, "runs": "released"}
    project = make_project(tmp_path, [better_than()], **config)
    predict(project, "new/released", 2.2)
    row = headline(project)
    assert (row["verdict"], row["reason"]) == ("not tested", "new/full: config.yaml leaves it out (runs: released)")


def test_ratio_below_its_limit_holds_and_above_does_not(tmp_path: Path) -> None:
    claims = [better_than(test="ratio", at_most=0.6), better_than(test="ratio", at_most=0.4, id="D")]
    project = make_project(tmp_path, claims)
    predict(project, "new/full", noisy(1.0), seeds=THREE)
    predict(project, "old/full", noisy(2.0), seeds=THREE)
    assert headline(project, claim="C")["verdict"] == "holds"
    assert headline(project, claim="D")["verdict"] == "does not hold"
    assert float(headline(project, claim="C")["effect"]) == pytest.approx(0.5, abs=0.02)


def test_ratio_to_a_system_without_error_is_not_tested(tmp_path: Path) -> None:
    project = make_project(tmp_path, [better_than(test="ratio", at_most=0.6)], seeds=[0])
    predict(project, "new/full", 1.0)
    predict(project, "old/full", 0.0)
    assert "makes no error" in headline(project)["reason"]


def test_gain_must_be_as_large_as_claimed(tmp_path: Path) -> None:
    project = make_project(tmp_path, [better_than(at_least=100.0)])
    predict(project, "new/full", noisy(1.0), seeds=THREE)
    predict(project, "old/full", noisy(2.0), seeds=THREE)
    assert headline(project)["verdict"] == "does not hold"


def timed(root: Path, size: str) -> Project:
    """Return a project whose runs of "new" take half as long as those of "old"."""
    claim = better_than(expect="lower train_hours_100_epochs", test="ratio", at_most=0.67)
    project = make_project(root, [claim], size=size)
    for arm, seconds in (("new", 1.0), ("old", 2.0)):
        for seed in THREE:
            path = project.root / project.run_folder(project.run(arm, "full", seed)) / "run.json"
            cost = {"steps": 10, "seconds_per_step": seconds + 0.01 * seed}
            run_record(f"{arm}/full/seed{seed}", cost=cost, provenance={"device": "cpu"}).write(path)
    complete(project)
    return project


def test_training_times_are_compared_by_their_ratio(tmp_path: Path) -> None:
    row = headline(timed(tmp_path, "paper"))
    assert row["verdict"] == "holds"
    assert float(row["effect"]) == pytest.approx(0.5, abs=0.01)


def test_times_of_small_networks_say_nothing_of_the_papers(tmp_path: Path) -> None:
    row = headline(timed(tmp_path, "mini"))
    assert row["verdict"] == "not tested"
    assert "their ratio here is 0.5" in row["reason"]


# --------------------------------------------------------------------------------------------------------- quantities


def quantity(*bounds: dict[str, Any]) -> dict[str, Any]:
    return better_than() | {"against": [], "test": "quantity", "bounds": list(bounds)}


def test_counting_the_majority_is_a_share_with_a_binomial_interval(tmp_path: Path) -> None:
    project = make_project(tmp_path, [quantity({"metric": "nearer_to_majority", "at_least": 0.5})], seeds=[0])
    write_index(tmp_path, {f"s{k}": count + 50 for k, count in enumerate(TRUE)})
    predict(project, "new/full", np.where(np.arange(IMAGES) < 36, 50, 0))
    row = headline(project)
    assert float(row["effect"]) == pytest.approx(0.9)
    assert row["verdict"] == "leans for"
    predict(project, "new/untrained", np.where(np.arange(IMAGES) < 36, 50, 0))
    fixed = headline(make_fixed(project))
    assert (float(fixed["ci_low"]), float(fixed["ci_high"])) == pytest.approx((0.7695, 0.9604), abs=1e-4)  # Wilson's
    assert fixed["verdict"] == "holds"


def make_fixed(project: Project) -> Project:
    """Return the same project with the claim about an arm that is not trained."""
    path = project.root / "papers/p/paper.yaml"
    path.write_text(path.read_text().replace("arm: new/full", "arm: new/untrained"))
    return load(project.root, {"seeds": [0]})


def write_prompt_tests(project: Project, benchmarks: dict[str, Any], selection: str = "last") -> None:
    run = project.run("new", "full", 0)
    for name, found in benchmarks.items():
        path = project.root / project.prompt_test_file(run, name)
        path.parent.mkdir(parents=True)
        tests = {name: {"dataset": "dots", "split": "test", **found}}
        path.write_text(json.dumps({"selection": selection, "benchmarks": tests}))
    complete_run(project, run)


def test_prompt_tests_are_judged_picture_by_picture(tmp_path: Path) -> None:
    claim = quantity({"metric": "pccn", "at_least": 60}, {"metric": "nmn", "at_most": 0.5})
    project = make_project(tmp_path, [claim], seeds=[0])
    pictures = [{"id": f"s{k}", "true": 10.0, "right": 9.0, "wrong": 9.5 if k < 4 else 1.0} for k in range(IMAGES)]
    write_prompt_tests(project, {"shown/test": {"negative_prompts": negative_prompts(pictures)}}, "best_on_held_out")
    found = {row["metric"]: row for row in verdicts(project) if row["part"] != "all"}
    assert float(found["pccn"]["effect"]) == pytest.approx(90)
    assert float(found["nmn"]["effect"]) == pytest.approx((4 * 0.95 + 36 * 0.1) / 40)
    assert {row["verdict"] for row in found.values()} == {"leans for"}
    assert headline(project)["selection"] == "best_on_held_out"


def test_similarity_is_compared_with_each_attention_map(tmp_path: Path) -> None:
    project = make_project(tmp_path, [quantity({"metric": "similarity_gain", "at_least": 0})], seeds=[0])
    rng = np.random.default_rng(3)
    pictures = [
        {"id": f"s{k}", "auc": {"attention": None if k == 0 else 0.6 + 0.01 * x, "attention_fine": 0.9, "S2": 0.8}}
        for k, x in enumerate(rng.normal(size=IMAGES))
    ]
    write_prompt_tests(project, {"shown/test": {"maps": maps(pictures)}})
    found = {
        row["part"]: (row["verdict"], row["direction"], row["n"]) for row in verdicts(project) if row["part"] != "all"
    }
    assert found == {
        "new/full (attention)": ("leans for", "for", "39"),
        "new/full (attention_fine)": ("leans against", "against", "40"),
    }


def test_prompt_tests_that_were_not_run_are_not_tested(tmp_path: Path) -> None:
    project = make_project(tmp_path, [quantity({"metric": "pccn", "at_least": 60})], seeds=[0])
    assert "were not run" in headline(project)["reason"]
    write_prompt_tests(project, {"shown/test": {"negative_prompts": {"not_tested": "one class only"}}})
    assert "one class only" in headline(project)["reason"]


def test_prompt_tests_of_a_model_that_was_trained_again_are_stale(tmp_path: Path) -> None:
    project = make_project(tmp_path, [quantity({"metric": "pccn", "at_least": 60})], seeds=[0])
    pictures = [{"id": "s0", "true": 10.0, "right": 9.0, "wrong": 1.0}]
    write_prompt_tests(project, {"shown/test": {"negative_prompts": negative_prompts(pictures)}})
    path = project.root / project.run_folder(project.run("new", "full", 0)) / "run.json"
    record = RunRecord.read(path)
    record.selections["last"].sha256 = "f" * 64
    record.write(path)
    assert "made with another model than the run has now" in headline(project)["reason"]


def test_the_same_predictions_give_the_same_bytes(tmp_path: Path) -> None:
    project = make_project(tmp_path, [better_than()], seeds=[0])
    predict(project, "new/full", noisy(1.0))
    predict(project, "old/full", noisy(1.2))
    verdicts(project)
    path = project.root / project.results / "verdicts.csv"
    before = path.read_bytes()
    verdicts(project)
    assert path.read_bytes() == before


def test_image_that_carries_the_squared_error_is_named(tmp_path: Path) -> None:
    project = make_project(tmp_path, [better_than(expect="lower rmse")], seeds=[0])
    predict(project, "new/full", np.where(np.arange(IMAGES) == 7, 500.0, 1.0))
    predict(project, "old/full", noisy(2.0))
    assert "new/full: s7 alone carries 100% of the squared error" in headline(project)["reason"]


def test_weights_chosen_on_test_carry_the_mark_in_their_word_and_what_chance_gains(tmp_path: Path) -> None:
    project = make_project(tmp_path, [better_than()])
    for arm, factor in (("new/full", 1.0), ("old/full", 2.0)):
        predict(project, arm, noisy(factor), seeds=THREE, selections=("last", "best_on_test"))
        for seed in THREE:
            system, variant = arm.split("/")
            path = project.root / project.run_folder(project.run(system, variant, seed)) / "history.csv"
            path.parent.mkdir(parents=True, exist_ok=True)
            rng = np.random.default_rng(seed)
            rows = [f"{epoch},{5 * np.exp(0.1 * rng.standard_normal())}" for epoch in range(10)]
            path.write_text("\n".join(["epoch,test_mae", *rows]) + "\n")
    complete(project)
    words = {row["selection"]: row["verdict"] for row in verdicts(project, part="all")}
    assert words == {"last": "holds", "best_on_test": "holds (chosen on test)"}
    (flagged,) = verdicts(project, part="all", selection="best_on_test")
    assert 0.05 < float(flagged["chance_gain"]) < 0.3  # the best of ten is 1.54 standard deviations of 0.1 away


def test_epoch_chosen_on_test_leans_at_most_against_an_arm_that_was_not(tmp_path: Path) -> None:
    project = make_project(tmp_path, [better_than(against="new/untrained", weights="best_on_test")])
    predict(project, "new/full", noisy(1.0), seeds=THREE, selections=("last", "best_on_test"))
    predict(project, "new/untrained", noisy(2.0))
    assert headline(project)["verdict"] == "leans for (chosen on test)"
    assert "chosen on the test images" in headline(project)["reason"]


def test_attention_before_training_depends_on_no_seed(tmp_path: Path) -> None:
    project = make_project(tmp_path, [quantity({"metric": "base_attention_reached", "at_least": 0.9})], seeds=[0])
    pictures = [{"id": f"s{k}", "points": 10, "reached": 10 if k % 20 else 9} for k in range(IMAGES)]
    write_prompt_tests(project, {"shown/test": {"maps_before_training": maps(pictures)}})
    row = headline(project)
    assert (row["verdict"], row["seeds"]) == ("holds", "")
    assert float(row["effect"]) == pytest.approx((40 * 10 - 2) / 400)


def test_share_of_all_pictures_is_not_certain(tmp_path: Path) -> None:
    """Eight of eight pictures say little, though they do not scatter."""
    project = make_project(tmp_path, [quantity({"metric": "pccn", "at_least": 60})], seeds=[0])
    pictures = [{"id": f"s{k}", "true": 10.0, "right": 10.0, "wrong": 1.0} for k in range(4)]
    write_prompt_tests(project, {"shown/test": {"negative_prompts": negative_prompts(pictures)}})
    row = headline(project)
    assert (row["effect"], row["verdict"]) == ("100.0", "undecided")


def test_accuracies_that_differ_on_every_picture_are_not_certain(tmp_path: Path) -> None:
    project = make_project(tmp_path, [better_than(expect="higher accuracy")], seeds=[0])
    predict(project, "new/full", 0)
    predict(project, "old/full", 1)
    assert float(headline(project)["image_variance"]) > 0


def test_one_computation_can_be_followed_with_a_calculator(tmp_path: Path) -> None:
    project = make_project(tmp_path, [better_than(), number(id="N")])
    for arm, factor in (("new/full", 1.0), ("old/full", 2.0), ("new/less", 1.5)):
        predict(project, arm, noisy(factor), seeds=THREE)
    row = headline(project, claim="C")
    text = explain(project, "C")
    said = {line.strip().partition(" ")[0]: line for line in text.splitlines()}
    df = re.search(r"df = ([\d.e-]+)² / \(([\d.e-]+)²/([\d.]+) \+ ([\d.e-]+)²/(\d+)\) = ([\d.]+)", text)
    assert df is not None
    total, seeds, nu, images, n, result = map(float, df.groups())
    assert total == pytest.approx(seeds + images, rel=1e-5)
    assert total**2 / (seeds**2 / nu + images**2 / n) == pytest.approx(result, rel=1e-4)
    assert result == pytest.approx(float(row["df"]), rel=1e-5)
    ends = re.search(r"± ([\d.]+) \* ([\d.e-]+) = ([\d.-]+) to ([\d.-]+)", said["interval"])
    assert ends is not None
    factor, error, low, high = map(float, ends.groups())
    assert (high - low) / 2 == pytest.approx(factor * error, rel=1e-4)
    assert (low, high) == pytest.approx((float(row["ci_low"]), float(row["ci_high"])), rel=1e-4)
    assert "-> holds" in text
    assert "prediction interval" in explain(project, "N")
    before = (project.root / project.results / "looks.json").read_bytes()
    with pytest.raises(ConfigError, match="no such claim"):
        explain(project, "CC")
    assert (project.root / project.results / "looks.json").read_bytes() == before


def test_system_without_any_error_holds_a_printed_error(tmp_path: Path) -> None:
    claim = {"id": "C", "says": "s", "test": "value", "arm": "new/full", "on": "shown/test", "expect": "lower mae"}
    project = make_project(tmp_path, [claim | {"published": 0.5}])
    predict(project, "new/full", 0.0, seeds=THREE)
    assert headline(project)["verdict"] == "holds"


def test_accuracy_printed_near_one_is_tested(tmp_path: Path) -> None:
    claim = {"id": "C", "says": "s", "test": "value", "arm": "new/full", "on": "shown/test"}
    project = make_project(tmp_path, [claim | {"expect": "higher accuracy", "published": 0.97}])
    predict(project, "new/full", 0.0, seeds=THREE)
    row = headline(project)
    assert (row["verdict"], float(row["seed_sd"]) > 0) == ("holds", True)  # all right with each seed: as if rounded


def test_seeds_whose_accuracies_are_all_alike_have_the_scatter_of_rounding(tmp_path: Path) -> None:
    claim = {"id": "C", "says": "s", "test": "value", "arm": "new/full", "on": "shown/test", "margin": 0.05}
    project = make_project(tmp_path, [claim | {"expect": "higher accuracy", "published": 0.95}])
    predict(project, "new/full", np.where(np.arange(IMAGES) < 4, 1.0, 0.0), seeds=THREE)  # 0.9 with each: at the limit
    row = headline(project)
    assert (row["verdict"], float(row["seed_sd"]) > 0, row["pooled_over"].startswith("the rounding")) == (
        "undecided", True, True
    )  # fmt: skip

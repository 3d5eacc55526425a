"""``recount judge``: claims in a paper.yaml become verdicts, from predictions and published numbers that exist."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from claims_project import (
    HARDNESS,
    IMAGES,
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
from records import maps, negative_prompts, run_record
from recount.metrics import ACCURACY, MAE
from recount.settings.project import Project

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
    assert "Holm" in row["rule"]
    assert "3 seeds" in row["rule"]


def test_higher_error_with_three_seeds_is_contradicted(tmp_path: Path) -> None:
    project = make_project(tmp_path, [better_than("old/full", "new/full")])
    predict(project, "new/full", noisy(1.0), seeds=THREE)
    predict(project, "old/full", noisy(2.0), seeds=THREE)
    assert headline(project)["verdict"] == "contradicted"


def test_one_seed_holds_in_direction_and_needs_three(tmp_path: Path) -> None:
    project = make_project(tmp_path, [better_than()], seeds=[0])
    predict(project, "new/full", noisy(1.0))
    predict(project, "old/full", noisy(2.0))
    row = headline(project)
    assert (row["verdict"], row["needed"]) == ("holds in direction", "3 seeds")


def test_released_weights_and_retrained_runs_are_separate_evidence(tmp_path: Path) -> None:
    given = {"new_weights": "a", "old_weights": "b"}
    project = make_project(tmp_path, [better_than()], seeds=[0], checkpoints=given)
    predict(project, "new/released", 1.0)
    predict(project, "old/released", 2.0 * HARDNESS)
    row = headline(project, evidence_status="checkpoint")
    assert (row["verdict"], row["better"], row["seeds"]) == ("holds", "new/released", "")
    assert headline(project)["verdict"] == "not tested"


def test_each_selection_is_judged_and_the_held_out_one_is_the_headline(tmp_path: Path) -> None:
    project = make_project(tmp_path, [better_than()], seeds=[0])
    every = ("last", "best_on_test", "best_on_held_out")
    predict(project, "new/full", noisy(1.0), selections=every)
    predict(project, "old/full", noisy(2.0), selections=every)
    assert {row["selection"] for row in verdicts(project, part="all")} == set(every)
    assert headline(project)["selection"] == "best_on_held_out"


def test_selection_that_one_arm_lacks_is_not_tested_and_not_the_headline(tmp_path: Path) -> None:
    project = make_project(tmp_path, [better_than()], seeds=[0])
    predict(project, "new/full", noisy(1.0), selections=("last", "best_on_held_out"))
    predict(project, "old/full", noisy(2.0))
    assert headline(project)["selection"] == "last"
    (lacking,) = verdicts(project, part="all", selection="best_on_held_out")
    assert lacking["verdict"] == "not tested"
    assert "best_on_held_out" in lacking["reason"]


def test_constant_and_untrained_arms_belong_to_every_selection_and_need_no_seeds(tmp_path: Path) -> None:
    claims = [better_than("new/untrained", "zero"), better_than(against="zero", id="D")]
    project = make_project(tmp_path, claims, seeds=[0])
    predict(project, "new/untrained", 1.0)
    predict(project, "new/full", 1.0, selections=("last", "best_on_test"))
    assert headline(project, claim="C")["verdict"] == "holds"
    assert {row["selection"] for row in verdicts(project, claim="D", part="all", verdict="holds in direction")} == {
        "last",
        "best_on_test",
    }


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
    assert row["verdict"] == "holds in direction"


def test_accuracy_is_better_where_it_is_higher(tmp_path: Path) -> None:
    project = make_project(tmp_path, [better_than(expect="higher accuracy")], seeds=[0])
    right, wrong = np.where(np.arange(IMAGES) < 30, 0, 1), np.where(np.arange(IMAGES) < 5, 0, 1)
    predict(project, "new/full", right)
    predict(project, "old/full", wrong)
    row = headline(project)
    assert float(row["effect"]) == pytest.approx(ACCURACY(TRUE, TRUE + right) - ACCURACY(TRUE, TRUE + wrong))
    assert (row["direction"], row["verdict"]) == ("for", "holds in direction")


def test_recall_of_large_numbers_is_judged_on_their_images_only(tmp_path: Path) -> None:
    project = make_project(tmp_path, [better_than(expect="higher recall_7_to_10")], seeds=[0])
    large = (TRUE >= 7) & (TRUE <= 10)
    predict(project, "new/full", np.where(large, 0, 1))
    predict(project, "old/full", np.where(large, 1, 0))
    row = headline(project)
    assert (float(row["value_better"]), float(row["value_worse"]), int(row["n"])) == (1, 0, int(large.sum()))


# -------------------------------------------------------------------------------------------------- what goes wrong


def test_ties_are_inconclusive_and_said(tmp_path: Path) -> None:
    project = make_project(tmp_path, [better_than()], seeds=[0])
    predict(project, "new/full", 1.0)
    predict(project, "old/full", -1.0)
    row = headline(project)
    assert row["verdict"] == "inconclusive"
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
    assert (row["verdict"], row["n"], row["ci_low"]) == ("inconclusive", "1", "")
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


def test_missing_seed_is_left_out_and_said(tmp_path: Path) -> None:
    project = make_project(tmp_path, [better_than()])
    predict(project, "new/full", noisy(1.0), seeds=THREE)
    predict(project, "old/full", noisy(2.0), seeds=(0, 2))
    row = headline(project)
    assert (row["seeds"], row["verdict"]) == ("0 2", "holds in direction")
    assert "old/full: 2 of 3 seeds" in row["reason"]


def test_selections_of_later_seeds_are_judged_where_the_first_is_missing(tmp_path: Path) -> None:
    project = make_project(tmp_path, [better_than()])
    predict(project, "new/full", noisy(1.0), seeds=(1, 2), selections=("last", "best_on_test"))
    predict(project, "old/full", noisy(2.0), seeds=(1, 2), selections=("last", "best_on_test"))
    assert {row["seeds"] for row in verdicts(project, selection="best_on_test")} == {"1 2"}


def test_quoted_system_is_not_tested_but_its_printed_number_is(tmp_path: Path) -> None:
    printed = "t1,new/full,new,full,shown/test,mae,5,x,\nt1,quoted,quoted,,shown/test,mae,9,x,\n"
    project = make_project(tmp_path, [better_than(against="quoted")], published=printed, seeds=[0])
    predict(project, "new/full", 1.0)
    assert "not public" in headline(project)["reason"]
    row = headline(project, evidence_status="published")
    assert (row["verdict"], float(row["effect"])) == ("holds in direction", 4)


# --------------------------------------------------------------------------------------------------- several parts


def test_claim_over_several_pairs_has_a_verdict_for_each_and_one_for_all(tmp_path: Path) -> None:
    claim = better_than() | {"against": ["old/full", "new/less"]}
    project = make_project(tmp_path, [claim])
    predict(project, "new/full", noisy(1.0), seeds=THREE)
    predict(project, "old/full", noisy(2.0), seeds=THREE)
    predict(project, "new/less", noisy(0.3), seeds=THREE)
    found = {row["part"]: row["verdict"] for row in verdicts(project, selection="last")}
    assert found == {"all": "contradicted", "new/full | old/full": "holds", "new/full | new/less": "contradicted"}


def test_benchmarks_that_are_the_same_images_are_one_part(tmp_path: Path) -> None:
    project = make_project(tmp_path, [better_than() | {"on": ["shown/test", "other/test"]}], seeds=[0])
    predict(project, "new/full", noisy(1.0))
    predict(project, "old/full", noisy(2.0))
    (part,) = [row for row in verdicts(project) if row["part"] != "all"]
    assert (part["benchmark"], part["dataset"]) == ("shown/test + other/test", "dots/test")


def test_p_values_are_corrected_within_evidence_and_selection(tmp_path: Path) -> None:
    claims = [better_than(), better_than(against="new/less", id="D"), better_than("new/less", id="E")]
    project = make_project(tmp_path, claims, seeds=[0])
    for arm, factor in (("new/full", 1.0), ("old/full", 1.05), ("new/less", 1.02)):
        predict(project, arm, noisy(factor))
    rows = [row for row in verdicts(project) if row["part"] != "all"]
    raw, corrected = ([float(row[name]) for row in rows] for name in ("p_value", "p_holm"))
    assert min(corrected) == pytest.approx(min(1, 3 * min(raw)))
    assert all(after >= before for before, after in zip(raw, corrected, strict=True))


# -------------------------------------------------------------------------------------------- numbers, ratios, gains


def number(**more: Any) -> dict[str, Any]:
    return better_than() | {"against": [], "test": "value", "published": 3.0} | more


def test_published_number_is_not_tested_where_numbers_are_not_comparable(tmp_path: Path) -> None:
    project = make_project(tmp_path, [number()], comparable=False, seeds=[0])
    predict(project, "new/full", 3.0)
    row = headline(project)
    assert row["verdict"] == "not tested"
    assert "other pictures" in row["reason"]


@pytest.mark.parametrize(("error", "expected"), [(3.2, "holds"), (3.8, "holds in direction"), (9.0, "contradicted")])
def test_published_number_within_tolerance_close_or_missed(tmp_path: Path, error: float, expected: str) -> None:
    project = make_project(tmp_path, [number(tolerance=0.5, close=0.3)])
    predict(project, "new/full", lambda seed: error + 0.01 * seed, seeds=THREE)
    row = headline(project)
    assert row["verdict"] == expected
    assert "within 0.5 of 3" in row["rule"]


def test_tolerance_is_the_largest_of_the_three_spreads_and_named(tmp_path: Path) -> None:
    project = make_project(tmp_path, [number(tolerance=0.5)])
    predict(project, "new/full", lambda seed: 3.0 + 2.0 * seed, seeds=THREE)
    assert "standard deviation over seeds" in headline(project)["rule"]
    predict(project, "new/full", HARDNESS * 3, seeds=THREE)
    assert "image interval" in headline(project)["rule"]


def test_ratio_below_its_limit_holds_and_above_is_contradicted(tmp_path: Path) -> None:
    claims = [better_than(test="ratio", at_most=0.6), better_than(test="ratio", at_most=0.4, id="D")]
    project = make_project(tmp_path, claims, comparable=False)
    predict(project, "new/full", noisy(1.0), seeds=THREE)
    predict(project, "old/full", noisy(2.0), seeds=THREE)
    assert headline(project, claim="C")["verdict"] == "holds"
    assert headline(project, claim="D")["verdict"] == "contradicted"
    assert float(headline(project, claim="C")["effect"]) == pytest.approx(0.5, abs=0.02)


def test_ratio_to_a_system_without_error_is_not_tested(tmp_path: Path) -> None:
    project = make_project(tmp_path, [better_than(test="ratio", at_most=0.6)], seeds=[0])
    predict(project, "new/full", 1.0)
    predict(project, "old/full", 0.0)
    assert "makes no error" in headline(project)["reason"]


def test_gain_must_be_as_large_as_claimed(tmp_path: Path) -> None:
    project = make_project(tmp_path, [better_than(margin=100.0)])
    predict(project, "new/full", noisy(1.0), seeds=THREE)
    predict(project, "old/full", noisy(2.0), seeds=THREE)
    assert headline(project)["verdict"] == "contradicted"


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
    assert (float(row["ci_low"]), float(row["ci_high"])) == pytest.approx((0.7634, 0.9721), abs=1e-4)
    assert row["verdict"] == "holds in direction"


def write_prompt_tests(project: Project, benchmarks: dict[str, Any], selection: str = "last") -> None:
    run = project.run("new", "full", 0)
    path = project.root / project.prompt_test_file(run)
    path.parent.mkdir(parents=True)
    tests = {name: {"dataset": "dots", "split": "test", **found} for name, found in benchmarks.items()}
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
    assert {row["verdict"] for row in found.values()} == {"holds in direction"}
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
        "new/full (attention)": ("holds in direction", "for", "39"),
        "new/full (attention_fine)": ("inconclusive", "against", "40"),
    }


def test_prompt_tests_that_were_not_run_are_not_tested(tmp_path: Path) -> None:
    project = make_project(tmp_path, [quantity({"metric": "pccn", "at_least": 60})], seeds=[0])
    assert "were not run" in headline(project)["reason"]
    write_prompt_tests(project, {"shown/test": {"negative_prompts": {"not_tested": "one class only"}}})
    assert "one class only" in headline(project)["reason"]


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


def test_models_chosen_on_the_test_images_are_flagged(tmp_path: Path) -> None:
    project = make_project(tmp_path, [better_than()], seeds=[0])
    for arm, factor in (("new/full", 1.0), ("old/full", 2.0)):
        predict(project, arm, noisy(factor), selections=("last", "best_on_test"))
    flagged = {row["selection"] for row in verdicts(project) if "chosen on the test images" in row["reason"]}
    assert flagged == {"best_on_test"}


def test_attention_before_training_depends_on_no_seed(tmp_path: Path) -> None:
    project = make_project(tmp_path, [quantity({"metric": "base_attention_reached", "at_least": 0.9})], seeds=[0])
    pictures = [{"id": f"s{k}", "points": 10, "reached": 10 if k % 20 else 9} for k in range(IMAGES)]
    write_prompt_tests(project, {"shown/test": {"maps_before_training": maps(pictures)}})
    row = headline(project)
    assert (row["verdict"], row["seeds"]) == ("holds", "")
    assert float(row["effect"]) == pytest.approx((40 * 10 - 2) / 400)

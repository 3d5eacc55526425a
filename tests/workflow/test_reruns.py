"""What runs again after a change, and what does not."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from house import House

FIRST_LINE = "import shutil"
AFTER = {"score": 1, "judge": 1, "report": 1}


@contextmanager
def edited(path: Path, old: str, new: str) -> Iterator[None]:
    """Replace text in a file while the block runs."""
    before = path.read_text(encoding="utf-8")
    assert old in before
    path.write_text(before.replace(old, new), encoding="utf-8")
    try:
        yield
    finally:
        path.write_text(before, encoding="utf-8")


def test_everything_done_says_nothing_to_do(finished_house: House) -> None:
    answer = finished_house.snakemake("--dry-run")
    assert "Nothing to be done" in answer.text


def test_first_run_calls_each_step_once_per_thing(house: House) -> None:
    house.run()
    assert house.calls() == [
        "fetch dots",
        "judge",
        "predict alpha/full/seed0",
        "predict alpha/small/seed0",
        "predict beta/full/seed0",
        "prepare dots original",
        "report",
        "score",
        "test-prompts beta/full/seed0",
        "train alpha/full/seed0",
        "train alpha/small/seed0",
        "train beta/full/seed0",
    ]


def test_deleted_prediction_is_redone_with_what_hangs_on_it(finished_house: House) -> None:
    finished_house.calls()
    (finished_house.work / "results/mini/predictions/dots/test/alpha/small/seed0.csv").unlink()
    finished_house.run()
    assert finished_house.calls() == ["judge", "predict alpha/small/seed0", "report", "score"]


def test_editing_the_report_retrains_nothing(finished_house: House) -> None:
    with edited(finished_house.source / "report" / "write.py", FIRST_LINE, f"{FIRST_LINE}\nEDITED = 1"):
        assert finished_house.planned() == {"report": 1}


def test_editing_a_system_reruns_that_system_only(finished_house: House) -> None:
    with edited(finished_house.source / "systems" / "beta.py", "WIDTH = 1", "WIDTH = 2"):
        assert finished_house.planned() == {"train": 1, "predict": 1, "test_prompts": 1, **AFTER}


def test_editing_a_layer_that_systems_share_reruns_them(finished_house: House) -> None:
    with edited(finished_house.source / "nn" / "shared.py", "DEPTH = 1", "DEPTH = 2"):
        assert finished_house.planned() == {"train": 3, "predict": 3, "test_prompts": 1, **AFTER}


def test_a_comment_reruns_nothing(finished_house: House) -> None:
    with edited(finished_house.source / "systems" / "beta.py", "WIDTH = 1", '"""Wide."""\n\nWIDTH   =  1  # wide'):
        assert finished_house.planned() == {}


def test_changed_recipe_of_a_variant_retrains_that_variant_only(finished_house: House) -> None:
    with edited(finished_house.work / "experiments/alpha.yaml", "epochs: 2", "epochs: 3"):
        assert finished_house.planned() == {"train": 1, "predict": 1, "score": 1, "judge": 1, "report": 1}


def test_changed_text_of_a_paper_retrains_nothing(finished_house: House) -> None:
    with edited(finished_house.work / "experiments/beta.yaml", "label: Beta", "label: Gamma"):
        assert finished_house.planned() == {"score": 1, "judge": 1, "report": 1}


def test_another_seed_trains_only_that_seed(finished_house: House) -> None:
    planned = finished_house.planned("--config", "seeds=[0,1]")
    assert planned == {"train": 3, "predict": 3, "test_prompts": 1, **AFTER}


def test_another_test_of_the_prompt_retrains_nothing(finished_house: House) -> None:
    with edited(finished_house.work / "experiments/beta.yaml", "[pairs]", "[pairs, maps]"):
        assert finished_house.planned() == {"test_prompts": 1, "score": 1, "judge": 1, "report": 1}


def test_deleted_prompt_tests_are_made_again(finished_house: House) -> None:
    finished_house.calls()
    (finished_house.work / "results/mini/prompt_tests/beta/full/seed0.json").unlink()
    finished_house.run()
    assert finished_house.calls() == ["judge", "report", "test-prompts beta/full/seed0"]

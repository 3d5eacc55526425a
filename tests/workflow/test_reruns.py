"""What runs again after a change, and what does not."""

import pytest
from house import EVERY_JOB, House

FIRST_LINE = "import shutil"
AFTER = {"score": 1, "judge": 1, "report": 1}


def test_everything_done_says_nothing_to_do(finished_house: House) -> None:
    answer = finished_house.snakemake("--dry-run")
    assert "Nothing to be done" in answer.text


def test_first_run_calls_each_step_once_per_thing(house: House) -> None:
    house.run()
    assert house.calls() == EVERY_JOB


def test_deleted_prediction_is_redone_with_what_hangs_on_it(finished_house: House) -> None:
    finished_house.calls()
    (finished_house.work / "results/mini/predictions/dots/test/alpha/small/seed0.csv").unlink()
    finished_house.run()
    assert finished_house.calls() == ["judge", "predict alpha/small/seed0 ucf_qnrf/test", "report", "score"]


@pytest.mark.parametrize(
    ("edited", "old", "new", "planned"),
    [
        ("src/recount/report/write.py", FIRST_LINE, f"{FIRST_LINE}\nEDITED = 1", {"report": 1}),
        (
            "src/recount/systems/beta.py",
            "WIDTH = 1",
            "WIDTH = 2",
            {"train": 1, "predict": 1, "test_prompts": 1, **AFTER},
        ),
        ("src/recount/nn/shared.py", "DEPTH = 1", "DEPTH = 2", {"train": 3, "predict": 5, "test_prompts": 1, **AFTER}),
        ("src/recount/systems/beta.py", "WIDTH = 1", '"""Wide."""\n\nWIDTH   =  1  # wide', {}),  # a comment
        ("work/experiments/alpha.yaml", "epochs: 2", "epochs: 3", {"train": 1, "predict": 2, **AFTER}),  # one variant
        ("work/experiments/beta.yaml", "label: Beta", "label: Gamma", AFTER),  # a text
        ("work/experiments/beta.yaml", "[pairs]", "[pairs, maps]", {"test_prompts": 1, **AFTER}),
    ],
)
def test_an_edit_runs_again_what_it_can_change_and_nothing_else(
    finished_house: House, edited: str, old: str, new: str, planned: dict[str, int]
) -> None:
    path = finished_house.folder / edited
    before = path.read_text(encoding="utf-8")
    assert old in before
    path.write_text(before.replace(old, new), encoding="utf-8")
    try:
        assert finished_house.planned() == planned
    finally:
        path.write_text(before, encoding="utf-8")


def test_another_seed_trains_only_that_seed(finished_house: House) -> None:
    planned = finished_house.planned("--config", "seeds=[0,1]")
    assert planned == {"train": 3, "predict": 5, "test_prompts": 1, **AFTER}


def test_deleted_prompt_tests_are_made_again(finished_house: House) -> None:
    finished_house.calls()
    (finished_house.work / "results/mini/prompt_tests/sha_a/test/beta/full/seed0.json").unlink()
    finished_house.run()
    assert finished_house.calls() == ["judge", "report", "test-prompts beta/full/seed0 sha_a/test"]

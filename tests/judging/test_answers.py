"""Whether wrong answers fall on the number that most training captions name."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from judging.claims_project import TRUE, headline, make_project, predict, write_index
from recount.judging.explain import explain

MODE = float(np.bincount(TRUE.astype(int)).argmax())  # of the test pictures, too: some are left out
OTHERS = np.flatnonzero(TRUE != MODE)
BOUND: dict[str, Any] = {"metric": "mode_among_wrong", "at_most": 0.125}
CLAIM = {"id": "C", "says": "s", "arm": "new/full", "on": "shown/test", "test": "quantity", "bounds": [BOUND]}


def answers(seed: int, modes: int = 6, others: int = 18) -> np.ndarray:
    """Return errors: so many answers are the mode, so many another wrong number; all for pictures of the mode, too."""
    wrong = np.zeros(len(TRUE))
    wrong[TRUE == MODE] = 1
    order = np.roll(OTHERS, seed)
    wrong[order[:modes]] = MODE - TRUE[order[:modes]]
    wrong[order[modes : modes + others]] = 1000
    return wrong


def test_share_is_of_wrong_answers_to_pictures_of_other_numbers(tmp_path: Path) -> None:
    project = make_project(tmp_path, [CLAIM])
    write_index(tmp_path, {}, training=(MODE, MODE, 3.0, float("nan"), float("nan"), float("nan")))
    predict(project, "new/full", answers, seeds=(0, 1, 2))
    row = headline(project)
    assert float(row["effect"]) == pytest.approx(6 / 24)
    assert 24 < int(row["n"]) <= len(OTHERS)  # pictures that some seed answers wrongly
    assert row["direction"] == "against"
    assert f"mode is {MODE:g} (67% of them)" in row["reason"]
    assert "mode_among_wrong" in explain(project, "C")


@pytest.mark.parametrize(("modes", "others", "said"), [(0, 0, "answers all rightly"), (0, 30, "")])
def test_without_a_wrong_answer_there_is_no_share(tmp_path: Path, modes: int, others: int, said: str) -> None:
    project = make_project(tmp_path, [CLAIM])
    write_index(tmp_path, {}, training=(MODE,))
    predict(project, "new/full", lambda seed: answers(seed, modes, others), seeds=(0, 1, 2))
    row = headline(project)
    assert (row["decided"] == "not tested") == bool(said)
    assert said in row["reason"]


def test_without_training_counts_it_cannot_be_tested(tmp_path: Path) -> None:
    project = make_project(tmp_path, [CLAIM])
    write_index(tmp_path, {}, training=(float("nan"),))
    predict(project, "new/full", answers, seeds=(0, 1, 2))
    row = headline(project)
    assert (row["decided"], "no training sample has a count" in row["reason"]) == ("not tested", True)

"""Two processes in one run's folder: the second is told."""

from pathlib import Path

import pytest

from recount.errors import UserError
from recount.training.checkpoints import only_training


def test_second_training_of_a_run_is_refused(tmp_path: Path) -> None:
    with (
        only_training(tmp_path / "seed0"),
        pytest.raises(UserError, match=r"seed0: another process is training this run"),
        only_training(tmp_path / "seed0"),
    ):
        pass


def test_lock_ends_with_the_training(tmp_path: Path) -> None:
    with only_training(tmp_path / "seed0"):
        pass
    with only_training(tmp_path / "seed0"):
        pass
    assert not (tmp_path / "seed0").exists()

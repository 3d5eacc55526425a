"""The trivial predictors."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from recount.data.sample import Sample
from recount.errors import UserError
from recount.systems.constant import Constant, ConstantSettings

COUNTS = [1, 2, 12]
SAMPLES = [Sample(str(n), "train", None, np.zeros((0, 2), np.float32), n, "", 8, 8) for n in COUNTS]


@pytest.mark.parametrize(("statistic", "count"), [("mean", 5), ("median", 2), ("zero", 0), ("one", 1)])
def test_every_picture_gets_the_statistic_of_the_training_counts(statistic: str, count: float) -> None:
    system = Constant(ConstantSettings(statistic=statistic))  # type: ignore[arg-type]
    system.prepare_training(SAMPLES)
    assert system.predict(torch.rand(3, 3, 8, 8), [""] * 3).counts().tolist() == [count] * 3


def test_the_learned_value_is_saved() -> None:
    trained, fresh = Constant(ConstantSettings()), Constant(ConstantSettings())
    trained.prepare_training(SAMPLES)
    fresh.load_state_dict(trained.state_dict())
    assert fresh.value == 5


def test_a_mean_of_nothing_is_an_error() -> None:
    with pytest.raises(UserError, match="training set is empty, so it has no mean"):
        Constant(ConstantSettings()).prepare_training([])

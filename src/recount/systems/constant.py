"""Predictors that look at no picture: the trivial rows of every table. No paper."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from recount.data.sample import Sample
from recount.errors import UserError
from recount.settings.base import Strict
from recount.settings.recipe import Recipe
from recount.systems.base import Batch, Prediction, System


class ConstantSettings(Strict):
    """What is predicted for every picture."""

    statistic: Literal["mean", "median", "zero", "one"] = "mean"


class Constant(System):
    """Predicts the same count for every picture, learned from the training counts alone."""

    Settings = ConstantSettings
    recipe = Recipe()
    trains = False
    value: Tensor

    def __init__(self, settings: ConstantSettings) -> None:
        super().__init__(settings)
        self.register_buffer("value", torch.tensor(1.0 if settings.statistic == "one" else 0.0))

    def prepare_training(self, samples: Sequence[Sample]) -> None:
        """Take the statistic of the training counts; ``UserError`` if there are none to take a mean or median of."""
        if self.settings.statistic not in ("mean", "median"):
            return
        if not samples:
            raise UserError(f"constant: the training set is empty, so it has no {self.settings.statistic}")
        counts = np.array([sample.count for sample in samples], dtype=np.float64)
        self.value.fill_(float(np.mean(counts) if self.settings.statistic == "mean" else np.median(counts)))

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Return no terms."""
        return {}

    def predict(self, images: Tensor, prompts: Sequence[str]) -> Prediction:
        """Return a density of one cell [B, 1, 1, 1] that holds the constant."""
        return Prediction(density=self.value.expand(len(images), 1, 1, 1))


SYSTEM = Constant

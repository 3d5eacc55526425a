"""How a system is trained."""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field

from recount.settings.base import Strict, merged

Precision = Literal["fp32", "tf32", "bf16", "fp16"]
"""What numbers are computed with on a card. fp32: all in single precision. tf32: matrix products and convolutions in
TF32 (10 bits of mantissa). bf16, fp16: autocast; what that leaves in single precision is as PyTorch has it by default,
and so as the released codes have it: convolutions in TF32, matrix products not. A processor knows fp32 and bf16."""

Determinism = Literal["seeded", "bitwise"]
"""seeded: fixed seeds and the fastest kernels, whose sums may have another order each time. bitwise: the same bytes for
the same seed, card and packages, or an error. On a processor every training is bitwise."""


class Optimiser(Strict):
    """An optimiser and its hyper-parameters; the keys that an optimiser does not have are ignored by it."""

    name: Literal["adam", "adamw", "sgd", "radam"] = "adamw"
    lr: float = Field(1e-4, gt=0)
    weight_decay: float = Field(0.0, ge=0)
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = Field(1e-8, gt=0)
    momentum: float = Field(0.0, ge=0)


class Schedule(Strict):
    """A learning-rate schedule. ``unit`` says what one step of it is.

    ``warmup_cosine_restarts``: linear from ``initial_lr`` to the optimiser's rate over ``warmup`` units, then cosine
    restarts (``period``, ``period_factor``, ``minimum_lr``). ``warmup_cosine``: linear over ``warmup``, then one half
    cosine to ``minimum_lr`` at the end. ``decayed_cosine_restarts``: a half cosine to ``minimum_lr`` every ``period``
    units, each from ``factor`` times the rate that the one before began with. ``linear``: to ``minimum_lr`` at the end.
    ``step``: times ``factor`` every ``period`` units. ``step_at``: times ``factor`` at each of ``milestones``.
    ``sawtooth``: CountCLIP's, as coded.
    """

    name: Literal[
        "constant",
        "warmup_cosine_restarts",
        "warmup_cosine",
        "decayed_cosine_restarts",
        "linear",
        "step",
        "step_at",
        "sawtooth",
    ] = "constant"
    unit: Literal["epoch", "step", "fraction"] = Field("epoch", description="fraction: epochs, updated at each step")
    warmup: float = Field(0, ge=0, description="units of warm-up; a value below 1 is a share of all units")
    initial_lr: float = Field(0.0, ge=0)
    minimum_lr: float = Field(0.0, ge=0)
    period: int = Field(1, gt=0)
    period_factor: int = Field(1, gt=0)
    factor: float = Field(0.5, gt=0)
    milestones: tuple[int, ...] = ()


class Recipe(Strict):
    """How a system is trained."""

    epochs: int = Field(1, gt=0)
    max_steps: int | None = Field(None, gt=0, description="stop after so many optimiser steps, whatever the epochs")
    batch_size: int = Field(
        1, gt=0, description="training samples per optimiser step (an image may yield several crops)"
    )
    shuffle: bool = True
    drop_last: bool = False
    optimiser: Optimiser = Optimiser()
    schedule: Schedule = Schedule()
    clip_norm: float | None = Field(None, gt=0)
    precision: Precision = Field("fp32", description="of training; of evaluation, too, where that names none")
    evaluation_precision: Precision | None = Field(
        None, description="of evaluation, during training and after it; null: as precision"
    )
    evaluate_every: int | None = Field(
        None, gt=0, description="epochs between evaluations during training; null: never"
    )
    evaluate_from: int = Field(
        0, ge=0, description="first epoch (counted from 1) that is evaluated, from which evaluate_every counts"
    )
    evaluate_each_from: int | None = Field(
        None, gt=0, description="epoch from which every single one is evaluated, whatever evaluate_every"
    )
    moving_mean: int = Field(
        1, gt=0, description="the mean over so many evaluations in a row chooses the last one's epoch"
    )
    patience: int | None = Field(
        None, gt=0, description="stop after so many evaluations in a row without a better one; null: train all epochs"
    )
    select_by: Literal["mae", "rmse", "mae+rmse", "2rmse+mae", "accuracy", "own"] = "mae"
    held_out: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="share of the training samples held out for selection, where the data set has no list",
    )
    eval_mode_after_first_evaluation: bool = Field(
        False, description="the slip of some released scripts: nothing switches back to training mode"
    )

    def steps_per_epoch(self, samples: int) -> int:
        """Return the optimiser's steps over so many samples."""
        return (
            samples // self.batch_size
            if self.drop_last and samples >= self.batch_size
            else -(-samples // self.batch_size)
        )

    def evaluates(self, epoch: int) -> bool:
        """Return whether the epoch, counted from 1, is evaluated during training."""
        if self.evaluate_every is None or epoch < self.evaluate_from:
            return False
        dense = self.evaluate_each_from is not None and epoch >= self.evaluate_each_from
        return dense or (epoch - self.evaluate_from) % self.evaluate_every == 0

    def precision_of_evaluation(self) -> Precision:
        """Return the precision in which the model is evaluated."""
        return self.evaluation_precision or self.precision


class Arithmetic(Strict):
    """What config.yaml and the suite say about numbers, over all recipes; part of what every training depends on."""

    precision: Precision | None = None
    evaluation_precision: Precision | None = None
    fp32_as: Literal["fp32", "tf32"] = "fp32"
    determinism: Determinism = "seeded"

    def of(self, recipe: Recipe) -> Recipe:
        """Return the recipe with the precisions that it is trained and evaluated in."""
        training = self.precision or (self.fp32_as if recipe.precision == "fp32" else recipe.precision)
        evaluation = self.evaluation_precision or recipe.precision_of_evaluation()
        return recipe.model_copy(update={"precision": training, "evaluation_precision": evaluation})


def resolve_recipe(base: Recipe, over: Mapping[str, Any]) -> Recipe:
    """Return ``base`` with the keys of ``over`` replaced, validated."""
    return Recipe.model_validate(merged(base.model_dump(), over))

"""How a system is trained."""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field

from recount.settings.base import Strict, merged

Precision = Literal["fp32", "bf16", "fp16"]


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
    cosine to ``minimum_lr`` at the end. ``linear``: to ``minimum_lr`` at the end. ``step``: times ``factor`` every
    ``period`` units. ``step_at``: times ``factor`` at each of ``milestones``. ``sawtooth``: CountCLIP's, as coded.
    """

    name: Literal["constant", "warmup_cosine_restarts", "warmup_cosine", "linear", "step", "step_at", "sawtooth"] = (
        "constant"
    )
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
    precision: Precision = "fp32"
    evaluate_every: int | None = Field(
        None, gt=0, description="epochs between evaluations during training; null: never"
    )
    evaluate_from: int = Field(0, ge=0, description="first epoch (counted from 1) that may be evaluated")
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


def resolve_recipe(base: Recipe, over: Mapping[str, Any]) -> Recipe:
    """Return ``base`` with the keys of ``over`` replaced, validated."""
    return Recipe.model_validate(merged(base.model_dump(), over))

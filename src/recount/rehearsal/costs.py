"""What a training takes on a card: measured by a rehearsal, else modelled from what a step was counted to cost.

``costs.json`` is written by ``make costs`` (bench/count_costs.py) from fake tensors at paper size; ``cards.yaml`` has
the cards' data sheets. The model adds the time of the operations at the card's peak to that of the bytes at its
bandwidth, unless starting the kernels takes longer: no kernel reaches both, so that it is a floor for most systems.
Evaluations during training are not in it.
"""

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field

from recount import datasets
from recount.results.rehearsals import Rehearsals
from recount.settings.base import Strict, merged
from recount.settings.project import Project, Run, default_recipe
from recount.settings.recipe import Precision, Recipe, resolve_recipe

COSTS, CARDS = (Path(__file__).with_name(name) for name in ("costs.json", "cards.yaml"))
FLOAT32, ADAM_MOMENTS = 4, 2  # bytes; numbers that Adam keeps of each weight
LAUNCH_SECONDS = 8e-6  # that PyTorch takes to start a kernel; an assumption: nothing here was measured on a card


class Card(Strict):
    """A card's data sheet: peak TFLOP/s by precision, bandwidth in GB/s, memory in GB (10^9 bytes)."""

    fp32: float
    tf32: float
    bf16: float
    fp16: float
    bandwidth: float
    memory: float
    source: str

    def seconds(self, cost: "StepCost", precision: str) -> float:
        """Return the seconds of a step."""
        half = getattr(self, "fp16" if precision == "fp16" else "bf16")
        full = getattr(self, "tf32" if precision == "tf32" else "fp32")
        computing = (cost.flops_full / full + cost.flops_half / half) / 1e12
        return max(computing + cost.bytes / self.bandwidth / 1e9, cost.kernels * LAUNCH_SECONDS)


class StepCost(Strict):
    """What one training step costs: ``rehearsal.counting.Counted``, of which run, stage and precision."""

    run: str = Field(description="system/variant")
    also: tuple[str, ...] = Field((), description="variants of an equal network, batch and precision")
    stage: str
    epochs: int = Field(description="of the stage, in the recipe that was counted")
    last: bool = Field(description="whether the stage is the last one, whose epochs a run's recipe sets")
    precision: str
    parts: int
    batch: int
    flops_full: int
    flops_half: int
    bytes: int
    kernels: int
    reads: int
    peak: int
    predict_flops: int
    predict_peak: int
    parameters: int
    trained: int


@cache
def cards() -> dict[str, Card]:
    """Return the cards by name."""
    return {name: Card.model_validate(sheet) for name, sheet in yaml.safe_load(CARDS.read_text("utf-8")).items()}


@cache
def counted() -> tuple[StepCost, ...]:
    """Return all that was counted."""
    return tuple(StepCost.model_validate(entry) for entry in json.loads(COSTS.read_text("utf-8")))


def recipe_of(project: Project, run: Run) -> Recipe:
    """Return a run's recipe over its system's default one, in the project's precision."""
    base = merged(Recipe().model_dump(mode="json"), default_recipe(run.system) or {})
    return project.arithmetic.of(resolve_recipe(Recipe.model_validate(base), run.recipe))


def training_samples(run: Run) -> int | None:
    """Return how many samples a run trains on, by its data set's declared totals; None: not declared."""
    if run.training is None:
        return None
    totals = datasets.load(run.training.dataset).totals
    declared = totals.get(run.training.split) or totals.get("train") or {}  # lists are within train
    found = declared.get("samples") or declared.get("images")
    return None if found is None else int(found)


def steps_of(recipe: Recipe, samples: int, epochs: int) -> int:
    """Return the optimiser steps of so many epochs."""
    steps = epochs * recipe.steps_per_epoch(samples)
    return min(steps, recipe.max_steps or steps)


def _stages(run: Run, precision: str) -> list[StepCost]:
    """Return what was counted of a run's stages: its own variant, else the first of its system; [] if none was."""
    of_system = [cost for cost in counted() if cost.run.startswith(f"{run.system}/") and cost.parts == 1]
    own = [cost for cost in of_system if f"{run.system}/{run.variant}" in (cost.run, *cost.also)]
    chosen = own or [cost for cost in of_system if cost.run == of_system[0].run]
    wanted = [cost for cost in chosen if cost.precision == precision]
    return wanted or [cost for cost in chosen if cost.precision == chosen[0].precision]


def modelled_hours(project: Project, run: Run, card: str) -> float | None:
    """Return the GPU hours of a run's training on a card, by the model; None where its step was never counted."""
    recipe, samples = recipe_of(project, run), training_samples(run)
    stages = _stages(run, recipe.precision)
    if not stages or samples is None or run.size != "paper":
        return None
    seconds = 0.0
    for cost in stages:
        batch = recipe.batch_size if cost.last else cost.batch
        steps = steps_of(recipe.model_copy(update={"batch_size": batch}), samples, _epochs(recipe, cost))
        seconds += steps * cards()[card].seconds(cost, recipe.precision) * batch / cost.batch
    return seconds / 3600


def _epochs(recipe: Recipe, cost: StepCost) -> int:
    return recipe.epochs if cost.last else cost.epochs


def memory_peak(project: Project, run: Run) -> int | None:
    """Return the bytes that a run's training takes on a card, as counted; None where it never was."""
    stages = _stages(run, recipe_of(project, run).precision)
    return max((cost.peak for cost in stages), default=None) if run.size == "paper" else None


def sizes_counted(run: Run) -> tuple[int, int] | None:
    """Return about the bytes of a run's state and of a model, by the counted parameters; None: none were counted."""
    stages = _stages(run, "fp32") if run.size == "paper" else []
    if not stages:
        return None
    kept = 1 + ADAM_MOMENTS  # of what is trained: weights and moments
    return max(kept * cost.trained for cost in stages) * FLOAT32, stages[-1].parameters * FLOAT32


def measured_hours(project: Project, run: Run, there: Rehearsals) -> float | None:
    """Return the hours of a run's training by a rehearsal of it, or of another of its system; None: there is none."""
    samples, recipe = training_samples(run), recipe_of(project, run)
    own = there.rehearsed.get(run.id)
    others = (row for name, row in there.rehearsed.items() if name.startswith(f"{run.system}/"))
    rows = [row for row in (own, *others) if row is not None and not row.error and row.seconds_per_step]
    if samples is None or not rows:
        return None
    seconds = float(rows[0].seconds_per_step or 0) * recipe.batch_size / rows[0].batch
    return seconds * steps_of(recipe, samples, recipe.epochs) / 3600


def counted_precisions(recipe: Recipe, system: str) -> Iterator[tuple[Precision, int]]:
    """Yield the precisions and parts in which a system is counted: its own, and T2ICount's ways onto small cards."""
    yield recipe.precision, 1
    if system == "t2icount":
        yield from (("bf16", 1), ("bf16", 2))


def as_entry(run: str, stage: Any, precision: str, last: bool, counts: dict[str, int]) -> dict[str, Any]:
    """Return an entry of ``costs.json``."""
    about = {"run": run, "stage": stage.name, "epochs": stage.recipe.epochs, "last": last, "precision": precision}
    return StepCost.model_validate(about | counts).model_dump()

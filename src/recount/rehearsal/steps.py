"""Training a few steps as ``recount train`` does, timed, and taking the last one again from a saved state."""

import hashlib
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass, field
from statistics import median
from typing import Any

import torch

from recount.results.run_record import STATE
from recount.settings.recipe import Recipe
from recount.systems.base import Batch, Stage, System
from recount.training.checkpoints import tensor_digest
from recount.training.loop import Trainer

CLOSE = 0.01  # relative: what fast kernels of a card may add up to in the losses of a step that is taken again


def shortened(recipe: Recipe, samples: int, steps: int, batch: int) -> Recipe:
    """Return a recipe of so many steps, at most ``batch`` samples each, that is evaluated once, at its end."""
    size = min(recipe.batch_size, batch)
    epochs = -(-steps // recipe.model_copy(update={"batch_size": size}).steps_per_epoch(samples))
    never = {"evaluate_each_from": None, "patience": None, "moving_mean": 1, "evaluate_from": 0}
    every = None if recipe.evaluate_every is None else epochs
    changes = {"batch_size": size, "epochs": epochs, "max_steps": steps, "evaluate_every": every}
    return recipe.model_copy(update={**changes, **never})


@dataclass(eq=False)
class TimedTrainer(Trainer):
    """A trainer of ``steps`` steps in each stage, which saves its state before the last one of all."""

    _: KW_ONLY
    steps: int
    batch: int  # samples of a step, at most
    batches_taken: list[tuple[int, int]] = field(default_factory=list)  # of each stage: of the recipe, and taken
    timed: list[list[tuple[float, float]]] = field(default_factory=list)  # of each stage: seconds waiting and computing
    save_seconds: float | None = None
    state_bytes: int | None = None
    told: Callable[[], None] | None = None  # is called after each step of the last stage

    def stages(self) -> list[Stage]:
        """Return the system's stages, shortened."""
        real = super().stages()
        count = len(self.pool.samples)
        short = [Stage(stage.name, shortened(stage.recipe, count, self.steps, self.batch)) for stage in real]
        self.batches_taken = [(a.recipe.batch_size, b.recipe.batch_size) for a, b in zip(real, short, strict=True)]
        return short

    def _begin_stage(self, stage: Stage, saved: dict[str, Any] | None) -> None:
        super()._begin_stage(stage, saved)
        self.timed.append([])
        self.checkpoint_minutes = math.inf

    def _train_epoch(self) -> None:
        self._since = time.monotonic()
        super()._train_epoch()

    def _train_step(self, batch: Batch) -> None:
        arrived = time.monotonic()
        super()._train_step(batch)
        if self.on_gpu:
            torch.cuda.synchronize(self.accelerator.device)
        done = time.monotonic()
        self.timed[-1].append((arrived - self._since, done - arrived))
        self._since = done
        taken = self.progress.epoch * len(self.batches) + self.progress.step
        in_last = self.progress.stage + 1 == len(self.batches_taken)
        self.checkpoint_minutes = 0.0 if in_last and taken == self.steps - 1 else math.inf
        if in_last and self.told:
            self.told()
            self._since = time.monotonic()

    def _save_state(self) -> None:
        started = time.monotonic()
        super()._save_state()
        self._writer.wait()
        self._since = time.monotonic()
        self.save_seconds = self._since - started
        self.state_bytes = (self.folder / STATE).stat().st_size

    def seconds_per_step(self) -> tuple[float, float]:
        """Return the seconds of a step of the last stage with the recipe's whole batch, and the share of waiting.

        The first step warms up, and does not count where there are more.
        """
        whole, taken = self.batches_taken[-1]
        steps = self.timed[-1][1:] or self.timed[-1]
        total = sum(map(sum, steps))
        return median(map(sum, steps)) * whole / taken, sum(waiting for waiting, _ in steps) / total


def digest_of(system: System) -> str:
    """Return the SHA-256 of a system's weights."""
    found = hashlib.sha256()
    for name, value in system.state_dict().items():
        found.update(name.encode())
        found.update(tensor_digest(value).encode())
    return found.hexdigest()


def taken_again(make: Callable[[], tuple[System, TimedTrainer]], digest: str, history: Sequence[dict[str, Any]]) -> str:
    """Resume from the state that a training saved before its last step, and take that one again.

    Return "equal" if the weights become those of ``digest``, else how far its numbers are from those of ``history``.
    """
    system, trainer = make()
    again = trainer.train().history
    taken = sum(map(len, trainer.timed))
    if taken != 1:
        return f"not from the saved state: {taken} steps were taken again"
    if digest_of(system) == digest:
        return "equal"
    far = max((_apart(a, b) for a, b in zip(history, again, strict=True)), default=math.nan)
    return f"{'close' if far <= CLOSE else 'differs'}: the numbers of its last step are {far:.2g} apart (relative)"


def _apart(one: dict[str, Any], other: dict[str, Any]) -> float:
    pairs = [(one[key], other.get(key, math.nan)) for key in one.keys() - {"seconds"} if isinstance(one[key], float)]
    return max((abs(a - b) / max(abs(a), abs(b), 1e-12) for a, b in pairs), default=0.0)

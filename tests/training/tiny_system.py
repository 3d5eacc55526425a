"""A counting network of a few parameters, with dropout and batch norm, for tests of the training loop."""

import os
import signal
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from recount.data.sample import Sample
from recount.settings.base import Strict
from recount.settings.recipe import Optimiser, Recipe, resolve_recipe
from recount.systems.base import Batch, Example, Pool, Prediction, System
from recount.training import checkpoints
from recount.training.loop import Trainer


class TinySettings(Strict):
    width: int = 4
    poison: str = ""  # id of a sample whose loss is NaN


class Crop:
    def __call__(self, index: int, pool: Pool, rng: np.random.Generator) -> list[Example]:
        sample = pool.samples[index]
        image = pool.image(index).float() / 255
        top = int(rng.integers(0, 9))
        noise = 0.01 * torch.randn(3, 24, 24)
        return [Example(sample.id, image[:, top : top + 24, :24] + noise, count=sample.count)]


class TinySystem(System):
    Settings = TinySettings
    recipe = Recipe(epochs=3, batch_size=4, optimiser=Optimiser(lr=1e-2), evaluate_every=1)

    def __init__(self, settings: TinySettings) -> None:
        super().__init__(settings)
        self.body = nn.Sequential(
            nn.Conv2d(3, settings.width, 3, padding=1), nn.BatchNorm2d(settings.width), nn.ReLU(), nn.Dropout(0.3)
        )
        self.head = nn.Conv2d(settings.width, 1, 1)

    def example_maker(self) -> Crop:
        return Crop()

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        counts = self.head(self.body(batch.images)).sum(dim=(1, 2, 3))
        loss = (counts - batch.counts).abs().mean()
        if self.settings.poison in batch.ids:
            loss = loss * float("nan")
        return {"count": loss}

    def predict(self, images: Tensor, prompts: Sequence[str]) -> Prediction:
        return Prediction(density=self.head(self.body(images)))


def trainer_of(system: System, folder: Path, recipe: Mapping[str, Any] | None = None, **options: Any) -> Trainer:
    """Return a trainer on the processor, with seed 0, nothing watched and a ``MemoryPool``, but for ``options``."""
    given = {"watched": {}, "seed": 0, "made_from": "d", "device": torch.device("cpu"), **options}
    pool = given.pop("pool", None) or MemoryPool()
    return Trainer(system, resolve_recipe(type(system).recipe, recipe or {}), pool, folder=folder, **given)


def after_saving(times: int, what: Callable[[], None]) -> Callable[..., None]:
    """Return ``save_state`` that also does something when it has saved for the n-th time."""
    save, saved = checkpoints.save_state, []

    def saving(*state: Any) -> None:
        save(*state)
        saved.append(1)
        if len(saved) == times:
            what()

    return saving


def kill_this_process() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class MemoryPool:
    def __init__(self, count: int = 10) -> None:
        rng = np.random.default_rng(3)
        none = np.zeros((0, 2), np.float32)
        self.samples = [Sample(f"s{i}", "train", None, none, float(i), "", 32, 32) for i in range(count)]
        self.pictures = torch.from_numpy(rng.integers(0, 255, (count, 3, 32, 32), dtype=np.uint8))

    def image(self, index: int) -> Tensor:
        return self.pictures[index]

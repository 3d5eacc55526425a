"""Batches of training examples: the same ones for the same seed, whatever the number of loader processes."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from typing import cast

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from recount.settings.recipe import Recipe
from recount.systems.base import Batch, Example, ExampleMaker, Pool
from recount.training.processes import Processes

Position = tuple[int, int]  # epoch, index of the sample


def seed_of(*numbers: int) -> int:
    """Return a seed that follows from numbers (the run's seed, an epoch, ...)."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))


@dataclass
class Examples(Dataset[list[Example]]):
    """The examples of (epoch, sample index), with random draws that depend on nothing else but the seed."""

    pool: Pool
    maker: ExampleMaker
    seed: int

    def __getitem__(self, position: Position) -> list[Example]:
        """Return the examples that one sample yields in one epoch."""
        epoch, index = position
        seed = seed_of(self.seed, epoch, index)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)  # not the GPU's, from which dropout draws in this process
            return self.maker(index, self.pool, np.random.default_rng(seed))


@dataclass
class EpochBatches(Sampler[list[Position]]):
    """The sample indices of one epoch's batches, or of this process's share of each."""

    count: int
    recipe: Recipe
    seed: int
    processes: Processes
    epoch: int = 0  # set before each pass, as is the first batch
    first: int = 0

    def __len__(self) -> int:
        return self.recipe.steps_per_epoch(self.count)

    def size_of(self, batch: int) -> int:
        """Return how many samples a batch has, over all processes."""
        return min(self.recipe.batch_size, self.count - batch * self.recipe.batch_size)

    def __iter__(self) -> Iterator[list[Position]]:
        order, size = np.arange(self.count), self.recipe.batch_size
        if self.recipe.shuffle:
            order = np.random.default_rng([self.seed, self.epoch]).permutation(self.count)
        for batch in range(self.first, len(self)):
            chosen = order[batch * size : (batch + 1) * size].tolist()
            yield [(self.epoch, index) for index in self.processes.share(chosen)]


def _collate(made: list[list[Example]]) -> Batch:
    return Batch.of(list(chain.from_iterable(made)))


def loader(examples: Examples, batches: EpochBatches, processes: int, *, pin: bool) -> DataLoader[Batch]:
    """Return a loader over ``batches``; its processes live as long as it does."""
    return DataLoader(
        cast("Dataset[Batch]", examples),  # after collating
        batch_sampler=batches,
        collate_fn=_collate,
        num_workers=processes,
        persistent_workers=processes > 0,
        pin_memory=pin,
        generator=torch.Generator(),  # else it draws from the generator of dropout, as often as it is started
    )

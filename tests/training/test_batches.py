"""How batches reach the device: made ahead, pinned, and as bytes where pictures are bytes."""

import mmap
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from tiny_system import MemoryPool, TinySystem
from torch import Tensor
from torch.utils.data._utils.pin_memory import pin_memory

from recount import systems
from recount.systems.base import Batch, Example
from recount.training.batches import EpochBatches, Examples, loader
from recount.training.processes import Processes
from small_systems import mini
from tiny_pool import TinyPool

PATIENCE = 120  # seconds


def example(value: int, dtype: torch.dtype = torch.float32) -> Example:
    """Return an example with a tensor in every place that has one."""
    image = torch.full((3, 2, 2), value, dtype=dtype)
    return Example(f"s{value}", image, points=torch.ones(value, 2), count=value, maps={"density": torch.ones(1, 2, 2)})


def test_the_loader_pins_every_tensor_of_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    pinned: list[int] = []

    def pin(tensor: Tensor) -> Tensor:
        pinned.append(tensor.data_ptr())
        return tensor

    monkeypatch.setattr(Tensor, "pin_memory", pin)
    batch = Batch.of([example(1), example(2)])
    batch.seed = 7
    found = pin_memory(batch)  # what PyTorch's loader calls
    assert isinstance(found, Batch) and (found.ids, found.seed) == (batch.ids, 7)
    tensors = [found.images, found.counts, found.maps["density"], *found.points]
    assert pinned and sorted(pinned) == sorted(tensor.data_ptr() for tensor in tensors)


def test_bytes_stay_bytes_until_they_are_on_the_device() -> None:
    batch = Batch.of([example(1, torch.uint8), example(255, torch.uint8)])
    assert batch.images.dtype == torch.uint8
    moved = batch.to("cpu").images
    assert torch.equal(moved, torch.stack([torch.full((3, 2, 2), value).float() / 255 for value in (1, 255)]))
    assert torch.equal(Batch.of([example(1, torch.uint8), example(1)]).images[0], torch.full((3, 2, 2), 1 / 255))


@pytest.mark.parametrize("name", ["mcnn", "dm_count", "countclip", "t2icount"])
def test_pictures_that_are_only_cut_and_mirrored_travel_as_bytes(name: str) -> None:
    system: Any = mini(systems.load(name))
    pool = TinyPool([(160, 160)] * 2, prompts=["two dogs", "three cats"])
    if name == "countclip":
        system.prepare_training(pool.samples)
    maker = system.example_maker()
    torch.manual_seed(0)
    examples = [made for index in (0, 1) for made in maker(index, pool, np.random.default_rng(index))]
    assert {each.image.dtype for each in examples} == {torch.uint8}


@dataclass
class Noting:
    """A maker that notes in shared memory how many samples it was asked for."""

    asked: Any

    def __call__(self, index: int, pool: Any, rng: np.random.Generator) -> list[Example]:
        self.asked[0] += 1
        return [example(index)]


@pytest.mark.parametrize(("processes", "ahead"), [(0, False), (1, True)])
def test_loader_processes_make_the_next_batch_while_one_is_used(processes: int, ahead: bool) -> None:
    asked = np.frombuffer(mmap.mmap(-1, 8), dtype=np.int64)
    pool: Any = MemoryPool(8)
    recipe = TinySystem.recipe.model_copy(update={"batch_size": 2, "shuffle": False})
    batches = EpochBatches(8, recipe, 0, Processes())
    data = iter(loader(Examples(pool, Noting(asked), 0), batches, processes, pin=False))
    next(data)
    started = time.monotonic()
    while ahead and asked[0] < 6 and time.monotonic() - started < PATIENCE:
        time.sleep(0.02)
    assert asked[0] == (6 if ahead else 2)
    assert [batch.ids for batch in data] == [["s2", "s3"], ["s4", "s5"], ["s6", "s7"]]

"""CountCLIP at paper size with random weights: what a step and an evaluation cost here. ``make test-full``."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from recount.data.sample import Sample
from recount.prediction.samples import predict_samples
from recount.systems.base import Batch
from recount.systems.countclip import NUMBERS, WORD_OF, CountCLIP, CountClipSettings
from recount.training.cost import Meter

pytestmark = [pytest.mark.full_size, pytest.mark.timeout(3600)]
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
COUNTBENCH = 540


class Pool:
    """Four pairs without a number for each that counts, in the order of the merged set; noise for pictures."""

    def __init__(self, size: int) -> None:
        self.samples = [self._sample(index) for index in range(size)]

    @staticmethod
    def _sample(index: int) -> Sample:
        number = NUMBERS[(index // 5) % len(NUMBERS)]
        count, word = (float(number), WORD_OF[number]) if index % 5 == 4 else (float("nan"), "some")
        caption = f"{word} things of kind {index} on a table by the window"
        return Sample(f"s{index}", "train", None, np.zeros((0, 2), np.float32), count, caption, 300, 240)

    def image(self, index: int) -> Tensor:
        return torch.randint(0, 256, (3, 240, 300), generator=torch.Generator().manual_seed(index), dtype=torch.uint8)


def build(**settings: Any) -> CountCLIP:
    torch.manual_seed(0)
    return CountCLIP(CountClipSettings(weights="random", **settings)).to(DEVICE)


def measured(what: str, work: Callable[[], Any]) -> Any:
    """Do ``work`` and print its seconds and the most memory (on the processor: so far)."""
    meter, start = Meter(torch.device(DEVICE)), time.perf_counter()
    result = work()
    if DEVICE == "cuda":
        torch.cuda.synchronize()
    seconds = time.perf_counter() - start
    peak = meter.read()["peak_gpu_memory_mb" if DEVICE == "cuda" else "peak_memory_mb"]
    print(f"\n{what} on {DEVICE}: {seconds:.2f} s, {peak:,.0f} MB")
    return result


@pytest.mark.parametrize("size", [5, 256])
@pytest.mark.parametrize("loss", ["count", "countplus"])
def test_a_training_step(size: int, loss: Any) -> None:
    system = build(loss=loss)
    pool: Any = Pool(size)
    system.prepare_training(pool.samples)
    system.to(DEVICE)
    optimiser = torch.optim.Adam(system.parameters(), lr=5e-6, betas=(0.9, 0.98), eps=5e-6, weight_decay=0.2)
    maker = system.example_maker()
    batch = Batch.of([e for i in range(size) for e in maker(i, pool, np.random.default_rng(i))]).to(DEVICE)

    def step() -> float:
        value = torch.stack(list(system.losses(batch).values())).sum()
        value.backward()
        optimiser.step()
        system.after_step()
        return value.item()

    assert np.isfinite(measured(f"ViT-B/32, {loss}, a step of {size}", step))


def test_an_evaluation_as_large_as_countbench() -> None:
    system = build()
    pool: Any = Pool(5 * COUNTBENCH)
    samples = pool.samples[4::5]
    pictures = {sample.id: pool.image(index % 16) for index, sample in enumerate(samples)}
    made = measured(
        f"ViT-B/32, {COUNTBENCH} pictures with {COUNTBENCH * len(NUMBERS)} captions",
        lambda: list(predict_samples(system, samples, lambda each: pictures[each.id], device=DEVICE)),
    )
    assert len(made) == COUNTBENCH
    assert all(each.count in NUMBERS for each in made)

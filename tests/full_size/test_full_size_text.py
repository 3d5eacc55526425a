"""Every text-guided system at paper size with random weights: one training step, and one picture 384 pixels high.

Run by ``make test-full``, not in CI, on the processor within 24 GB. Each measurement runs in a process of its own, so
that its peak memory is its own. It prints seconds and memory.
"""

from __future__ import annotations

import math
import multiprocessing
import resource
import time
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch

from recount import systems
from recount.data.sample import Sample
from recount.prediction.samples import predict_samples
from recount.systems.base import Batch
from recount.training.loop import build_optimiser
from tiny_pool import TinyPool

pytestmark = [pytest.mark.full_size, pytest.mark.timeout(3600)]

MEMORY_LIMIT_MB = 24 * 1024
HEIGHT = 384


def measure(name: str, stage: str, crops: int, width: int) -> dict[str, Any]:
    """Build a system without base weights, train it for one step and predict one picture; return what that took."""
    torch.manual_seed(0)
    system_class = systems.load(name)
    system = system_class(system_class.Settings.model_validate({"weights": "random"})).train()
    pool = TinyPool([(HEIGHT, width)], [np.random.default_rng(0).uniform(0, (width, HEIGHT), (80, 2))])
    sample = pool.samples[0]
    prompted = Sample(sample.id, "test", None, sample.points, sample.count, "sea shells", width, HEIGHT)
    pool.samples = [prompted]
    system.begin_epoch(0 if stage == "first epochs" else 10_000, pool.samples)
    maker = system.example_maker()
    batch = Batch.of([example for seed in range(crops) for example in maker(0, pool, np.random.default_rng(seed))])
    optimiser = build_optimiser(system.parameter_groups(system_class.recipe), system_class.recipe.optimiser)
    started = time.perf_counter()
    terms = system.losses(batch)
    loss = torch.stack([system.loss_weights.get(term, 1.0) * value for term, value in terms.items()]).sum()
    loss.backward()
    optimiser.step()
    step_seconds = time.perf_counter() - started
    predicted = next(predict_samples(system, [prompted], lambda _: pool.image(0)))
    return {
        "parameters": sum(parameter.numel() for parameter in system.parameters()),
        "loss": loss.item(),
        "count": predicted.count,
        "step_seconds": step_seconds,
        "image_seconds": predicted.seconds,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


@pytest.mark.parametrize(
    ("name", "stage", "crops", "width"),
    [
        ("clip_count", "first epochs", 2, 700),
        ("clip_count", "later", 2, 700),
        ("vlcounter", "later", 2, 700),
        ("countx", "later", 2, 700),
        ("t2icount", "later", 1, 512),
    ],
)
def test_a_step_and_a_picture(name: str, stage: str, crops: int, width: int) -> None:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
        row = process.submit(measure, name, stage, crops, width).result()
    seconds = f"{crops} crops in {row['step_seconds']:.1f} s, {HEIGHT} x {width} pixels in {row['image_seconds']:.1f} s"
    print(f"\n{name} ({stage}): {row['parameters'] / 1e6:.1f} M parameters, {seconds}, peak {row['peak_mb']:.0f} MB")
    assert math.isfinite(row["loss"])
    assert math.isfinite(row["count"])
    assert row["peak_mb"] < MEMORY_LIMIT_MB

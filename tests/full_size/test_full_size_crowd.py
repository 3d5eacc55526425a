"""Every crowd system at paper size with random weights: one training step, and one picture of 2048 pixels.

Run by ``make test-full``, not in CI. On the processor: two crops, float32, within 24 GB. On a GPU, where there is one:
the paper's batch, bfloat16. Each measurement runs in a process of its own, so that its peak memory is its own.
"""

from __future__ import annotations

import math
import multiprocessing
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch

from recount import systems
from recount.prediction.samples import predict_samples
from recount.systems.base import Batch, System
from recount.training.cost import Meter
from recount.training.loop import build_optimiser
from tiny_pool import TinyPool

pytestmark = [pytest.mark.full_size, pytest.mark.timeout(3600)]

MEMORY_LIMIT_MB = 24 * 1024
HEIGHT, WIDTH = 1408, 2048  # what CLIP-EBC's preparation makes of 2013 x 2902, a usual size in UCF-QNRF


@dataclass(frozen=True)
class Case:
    """A system at paper size, in one of its training stages; ``images`` of the paper's batch come from its recipe."""

    system: str
    settings: dict[str, Any] = field(default_factory=dict)
    stage: int = 0
    images: int | None = None  # per step, where a variant's recipe differs from the system's

    def __str__(self) -> str:
        chosen = [str(value) if isinstance(value, str) else name for name, value in self.settings.items()]
        return " ".join([self.system, *chosen, *(["stage 2"] if self.stage else [])])


CASES = [
    Case("gigacount"),
    Case("gigacount", {"stage4": True}),
    Case("gigacount", {"backbone": "odconv"}),
    Case("clip_ebc", {"backbone": "resnet50"}),
    Case("clip_ebc", {"backbone": "vit_b16", "crops": 2}, images=16),
    Case("dmcount_ebc"),
    Case("dm_count"),
    Case("mcnn"),
    Case("transcrowd", {"head": "token"}),
    Case("transcrowd", {"head": "gap"}),
    Case("css_ccnn"),
    Case("css_ccnn", stage=1),
    Case("crowdclip"),
]


def batch_of(system: System, pictures: int, crops: int | None) -> Batch:
    """Return the examples of so many pictures; or, where ``crops`` is given, that many examples."""
    points = np.random.default_rng(0).uniform(0, (WIDTH, HEIGHT), (600, 2))
    pool, maker = TinyPool([(HEIGHT, WIDTH)], [points]), system.example_maker()
    examples: list[Any] = []
    for seed in range(crops or pictures):
        examples += maker(0, pool, np.random.default_rng(seed))
    return Batch.of(examples[:crops])


def training_step(system: System, batch: Batch, recipe: Any, device: torch.device) -> tuple[float, float]:
    """Return the loss of one optimiser step, and its seconds."""
    optimiser = build_optimiser(system.parameter_groups(recipe), recipe.optimiser)
    started = time.perf_counter()
    with torch.autocast("cuda", torch.bfloat16, enabled=device.type == "cuda"):
        terms = system.losses(batch.to(device))
    loss = torch.stack([system.loss_weights.get(name, 1.0) * term.float() for name, term in terms.items()]).sum()
    loss.backward()
    optimiser.step()
    return loss.item(), time.perf_counter() - started


def measure(case: Case, kind: str) -> dict[str, Any]:
    """Build a system, train it for one step and predict one picture; return what that took."""
    device = torch.device(kind)
    meter = Meter(device)
    torch.manual_seed(0)
    system_class = systems.load(case.system)
    system = system_class(system_class.Settings.model_validate(case.settings)).to(device).train()
    stage = system.stages(system_class.recipe)[case.stage]
    system.begin_stage(stage)
    batch = batch_of(system, case.images or stage.recipe.batch_size, crops=2 if kind == "cpu" else None)
    if kind == "cuda":
        training_step(system, batch, stage.recipe, device)  # warms up
    loss, step_seconds = training_step(system, batch, stage.recipe, device)
    pool = TinyPool([(HEIGHT, WIDTH)])
    precision = "bf16" if kind == "cuda" else "fp32"
    predicted = next(predict_samples(system, pool.samples, lambda _: pool.image(0), device=device, precision=precision))
    cost = meter.read()
    return {
        "parameters": sum(parameter.numel() for parameter in system.parameters()),
        "batch": str(list(next(iter(batch.maps.values())).shape if case.system == "crowdclip" else batch.images.shape)),
        "loss": loss,
        "count": predicted.count,
        "step_seconds": step_seconds,
        "image_seconds": predicted.seconds,
        "peak_mb": cost["peak_gpu_memory_mb" if kind == "cuda" else "peak_memory_mb"],
    }


@pytest.fixture(scope="module")
def table() -> Iterator[list[tuple[Case, str, dict[str, Any]]]]:
    """Collect what was measured, and print it at the end."""
    rows: list[tuple[Case, str, dict[str, Any]]] = []
    yield rows
    heads = f"{'system':<24}{'device':<7}{'M parameters':>13}  {'batch':<22}{'s/step':>8}{'s/image':>9}{'peak MB':>9}"
    print(f"\n\n{heads}\n{'-' * len(heads)}")
    for case, kind, row in rows:
        print(
            f"{case!s:<24}{kind:<7}{row['parameters'] / 1e6:>13.1f}  {row['batch']:<22}{row['step_seconds']:>8.2f}"
            f"{row['image_seconds']:>9.2f}{row['peak_mb']:>9.0f}"
        )


@pytest.mark.parametrize("kind", ["cpu", "cuda"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_step_and_a_large_picture(case: Case, kind: str, table: list[tuple[Case, str, dict[str, Any]]]) -> None:
    if kind == "cuda" and not torch.cuda.is_available():
        pytest.skip("no GPU here")
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
        row = process.submit(measure, case, kind).result()
    table.append((case, kind, row))
    assert math.isfinite(row["loss"])
    assert math.isfinite(row["count"])
    if kind == "cpu":
        assert row["peak_mb"] < MEMORY_LIMIT_MB

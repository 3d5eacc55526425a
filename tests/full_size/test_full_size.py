"""Every system with a network at paper size with random weights: one training step, and one picture.

Run by ``make test-full``, not in CI. On the processor: two crops, float32, within 24 GB. On a GPU, where there is one:
the paper's batch, bfloat16. Each measurement runs in a process of its own, so that its peak memory is its own. Pictures
are 2048 pixels wide; those of text-guided systems 384 high, on the processor alone.
"""

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
    size: tuple[int, int] = (HEIGHT, WIDTH)  # of the picture
    prompt: str = ""
    crops: int = 2  # on the processor
    epoch: int = 0

    def __str__(self) -> str:
        chosen = [str(value) if isinstance(value, str) else name for name, value in self.settings.items()]
        later = ["stage 2"] if self.stage else [f"epoch {self.epoch}"] if self.epoch else []
        return " ".join([self.system, *chosen, *later])


def text_guided(system: str, crops: int = 2, width: int = 700, epoch: int = 10_000) -> Case:
    """Return a case without base weights, in its first or in a later epoch."""
    size = (384, width)
    return Case(system, {"weights": "random"}, size=size, prompt="sea shells", crops=crops, epoch=epoch)


CASES = [
    Case("gigacount"),
    Case("gigacount", {"stage4": True}),
    Case("gigacount", {"backbone": "odconv"}),
    Case("clip_ebc", {"backbone": "resnet50"}),
    Case("clip_ebc", {"backbone": "vit_b16", "crops": 2}, images=16),
    Case("dmcount_ebc"),
    Case("dm_count"),
    Case("mcnn"),
    Case("ffnet"),
    Case("lovitcrowd"),
    Case("transcrowd", {"head": "token"}),
    Case("transcrowd", {"head": "gap"}),
    Case("css_ccnn"),
    Case("css_ccnn", stage=1),
    Case("crowdclip"),
    *(text_guided("clip_count", epoch=0), text_guided("clip_count"), text_guided("vlcounter"), text_guided("countx")),
    text_guided("t2icount", crops=1, width=512),
]


def batch_of(system: System, pool: TinyPool, pictures: int, crops: int | None) -> Batch:
    """Return the examples of so many pictures; or, where ``crops`` is given, that many examples."""
    maker, examples = system.example_maker(), list[Any]()
    for seed in range(crops or pictures):
        examples += maker(0, pool, np.random.default_rng(seed))
    return Batch.of(examples[:crops]).to("cpu")


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
    points = np.random.default_rng(0).uniform(0, case.size[::-1], (80 if case.prompt else 600, 2))
    pool = TinyPool([case.size], [points], [case.prompt])
    system.begin_epoch(case.epoch, pool.samples)
    batch = batch_of(system, pool, case.images or stage.recipe.batch_size, case.crops if kind == "cpu" else None)
    if kind == "cuda":
        training_step(system, batch, stage.recipe, device)  # warms up
    loss, step_seconds = training_step(system, batch, stage.recipe, device)
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
    if kind == "cuda" and (case.prompt or not torch.cuda.is_available()):
        pytest.skip("no GPU here, or text-guided")
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
        row = process.submit(measure, case, kind).result()
    table.append((case, kind, row))
    assert math.isfinite(row["loss"])
    assert math.isfinite(row["count"])
    assert kind == "cuda" or row["peak_mb"] < MEMORY_LIMIT_MB

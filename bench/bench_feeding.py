"""Does the loader keep up with the card? Seconds of loading per step against those that the card computes.

Loading is measured on one core at paper size, with JPEG pictures of the papers' sizes that are decoded each time, and
once more with the pictures in memory; what the loader processes of 16 cores give is extrapolated. A card's step is the
operations of the paper's batch at ``REACHED`` of the card's peak. ``bench/bench_feeding.py t2icount`` measures one
system.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageFilter

from recount import systems
from recount.data.needs import READY_MAP
from recount.data.pool import ImagePool
from recount.data.sample import Sample
from recount.feeding import Feeding, resolve
from recount.rehearsal.costs import cards, counted
from recount.settings.project import Config, Project, load
from recount.settings.recipe import Precision, Recipe, resolve_recipe
from recount.systems.base import System
from recount.training.batches import EpochBatches, Examples, loader
from recount.training.processes import Processes

ROOT = Path(__file__).parents[1]
CORES = 16
PICTURES = 8
ENOUGH_SECONDS = 4.0  # of processor time for each measurement
SIZES = {"crowd": (2048, 1408), "text": (600, 384), "captions": (640, 480)}  # width, height
COUNTS = {"crowd": 600, "text": 60, "captions": 3}
SMALL = {"css_ccnn"}  # its examples depend on its stage
# TFLOP of a training step of the paper's batch, estimated with fake tensors (../shared/design/gpu.md)
STEP_TFLOP = {
    "t2icount": 38.0,
    "gigacount": 2.6,
    "clip_ebc": 8.6,
    "transcrowd": 8.1,
    "clip_count": 4.1,
    "countx": 2.3,
    "vlcounter": 0.3,
}
CARDS = ("H200", "4090")
REACHED = 0.4  # of the peak: an assumption, until a card is measured


def step_seconds(system: str, card: str, precision: Precision, batch: int) -> float | None:
    """Return about how long a training step computes on a card; None where its operations are not counted.

    By the model of ``recount plan``, once ``make costs`` has counted the system; else by the table above.
    """
    if stages := [cost for cost in counted() if cost.run.startswith(f"{system}/") and cost.parts == 1]:
        return cards()[card].seconds(stages[0], precision) * batch / stages[0].batch
    return STEP_TFLOP[system] / getattr(cards()[card], precision) / REACHED if system in STEP_TFLOP else None


def pictures(kind: str, folder: Path) -> list[Sample]:
    """Write photographs of noise, as large as a camera's as JPEG, with dots and a ready density map; return samples."""
    rng, (width, height), made = np.random.default_rng(0), SIZES[kind], []
    images, raw = folder / "data" / kind / "original" / "images", folder / "raw" / kind
    images.mkdir(parents=True)
    raw.mkdir(parents=True)
    for number in range(PICTURES):
        noise = Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
        noise.filter(ImageFilter.GaussianBlur(1.5)).save(images / f"{number}.jpg", quality=95)
        points = rng.uniform(0, (width - 1, height - 1), (COUNTS[kind], 2)).astype(np.float32)
        density = np.zeros((height, width), np.float32)
        np.add.at(density, (points[:, 1].astype(int), points[:, 0].astype(int)), 1)
        np.save(raw / f"{number}.npy", density)
        prompt = "three cats" if kind == "captions" else "cats"
        of_map = {READY_MAP: f"{kind}/{number}.npy"} if kind == "text" else {}
        place = images / f"{number}.jpg"
        made.append(Sample(str(number), "train", place, points, len(points), prompt, width, height, attributes=of_map))
    return made


def fed(project: Project, name: str) -> tuple[System, int, Precision, str]:
    """Return a system at paper size in its first stage, samples of a step, precision of suite paper, kind of data.

    But for ``SMALL`` ones it has no network.
    """
    variant = next(key for key, entry in project.experiments[name].variants.items() if not entry.checkpoint)
    run = project.resolved(name, variant)
    kind_of = systems.load(name)
    system = kind_of(kind_of.Settings()) if name in SMALL else object.__new__(kind_of)
    if name not in SMALL:
        System.__init__(system, kind_of.Settings())
        vars(system).setdefault("drawn", None)  # CountCLIP's wrong numbers, which it then draws with each example
    recipe = project.arithmetic.of(resolve_recipe(kind_of.recipe, run.recipe))
    kind = project.benchmarks[project.experiments[name].data_of(variant).trained_on].kind
    stage = system.stages(recipe)[0]
    if name in SMALL:
        system.begin_stage(stage)
    return system, stage.recipe.batch_size, recipe.precision, kind


def seconds_per_sample(system: System, samples: Sequence[Sample], cache_mb: float) -> float:
    """Return the seconds of one core that a training sample takes, with its share of making a batch."""
    pool = ImagePool(samples, cache_mb)
    recipe = Recipe(batch_size=4, epochs=1)
    batches = EpochBatches(PICTURES, recipe, 0, Processes())
    data = loader(Examples(pool, system.example_maker(), 0), batches, 0, pin=False)
    list(islice(data, 2))  # fills the cache
    began, made = time.process_time(), 0
    while time.process_time() - began < ENOUGH_SECONDS:
        batches.epoch += 1
        made += sum(recipe.batch_size for _ in data)
    return (time.process_time() - began) / made


def main(names: Sequence[str]) -> None:
    """Print a line per system."""
    torch.set_num_threads(1)
    project = load(ROOT, {"suite": "paper"})
    share: Feeding = resolve(Config(), 1, CORES, 64_000)
    print(
        f"Loading at paper size: seconds of a core per step; extrapolated to {share.loader_processes} loader processes"
    )
    print(f"of {CORES} cores, over the seconds that the card computes (above 1 it waits)")
    heads = [f"{card}{way}" for card in CARDS for way in ("", ", in memory")]
    print(f"{'system':<14}{'precision':<11}{'decoded':>9}{'in memory':>11}" + "".join(f"{head:>17}" for head in heads))
    with tempfile.TemporaryDirectory() as folder:
        of_kind = {kind: pictures(kind, Path(folder)) for kind in SIZES}
        for name in names or sorted(project.suite.systems):
            if not systems.load(name).trains:
                continue
            system, batch, precision, kind = fed(project, name)
            loads = [batch * seconds_per_sample(system, of_kind[kind], cache) for cache in (0, 1000)]
            steps = [step_seconds(name, card, precision, batch) for card in CARDS]
            ratios = [
                "not counted" if step is None else f"{load / share.loader_processes / step:.2f}"
                for step in steps
                for load in loads
            ]
            line = f"{name:<14}{precision:<11}{loads[0]:>7.2f} s{loads[1]:>9.2f} s"
            print(line + "".join(f"{ratio:>17}" for ratio in ratios), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])

"""How fast training steps and predictions are: against an earlier commit, and as a share of what a processor can do.

    python bench/bench_steps.py [SYSTEM[/VARIANT] ...] [--size middle] [--commit HASH] [--official FOLDER] [--rounds 5]

Sizes: those of suites mini and paper, and ``middle``, whose steps take a second (``MIDDLE``). Each side is a process of
its own with one thread that waits while another computes: a step of each, in turn, so that a busy machine slows all
alike. What counts is the processor's seconds, not the clock's: their median, and of two sides the median of the ratios
within a round. The earlier commit is checked out with ``git worktree``. ``--official``: a folder with the official
repository and its ``step.py``, no part of recount: it builds the official network with optimiser and a batch of the
same size, and answers each line of its standard input, "train" or "predict", with a line, the processor's seconds of
one such step. A peak is that of the fastest matrix product or convolution found here.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from recount import systems
from recount.data.pool import ImagePool
from recount.devices import keep_freed_memory
from recount.nn.precision import as_floats
from recount.rehearsal.counting import Counter
from recount.rehearsal.generated import generated, kind_of
from recount.rehearsal.rehearse import chosen, random_weights
from recount.settings.base import merged
from recount.settings.project import load
from recount.settings.recipe import resolve_recipe
from recount.training.loop import build_optimiser

ROOT = Path(__file__).parents[1]
SYSTEMS = ["t2icount", "gigacount", "countclip"]
WARM_UP = 2  # steps before the first that counts
STEPS = ("train", "predict")
WINDOWS = 2  # that are predicted at once
#: settings and batch size between those of suites mini and paper
MIDDLE: dict[str, tuple[dict[str, Any], int]] = {
    "t2icount": (
        {
            "backbone": {
                **{"unet_channels": (80, 160, 320, 320), "unet_groups": 16, "context": 192, "image_size": 192},
                **{"vae_channels": (32, 64, 128, 128), "text_heads": 3, "text_feedforward": 768},
            },
            **{"weights": "random", "counter_width": 64, "crop": 192, "mosaic_tile": 112},
        },
        2,
    ),
    "gigacount": ({}, 1),  # two crops
    "countclip": (
        {
            "clip": {"embed_dim": 256, "vision_width": 384, "text_width": 256, "text_heads": 4},
            **{"weights": "random"},
        },
        5,
    ),
}


def built(name: str, size: str, tree: Path, folder: Path) -> Counter:
    """Return the system, a batch and what counts their operations; drawn pictures go into ``folder``."""
    project = load(tree, {"suite": "mini" if size == "mini" else "paper", "device": "cpu"})
    (run,) = chosen(project, [name])
    assert run.training is not None
    system_class, (changed, batch_size) = systems.load(run.system), MIDDLE.get(run.system, ({}, None))
    settings = merged(system_class.mini_settings() if run.size == "mini" else {}, run.settings)
    settings = random_weights(project, settings, only_absent=True)
    recipe = resolve_recipe(system_class.recipe, run.recipe)
    if size == "middle":
        settings, recipe = merged(settings, changed), recipe.model_copy(update={"batch_size": batch_size})
    pool = ImagePool(generated(run.training, kind_of(project, run.training), folder), 0)
    saving = {"saving": False} if tree == ROOT else {}  # which an earlier commit may not know
    return Counter(system_class, settings, recipe, pool, **saving)


def work(counter: Counter, *, counts: bool) -> None:
    """Answer each line with the seconds of such a step; first, where it ``counts``, with their operations."""
    system, batch, recipe, samples = counter.real, counter.batch.to("cpu"), counter.stage.recipe, counter.pool.samples
    image, share, window = system.prepare_image(as_floats(counter.picture))[None], 1.0, system.windows
    if window is not None:
        share = WINDOWS / window.batch
        image = functional.interpolate(image, (window.height, window.width)).repeat(WINDOWS, 1, 1, 1)
    if counts:
        counted = counter.count("fp32")
        print(counted.flops_full, counted.predict_flops * share, flush=True)
    system.begin_epoch(recipe.epochs - 1, samples)
    optimiser = build_optimiser(system.parameter_groups(recipe), recipe.optimiser)

    def train() -> None:
        terms = system(batch)
        weights = system.loss_weights
        torch.stack([weights.get(key, 1.0) * term for key, term in terms.items()]).sum().backward()
        optimiser.step()
        system.after_step()
        optimiser.zero_grad(set_to_none=True)

    @torch.inference_mode()
    def predict() -> None:
        system.predict(image, [system.prompt_of(samples[-1])] * len(image))

    for line in sys.stdin:
        step = line.strip()
        system.train(step == "train")
        batch.seed, began = 0, time.process_time()
        {"train": train, "predict": predict}[step]()
        print(time.process_time() - began, flush=True)


class Side:
    """A process that makes one step whenever it is asked to."""

    def __init__(self, command: list[str], folder: Path, **environment: str) -> None:
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "bufsize": 1}
        environment = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
        self.process = subprocess.Popen(command, cwd=folder, env=environment, **pipes)  # type: ignore[call-overload]

    def answer(self) -> list[float]:
        """Return the numbers of the next line that it says."""
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.process.args}: ended with {self.process.wait()}, see above")
        return [float(number) for number in line.split()]

    def step(self, kind: str) -> float:
        """Return the seconds of a step."""
        self.process.stdin.write(f"{kind}\n")
        return self.answer()[0]

    def end(self) -> None:
        """Let it end: nothing more will be asked."""
        self.process.stdin.close()
        self.process.wait()


@contextmanager
def checked_out(commit: str) -> Iterator[Path]:
    """Yield a folder with an earlier commit."""
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder, "then")
        subprocess.run(["git", "worktree", "add", "--detach", str(tree), commit], cwd=ROOT, check=True)
        try:
            yield tree
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", str(tree)], cwd=ROOT, check=True)


def peaks() -> tuple[float, float]:
    """Return operations a second of a large matrix product and of a 3 x 3 convolution, here and now, on one thread."""
    torch.set_num_threads(1)
    a, x = torch.rand(1024, 1024), torch.rand(2, 512, 28, 28).contiguous(memory_format=torch.channels_last)
    weight = torch.rand(512, 512, 3, 3).contiguous(memory_format=torch.channels_last)

    def fastest(flops: float, call: object, *given: Tensor) -> float:
        seconds = []
        for _ in range(7):
            began = time.process_time()
            call(*given)  # type: ignore[operator]
            seconds.append(time.process_time() - began)
        return flops / min(seconds)

    product = fastest(2 * 1024**3, torch.mm, a, a)
    convolution = fastest(2 * 2 * 28**2 * 512**2 * 9, lambda x, w: torch.conv2d(x, w, padding=1), x, weight)
    return product, convolution


def measure(name: str, chosen: argparse.Namespace, trees: dict[str, Path]) -> None:
    """Print the medians of one system's sides."""
    worker = [sys.executable, str(Path(__file__).resolve()), name, "--size", chosen.size, "--worker"]
    sides = {side: Side([*worker, str(tree)], tree, PYTHONPATH=str(tree / "src")) for side, tree in trees.items()}
    flops = dict(zip(STEPS, sides["now"].answer(), strict=True))
    if chosen.official:
        sides["official"] = Side([sys.executable, "step.py", name], chosen.official)
    taken: dict[str, dict[str, list[float]]] = {kind: {side: [] for side in sides} for kind in STEPS}
    best = [0.0, 0.0]
    for number in range(WARM_UP + chosen.rounds):
        best = [max(pair) for pair in zip(best, peaks(), strict=True)]
        for kind, of_kind in taken.items():
            for side, each in sides.items():
                once = each.step(kind)
                of_kind[side] += [once] if number >= WARM_UP else []
    print(f"{name}, {chosen.size}; peaks: matrix product {best[0] / 1e9:.1f}, convolution {best[1] / 1e9:.1f} GFLOP/s")
    for kind, of_kind in taken.items():
        now = of_kind.pop("now")
        speed = flops[kind] / statistics.median(now)
        shares = [100 * speed / peak for peak in best]
        print(
            f"  {kind}: {statistics.median(now):.3f} s, {flops[kind] / 1e9:.0f} GFLOP, {speed / 1e9:.1f} GFLOP/s: "
            f"{shares[0]:.0f} % of the matrix product's peak, {shares[1]:.0f} % of the convolution's"
        )
        for side, seconds in of_kind.items():
            ratios = sorted(other / own for other, own in zip(seconds, now, strict=True))
            print(
                f"    {side}: {statistics.median(seconds):.3f} s; now is {statistics.median(ratios):.3f} times as fast "
                f"({ratios[0]:.3f} to {ratios[-1]:.3f} in {len(ratios)} rounds)",
                flush=True,
            )
    for each in sides.values():
        each.end()


def main() -> None:
    """Measure what is named."""
    reader = argparse.ArgumentParser()
    reader.add_argument("names", nargs="*", default=SYSTEMS)
    reader.add_argument("--size", default="middle", choices=["mini", "middle", "paper"])
    reader.add_argument("--commit", help="an earlier commit to compare with")
    reader.add_argument("--official", type=Path, help="a folder with step.py, see above")
    reader.add_argument("--rounds", type=int, default=5)
    reader.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    chosen = reader.parse_args()
    if chosen.worker:
        warnings.simplefilter("ignore")
        keep_freed_memory()
        torch.set_num_threads(1)
        torch.manual_seed(0)
        with tempfile.TemporaryDirectory() as folder:
            counter = built(chosen.names[0], chosen.size, chosen.worker, Path(folder))
            work(counter, counts=chosen.worker == ROOT)
        return
    if chosen.official and not (chosen.official / "step.py").is_file():
        raise SystemExit(f"{chosen.official}: no step.py there; the head of this file says what it has to do")
    with ExitStack() as stack:
        trees = {"now": ROOT}
        if chosen.commit:
            trees[chosen.commit] = stack.enter_context(checked_out(chosen.commit))
        for name in chosen.names:
            measure(name, chosen, trees)


if __name__ == "__main__":
    main()

"""How fast a training step is: against an earlier commit's, in turn, and as a share of what the processor can do.

    python bench/bench_steps.py [SYSTEM[/VARIANT] ...] [--suite mini] [--commit HASH] [--official FOLDER] [--rounds 5]

Each side is a process of its own with one thread that waits while another computes: a step of each, in turn, so that a
busy machine slows all alike; what counts is the median of the processor's seconds, not the clock's. The earlier commit
is checked out with ``git worktree``. ``--official``: a folder with the official repository and its ``step.py``,
no part of recount: it builds the official network with the optimiser and a batch of the same size, and answers each
line of its standard input with a line, the processor's seconds of one training step. A peak is that of the fastest
matrix product or convolution found here.
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

import torch
from torch import Tensor

ROOT = Path(__file__).parents[1]
SYSTEMS = ["t2icount", "gigacount", "countclip"]
WARM_UP = 2  # steps before the first that counts


def work(name: str, suite: str, tree: Path) -> None:
    """Answer each line with the seconds of one training step of ``name``; first, of this commit, its operations."""
    from recount import systems
    from recount.data.pool import ImagePool
    from recount.rehearsal.counting import Counter
    from recount.rehearsal.generated import generated, kind_of
    from recount.rehearsal.rehearse import chosen, random_weights
    from recount.settings.base import merged
    from recount.settings.project import load
    from recount.settings.recipe import resolve_recipe
    from recount.training.loop import build_optimiser

    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    project = load(tree, {"suite": suite, "device": "cpu"})
    (run,) = chosen(project, [name])
    system_class = systems.load(run.system)
    settings = merged(system_class.mini_settings() if run.size == "mini" else {}, run.settings)
    settings = random_weights(project, settings, only_absent=True)
    recipe = resolve_recipe(system_class.recipe, run.recipe)
    with tempfile.TemporaryDirectory() as folder:
        samples = generated(run.training, kind_of(project, run.training), Path(folder))
        counter = Counter(system_class, settings, recipe, ImagePool(samples, 0))
        print(counter.count("fp32").flops_full if tree == ROOT else 0, flush=True)
        system, batch, stage = counter.real.train(), counter.batch.to("cpu"), counter.stage
        system.begin_epoch(stage.recipe.epochs - 1, samples)
        optimiser = build_optimiser(system.parameter_groups(stage.recipe), stage.recipe.optimiser)
        for _ in sys.stdin:
            batch.seed, began = 0, time.process_time()
            terms = system(batch)
            weights = system.loss_weights
            torch.stack([weights.get(key, 1.0) * term for key, term in terms.items()]).sum().backward()
            optimiser.step()
            system.after_step()
            optimiser.zero_grad(set_to_none=True)
            print(time.process_time() - began, flush=True)


class Side:
    """A process that makes one step whenever it is asked to."""

    def __init__(self, command: list[str], folder: Path, **environment: str) -> None:
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "bufsize": 1}
        environment = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
        self.process = subprocess.Popen(command, cwd=folder, env=environment, **pipes)  # type: ignore[call-overload]

    def answer(self) -> float:
        """Return the next number that it says."""
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.process.args}: ended with {self.process.wait()}, see above")
        return float(line)

    def step(self) -> float:
        """Return the seconds of a step."""
        self.process.stdin.write("\n")
        return self.answer()

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
    a, x = torch.rand(768, 768), torch.rand(4, 128, 32, 32).contiguous(memory_format=torch.channels_last)
    weight = torch.rand(128, 128, 3, 3).contiguous(memory_format=torch.channels_last)

    def fastest(flops: float, call: object, *given: Tensor) -> float:
        seconds = []
        for _ in range(7):
            began = time.process_time()
            call(*given)  # type: ignore[operator]
            seconds.append(time.process_time() - began)
        return flops / min(seconds)

    product = fastest(2 * 768**3, torch.mm, a, a)
    convolution = fastest(2 * 4 * 32 * 32 * 128 * 128 * 9, lambda x, w: torch.conv2d(x, w, padding=1), x, weight)
    return product, convolution


def measure(name: str, chosen: argparse.Namespace, trees: dict[str, Path]) -> None:
    """Print the medians of one system's sides."""
    worker = [sys.executable, str(Path(__file__).resolve()), name, "--suite", chosen.suite, "--worker"]
    sides = {side: Side([*worker, str(tree)], tree, PYTHONPATH=str(tree / "src")) for side, tree in trees.items()}
    flops = {side: each.answer() for side, each in sides.items()}
    if chosen.official:
        sides["official"] = Side([sys.executable, "step.py", name], chosen.official)
    taken: dict[str, list[float]] = {side: [] for side in sides}
    best = [0.0, 0.0]
    for number in range(WARM_UP + chosen.rounds):
        best = [max(pair) for pair in zip(best, peaks(), strict=True)]
        for side, each in sides.items():
            seconds = each.step()
            taken[side] += [seconds] if number >= WARM_UP else []
    medians = {side: statistics.median(seconds) for side, seconds in taken.items()}
    speed = flops["now"] / medians["now"]
    shares = [100 * speed / peak for peak in best]
    print(
        f"{name}: {medians['now']:.3f} s a step, {speed / 1e9:.1f} GFLOP/s: {shares[0]:.0f} % of the matrix product's "
        f"peak ({best[0] / 1e9:.1f}), {shares[1]:.0f} % of the convolution's ({best[1] / 1e9:.1f})"
    )
    for side in medians.keys() - {"now"}:
        print(f"  {side}: {medians[side]:.3f} s; now is {medians[side] / medians['now']:.2f} times as fast")
    for each in sides.values():
        each.end()


def main() -> None:
    """Measure what is named."""
    reader = argparse.ArgumentParser()
    reader.add_argument("names", nargs="*", default=SYSTEMS)
    reader.add_argument("--suite", default="mini")
    reader.add_argument("--commit", help="an earlier commit to compare with")
    reader.add_argument("--official", type=Path, help="a folder with step.py, see above")
    reader.add_argument("--rounds", type=int, default=5)
    reader.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    chosen = reader.parse_args()
    if chosen.worker:
        work(chosen.names[0], chosen.suite, chosen.worker)
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

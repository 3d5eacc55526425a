"""Counts what a training step of each system costs at paper size; writes ``costs.json`` and the tables of docs/gpu.md.

``make costs``. No card is needed: shapes alone are computed (``recount.rehearsal.counting``). Of the variants of a
system that have networks of one size, and stages of the same batches and precisions, the first is counted for all
(``also``); what a loss of its own adds is not told apart. Each is counted in a process of its own; names as arguments
count only these anew.
"""

import json
import multiprocessing
import sys
import tempfile
import time
import warnings
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from recount import systems
from recount.data.pool import ImagePool
from recount.rehearsal.costs import COSTS, as_entry, cards, counted, counted_precisions
from recount.rehearsal.counting import Counter
from recount.rehearsal.generated import generated, kind_of
from recount.rehearsal.rehearse import chosen, random_weights
from recount.results.files import write_text
from recount.settings.project import Project, Run, load
from recount.settings.recipe import resolve_recipe
from recount.systems.base import Stage
from recount.training.cost import planned_bytes

ROOT = Path(__file__).parents[1]
FURTHER = ["t2icount/steps_4"]  # the same network, run four times
BEGIN, END = "<!-- costs -->\n", "<!-- /costs -->\n"
SIZES = (12, 24, 48, 80)  # GB of common cards
RESERVE = 1.0  # GB that the driver, cuDNN's workspaces and the allocator's gaps take; an assumption


def count(name: str) -> list[dict[str, Any]]:
    """Return the entries of a training, of each stage and precision."""
    warnings.simplefilter("ignore")
    project = load(ROOT, {"suite": "paper"})
    (run,) = chosen(project, [name])
    system_class = systems.load(run.system)
    settings, recipe = random_weights(project, run.settings), resolve_recipe(system_class.recipe, run.recipe)
    assert run.training is not None
    with tempfile.TemporaryDirectory() as folder:
        pool = ImagePool(generated(run.training, kind_of(project, run.training), Path(folder)), 0)
        stages = system_class(system_class.Settings.model_validate(settings)).stages(recipe)
        found = []
        for place, stage in enumerate(stages):
            counter = Counter(system_class, settings, recipe, pool, place)
            last = place + 1 == len(stages)
            for precision, parts in counted_precisions(stage.recipe, run.system):
                counts = asdict(counter.count(precision, parts))
                found.append(as_entry(f"{run.system}/{run.variant}", stage, precision, last, counts))
    return found


def alike(project: Project) -> dict[str, list[str]]:
    """Return the trainings to count, each with those that cost the same; the first of each system comes first."""
    first = [f"{run.system}/{run.variant}" for run in chosen(project, [])]
    trained = {
        f"{run.system}/{run.variant}": run
        for run in project.trainings
        if not run.checkpoint and project.gpu_hours(run.system, run.variant)[0] != 0.0
    }
    groups: dict[Any, list[str]] = {}
    for name in dict.fromkeys((*first, *FURTHER, *trained)):
        run = trained[name]
        stages = [(stage.name, stage.recipe.batch_size, stage.recipe.precision) for stage in stages_of(project, run)]
        key = name if name in FURTHER else (run.system, *planned_bytes(project, run), *stages)
        groups.setdefault(key, []).append(name)
    return {names[0]: names[1:] for names in groups.values()}


def stages_of(project: Project, run: Run) -> list[Stage]:
    """Return the stages of a training, of a network without content."""
    system_class = systems.load(run.system)
    with torch.device("meta"):
        system = system_class(system_class.Settings.model_validate(random_weights(project, run.settings)))
    return system.stages(resolve_recipe(system_class.recipe, run.recipe))


def main() -> None:
    """Count what is named, or everything; keep the rest."""
    groups = alike(load(ROOT, {"suite": "paper"}))
    every = list(groups)
    wanted = sys.argv[1:] or every
    kept = [] if not sys.argv[1:] else counted()
    entries = [cost.model_dump() | {"also": groups.get(cost.run, cost.also)} for cost in kept]
    for name in wanted:
        started = time.monotonic()
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
            found = [entry | {"also": groups.get(name, [])} for entry in process.submit(count, name).result()]
        print(f"{name}: {len(found)} entries in {time.monotonic() - started:.0f} s", flush=True)
        entries = [entry for entry in entries if entry["run"] != found[0]["run"]] + found
        order = sorted(entries, key=lambda entry: every.index(entry["run"]) if entry["run"] in every else len(every))
        write_text(COSTS, "[\n" + ",\n".join(json.dumps(entry) for entry in order) + "\n]\n")
    counted.cache_clear()
    page = ROOT / "docs" / "gpu.md"
    before, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    write_text(page, before + BEGIN + tables() + END + rest.partition(END)[2])


def tables() -> str:
    """Return what each step costs, and what fits into which card, as Markdown."""
    lines = ["| training | precision | batch | parts | TFLOP a step | GB moved | kernels | reads | peak GB |"]
    lines += ["|---|---|---:|---:|---:|---:|---:|---:|---:|"]
    for cost in counted():
        name = cost.run if cost.last else f"{cost.run}, {cost.stage}"
        tera, moved, peak = (cost.flops_full + cost.flops_half) / 1e12, cost.bytes / 1e9, cost.peak / 1e9
        cells = (name, cost.precision, cost.batch, cost.parts, f"{tera:.2f}", f"{moved:.1f}", f"{cost.kernels:,}")
        lines.append(f"| {' | '.join(map(str, cells))} | {cost.reads} | {peak:.1f} |")
    lines += ["", "| training | " + " | ".join(f"{size} GB" for size in SIZES) + " |"]
    lines += ["|---|" + "---|" * len(SIZES)]
    for run in dict.fromkeys(cost.run for cost in counted()):
        lines.append(f"| {run} | " + " | ".join(_fits(run, size) for size in SIZES) + " |")
    lines += ["", "| training | " + " | ".join(f"s/step, {name}" for name in cards()) + " |"]
    lines += ["|---|" + "---:|" * len(cards())]
    for cost in (cost for cost in counted() if cost.parts == 1 and cost.last):
        seconds = (f"{card.seconds(cost, cost.precision):.2g}" for card in cards().values())
        lines.append(f"| {cost.run}, {cost.precision} | " + " | ".join(seconds) + " |")
    return "\n".join(lines) + "\n"


def _fits(run: str, size: int) -> str:
    mine = [cost for cost in counted() if cost.run == run]
    first = mine[0].precision
    for cost in sorted(mine, key=lambda cost: (cost.precision != first, cost.parts)):
        stages = [one for one in mine if (one.precision, one.parts) == (cost.precision, cost.parts)]
        if max(one.peak for one in stages) / 1e9 + RESERVE <= size:
            parts = f", {cost.parts} parts" if cost.parts > 1 else ""
            return f"{cost.precision}{parts}" if (parts or cost.precision != first) else f"as published ({first})"
    return "no"


if __name__ == "__main__":
    main()

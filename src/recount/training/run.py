"""One training run, from the resolved configuration to the files of its folder."""

import json
import logging
import math
import os
import shutil
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from recount import provenance, systems
from recount.data.index import read_index
from recount.data.needs import with_pictures
from recount.data.pool import ImagePool
from recount.data.sample import Sample
from recount.devices import (
    described,
    device_of_rank,
    devices_for,
    feeding_of,
    keep_freed_memory,
    kernels,
    usable_determinism,
)
from recount.errors import UserError
from recount.feeding import Feeding
from recount.fetching.weights import check_weights
from recount.jobs import Limit, attempt, digests
from recount.nn.precision import usable_precision
from recount.results.files import file_digest, is_there, write_atomically
from recount.results.run_record import HISTORY, RUN, RunRecord, Selection, write_history, write_model_record
from recount.settings.base import merged
from recount.settings.project import Project, Run, Split, load
from recount.settings.recipe import Recipe, resolve_recipe
from recount.systems.base import Pool, System
from recount.training import cost
from recount.training.checkpoints import only_training, save_model, set_aside
from recount.training.loop import MODEL, Progress, Trainer
from recount.training.processes import Processes, launched, together

log = logging.getLogger(__name__)


def train(project: Project, run: Run) -> Path:
    """Train ``run``, or import its released checkpoint, and write its folder; return the path of run.json."""
    config, run = project.config, project.training_of(run)
    if dist.is_torchelastic_launched():
        _train_launched(project, run)
        return project.root / project.run_folder(run) / RUN
    number = config.gpus_per_job if run.checkpoint is None else 1
    with (
        only_training(project.root / project.checkpoint_folder(run)),
        attempt(project, "train", run.id, _worked_with(project, run)),
        devices_for(config.device, number, config.jobs_per_gpu, config.determinism) as devices,
    ):
        if number == 1:
            if devices[0].type == "cuda":
                torch.cuda.set_device(devices[0])
            _write(Processes(), devices[0], project, run)
        else:
            filled = config.model_dump(mode="json") | feeding_of(config, devices[0]).settings()
            with Limit().deferred():  # its processes save what there is
                together(_write_together, (project.root, filled, run.id), devices)
    return project.root / project.run_folder(run) / RUN


def _train_launched(project: Project, run: Run) -> None:
    """Train as one of the processes that torchrun started, on one node or several, each on a card of its node."""
    if run.checkpoint is not None:
        raise UserError(f"{run.id}: a released file is imported by one process: run `recount train` without torchrun")
    with ExitStack() as held:
        config = project.config
        device = device_of_rank(config.device, int(os.environ["LOCAL_RANK"]), config.determinism)
        processes = held.enter_context(launched(device))
        if processes.first:
            held.enter_context(only_training(project.root / project.checkpoint_folder(run)))
            held.enter_context(attempt(project, "train", run.id, _worked_with(project, run)))
        else:
            logging.getLogger().setLevel(logging.ERROR)
        _write(processes, device, project, run)


def _worked_with(project: Project, run: Run) -> dict[str, str]:
    files = [project.index(split) for split in run.learnt_from]
    files += [project.weights / name / "manifest.json" for name in run.weights]
    files += [Path(run.checkpoint_path)] if run.checkpoint_path else []
    code, planned = provenance.step_digest("train", run.system), provenance.planned(project, run)
    return {"planned": planned, "code": code, **digests(*(project.root / path for path in files))}


def _write_together(
    processes: Processes, device: torch.device, root: Path, config: Mapping[str, Any], run_id: str
) -> None:
    logging.basicConfig(
        level=logging.INFO if processes.first else logging.ERROR, format="%(levelname)s %(message)s", stream=sys.stderr
    )
    if device.type == "cpu":
        keep_freed_memory()
    project = load(root, config)
    _write(processes, device, project, next(run for run in project.trainings if run.id == run_id))


def _write(processes: Processes, device: torch.device, project: Project, run: Run) -> None:
    fed = feeding_of(project.config, device)
    torch.set_num_threads(fed.training_threads)
    folder = project.root / project.run_folder(run)
    folder.mkdir(parents=True, exist_ok=True)
    if processes.first:
        check_weights(project.root / project.weights, run.weights)
    system_class = systems.load(run.system)
    torch.manual_seed(run.seed)
    size = system_class.mini_settings() if run.size == "mini" else {}
    system = system_class(system_class.Settings.model_validate(merged(size, run.settings)))
    recipe = project.arithmetic.of(resolve_recipe(system_class.recipe, run.recipe))
    meter = cost.Meter(device, processes.size)
    data = provenance.data_of(project, run)  # before anything of it is read
    if run.checkpoint is not None:
        record = _import_checkpoint(project, run, system, folder)
    else:
        record = _train(project, run, system, recipe, data, device, processes, fed)
    if not processes.first:
        return
    record |= {
        "run": run.model_dump(mode="json"),
        "settings": system.settings.model_dump(mode="json"),
        "recipe": recipe.model_dump(mode="json"),
        "planned": provenance.planned(project, run),
        "history_sha256": file_digest(folder / HISTORY),
        "precision_used": usable_precision(recipe.precision, device),
        "determinism_used": usable_determinism(project.config.determinism, device),
        "provenance": provenance.collect(
            run, data, device=str(device), chosen=described(device, project.config.device), kernels=kernels()
        ),
        "cost": meter.read() | _counted(project, run, system) | record["cost"],
    }
    RunRecord.model_validate(record).write(folder / RUN)
    shutil.rmtree(project.root / project.checkpoint_folder(run), ignore_errors=True)  # a job may end before the record


def _train(
    project: Project,
    run: Run,
    system: System,
    recipe: Recipe,
    data: Mapping[str, str],
    device: torch.device,
    processes: Processes,
    fed: Feeding,
) -> dict[str, Any]:
    """Train, and write all but the record, which is returned; empty of all processes but the first."""
    if not system.trains and not processes.first:
        return {}
    samples, chosen_on = _samples(project, run, recipe)
    made_from = _made_from(project, run, recipe, data)
    folder = project.root / project.run_folder(run)
    checkpoints = project.root / project.checkpoint_folder(run)
    if not system.trains:
        system.prepare_training(samples)
        progress = Progress()
        write_history(folder / HISTORY, [{"stage": "none", "epoch": 0, "step": 0, "seconds": 0.0}])
    else:
        if processes.first:
            set_aside(checkpoints, made_from)
        processes.gathered(None)
        pools = _pools({"": with_pictures(samples, run.id), **chosen_on}, fed.image_cache_mb)
        told = "%d loader processes, %d threads, %d MB of memory for pictures"
        log.info(told, fed.loader_processes, fed.training_threads, fed.image_cache_mb)
        trainer = Trainer(
            system,
            recipe,
            pools.pop(""),
            watched=pools,
            seed=run.seed,
            folder=checkpoints,
            made_from=made_from,
            device=device,
            checkpoint_minutes=project.config.checkpoint_minutes,
            loader_processes=fed.loader_processes,
            processes=processes,
            determinism=project.config.determinism,
        )
        progress = trainer.train()
        if not processes.first:
            return {}
        write_history(folder / HISTORY, progress.history)
    last = Selection(epoch=progress.epochs_done, model=MODEL, sha256=save_model(folder / MODEL, system.state_dict()))
    selections = {"last": last}
    for name, best in progress.best.items():
        kept, model = checkpoints / best["model"], f"model.{name}.safetensors"
        if file_digest(kept) != best["sha256"]:
            raise UserError(
                f"{kept}: not the model of epoch {best['epoch']} that was chosen: it was changed; train anew"
            )
        write_atomically(folder / model, partial(shutil.copyfile, kept))
        selections[name] = Selection.model_validate(best | {"model": model})
    for selection in selections.values():
        write_model_record(folder, run.id, selection)
    steps = {"steps": progress.steps_done, "seconds_per_step": progress.seconds / max(progress.steps_done, 1)}
    numbers = {"training_samples": len(samples), "processes": processes.size, "parts": progress.parts}
    made = {"status": "trained", "targets": system.targets_of(samples), "feeding": fed.settings()}
    return {"selections": selections, "cost": steps, **made, **numbers}


def _import_checkpoint(project: Project, run: Run, system: System, folder: Path) -> dict[str, Any]:
    if run.checkpoint_path is None:
        raise UserError(f"config.yaml: checkpoints.{run.checkpoint}: give the path of the released file")
    path = _one_file(project.root, run.checkpoint_path)
    system.load_state_dict(system.import_checkpoint(path, system.settings))
    selection = Selection(epoch=0, model=MODEL, sha256=save_model(folder / MODEL, system.state_dict()))
    write_model_record(folder, run.id, selection)
    write_history(folder / HISTORY, [{"stage": "released", "epoch": 0, "step": 0, "seconds": 0.0}])
    source = {"file": os.path.relpath(path, project.root) if "*" in run.checkpoint_path else run.checkpoint_path}
    source["sha256"] = file_digest(path)
    return {"selections": {"last": selection}, "cost": {}, "checkpoint": source, "status": "checkpoint"}


def _one_file(root: Path, place: str) -> Path:
    """Return the file of a released checkpoint; ``*`` stands for what its publisher may call it within an archive."""
    if "*" not in place:
        return root / place
    found = sorted(root.glob(place))
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise UserError(f"{place}: one file must be so called; found {names}: name it in config.yaml: checkpoints")
    return found[0]


def _samples(project: Project, run: Run, recipe: Recipe) -> tuple[list[Sample], dict[str, list[Sample]]]:
    """Return the samples that a run is trained on, and those that its epochs are chosen on."""
    if run.training is None:
        raise ValueError(f"{run.id}: suite {run.suite} has nothing that stands for its training set")
    samples = _read(project, run.training)
    watched: dict[str, list[Sample]] = {}
    if recipe.evaluate_every is not None:
        if run.selected_on_test is not None:
            watched["test"] = _read(project, run.selected_on_test)
        if run.held_out is not None:
            watched["held_out"] = _read(project, run.held_out)
        elif recipe.held_out:
            order = np.random.default_rng([run.seed, len(samples)]).permutation(len(samples))
            held_out = set(order[: max(1, round(recipe.held_out * len(samples)))].tolist())
            watched["held_out"] = [samples[index] for index in sorted(held_out)]
            samples = [sample for index, sample in enumerate(samples) if index not in held_out]
    return samples, {name: of for name, of in watched.items() if of}


def _pools(samples: Mapping[str, list[Sample]], cache_mb: float) -> dict[str, Pool]:
    """Return a pool of each; one after the other takes of the memory for pictures what it can fill."""
    pools: dict[str, Pool] = {}
    for name, of in samples.items():
        pools[name] = pool = ImagePool(of, cache_mb)
        cache_mb -= pool.planned_mb
    return pools


def _read(project: Project, split: Split) -> list[Sample]:
    return read_index(project.root / project.index(split), split.split)


def _counted(project: Project, run: Run, system: System) -> dict[str, Any]:
    counted: dict[str, Any] = dict(cost.parameters(system))
    # of the training set, which is there: no training waits for what it is evaluated on
    splits = [
        split for split in run.learnt_from or run.benchmarks.values() if is_there(project.root / project.index(split))
    ]
    samples = (sample for split in splits if system.trains for sample in _read(project, split))
    # one that it can be asked about: most captions have no number
    sample = next((sample for sample in samples if sample.image is not None and not math.isnan(sample.count)), None)
    if sample is None:
        return counted
    system.eval()
    image = ImagePool([sample], 0).image(0).to(next(system.parameters()).device).float() / 255
    flops, size = cost.flops_of_prediction(system, image, system.prompt_of(sample))
    return counted | {"flops_per_window": flops, "window": size}


def _made_from(project: Project, run: Run, recipe: Recipe, data: Mapping[str, str]) -> str:
    """Return as JSON all that a state of this run depends on."""
    described = {
        "run": json.loads(provenance.run_settings(run, project.arithmetic)),
        "recipe": recipe.model_dump(mode="json"),
        "code": provenance.step_digest("train", run.system),
        "packages": provenance.computing_packages(),
        "data": data,
    }
    return json.dumps(described, sort_keys=True)

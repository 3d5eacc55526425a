"""The training loop, one for all systems: seeded, resumable, with the model selected as the protocol says."""

import json
import logging
import math
import random
import signal
import time
from collections.abc import Mapping
from dataclasses import KW_ONLY, asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from safetensors.torch import load_file
from torch import Tensor

from recount import feeding
from recount.data.needs import check_needs
from recount.devices import choose_kernels
from recount.errors import UserError
from recount.jobs import Limit, WalltimeError
from recount.nn.precision import AUTOCAST, full_precision, tensor_cores, usable_precision
from recount.results.run_record import STATE
from recount.settings.recipe import Determinism, Optimiser, Recipe
from recount.systems.base import Batch, Pool, Stage, System
from recount.training import checkpoints
from recount.training.batch_norm import SharedBatchNorm, share_statistics
from recount.training.batches import EpochBatches, Examples, loader, seed_of
from recount.training.cost import bytes_on_disk
from recount.training.parts import check_shareable, system_name, weight_of_part, why_whole
from recount.training.processes import Processes
from recount.training.progress import Reporter
from recount.training.schedules import learning_rate, position_of, steps_of
from recount.training.selection import evaluate, is_better
from recount.training.targets import target_sums, unlike

log = logging.getLogger(__name__)

MODEL = "model.safetensors"
GPU_STEPS_BETWEEN_READINGS = 20
STATES = 3  # times a training's state is what a step takes where none is saved: T2ICount's 31.3 GB at paper size
ENOUGH = 10  # pictures with objects: crops of fewer may all miss them in an epoch


@dataclass(slots=True)
class Progress:
    """How far a training run has come. Everything in it is JSON."""

    stage: int = 0
    epoch: int = 0
    step: int = 0
    steps_done: int = 0
    seconds: float = 0.0
    evaluated: bool = False
    sums: dict[str, float] = field(default_factory=dict)
    epochs_done: int = 0
    parts: int = 1  # that each process computes its batch in: more than one after it was out of memory
    history: list[dict[str, Any]] = field(default_factory=list)
    best: dict[str, dict[str, Any]] = field(default_factory=dict)
    without_better: int = 0  # evaluations in a row
    targets: float = 0.0  # sum over the first epoch


@dataclass(eq=False)
class Trainer:
    """Trains one system through its stages. Where several processes train a run together, each has a Trainer."""

    system: System  # on the processor
    recipe: Recipe  # already resolved
    pool: Pool  # the training samples
    _: KW_ONLY
    watched: Mapping[str, Pool]  # evaluated during training; the model that is best on each is kept
    seed: int  # of all random draws
    folder: Path  # of the unfinished run's state; the workflow does not delete it
    made_from: str  # settings, code, packages and data; a state of other ones is not taken up
    device: torch.device
    checkpoint_minutes: float = 10.0  # between saved states; 0 saves after each step
    loader_processes: int = 0  # that read and augment samples
    processes: Processes = field(default_factory=Processes)  # all processes of the run, seen from this one
    determinism: Determinism = "seeded"  # on a card; see ``devices.choose_kernels``
    limit: Limit = field(default_factory=Limit)  # of this job's time

    def __post_init__(self) -> None:
        self.precision = usable_precision(self.recipe.precision, self.device)
        self.evaluation_precision = usable_precision(self.recipe.precision_of_evaluation(), self.device)
        self.on_gpu = self.device.type == "cuda"
        mixed = self.precision if self.precision in AUTOCAST else "no"
        self.accelerator = Accelerator(mixed_precision=mixed, cpu=not self.on_gpu)
        self.progress = Progress()
        self._pending: list[tuple[int, list[str], dict[str, Tensor]]] = []
        self._saved_at = time.monotonic()
        self._writer = checkpoints.Writer()
        self._base: dict[str, str] | None = None  # digests of frozen weights, as the system starts with them
        self._models: set[str] = set()  # of best epochs, that the last state refers to
        self._longest_step = self._longest_evaluation = 0.0  # seconds
        self._unmeasured = self.limit.end is not None  # the first step is saved, to know how long saving takes

    def train(self) -> Progress:
        """Train from the saved state, if there is one, to the end; return the progress with history and best epochs."""
        with tensor_cores(self.precision):
            return self._train()

    def _train(self) -> Progress:
        choose_kernels(self.determinism, self.device)
        _seed_everything(self.seed)
        check_needs(self.pool.samples, self.system.needs, system_name(self.system))
        self.system.prepare_training(self.pool.samples)
        self.system.to(self.accelerator.device)
        if not self.processes.first:  # the first draws what a single process would
            torch.manual_seed(seed_of(self.seed, self.processes.rank))
        saved = checkpoints.load_state(self.folder, self.made_from)
        if saved is not None:
            where = self.progress = Progress(**json.loads(saved["progress"]))
            self._models = {best["model"] for best in where.best.values()}
            log.info("resumed at stage %d, epoch %d, step %d", where.stage + 1, where.epoch + 1, where.step)
        progress, stages = self.progress, self.stages()
        shown = Reporter(self.folder, self.accelerator.device, shown=self.processes.first)
        with self.limit.deferred(), shown as self.reporter:
            for stage in stages[progress.stage :]:
                self._begin_stage(stage, saved)
                saved = None
                for _ in range(progress.epoch, _epochs_of(stage.recipe, len(self.batches))):
                    if self._out_of_patience():
                        break
                    self._train_epoch()
                    self._finish_epoch()
                if progress.stage + 1 < len(stages):
                    self._keep_best_of_stage()
                progress.stage, progress.epoch, progress.evaluated = progress.stage + 1, 0, False
                progress.without_better, progress.targets = 0, 0.0
        self._writer.wait()
        return progress

    def stages(self) -> list[Stage]:
        """Return what is trained, one after the other; a rehearsal shortens them."""
        return self.system.stages(self.recipe)

    def _begin_stage(self, stage: Stage, saved: dict[str, Any] | None) -> None:
        self._writer.wait()  # loader processes are forked, at best while no thread is busy
        self.stage, recipe, count = stage, stage.recipe, len(self.pool.samples)
        self.system.begin_stage(stage)
        examples = Examples(self.pool, self.system.example_maker(), self.seed)
        self.batches = EpochBatches(count, recipe, self.seed, self.processes)
        self.data = loader(examples, self.batches, self.loader_processes, pin=self.on_gpu)
        self.data.worker_init_fn = _leave_sigterm
        if self.processes.size > 1:
            check_shareable(self.system, self.processes.size, count, recipe.batch_size)
            share_statistics(self.system)
        kept, _ = bytes_on_disk(self.system, recipe.optimiser)
        if not self.on_gpu and STATES * kept * self.processes.size > 1e6 * feeding.memory_mb():
            self.system.save_memory()  # a processor's memory does not run out in a way that a process could tell
        self._shared_norms = [layer for layer in self.system.modules() if isinstance(layer, SharedBatchNorm)]
        optimiser = build_optimiser(self.system.parameter_groups(recipe), recipe.optimiser)
        # Not wrapped for several processes: this loop adds the gradients up itself, after all parts of a batch.
        self.network = self.accelerator.prepare_model(self.system, evaluation_mode=True)
        self.optimiser = self.accelerator.prepare(optimiser)
        if self._base is None:
            frozen = [name for name, each in self.system.named_parameters() if not each.requires_grad]
            state = self.system.state_dict()
            self._base = {name: checkpoints.tensor_digest(state[name]) for name in frozen if name in state}
            self._check_room(resumed=saved is not None)
        if saved is not None:
            self._restore(saved)
        self.processes.same_weights(self.system)
        steps = len(self.batches)
        self.reporter.begin_stage(
            stage.name, _epochs_of(recipe, steps), steps, self.progress.epoch * steps + self.progress.step
        )

    def _restore(self, saved: dict[str, Any]) -> None:
        self.system.load_state_dict(checkpoints.with_base(self.folder, saved, self.system.state_dict()))
        self.optimiser.load_state_dict(saved["optimiser"])
        if self.accelerator.scaler is not None and saved["scaler"]:
            self.accelerator.scaler.load_state_dict(saved["scaler"])
        if len(saved["random"]) == self.processes.size:
            self._set_random_state(saved["random"][self.processes.rank])
        else:
            log.warning("resumed with another number of processes: dropout draws other numbers than without a break")

    def _train_epoch(self) -> None:
        progress, recipe, steps = self.progress, self.stage.recipe, len(self.batches)
        self.system.begin_epoch(progress.epoch, self.pool.samples)
        # as coded, some scripts stay in evaluation mode once they have evaluated
        self.network.train(not (recipe.eval_mode_after_first_evaluation and progress.evaluated))
        self.batches.epoch, self.batches.first = progress.epoch, progress.step
        started = time.monotonic()
        for batch in self.data:
            if progress.epoch * steps + progress.step >= (recipe.max_steps or math.inf):
                break
            batch.seed = seed_of(self.seed, progress.epoch, progress.step)
            if progress.epoch == 0:
                self._check_targets(batch)
            self._train_step(batch.to(self.accelerator.device))
            now = time.monotonic()
            progress.seconds += now - started
            self._longest_step = max(self._longest_step, now - started)
            started = now
            self._keep()
        self._read_losses()
        self._check_epoch_of_targets()

    def _check_targets(self, batch: Batch) -> None:
        """Stop in the first epoch where targets are not the counts that they should sum to, or nothing but zero."""
        if not self.system.needs & {"points", "density"}:
            return
        sums = target_sums(batch)
        wrong = [
            name
            for name, sum_, count in zip(batch.ids, sums, batch.counts.tolist(), strict=True)
            if unlike(sum_, count)
        ]
        if wrong:
            what = f"the training targets of {', '.join(dict.fromkeys(wrong))} do not sum to their counts"
            raise UserError(f"{system_name(self.system)}: {what}; prepare the data set again")
        self.progress.targets += sum(sums)

    def _check_epoch_of_targets(self) -> None:
        ids = [sample.id for sample in self.pool.samples if sample.count > 0]
        first = self.progress.epoch == 0 and self.progress.step == len(self.batches)
        if not (first and len(ids) >= ENOUGH and self.system.needs & {"points", "density"}):
            return
        if not sum(self.processes.gathered(self.progress.targets)):
            raise UserError(
                f"{system_name(self.system)}: all training targets of the first epoch sum to zero, though "
                f"{', '.join(ids[:5])} and others have counts above, so that nothing but zero would be learnt: see "
                "that the data set's points lie in its pictures, and prepare it again"
            )

    def _train_step(self, batch: Batch) -> None:
        progress, recipe, steps = self.progress, self.stage.recipe, len(self.batches)
        position = position_of(recipe.schedule, progress.epoch, progress.step, steps)
        total = steps_of(recipe.schedule, _epochs_of(recipe, steps), steps)
        rate = learning_rate(recipe.schedule, recipe.optimiser.lr, position, total)
        for group in self.optimiser.param_groups:
            group["lr"] = rate * group.get("lr_scale", 1.0)
        copies = self.processes.copies(self.batches.size_of(progress.step))
        for layer in self._shared_norms:
            layer.shared = copies == 1
        terms = self._compute_gradients(batch, copies)
        if recipe.clip_norm is not None:
            self.accelerator.clip_grad_norm_(self.network.parameters(), recipe.clip_norm)
        self.optimiser.step()
        self.system.after_step()
        self.optimiser.zero_grad(set_to_none=True)
        progress.sums["lr"] = rate
        progress.step += 1
        progress.steps_done += 1
        self._pending.append((progress.step, batch.ids, terms))
        if not self.on_gpu or len(self._pending) >= GPU_STEPS_BETWEEN_READINGS:
            self._read_losses()

    def _compute_gradients(self, batch: Batch, copies: int) -> dict[str, Tensor]:
        """Return loss and terms (this process's share); where it does not fit, save memory, then cut it into parts."""
        lengths = self.processes.gathered(len(batch))
        while True:
            drawn, terms, saves = self._random_state(), {}, False
            try:
                terms = self._backward(batch, sum(lengths), copies)
            except torch.OutOfMemoryError:
                saves = self.system.save_memory()
                reason = "" if saves else why_whole(self.system)
                if reason:  # the other processes may be waiting within the forward pass: this one ends them
                    raise UserError(self._too_large(batch, f"it cannot be computed in parts: {reason}")) from None
            # in no handler, which would keep the memory of the failed pass
            found = self.processes.gathered((bool(terms), saves))
            if all(done for done, _ in found):
                break
            self.optimiser.zero_grad(set_to_none=True)
            torch.cuda.empty_cache()
            self._set_random_state(drawn)
            if any(saving for _, saving in found):
                self.system.save_memory()  # where another process ran out of it
                now = self.progress.steps_done + 1
                log.warning("out of memory: from step %d on, less is kept for the backward pass", now)
            else:
                self._cut_further(batch, max(lengths))
        self.processes.add_gradients(p for group in self.optimiser.param_groups for p in group["params"])
        return terms

    def _backward(self, batch: Batch, total: int, copies: int) -> dict[str, Tensor]:
        whole: dict[str, Tensor] = {}
        weights = self.system.loss_weights
        for part in batch.split(self.progress.parts):
            terms = self.network(part)
            for name, term in terms.items():
                terms[name] = weight_of_part(self.system, name, len(part), total, copies) * full_precision(term)
            loss = torch.stack([weights.get(name, 1.0) * term for name, term in terms.items()]).sum()
            self.accelerator.backward(loss)
            for name, term in {"loss": loss, **terms}.items():
                whole[name] = whole[name] + term.detach() if name in whole else term.detach()
        return whole

    def _cut_further(self, batch: Batch, longest: int) -> None:
        progress = self.progress
        if progress.parts >= longest:
            raise UserError(self._too_large(batch, "it was computed one sample at a time"))
        progress.parts = min(2 * progress.parts, longest)
        message = "out of memory: from step %d on, a batch of %d is computed in %d parts, whose gradients are added up"
        log.warning(message, progress.steps_done + 1, longest, progress.parts)

    def _too_large(self, batch: Batch, reason: str) -> str:
        return (
            f"step {self.progress.steps_done + 1}: the batch of {len(batch)} does not fit into the GPU's memory, and "
            f"{reason}. Use a GPU with more memory, gpus_per_job (if the system allows it), precision: bf16, "
            "gradient_checkpointing where the system has that setting, or a smaller batch_size in the suite's recipe "
            "(which trains something else than the paper)"
        )

    def _read_losses(self) -> None:
        sums = self.progress.sums
        for step, ids, terms in self._pending:
            values = self.processes.add_up(torch.stack(list(terms.values()))).tolist()
            if not all(map(math.isfinite, values)):
                self._refuse(step, ids, dict(zip(terms, values, strict=True)))
            for name, value in zip(terms, values, strict=True):
                sums[name] = sums.get(name, 0.0) + value
            self.reporter.step(sums["loss"] / step)
        self._pending.clear()

    def _refuse(self, step: int, ids: list[str], terms: Mapping[str, float]) -> None:
        where = f"stage {self.stage.name}, epoch {self.progress.epoch + 1}, step {step}"
        values = ", ".join(f"{name} = {value:g}" for name, value in terms.items())
        samples = ", ".join(dict.fromkeys(name for part in self.processes.gathered(ids) for name in part))
        raise UserError(
            f"{where}: the loss is not finite ({values}); samples: {samples}; precision {self.precision}. "
            "Lower the learning rate, or train in fp32"
        )

    def _keep(self, ahead: float = 0.0) -> None:
        """Save the state where it is time; stop where this job has no time for ``ahead`` seconds and saving."""
        self._writer.look()
        due = self._unmeasured or time.monotonic() - self._saved_at >= 60 * self.checkpoint_minutes
        enough = 2 * (self._writer.seconds + self._longest_step + ahead)
        answers = self.processes.gathered((due, self.limit.reached(enough), self.limit.told))
        stops = any(reached for _, reached, _ in answers)
        if answers[0][0] or stops:
            self._read_losses()
            self._save_state()
            self._unmeasured = False
        if stops:
            self._writer.wait()
            self.processes.gathered(None)  # a process that ends takes the others along
            where = f"stage {self.stage.name}, epoch {self.progress.epoch + 1}, step {self.progress.step}"
            why = "somebody ended it" if any(told for *_, told in answers) else "its job's time is over"
            raise WalltimeError(f"saved at {where}, as {why}; started again, it goes on from there")

    def _check_room(self, *, resumed: bool) -> None:
        """Stop before the first step where the disk has no room for two states and for the models."""
        if not self.processes.first:
            return
        one, model = bytes_on_disk(self.system, self.stage.recipe.optimiser)
        # of each selection, the best epoch's model waits beside the state, and is copied in the end
        needed = (1 if resumed else 2) * one + (1 + 2 * len(self.watched)) * model
        what = f"for states of {one / 1e9:.2f} GB and models of {model / 1e9:.2f} GB"
        checkpoints.check_room(self.folder / STATE, needed, what)

    def _save_state(self) -> None:
        state = {
            "progress": json.dumps(asdict(self.progress)),
            "system": self.system.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "scaler": self.accelerator.scaler.state_dict() if self.accelerator.scaler is not None else {},
            "random": self.processes.gathered(self._random_state()),
        }
        if self.processes.first:
            self._writer.wait()
            self._drop_models()
            self._writer.write(self.folder, self.made_from, state, self._base or {})
            self._saved_at = time.monotonic()

    def _random_state(self) -> list[Tensor]:
        return [torch.get_rng_state(), *([torch.cuda.get_rng_state(self.accelerator.device)] if self.on_gpu else [])]

    def _set_random_state(self, state: list[Tensor]) -> None:
        torch.set_rng_state(state[0])
        if len(state) > 1 and self.on_gpu:
            torch.cuda.set_rng_state(state[1], self.accelerator.device)

    def _finish_epoch(self) -> None:
        progress, recipe, epoch = self.progress, self.stage.recipe, self.progress.epoch + 1
        if self.limit.end is not None and recipe.evaluates(epoch):
            self._keep(self._longest_evaluation)
        row: dict[str, Any] = {"stage": self.stage.name, "epoch": epoch, "step": progress.steps_done}
        row |= {"seconds": round(progress.seconds, 3), "lr": progress.sums.pop("lr", None)}
        row |= {name: value / max(progress.step, 1) for name, value in progress.sums.items()}
        if recipe.evaluates(epoch):
            row |= self._evaluate(epoch)
            progress.evaluated = True
        progress.history.append(row)
        self.reporter.epoch(row)
        progress.epoch, progress.step, progress.sums, progress.epochs_done = epoch, 0, {}, epoch

    def _evaluate(self, epoch: int) -> dict[str, float]:
        row: dict[str, float] = {}
        judged, better, began = False, False, time.monotonic()
        for benchmark, pool in self.watched.items():
            name = f"best_on_{benchmark}"
            self.system.eval()
            values = evaluate(self.system, pool, self.accelerator.device, self.evaluation_precision, self.processes)
            row |= {f"{benchmark}_{metric}": value for metric, value in values.items()}
            mean = self._moving_mean(benchmark, values)
            judged |= mean is not None
            if mean is not None and is_better(mean, self.progress.best.get(name), self.stage.recipe.select_by):
                better = True
                model = f"{name}@{epoch}.safetensors"
                self.progress.best[name] = {"epoch": epoch, "on": mean, "model": model}
                if self.processes.first:
                    digest = checkpoints.save_model(self.folder / model, self.system.state_dict())
                    self.progress.best[name]["sha256"] = digest
        self._longest_evaluation = max(self._longest_evaluation, time.monotonic() - began)
        self.progress.without_better = 0 if better else self.progress.without_better + judged
        return row

    def _drop_models(self) -> None:
        """Delete the models that neither the last whole state nor the next refers to: a killed run resumes with one."""
        models = {best["model"] for best in self.progress.best.values()}
        for path in self.folder.glob("*@*.safetensors"):
            if path.name not in models | self._models:
                path.unlink()
        self._models = models

    def _moving_mean(self, benchmark: str, values: Mapping[str, float]) -> dict[str, float] | None:
        """Return the mean of this evaluation and those before it that choose with it; None: there are too few yet."""
        past = [row for row in self.progress.history if row["stage"] == self.stage.name and f"{benchmark}_mae" in row]
        before = self.stage.recipe.moving_mean - 1
        if len(past) < before:
            return None
        chosen = past[len(past) - before :]
        return {
            name: float(np.mean([*(row[f"{benchmark}_{name}"] for row in chosen), value]))
            for name, value in values.items()
        }

    def _out_of_patience(self) -> bool:
        patience, times = self.stage.recipe.patience, self.progress.without_better
        stops = patience is not None and times >= patience
        if stops:
            log.info(
                "%s stops after epoch %d: %d evaluations without a better one",
                self.stage.name,
                self.progress.epoch,
                times,
            )
        return stops

    def _keep_best_of_stage(self) -> None:
        if self.stage.recipe.select_by == "own" and self.progress.best:
            best = next(iter(self.progress.best.values()))
            self.processes.gathered(None)  # until the first has written it
            self.system.load_state_dict(load_file(self.folder / best["model"]))
        self.progress.best = {}


def _leave_sigterm(worker: int) -> None:
    """Leave it to the training to end its loader processes: a scheduler tells all processes of a job at once."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _seed_everything(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def build_optimiser(groups: list[dict[str, Any]], settings: Optimiser) -> torch.optim.Optimizer:
    """Return the optimiser; a group's own ``lr_scale`` multiplies the learning rate at every step."""
    common: dict[str, Any] = {"lr": settings.lr, "weight_decay": settings.weight_decay}
    if settings.name == "sgd":
        return torch.optim.SGD(groups, momentum=settings.momentum, **common)
    common |= {"betas": settings.betas, "eps": settings.eps}
    if settings.name == "radam":
        return torch.optim.RAdam(groups, **common)
    return (torch.optim.Adam if settings.name == "adam" else torch.optim.AdamW)(groups, fused=True, **common)


def _epochs_of(recipe: Recipe, steps_per_epoch: int) -> int:
    return min(recipe.epochs, -(-(recipe.max_steps or recipe.epochs * steps_per_epoch) // steps_per_epoch))

"""The training loop, one for all systems: seeded, resumable, with the model selected as the protocol says."""

from __future__ import annotations

import json
import logging
import math
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from safetensors.torch import load_file
from torch import Tensor

from recount.data.dataset import HOW_TO_GET_PICTURES, DataError
from recount.data.sample import Sample
from recount.errors import UserError
from recount.prediction.samples import usable_precision
from recount.settings.recipe import Optimiser, Recipe
from recount.systems.base import Batch, Pool, Stage, System
from recount.training import checkpoints
from recount.training.batch_norm import SharedBatchNorm, share_statistics
from recount.training.batches import EpochBatches, Examples, loader, seed_of
from recount.training.parts import OutOfMemory, check_shareable, weight_of_part, why_whole
from recount.training.processes import Processes
from recount.training.progress import Reporter
from recount.training.schedules import learning_rate, position_of, steps_of
from recount.training.selection import Watched, evaluate, is_better

log = logging.getLogger(__name__)

MODEL = "model.safetensors"
GPU_STEPS_BETWEEN_READINGS = 20


class NonFiniteLoss(UserError):
    """A loss is NaN or infinite; the message names the step, the terms and the samples."""


@dataclass(slots=True)
class Progress:
    """How far a training run has come. Everything in it is JSON.

    ``parts`` is how many parts each process computes its batch in: more than one after it was out of memory.
    """

    stage: int = 0
    epoch: int = 0
    step: int = 0
    steps_done: int = 0
    seconds: float = 0.0
    evaluated: bool = False
    sums: dict[str, float] = field(default_factory=dict)
    epochs_done: int = 0
    parts: int = 1
    history: list[dict[str, Any]] = field(default_factory=list)
    best: dict[str, dict[str, Any]] = field(default_factory=dict)


def seed_everything(seed: int) -> None:
    """Seed every generator, and ask for deterministic algorithms.

    PyTorch would then also fill whatever it allocates with NaN, for programs that read what they never wrote.
    """
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    torch.backends.cudnn.benchmark = False
    torch.use_deterministic_algorithms(True, warn_only=True)
    deterministic: Any = torch.utils.deterministic  # the attribute exists on the imported module only
    deterministic.fill_uninitialized_memory = False


def build_optimiser(groups: list[dict[str, Any]], settings: Optimiser) -> torch.optim.Optimizer:
    """Return the optimiser; a group's own ``lr_scale`` multiplies the learning rate at every step."""
    common: dict[str, Any] = {"lr": settings.lr, "weight_decay": settings.weight_decay}
    match settings.name:
        case "sgd":
            return torch.optim.SGD(groups, momentum=settings.momentum, **common)
        case "adam":
            return torch.optim.Adam(groups, betas=settings.betas, eps=settings.eps, fused=True, **common)
        case "adamw":
            return torch.optim.AdamW(groups, betas=settings.betas, eps=settings.eps, fused=True, **common)
        case "radam":
            return torch.optim.RAdam(groups, betas=settings.betas, eps=settings.eps, **common)


class Trainer:
    """Trains one system through its stages.

    Args:
        system: the network, on the processor.
        recipe: how; already resolved.
        pool: the training samples.
        watched: benchmarks to evaluate during training, by selection name; the best model by each is kept.
        seed: of all random draws.
        folder: where the state of the unfinished run lives (a folder that the workflow does not delete).
        digest: of settings and code; a state with another digest is not taken up.
        device: where to compute.
        checkpoint_minutes: between saved states; 0 saves after each step.
        loader_processes: that read and augment samples.
        processes: that train this run together; each has a Trainer.
    """

    def __init__(
        self,
        system: System,
        recipe: Recipe,
        pool: Pool,
        *,
        watched: Mapping[str, Watched],
        seed: int,
        folder: Path,
        digest: str,
        device: torch.device,
        checkpoint_minutes: float = 10.0,
        loader_processes: int = 0,
        processes: Processes | None = None,
    ) -> None:
        self.system = system
        self.recipe = recipe
        self.pool = pool
        self.watched = watched
        self.seed = seed
        self.folder = folder
        self.digest = digest
        self.checkpoint_seconds = 60 * checkpoint_minutes
        self.loader_processes = loader_processes
        self.processes = processes or Processes()
        self.precision = usable_precision(recipe.precision, device)
        self.accelerator = Accelerator(
            mixed_precision="no" if self.precision == "fp32" else self.precision, cpu=device.type == "cpu"
        )
        self.progress = Progress()
        self._pending: list[tuple[int, list[str], dict[str, Tensor]]] = []
        self._shared_norms: list[SharedBatchNorm] = []
        self._resumed: dict[str, Any] | None = None
        self._saved_at = time.monotonic()

    def train(self) -> Progress:
        """Train from the saved state, if there is one, to the end; return the progress with history and best epochs.

        Raises:
            NonFiniteLoss: a loss is NaN or infinite.
            SaveError: the state cannot be saved.
            OutOfMemory: a step does not fit into the GPU's memory, and its batch cannot be cut without another result.
            CannotShare: the run cannot be shared by several processes.
        """
        seed_everything(self.seed)
        self.system.prepare_training(self.pool.samples)
        self.system.to(self.accelerator.device)
        if not self.processes.first:  # the first draws what a single process would
            torch.manual_seed(seed_of(self.seed, self.processes.rank))
        self._resume()
        stages = self.system.stages(self.recipe)
        with Reporter(shown=self.processes.first) as self.reporter:
            while self.progress.stage < len(stages):
                self._train_stage(stages[self.progress.stage])
                if self.progress.stage + 1 < len(stages):
                    self._keep_best_of_stage(stages[self.progress.stage])
                self.progress.stage += 1
                self.progress.epoch = 0
                self.progress.evaluated = False
        return self.progress

    def _resume(self) -> None:
        state = checkpoints.load_state(self.folder, self.digest)
        if state is None:
            return
        self.progress = Progress(**json.loads(state["progress"]))
        self._resumed = state
        where = self.progress
        log.info("resumed at stage %d, epoch %d, step %d", where.stage + 1, where.epoch + 1, where.step)

    def _train_stage(self, stage: Stage) -> None:
        recipe = stage.recipe
        self.system.begin_stage(stage)
        maker = self.system.example_maker()
        batches = EpochBatches(
            len(self.pool.samples),
            recipe.batch_size,
            shuffle=recipe.shuffle,
            drop_last=recipe.drop_last,
            seed=self.seed,
            processes=self.processes,
        )
        on_gpu = self.accelerator.device.type == "cuda"
        data = loader(Examples(self.pool, maker, self.seed), batches, self.loader_processes, pin=on_gpu)
        if self.processes.size > 1:
            check_shareable(self.system, self.processes.size, len(self.pool.samples), recipe.batch_size)
            share_statistics(self.system)
        self._shared_norms = [layer for layer in self.system.modules() if isinstance(layer, SharedBatchNorm)]
        optimiser = build_optimiser(self.system.parameter_groups(recipe), recipe.optimiser)
        # Not wrapped for several processes: this loop adds the gradients up itself, after all parts of a batch.
        self.network = self.accelerator.prepare_model(self.system, evaluation_mode=True)
        self.optimiser = self.accelerator.prepare(optimiser)
        self._restore()
        self.processes.same_weights(self.system)
        epochs = epochs_of(recipe, len(batches))
        self.reporter.begin_stage(stage.name, epochs * len(batches), self.progress.epoch * len(batches))
        for epoch in range(self.progress.epoch, epochs):
            self._train_epoch(stage, epoch, batches, data)
            self._finish_epoch(stage, epoch)

    def _keep_best_of_stage(self, stage: Stage) -> None:
        """Go on from the stage's best model, where it was selected by the system's own value; forget its selections."""
        if stage.recipe.select_by == "own" and self.progress.best:
            name = next(iter(self.progress.best))
            self.processes.gathered(None)  # until the first has written it
            self.system.load_state_dict(load_file(self.folder / f"model.{name}.safetensors"))
        self.progress.best = {}

    def _restore(self) -> None:
        """Put back what a killed run had saved, once, into the stage it was in."""
        if self._resumed is None:
            return
        state, self._resumed = self._resumed, None
        self.system.load_state_dict(state["system"])
        self.optimiser.load_state_dict(state["optimiser"])
        if self.accelerator.scaler is not None and state["scaler"]:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        if len(state["random"]) == self.processes.size:
            self._set_random_state(state["random"][self.processes.rank])
        else:
            log.warning("resumed with another number of processes: dropout draws other numbers than without a break")

    def _random_state(self) -> list[Tensor]:
        device = self.accelerator.device
        return [torch.get_rng_state(), *([torch.cuda.get_rng_state(device)] if device.type == "cuda" else [])]

    def _set_random_state(self, state: list[Tensor]) -> None:
        torch.set_rng_state(state[0])
        if len(state) > 1 and self.accelerator.device.type == "cuda":
            torch.cuda.set_rng_state(state[1], self.accelerator.device)

    def _train_epoch(self, stage: Stage, epoch: int, batches: EpochBatches, data: Any) -> None:
        self.system.begin_epoch(epoch, self.pool.samples)
        # as coded, some scripts stay in evaluation mode once they have evaluated
        self.network.train(not (stage.recipe.eval_mode_after_first_evaluation and self.progress.evaluated))
        batches.epoch, batches.first = epoch, self.progress.step
        steps, limit = len(batches), stage.recipe.max_steps or math.inf
        started = time.monotonic()
        for batch in data:
            if epoch * steps + self.progress.step >= limit:
                break
            batch.seed = seed_of(self.seed, epoch, self.progress.step)
            copies = self.processes.copies(batches.size_of(self.progress.step))
            self._train_step(stage, epoch, batch.to(self.accelerator.device), steps, copies)
            now = time.monotonic()
            self.progress.seconds += now - started
            started = now
            if self.processes.first_says(now - self._saved_at >= self.checkpoint_seconds):
                self._read_losses(stage, epoch)
                self._save_state()
        self._read_losses(stage, epoch)

    def _train_step(self, stage: Stage, epoch: int, batch: Batch, steps: int, copies: int) -> None:
        recipe = stage.recipe
        position = position_of(recipe.schedule, epoch, self.progress.step, steps)
        total = steps_of(recipe.schedule, epochs_of(recipe, steps), steps)
        rate = learning_rate(recipe.schedule, recipe.optimiser.lr, position, total)
        for group in self.optimiser.param_groups:
            group["lr"] = rate * group.get("lr_scale", 1.0)
        for layer in self._shared_norms:
            layer.shared = copies == 1
        terms = self._compute_gradients(batch, copies)
        if recipe.clip_norm is not None:
            self.accelerator.clip_grad_norm_(self.network.parameters(), recipe.clip_norm)
        self.optimiser.step()
        self.system.after_step()
        self.optimiser.zero_grad(set_to_none=True)
        self.progress.sums["lr"] = rate
        self.progress.step += 1
        self.progress.steps_done += 1
        self._pending.append((self.progress.step, batch.ids, terms))
        if len(self._pending) >= (GPU_STEPS_BETWEEN_READINGS if self.accelerator.device.type == "cuda" else 1):
            self._read_losses(stage, epoch)

    def _compute_gradients(self, batch: Batch, copies: int) -> dict[str, Tensor]:
        """Leave the gradients of the whole batch in the parameters; return its loss and terms (this process's share).

        A batch that does not fit into memory is computed in twice as many parts from then on.
        """
        total, longest = self.processes.total(len(batch)), self.processes.largest(len(batch))
        while True:
            drawn, terms = self._random_state(), {}
            try:
                terms = self._backward(batch, total, copies)
            except torch.OutOfMemoryError:
                reason = why_whole(self.system)
                if reason:  # the other processes may be waiting within the forward pass: this one ends them
                    raise OutOfMemory(self._too_large(batch, f"it cannot be computed in parts: {reason}")) from None
            # in no handler, which would keep the memory of the failed pass
            if not self.processes.largest(int(not terms)):
                break
            self.optimiser.zero_grad(set_to_none=True)
            torch.cuda.empty_cache()
            self._set_random_state(drawn)
            self._cut_further(batch, longest)
        self.processes.add_gradients(p for group in self.optimiser.param_groups for p in group["params"])
        return terms

    def _backward(self, batch: Batch, total: int, copies: int) -> dict[str, Tensor]:
        whole: dict[str, Tensor] = {}
        weights = self.system.loss_weights
        for part in batch.split(self.progress.parts):
            terms = {
                name: weight_of_part(self.system, name, len(part), total, copies) * term.float()
                for name, term in self.network(part).items()
            }
            loss = torch.stack([weights.get(name, 1.0) * term for name, term in terms.items()]).sum()
            self.accelerator.backward(loss)
            for name, term in {"loss": loss, **terms}.items():
                whole[name] = whole[name] + term.detach() if name in whole else term.detach()
        return whole

    def _cut_further(self, batch: Batch, longest: int) -> None:
        if self.progress.parts >= longest:
            raise OutOfMemory(self._too_large(batch, "it was computed one sample at a time"))
        self.progress.parts = min(2 * self.progress.parts, longest)
        log.warning(
            "out of memory: from step %d on, a batch of %d is computed in %d parts, whose gradients are added up",
            self.progress.steps_done + 1,
            longest,
            self.progress.parts,
        )

    def _too_large(self, batch: Batch, reason: str) -> str:
        return (
            f"step {self.progress.steps_done + 1}: the batch of {len(batch)} does not fit into the GPU's memory, and "
            f"{reason}. Use a GPU with more memory, gpus_per_job (if the system allows it), precision: bf16, "
            "gradient_checkpointing where the system has that setting, or a smaller batch_size in the suite's recipe "
            "(which trains something else than the paper)"
        )

    def _read_losses(self, stage: Stage, epoch: int) -> None:
        """Bring the losses of the last steps to the processor, in one go: each reading waits for the GPU."""
        for step, ids, terms in self._pending:
            values = self.processes.add_up(torch.stack(list(terms.values()))).tolist()
            if not all(map(math.isfinite, values)):
                self._refuse(stage, epoch, step, ids, dict(zip(terms, values, strict=True)))
            for name, value in zip(terms, values, strict=True):
                self.progress.sums[name] = self.progress.sums.get(name, 0.0) + value
            self.reporter.step(self.progress.sums["loss"] / step)
        self._pending.clear()

    def _refuse(self, stage: Stage, epoch: int, step: int, ids: list[str], terms: Mapping[str, float]) -> None:
        values = ", ".join(f"{name} = {value:g}" for name, value in terms.items())
        ids = [name for part in self.processes.gathered(ids) for name in part]
        raise NonFiniteLoss(
            f"stage {stage.name}, epoch {epoch + 1}, step {step}: the loss is not finite ({values}); samples: "
            f"{', '.join(dict.fromkeys(ids))}; precision {self.precision}. Lower the learning rate, or train in fp32"
        )

    def _finish_epoch(self, stage: Stage, epoch: int) -> None:
        progress = self.progress
        sums = {name: value / max(progress.step, 1) for name, value in progress.sums.items() if name != "lr"}
        row: dict[str, Any] = {
            "stage": stage.name,
            "epoch": epoch + 1,
            "step": progress.steps_done,
            "seconds": round(progress.seconds, 3),
            "lr": progress.sums.get("lr"),
            **sums,
        }
        if self._due(stage.recipe, epoch + 1):
            row |= self._evaluate(stage.recipe, epoch + 1)
            progress.evaluated = True
        progress.history.append(row)
        self.reporter.epoch(row)
        progress.epoch, progress.step, progress.sums, progress.epochs_done = epoch + 1, 0, {}, epoch + 1

    @staticmethod
    def _due(recipe: Recipe, epoch: int) -> bool:
        every = recipe.evaluate_every
        return every is not None and epoch % every == 0 and epoch >= recipe.evaluate_from

    def _evaluate(self, recipe: Recipe, epoch: int) -> dict[str, float]:
        row: dict[str, float] = {}
        for name, watched in self.watched.items():
            self.system.eval()
            values = evaluate(self.system, watched, self.accelerator.device, self.precision, self.processes)
            row |= {f"{watched.column}_{metric}": value for metric, value in values.items()}
            if is_better(values, self.progress.best.get(name), recipe.select_by):
                self.progress.best[name] = {"epoch": epoch, "on": values}
                if self.processes.first:
                    checkpoints.save_model(self.folder / f"model.{name}.safetensors", self.system.state_dict())
        return row

    def _save_state(self) -> None:
        random_states = self.processes.gathered(self._random_state())
        if not self.processes.first:
            return
        scaler = self.accelerator.scaler
        state = {
            "progress": json.dumps(asdict(self.progress)),
            "system": self.system.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "scaler": scaler.state_dict() if scaler is not None else {},
            "random": random_states,
        }
        checkpoints.save_state(self.folder, self.digest, state)
        self._saved_at = time.monotonic()


def epochs_of(recipe: Recipe, steps_per_epoch: int) -> int:
    """Return the number of epochs, cut short by ``max_steps``."""
    if recipe.max_steps is None:
        return recipe.epochs
    return min(recipe.epochs, -(-recipe.max_steps // steps_per_epoch))


def samples_with_pictures(samples: Sequence[Sample], where: str) -> list[Sample]:
    """Return the samples, all of which must have pictures.

    Raises:
        DataError: there are none, or some are annotation only.
    """
    bare = [sample.id for sample in samples if sample.image is None]
    if bare or not samples:
        what = f"{len(bare)} of {len(samples)} samples have only their annotation here, not their picture"
        raise DataError(f"{where}: {what}: {HOW_TO_GET_PICTURES}" if bare else f"{where}: there are no samples")
    return list(samples)

"""``recount rehearse``: each system for a few real steps on this machine, before anything is fetched or waited for.

Each system is tried in a process of its own, so that its peak memory is its own and its failure is its own row. That
process says after each step what it knows, so that one that takes too long is ended and has a row. On a processor at
paper size a batch is cut to ``PROCESSOR_BATCH`` samples and evaluated pictures to
``PROCESSOR_SIDE``; seconds are scaled.
"""

import logging
import math
import multiprocessing
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from filelock import Timeout
from torch import Tensor

from recount import provenance, systems
from recount.data.dataset import DataError
from recount.data.index import read_index
from recount.data.needs import with_pictures
from recount.data.pool import ImagePool
from recount.data.sample import Sample
from recount.devices import device_for, feeding_of
from recount.errors import UserError, in_words
from recount.feeding import memory_mb
from recount.fetching.weights import check_weights
from recount.prediction.predict import picture_of
from recount.prediction.samples import predict_samples
from recount.rehearsal.generated import generated, kind_of
from recount.rehearsal.steps import TimedTrainer, digest_of, taken_again
from recount.results.files import now, shared_lock
from recount.results.rehearsals import FOLDER, Rehearsals, Rehearsed, add_rehearsals, rehearsals_path
from recount.settings.base import absent, merged
from recount.settings.project import Project, Run, Split, load
from recount.settings.recipe import Precision, resolve_recipe
from recount.systems.base import Pool, System
from recount.training.cost import Meter

PROCESSOR_BATCH = 2
PROCESSOR_SIDE = 512  # pixels; text-guided systems see pictures of about that size
PICTURES = 2  # that each benchmark is tried with
STATES = "checkpoints"
LONGEST = 500  # characters of an error
KILLED = (
    "the system ended its process without a word, most likely because the machine's memory was used up; close other "
    "programs, or use a machine with more"
)


def chosen(project: Project, names: Sequence[str]) -> list[Run]:
    """Return the trainings to rehearse: those that are named (a system, or system/variant), else one of each system.

    That is the first one with the settings of the released code; where none has them, the first.
    """
    seed = project.config.seeds[0]
    trained = [run for run in project.trainings if run.seed == seed and not run.checkpoint and _trains(project, run)]
    firsts: dict[str, Run] = {}
    for run in sorted(trained, key=lambda run: bool(project.experiments[run.system].variants[run.variant].settings)):
        firsts.setdefault(run.system, run)
    known = firsts | {f"{run.system}/{run.variant}": run for run in trained}
    problems = [line for name in names for line in absent("--systems", "training", name, known)]
    if problems:
        raise UserError("\n".join(problems))
    if not known:
        raise UserError(f"suite {project.suite.name} trains nothing of what config.yaml chooses")
    return [known[name] for name in names] if names else [run for run in trained if run in firsts.values()]


def _trains(project: Project, run: Run) -> bool:
    return project.gpu_hours(run.system, run.variant)[0] != 0.0


def rehearse(
    project: Project, runs: Sequence[Run], *, random_weights: bool, steps: int, minutes: float
) -> Iterator[Rehearsed]:
    """Yield what each run took on this machine, or why it failed; each is noted before the next one begins.

    One that takes more than ``minutes`` is ended, and its row has what was measured until then.

    ``UserError``: another rehearsal is at work in this folder.
    """
    resources = project.root / project.config.resources
    lock = shared_lock(resources / FOLDER / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise UserError(
            f"{resources / FOLDER}: another rehearsal is at work; wait until it is done, or end it"
        ) from None
    folder = project.root / project.config.results / ".rehearsal"  # where states of real trainings lie, too
    try:
        shutil.rmtree(folder, ignore_errors=True)
        for run in runs:
            shutil.rmtree(folder / STATES, ignore_errors=True)
            found, device = _apart(project, run, folder, random_weights, steps, minutes)
            if device is not None:
                path = rehearsals_path(resources, device.device)
                add_rehearsals(path, device.model_copy(update={"rehearsed": {run.id: found}}))
            yield found
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        lock.release()


def _apart(
    project: Project, run: Run, folder: Path, random_weights: bool, steps: int, minutes: float
) -> tuple[Rehearsed, Rehearsals | None]:
    """Rehearse in a process of its own; also return the device, if it came so far."""
    context, until = multiprocessing.get_context("spawn"), time.monotonic() + 60 * minutes
    hears, says = context.Pipe(duplex=False)
    given = (says, project.root, project.config.model_dump(mode="json"), run.id, folder, random_weights, steps)
    process = context.Process(target=_rehearse_here, args=given)
    process.start()
    says.close()  # so that the end of that process is the end of what is heard
    found, device, done = Rehearsed(run=run.id, when=now()), None, False
    try:
        while not done and hears.poll(max(until - time.monotonic(), 0)):
            found, device, done = hears.recv()
        if not done:
            _cut_short(found, minutes)
    except EOFError:
        found.error = KILLED
    finally:
        process.kill()
        process.join()
    return found, device


def _cut_short(found: Rehearsed, minutes: float) -> None:
    """Say what is known of a rehearsal whose time was over."""
    said = f"its {minutes:g} minutes were over"
    if found.seconds_per_step is None:
        found.error = f"{said} before a step of its last stage was done: --minutes gives each training more"
        return
    left = [] if found.save_seconds is not None else ["saving"]
    left += [] if found.seconds_per_image else ["predicting"]
    left += ["resuming"]
    found.resumed = "not tried"
    found.told.append(f"{said} after {found.steps} steps; not tried: {', '.join(left)} (--minutes gives it more)")


def _rehearse_here(
    says: Connection, root: Path, config: Mapping[str, Any], run_id: str, folder: Path, random_weights: bool, steps: int
) -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends this process without a word; the first one clears up
    logging.basicConfig(level=logging.WARNING, format=f"%(levelname)s {run_id}: %(message)s", stream=sys.stderr)
    project = load(root, config)
    run = next(run for run in project.trainings if run.id == run_id)
    found, kind = Rehearsed(run=run_id, when=now(), code=provenance.step_digest("train", run.system)), None
    try:
        with device_for(project.config.device, project.config.jobs_per_gpu, project.config.determinism) as device:
            kind = _described(device)
            tell = partial(says.send, (found, kind, False))  # as it is then
            _Rehearsal(project, run, folder, device, steps, found, tell).take(random_weights)
    except Exception as error:
        told = in_words(error) or f"{type(error).__name__}: {error}"
        found.error = " ".join(told.split())[:LONGEST]
        logging.getLogger(__name__).debug("where it happened", exc_info=True)
    says.send((found, kind, True))


def _described(device: torch.device) -> Rehearsals:
    if device.type == "cuda":
        card = torch.cuda.get_device_properties(device)
        return Rehearsals(device=card.name, kind="cuda", memory_mb=card.total_memory // 10**6)
    return Rehearsals(device=provenance.cpu_name(), kind="cpu", memory_mb=memory_mb())


def random_weights(project: Project, settings: dict[str, Any], *, only_absent: bool = False) -> dict[str, Any]:
    """Return settings in which fetched base weights are random ones: all, or those whose file is not there."""

    def replaced(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: replaced(item) for key, item in value.items()}
        fetched = isinstance(value, str) and value.startswith(f"{project.weights}/")
        return "random" if fetched and not (only_absent and (project.root / value).is_file()) else value

    return {key: replaced(value) for key, value in settings.items()}


class _Rehearsal:
    """One training on one device; fills ``found``, and calls ``tell`` whenever more of it is known."""

    def __init__(
        self,
        project: Project,
        run: Run,
        folder: Path,
        device: torch.device,
        steps: int,
        found: Rehearsed,
        tell: Callable[[], None],
    ) -> None:
        self.project, self.run, self.folder, self.device = project, run, folder, device
        self.steps, self.found, self.tell = steps, found, tell
        self.system_class = systems.load(run.system)

    def take(self, all_random: bool) -> None:
        """Train, predict, resume."""
        found, project, run = self.found, self.project, self.run
        fed = feeding_of(project.config, self.device)
        torch.set_num_threads(fed.training_threads)
        size = self.system_class.mini_settings() if run.size == "mini" else {}
        given = merged(size, run.settings)
        settings = random_weights(project, given, only_absent=not all_random)
        found.weights = "own" if settings == given else "random"
        if not all_random:
            check_weights(project.root / project.weights, run.weights, fetched=False)
        recipe = project.arithmetic.of(resolve_recipe(self.system_class.recipe, run.recipe))
        samples = self._training_samples()
        cut = self.device.type == "cpu" and run.size == "paper"
        found.cut_to = PROCESSOR_SIDE if cut else None
        watched = {"held_out": Cut(_known(self._samples(run.held_out or run.training)), found.cut_to)}

        def make() -> tuple[System, TimedTrainer]:
            torch.manual_seed(run.seed)
            system = self.system_class(self.system_class.Settings.model_validate(settings))
            trainer = TimedTrainer(
                system,
                recipe,
                self._pool(samples),
                watched=watched,
                seed=run.seed,
                folder=self.folder / STATES,
                made_from=run.id,
                device=self.device,
                loader_processes=fed.loader_processes,
                determinism=project.config.determinism,
                steps=self.steps,
                batch=PROCESSOR_BATCH if cut else recipe.batch_size,
            )
            return system, trainer

        meter = Meter(self.device)
        system, trainer = make()
        trainer.told = partial(self._note, trainer, meter, system)
        progress = trainer.train()
        trainer.told = None  # which holds them
        self._note(trainer, meter, system)
        self._warn()
        self._predict(system, trainer.evaluation_precision)
        digest = digest_of(system)
        del system, trainer
        found.resumed = taken_again(make, digest, progress.history)
        if not found.resumed.startswith(("equal", "close") if self.device.type == "cuda" else "equal"):
            found.error = f"a resumed training does not continue as the unbroken one: {found.resumed}"

    def _pool(self, samples: Sequence[Sample]) -> Pool:
        return ImagePool(samples, 0)  # as in a first epoch: each picture is decoded when it is wanted

    def _training_samples(self) -> list[Sample]:
        split = self.run.training
        assert split is not None  # else the suite would not run it
        samples = self._samples(split)
        self.found.data = "prepared" if self._prepared(split) else "generated"
        return samples

    def _prepared(self, split: Split) -> list[Sample]:
        """Return a split's own samples; [] where it is not prepared, or without its pictures."""
        try:
            samples = read_index(self.project.root / self.project.index(split), split.split)
            return with_pictures(samples, self.run.id)
        except DataError:
            return []

    def _samples(self, split: Split | None) -> list[Sample]:
        assert split is not None
        own = self._prepared(split)
        return own or generated(split, kind_of(self.project, split), self.folder)

    def _note(self, trainer: TimedTrainer, meter: Meter, system: System) -> None:
        found, cost = self.found, meter.read()
        found.batch, found.batch_taken = trainer.batches_taken[-1]
        found.steps, found.precision, found.parts = len(trainer.timed[-1]), trainer.precision, trainer.progress.parts
        found.seconds_per_step, found.waiting = trainer.seconds_per_step()
        found.peak_memory_mb, found.peak_gpu_memory_mb = cost["peak_memory_mb"], cost["peak_gpu_memory_mb"]
        found.save_seconds = trainer.save_seconds
        found.state_mb = None if trainer.state_bytes is None else trainer.state_bytes / 1e6
        found.model_mb = sum(value.nbytes for value in system.state_dict().values()) / 1e6
        self.tell()

    def _warn(self) -> None:
        found, asked = self.found, self.project.suite.training_mem_mb
        if (found.peak_memory_mb or 0) > asked:
            found.told.append(
                f"takes {found.peak_memory_mb:,.0f} MB of main memory; a job of this suite asks for {asked:,} "
                "(training_mem_mb)"
            )
        if found.parts > 1:
            found.told.append(f"a batch of {found.batch} does not fit whole: it is computed in {found.parts} parts")

    def _predict(self, system: System, precision: Precision) -> None:
        """Predict a few pictures for each benchmark; those whose own pictures are not here are named."""
        tried: dict[tuple[str, str], float] = {}
        for benchmark, split in self.run.benchmarks.items():
            key = (split.dataset, split.preparation)
            own = self._prepared(split)
            if not own:
                self.found.absent.append(benchmark)
            if key not in tried:
                samples = _known(own or self._samples(split))
                side = self.found.cut_to
                read = partial(_picture, side=side)
                predicted = predict_samples(system, samples, read, device=self.device, precision=precision)
                seconds = [one.seconds / part_read(one.sample, side) for one in predicted]
                tried[key] = sum(seconds) / len(seconds)
            self.found.seconds_per_image[benchmark] = tried[key]
            self.tell()


class Cut(ImagePool):
    """Pictures of which only the first ``side`` pixels each way are read; None: all."""

    def __init__(self, samples: Sequence[Sample], side: int | None) -> None:
        super().__init__(samples, 0)
        self.side = side

    def image(self, index: int) -> Tensor:
        """Return the picture of sample ``index``, uint8 [3, h, w] RGB."""
        return _picture(self.samples[index], self.side)


def _picture(sample: Sample, side: int | None) -> Tensor:
    return picture_of(sample)[:, :side, :side]


def part_read(sample: Sample, side: int | None) -> float:
    """Return the share of a picture that is read of it."""
    read = min(sample.width, side or sample.width) * min(sample.height, side or sample.height)
    return read / (sample.width * sample.height)


def _known(samples: Sequence[Sample]) -> list[Sample]:
    """Return a few samples whose true count is known: CountCLIP's other captions cannot be predicted."""
    return [sample for sample in samples if math.isfinite(sample.count)][:PICTURES]

"""Predictions of a system over samples, and of a finished run over a benchmark.

Windows of one image, and of several, share a forward pass: GigaCount's and CLIP-EBC's code puts all windows of an image
into one batch (AdamHermes/GigaCount@d57191e); here a pass holds at most ``Windows.batch`` of them, whatever images they
come from. Which windows share a pass changes a prediction in the last digits of a float at most.

Times are not in the predictions CSV but beside it (``seed0.timing.json``), so that the same seed gives the same bytes.
Density maps for figures are kept of as many images as a few megabytes hold (``kept_maps``).
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from recount import systems
from recount.data.dataset import HOW_TO_GET_PICTURES
from recount.data.index import read_index
from recount.data.pictures import load_image as load_picture
from recount.data.sample import Sample
from recount.data.windows import Windows, cut, fit, stitch, stitch_intensities
from recount.devices import device_for
from recount.errors import UserError
from recount.results.files import write_atomically, write_rows
from recount.settings.project import Project, Run
from recount.settings.recipe import Precision
from recount.systems.base import Prediction, System

log = logging.getLogger(__name__)

COLUMNS = ("id", "image", "prompt", "true_count", "predicted_count", "selection")
WHOLE_IMAGE_PIXELS = 2048 * 2048  # whole images of one size share a forward pass up to the area of one of UCF-QNRF's
IMAGES_AHEAD = 2
MAP_CELLS = 256  # longest side of a kept density map; a larger one is summed over blocks of cells
MAP_BYTES = 16_000_000  # of kept density maps per run, benchmark and selection
QUANTILES = (0.0, 0.25, 0.5, 0.75, 1.0)  # of the true count: the images whose maps are kept before all others
AUTOCAST: dict[Precision, torch.dtype] = {"bf16": torch.bfloat16, "fp16": torch.float16}

LoadImage = Callable[[Sample], Tensor]


class PredictError(UserError):
    """A run cannot be predicted with; the message names the file and says what to do."""


@dataclass(frozen=True, slots=True)
class Predicted:
    """What a system says of one sample.

    Attributes:
        sample: the sample.
        count: the predicted count; NaN where the system's output is not finite.
        seconds: the sample's share of the forward passes its windows were in, and of the stitching; not of decoding.
        density: float32 [1, h, w] on the CPU, objects per cell; None for count-by-caption systems or if not kept.
        maps: further maps float32 [1, h, w] on the CPU; of windows: enlarged to pixels. Empty if not kept.
        scores: float32 [K] class scores of a count-by-caption system, or None.
        kept: False where the system's protocol leaves the sample out.
    """

    sample: Sample
    count: float
    seconds: float
    density: Tensor | None = None
    maps: dict[str, Tensor] = field(default_factory=dict)
    scores: Tensor | None = None
    kept: bool = True

    @property
    def tied(self) -> bool:
        """Return whether two of the class scores are equally the highest, so that the first one was taken."""
        return self.scores is not None and int((self.scores == self.scores.max()).sum()) > 1


@dataclass(slots=True)
class _Pending:
    """An image whose pieces (windows, or the whole image) are not all predicted yet."""

    sample: Sample
    height: int
    width: int
    pieces: int
    done: list[Prediction] = field(default_factory=list)
    seconds: float = 0.0


@dataclass(slots=True)
class _Piece:
    owner: _Pending
    image: Tensor  # float32 [3, h, w]


def predict_samples(
    system: System,
    samples: Sequence[Sample],
    load_image: LoadImage,
    *,
    device: torch.device | str = "cpu",
    precision: Precision = "fp32",
    keep_maps: bool = False,
) -> Iterator[Predicted]:
    """Predict samples in order. The system is moved to ``device``; the mode of each of its modules is put back.

    Args:
        system: its ``windows`` say how images are cut; None: whole images, of equal size together.
        samples: in the order in which predictions are yielded.
        load_image: gives the picture of a sample, uint8 [3, H, W] RGB; called in another thread, a few images ahead.
        device: where the network runs.
        precision: "fp32", or the type of autocast.
        keep_maps: whether the density and further maps are returned, for figures.
    """
    modes = {module: module.training for module in system.modules()}
    system.to(device).eval()
    pending: deque[_Pending] = deque()
    try:
        for batch in _batches(_pieces(system, samples, load_image, torch.device(device), pending), system.windows):
            _run_pass(system, batch, precision, keep_maps)
            while pending and len(pending[0].done) == pending[0].pieces:
                yield _finish(system, pending.popleft(), keep_maps)
    finally:
        for module, training in modes.items():  # not system.train(): parts may be frozen in evaluation mode
            module.training = training


def _images_ahead(samples: Sequence[Sample], load_image: LoadImage) -> Iterator[tuple[Sample, Tensor]]:
    """Yield samples with their pictures, decoding the next ones while the network works."""
    with ThreadPoolExecutor(max_workers=1) as pool:
        futures: deque[tuple[Sample, Future[Tensor]]] = deque()
        for sample in samples:
            futures.append((sample, pool.submit(load_image, sample)))
            if len(futures) > IMAGES_AHEAD:
                ready, future = futures.popleft()
                yield ready, future.result()
        for ready, future in futures:
            yield ready, future.result()


def _pieces(
    system: System, samples: Sequence[Sample], load_image: LoadImage, device: torch.device, pending: deque[_Pending]
) -> Iterator[_Piece]:
    for sample, picture in _images_ahead(samples, load_image):
        with torch.inference_mode():
            image = system.prepare_image(picture.to(device).float() / 255)
            if system.windows is None:
                pieces = image[None]
            else:
                image = fit(image, system.windows)
                pieces = cut(image, system.windows)
        owner = _Pending(sample, int(image.shape[1]), int(image.shape[2]), len(pieces))
        pending.append(owner)
        for piece in pieces:
            yield _Piece(owner, piece)


def _batches(pieces: Iterable[_Piece], windows: Windows | None) -> Iterator[list[_Piece]]:
    """Group consecutive pieces of one size, as many as a forward pass may hold."""
    batch: list[_Piece] = []
    for piece in pieces:
        height, width = piece.image.shape[-2:]
        limit = windows.batch if windows is not None else max(WHOLE_IMAGE_PIXELS // (height * width), 1)
        if batch and batch[0].image.shape != piece.image.shape:
            yield batch
            batch = []
        batch.append(piece)
        if len(batch) == limit:
            yield batch
            batch = []
    if batch:
        yield batch


def _autocast(device: torch.device, precision: Precision) -> AbstractContextManager[Any]:
    return nullcontext() if precision == "fp32" else torch.autocast(device.type, AUTOCAST[precision])


def _run_pass(system: System, batch: list[_Piece], precision: Precision, keep_maps: bool) -> None:
    """Predict one batch and hand each piece's part to its image."""
    device = batch[0].image.device
    start = _now(device)
    with torch.inference_mode(), _autocast(device, precision):
        images = torch.stack([piece.image for piece in batch])  # (B, 3, h, w)
        prediction = system.predict(images, [system.prompt_of(piece.owner.sample) for piece in batch])
    if not keep_maps:
        prediction.maps = {}
    share = (_now(device) - start) / len(batch)
    for index, piece in enumerate(batch):
        piece.owner.done.append(_row(prediction, index))
        piece.owner.seconds += share


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _row(prediction: Prediction, index: int) -> Prediction:
    def only(values: Tensor | None) -> Tensor | None:
        return None if values is None else values[index : index + 1].float()

    kept = None if prediction.kept is None else prediction.kept[index : index + 1]
    maps = {name: values[index : index + 1].float() for name, values in prediction.maps.items()}
    return Prediction(only(prediction.density), only(prediction.scores), prediction.numbers, kept, maps)


@torch.inference_mode()
def _finish(system: System, image: _Pending, keep_maps: bool) -> Predicted:
    start = time.perf_counter()
    whole = image.done[0] if system.windows is None else _stitched(image, system.windows)
    count = _finite_count(system, whole, image.sample)
    return Predicted(
        sample=image.sample,
        count=count,
        seconds=image.seconds + time.perf_counter() - start,
        density=whole.density[0].cpu() if keep_maps and whole.density is not None else None,
        maps={name: values[0].cpu() for name, values in whole.maps.items()},
        scores=None if whole.scores is None else whole.scores[0].cpu(),
        kept=whole.kept is None or bool(whole.kept[0]),
    )


def _finite_count(system: System, prediction: Prediction, sample: Sample) -> float:
    """Return the count, or NaN with a warning. Scores are looked at themselves: NaN scores have a largest one, too."""
    count = float(system.read_out(prediction, sample)[0])
    if prediction.scores is not None and not prediction.scores.isfinite().all():
        count = math.nan
    if not math.isfinite(count):
        log.warning("sample %s: the system's output is not finite; its count is recorded as NaN", sample.id)
        return math.nan
    return count


def _stitched(image: _Pending, windows: Windows) -> Prediction:
    densities = [part.density for part in image.done if part.density is not None]
    if len(densities) != image.pieces:
        raise ValueError("a system that predicts by windows must return densities; class scores cannot be stitched")
    names = image.done[0].maps
    return Prediction(
        density=stitch(torch.cat(densities), image.height, image.width, windows),
        maps={
            name: stitch_intensities(
                torch.cat([part.maps[name] for part in image.done]), image.height, image.width, windows
            )
            for name in names
        },
    )


# ------------------------------------------------------------------------------------------------------ a finished run


def load_run(folder: Path) -> tuple[dict[str, Any], System]:
    """Return the run.json of a finished run and its system, built from the recorded settings, without weights.

    Raises:
        PredictError: the run is not finished, or its run.json is damaged.
    """
    path = folder / "run.json"
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        system_class = systems.load(record["run"]["system"])
        return record, system_class(system_class.Settings.model_validate(record["settings"]))
    except FileNotFoundError:
        raise PredictError(f"{path}: no such file: this run is not trained (recount train does it)") from None
    except (json.JSONDecodeError, KeyError) as error:
        raise PredictError(f"{path}: not a complete run.json ({error!r}); train the run again") from None


def load_selection(system: System, folder: Path, name: str, selection: Mapping[str, Any]) -> None:
    """Load the weights of one selection of a run, checked against the recorded sha256.

    Raises:
        PredictError: the file is missing, is not the recorded one, or does not fit the system.
    """
    path = folder / selection["model"]
    if not path.is_file():
        raise PredictError(
            f"{path}: no such file, though run.json names it for selection {name!r}; train the run again"
        )
    if hashlib.sha256(path.read_bytes()).hexdigest() != selection["sha256"]:
        raise PredictError(f"{path}: sha256 is not the one in run.json: the file was changed or is damaged")
    try:
        system.load_state_dict(load_file(path))
    except RuntimeError as error:
        raise PredictError(f"{path}: does not fit the settings in run.json: {error}") from error


def predict_run(
    folder: Path,
    samples: Sequence[Sample],
    output: Path,
    load_image: LoadImage,
    *,
    maps: Path | None = None,
    device: torch.device | str = "cpu",
    precision: Precision | None = None,
) -> None:
    """Predict a benchmark with every selection of a finished run; write the CSV and, beside it, the times.

    Args:
        folder: of the run: run.json and its model files.
        samples: of the benchmark, in the order of its index.
        output: the CSV, one row per sample and selection; written atomically. Counts are written so that they read
            back as the same float64. ``output`` with the suffix ``.timing.json`` gets seconds per image.
        load_image: as for ``predict_samples``.
        maps: the .npz that gets density maps float16 [h, w] under ``<selection>/<id>``, or None.
        device: where the network runs.
        precision: None: as the run's recipe says. fp16 needs a GPU and is fp32 on the CPU, with a message.

    Raises:
        PredictError: the run is not finished or a file of it is damaged, or there is nothing to predict.
    """
    if not samples:
        raise PredictError(f"{output}: the benchmark has no samples")
    record, system = load_run(folder)
    precision = usable_precision(precision or record["recipe"]["precision"], torch.device(device))
    rows: list[tuple[str, ...]] = []
    times: dict[str, Any] = {}
    stored: dict[str, Any] = {}
    of_model: dict[str, list[Predicted]] = {}
    for name, selection in record["selections"].items():
        digest = selection["sha256"]
        if digest not in of_model:  # the last epoch may also be the best one
            load_selection(system, folder, name, selection)
            torch.manual_seed(record["run"]["seed"])
            of_model[digest] = [
                replace(predicted, density=None if predicted.density is None else shrunk(predicted.density))
                for predicted in predict_samples(
                    system, samples, load_image, device=device, precision=precision, keep_maps=maps is not None
                )
            ]
        stored |= {f"{name}/{key}": value for key, value in kept_maps(of_model[digest]).items()}
        rows += [_csv_row(predicted, name) for predicted in of_model[digest] if predicted.kept]
        times[name] = _timing(of_model[digest])
    if maps is not None:
        write_atomically(maps, lambda path: np.savez_compressed(path, allow_pickle=False, **stored))
    write_rows(output, COLUMNS, rows)
    machine = {"device": str(device), "precision": precision, "threads": torch.get_num_threads(), "selections": times}
    write_atomically(
        output.with_suffix(".timing.json"), lambda path: path.write_text(json.dumps(machine, indent=1) + "\n")
    )


def _csv_row(predicted: Predicted, selection: str) -> tuple[str, ...]:
    sample = predicted.sample
    image = "" if sample.image is None else sample.image.name
    return sample.id, image, sample.prompt, repr(float(sample.count)), repr(predicted.count), selection


def _timing(predictions: Sequence[Predicted]) -> dict[str, Any]:
    seconds = [predicted.seconds for predicted in predictions]
    timing: dict[str, Any] = {
        "images": len(seconds),
        "seconds": sum(seconds),
        "seconds_per_image": {predicted.sample.id: predicted.seconds for predicted in predictions},
    }
    if any(predicted.scores is not None for predicted in predictions):
        timing["ties"] = [predicted.sample.id for predicted in predictions if predicted.tied]
        timing["left_out"] = [predicted.sample.id for predicted in predictions if not predicted.kept]
    return timing


def usable_precision(precision: Precision, device: torch.device) -> Precision:
    """Return the precision, or fp32 with a message where the device cannot do it."""
    if precision == "fp16" and device.type == "cpu":
        log.warning("fp16 needs a GPU; predicting in fp32 on the processor")
        return "fp32"
    return precision


def shrunk(density: Tensor) -> Tensor:
    """Return a density map [1, h, w] summed over blocks of cells until its longest side has at most 256 of them.

    What a block lacks at the right and the bottom counts as empty, so the sum stays the count.
    """
    height, width = density.shape[-2:]
    block = -(-max(height, width) // MAP_CELLS)
    if block == 1:
        return density
    padded = F.pad(density, (0, -width % block, 0, -height % block))
    return F.avg_pool2d(padded, block) * block**2


def kept_maps(predictions: Sequence[Predicted]) -> dict[str, np.ndarray]:
    """Return density maps float16 [h, w] by sample id, as many as ``MAP_BYTES`` hold.

    First come the images at the quantiles of the true count, the same for every system, and those with the smallest,
    the median and the largest error; then the others in order.
    """
    with_map = [predicted for predicted in predictions if predicted.density is not None]
    by_count = sorted(with_map, key=lambda p: (p.sample.count, p.sample.id))
    finite = [p for p in with_map if math.isfinite(p.count)]
    by_error = sorted(finite, key=lambda p: (abs(p.count - p.sample.count), p.sample.id))
    first = [by_count[round(q * (len(by_count) - 1))] for q in QUANTILES if by_count]
    first += [by_error[place] for place in (0, (len(by_error) - 1) // 2, -1) if by_error]
    kept: dict[str, np.ndarray] = {}
    free = MAP_BYTES
    for predicted in [*first, *with_map]:
        if predicted.sample.id in kept or predicted.density is None:
            continue
        values = predicted.density[0].numpy().astype(np.float16)
        free -= values.nbytes
        if free < 0:
            break
        kept[predicted.sample.id] = values
    return kept


def predict_benchmark(project: Project, run: Run, benchmark: str) -> Path:
    """Predict ``benchmark`` with a finished run of the project; return the path of the CSV.

    Raises:
        PredictError, DataError, NoDevice: the message says what to do.
    """
    split = run.benchmarks.get(benchmark)
    if split is None:
        known = ", ".join(run.benchmarks) or "none"
        raise PredictError(f"{run.id} is not evaluated on {benchmark} in suite {run.suite}; it is on: {known}")
    torch.set_num_threads(project.config.training_threads)
    samples = read_index(project.root / project.index(split), split.split)
    output = project.root / project.predictions(run, benchmark)
    with device_for(project.config.device, project.config.jobs_per_gpu) as device:
        predict_run(
            project.root / project.run_folder(run),
            samples,
            output,
            picture_of,
            maps=project.root / maps_path(project, run, benchmark),
            device=device,
            precision=project.config.precision,
        )
    return output


def maps_path(project: Project, run: Run, benchmark: str) -> Path:
    """Return where the density maps of a run on a benchmark are kept."""
    parts = project.predictions(run, benchmark).relative_to(project.results / "predictions")
    return project.results / "maps" / parts.with_suffix(".npz")


def picture_of(sample: Sample) -> Tensor:
    """Return the prepared picture of a sample, uint8 [3, H, W].

    Raises:
        PredictError: the data set has no picture here, only its annotation.
    """
    if sample.image is None:
        raise PredictError(f"sample {sample.id}: only its annotation is here, not its picture: {HOW_TO_GET_PICTURES}")
    return load_picture(sample.image)

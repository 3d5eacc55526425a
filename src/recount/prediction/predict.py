"""``recount predict``: predictions of a finished run over a benchmark, with every selection of the run.

Times are not in the predictions CSV but beside it (``seed0.timing.json``), so that the same seed gives the same bytes.
Density maps for figures are kept of as many images as a few megabytes hold (``kept_maps``).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from safetensors.torch import load_file
from torch import Tensor

from recount import provenance, systems
from recount.chain import Chain
from recount.data.index import read_index
from recount.data.needs import with_pictures
from recount.data.pictures import load_image as load_picture
from recount.data.sample import Sample
from recount.devices import device_for
from recount.errors import UserError
from recount.jobs import attempt, digests
from recount.nn.precision import usable_precision
from recount.prediction.samples import Asking, LoadImage, Predicted
from recount.results.attempts import predict_job
from recount.results.files import Made, ResultsError, file_digest, write_arrays
from recount.results.predictions import PREDICTIONS, PredictionRow, SelectionTiming, Timing, timing_path
from recount.results.run_record import RUN, RunRecord, Selection, read_run_record
from recount.settings.base import merged
from recount.settings.project import Project, Run, Split
from recount.settings.recipe import Precision
from recount.systems.base import System

MAP_CELLS = 256  # longest side of a kept density map; a larger one is summed over blocks of cells
MAP_BYTES = 16_000_000  # of kept density maps per run, benchmark and selection
QUANTILES = (0.0, 0.25, 0.5, 0.75, 1.0)  # of the true count: the images whose maps are kept before all others


def load_run(folder: Path, reading: Mapping[str, Any] | None = None) -> tuple[RunRecord, System]:
    """Return the record of a finished training and its system without weights; ``reading`` replaces settings."""
    record = read_run_record(folder)
    system_class = systems.load(record.run.system)
    try:
        settings = system_class.Settings.model_validate(merged(record.settings, reading or {}))
    except ValidationError as error:  # an older recount trained it
        first = error.errors()[0]
        what = f"settings.{'.'.join(map(str, first['loc']))}: {first['msg']}: another recount trained it"
        raise ResultsError(folder / RUN, what, "`recount train` makes it anew") from None
    return record, system_class(settings)


def load_selection(system: System, folder: Path, name: str, selection: Selection) -> None:
    """Load the weights of one selection of a run, checked against the recorded sha256."""
    path = folder / selection.model
    if not path.is_file():
        what = f"no such file, though run.json names it for selection {name!r}; train the run again"
        raise UserError(f"{path}: {what}")
    if file_digest(path) != selection.sha256:
        raise UserError(f"{path}: sha256 is not the one in run.json: the file was changed or is damaged")
    try:
        system.load_state_dict(load_file(path))
    except RuntimeError as error:
        raise UserError(f"{path}: does not fit the settings in run.json: {error}") from error


def predict_run(
    folder: Path,
    samples: Sequence[Sample],
    output: Path,
    load_image: LoadImage,
    *,
    maps: Path | None = None,
    device: torch.device | str = "cpu",
    precision: Precision | None = None,
    reading: Mapping[str, Any] | None = None,
    made_from: Made | None = None,
) -> None:
    """Predict a benchmark with every selection of a finished run; write the CSV and, beside it, the times.

    The CSV has a row per sample and selection, in the order of ``samples``; counts read back as the same float64.
    ``maps`` is the .npz that gets density maps float16 [h, w] under ``<selection>/<id>``. Without a ``precision`` it is
    that in which the run's recipe evaluates. ``reading`` is as for ``load_run``. ``made_from`` says what only the
    caller knows: data, settings, and the name of ``maps`` below the results.
    """
    if not samples:
        raise UserError(f"{output}: the benchmark has no samples")
    record, system = load_run(folder, reading)
    precision = usable_precision(precision or record.precision_of_evaluation, torch.device(device))
    asking = Asking(system, load_image, device, precision)
    rows: list[PredictionRow] = []
    times: dict[str, SelectionTiming] = {}
    stored: dict[str, np.ndarray] = {}
    of_model: dict[str, tuple[list[Predicted], dict[str, np.ndarray]]] = {}
    for name, selection in record.selections.items():
        if selection.sha256 not in of_model:  # the last epoch may also be the best one
            load_selection(system, folder, name, selection)
            torch.manual_seed(record.run.seed)
            predicted = list(map(_storable, asking.predict(samples, keep_density=maps is not None)))
            of_model[selection.sha256] = [replace(each, density=None) for each in predicted], kept_maps(predicted)
            del predicted  # before the next model
        predictions, small = of_model[selection.sha256]
        stored |= {f"{name}/{key}": value for key, value in small.items()}
        rows += [_csv_row(each, name) for each in predictions if each.kept]
        times[name] = _timing(predictions)
    made = made_from or Made()
    content = {}
    if maps is not None:
        write_arrays(maps, stored)
        content = {name: file_digest(maps) for name in made.content}
    PREDICTIONS.write(output, rows)
    content[output.name] = file_digest(output)
    models = {name: selection.sha256 for name, selection in record.selections.items()}
    made = made.model_copy(update={"content": content, "run": record.id, "models": models})
    threads = torch.get_num_threads()
    Timing(made=made, device=str(device), precision=precision, threads=threads, selections=times).write(
        timing_path(output)
    )


def _csv_row(predicted: Predicted, selection: str) -> PredictionRow:
    sample = predicted.sample
    image = "" if sample.image is None else sample.image.name
    return PredictionRow(sample.id, image, sample.prompt, float(sample.count), predicted.count, selection)


def _timing(predictions: Sequence[Predicted]) -> SelectionTiming:
    by_caption = any(predicted.scores is not None for predicted in predictions)
    return SelectionTiming(
        images=len(predictions),
        seconds=sum(predicted.seconds for predicted in predictions),
        seconds_per_image={predicted.sample.id: predicted.seconds for predicted in predictions},
        ties=[predicted.sample.id for predicted in predictions if predicted.tied] if by_caption else None,
        left_out=[predicted.sample.id for predicted in predictions if not predicted.kept] if by_caption else None,
    )


def _storable(predicted: Predicted) -> Predicted:
    """Return a prediction whose density is as it would be stored: of a benchmark's pictures, no more is in memory."""
    return replace(predicted, density=None if predicted.density is None else shrunk(predicted.density).half())


def shrunk(density: Tensor) -> Tensor:
    """Return a density map [1, h, w] summed over blocks of cells, at most ``MAP_CELLS`` a side; it sums to the same."""
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


def check_benchmark(run: Run, benchmark: str) -> Split:
    """Return the split that stands for a benchmark, on which a run must be evaluated."""
    if benchmark not in run.benchmarks:
        known = ", ".join(run.benchmarks) or "none"
        raise UserError(f"{run.id} is not evaluated on {benchmark} in suite {run.suite}; it is on: {known}")
    return run.benchmarks[benchmark]


def predict_benchmark(project: Project, run: Run, benchmark: str) -> Path:
    """Predict ``benchmark`` with a finished run of the project; return the path of the CSV."""
    split = check_benchmark(run, benchmark)
    settings, code = provenance.reading_of(project, run), provenance.step_digest("predict", run.system)
    index, record = project.root / project.index(split), project.root / project.run_folder(run) / RUN
    job = predict_job(run, benchmark)
    with attempt(project, "predict", job, {"settings": settings, "code": code, **digests(index, record)}):
        torch.set_num_threads(project.config.threads)
        Chain(project).run(run)  # else it is not to be read
        data = provenance.data_digests([index])
        samples = with_pictures(read_index(index, split.split), job)
        output = project.predictions(run, benchmark)
        maps = Path("maps", *output.parts[len(project.results.parts) + 1 :]).with_suffix(".npz")
        with device_for(project.config.device, project.config.jobs_per_gpu, project.config.determinism) as device:
            predict_run(
                record.parent,
                samples,
                project.root / output,
                picture_of,
                maps=project.root / project.results / maps,
                device=device,
                precision=project.config.evaluation_precision,
                reading=run.reading,
                made_from=Made(content={maps.as_posix(): ""}, data=data, settings=settings, code=code),
            )
        return project.root / output


def picture_of(sample: Sample) -> Tensor:
    """Return the prepared picture of a sample, uint8 [3, H, W]."""
    if sample.image is None:
        raise UserError(f"sample {sample.id}: only its annotation is here, not its picture")
    return load_picture(sample.image, sample.image_sha256)

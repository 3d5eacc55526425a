"""``recount predict --with module:function``: anyone's Python function as a counter, without porting it.

The function is called as ``count(image, prompt)`` for each sample, in their order: ``image`` is a PIL picture in RGB,
as it was prepared; ``prompt`` is text ("" where a benchmark has none). It returns a number, or a density map [h, w]
(numpy, torch, or lists) whose sum is the count. recount sets no seeds and no device: both are the function's affair.
"""

import importlib
import inspect
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from recount.data.pictures import read_picture
from recount.data.sample import Sample
from recount.errors import UserError
from recount.exchange.submitting import Given, place_of, prompt_tested
from recount.results.files import file_digest
from recount.settings.project import Project

Counter = Callable[[Image.Image, str], Any]


def load_counter(given: str) -> Counter:
    """Return the function that ``module:function`` names; the module may lie in the current folder."""
    module, colon, name = given.partition(":")
    if not colon or not module or not name:
        raise UserError(f"--with {given}: expected module:function, for instance my_counter:count")
    sys.path.insert(0, str(Path.cwd()))
    try:
        found = getattr(importlib.import_module(module), name, None)
    except Exception as error:  # whatever a stranger's module does when it is imported
        raise UserError(f"--with {given}: {module} cannot be imported: {_told(error)}") from None
    if not callable(found):
        raise UserError(f"--with {given}: {module} has no function {name}")
    return found


def _told(error: BaseException) -> str:
    """Return an error in one line, with the place in the code that is not recount's."""
    every = traceback.extract_tb(error.__traceback__)
    frames = [frame for frame in every if frame.filename != __file__ and "importlib" not in frame.filename]
    where = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}{where}"


def answer(count: Counter, sample: Sample, given: str) -> tuple[float, np.ndarray | None]:
    """Return what a counter says of a sample: the count, and a density map [h, w] where it is one; else a UserError."""
    where = f"--with {given}: sample {sample.id}"
    if sample.image is None:
        raise UserError(f"{where}: only its annotation is here, not its picture; `recount fetch` it")
    image = read_picture(sample.image, sha256=sample.image_sha256).image
    try:
        said = count(image, sample.prompt)
    except Exception as error:  # whatever a stranger's function raises
        raise UserError(f"{where}: the function raised {_told(error)}") from None
    try:
        values = np.asarray(said.detach().cpu() if hasattr(said, "detach") else said)
    except (ValueError, TypeError, RuntimeError):
        values = np.asarray(None)
    values = values.reshape(values.shape[-2:]) if values.size == np.prod(values.shape[-2:]) else values
    if isinstance(said, str | bool) or values.dtype.kind not in "iuf" or values.ndim not in {0, 2} or not values.size:
        kind = f"an array of {values.dtype} {list(values.shape)}" if values.ndim else type(said).__name__
        raise UserError(f"{where}: the function returned {kind}; expected a number or a density map [h, w]")
    number = float(values.sum(dtype=np.float64))
    if not np.isfinite(number):
        raise UserError(f"{where}: the function returned {number}; expected a finite number")
    return number, values if values.ndim else None


def counted(project: Project, benchmark: str, given: str, *, prompts: bool = False) -> Given:
    """Ask a function for every sample of a benchmark, and for the prompt tests if they are wanted."""
    from recount.prediction.predict import kept_maps, shrunk
    from recount.prediction.samples import Predicted

    count = load_counter(given)
    place, samples = place_of(project, benchmark)
    results: list[Predicted] = []
    for sample in samples:
        number, density = answer(count, sample, given)
        results.append(Predicted(sample, number, 0.0, None if density is None else shrunk(_as_map(density))))
    tests = None
    if prompts:
        tests = prompt_tested(project, benchmark, place, samples, lambda sample: answer(count, sample, given)[0])
    file = inspect.getsourcefile(inspect.unwrap(count)) if inspect.isroutine(count) else None
    files = {Path(file).name: file_digest(Path(file))} if file and Path(file).is_file() else {}
    counts = {result.sample.id: result.count for result in results}
    return Given(counts, given, files, tests, kept_maps(results))


def _as_map(density: np.ndarray) -> Any:
    import torch

    return torch.from_numpy(np.ascontiguousarray(density, np.float32))[None]

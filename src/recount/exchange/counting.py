"""``recount count``: a trained run on a user's own pictures: counts, overlays, a CSV.

A picture goes the way of the run's training pictures: read as ``recount prepare`` reads them (stored pixels, an EXIF
orientation is not applied; damaged ones are refused), resized and perhaps saved as JPEG by the preparation that
run.json names, then cut into the system's windows. One step is added, because a user's picture may not fit the cells of
the density map: its edges are rounded to whole cells by resizing, as crowd systems' size rules do, and the log says so.
"""

import io
import logging
import math
import re
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib import font_manager
from PIL import Image, ImageDraw, ImageFont

from recount import datasets
from recount.data.dataset import DataError
from recount.data.index import named_files, read_prompts
from recount.data.pictures import Picture, read_picture, resize, save
from recount.data.sample import Sample
from recount.data.size_rules import ORIGINAL_SIZE, SizeRule
from recount.devices import device_for
from recount.errors import UserError
from recount.nn.precision import usable_precision
from recount.prediction.predict import load_run, load_selection, shrunk
from recount.prediction.samples import Asking, Predicted
from recount.report.gallery import crowded, map_png, overlay_png, smoothed
from recount.results.files import SaveError, file_digest, number_text, write_atomically, write_rows
from recount.results.run_record import RunRecord
from recount.settings.base import ConfigError, unknown
from recount.settings.project import Project, Split
from recount.settings.recipe import Precision
from recount.systems.base import System

log = logging.getLogger(__name__)

OVERLAY = ".recount.png"  # ends the name of an overlay, after the picture's own
COLUMNS = ["image", "prompt", "count", "run", "selection", "width", "height", "seconds", "overlay", "problem"]
# A user's pictures are none that a selection was made on, so that the best one by any evaluation is the one to use.
PREFERRED = ("best_on_held_out", "best_on_test", "last")
OVERLAY_EDGE = 1600  # longest edge of an overlay, pixels
SMALLEST = 32  # edge in pixels below which networks may run out of cells
READABLE_EDGE = 480  # a smaller picture is enlarged towards this longest edge, by a whole factor
OPACITY = 0.6  # of the density where it is highest; the photograph shows through it everywhere
SCALE_START = f"0 {' ' * 16} "  # the scale's colours are drawn over the blanks
SCALE_PIXELS = 100  # side of the square that the scale is about
ANY_SIZE = (sys.maxsize, 1)  # a window that all pictures fit into
RUN_ID = re.compile(r"[A-Za-z0-9][\w.+-]*/[A-Za-z0-9][\w.+-]*/seed\d+")


@dataclass(frozen=True, slots=True)
class Counted:
    """What became of one picture."""

    image: Path
    count: float = math.nan  # where there is none; ``problem`` says why
    width: int = 0  # pixels, as the system saw it
    height: int = 0
    seconds: float = math.nan
    overlay: Path | None = None  # the PNG that was written
    problem: str = ""

    def row(self, prompt: str, run: str, selection: str) -> list[str]:
        """Return the fields of ``COLUMNS``."""
        took = "" if math.isnan(self.seconds) else f"{self.seconds:.4f}"
        seen = [str(self.width or ""), str(self.height or ""), took, str(self.overlay or ""), self.problem]
        return [str(self.image), prompt, number_text(self.count), run, selection, *seen]


@dataclass(frozen=True, slots=True)
class Counts:
    """The counts of a call, their CSV (None for a single picture without ``output``), and the weights that counted."""

    counted: tuple[Counted, ...]
    csv: Path | None
    selection: str
    trained_on: str  # in words

    @property
    def problems(self) -> list[str]:
        """A line for each picture without a count."""
        return [entry.problem for entry in self.counted if entry.problem]


def count(
    project: Project,
    run: str,
    images: Sequence[Path],
    *,
    prompt: str = "",
    output: Path | None = None,
    selection: str | None = None,
    anyway: bool = False,
) -> Counts:
    """Count on pictures with a run of the project's suite; one that cannot be read has a problem instead of a count.

    Overlays of an earlier count are left out. Overlays and CSV go into ``output``; without it, each overlay beside its
    picture, and the CSV, of several pictures, into the current folder. ``selection`` names the weights; None takes the
    first of ``PREFERRED`` that there are. A UserError says what to do; without ``anyway``, also where the run was
    trained for nothing like it: on drawn scenes, or never for this prompt.
    """
    folder, reading = _training_of(project, run)
    record, system = load_run(folder, reading)
    if system.text_guided and not prompt.strip():
        raise UserError(f'--run {run} counts what a prompt names: say what, for instance --prompt "red stars"')
    if not system.text_guided and prompt:
        raise UserError(f"--run {run} reads no prompt, it counts what it was trained on: leave --prompt out")
    overlays = [image for image in images if image.name.endswith(OVERLAY)]
    images = [image for image in images if not image.name.endswith(OVERLAY)]
    if not images:
        raise UserError(f"there is nothing to count: what ends in {OVERLAY} is an overlay of an earlier count")
    if overlays:
        log.info("%d overlays of an earlier count (%s) are left out", len(overlays), OVERLAY)
    targets = [(output or image.parent) / f"{image.name}{OVERLAY}" for image in images]
    twice = sorted({target.name for target in targets if targets.count(target) > 1})
    if twice:
        raise UserError(f"several pictures would be written to {', '.join(twice)}: count them in separate calls")
    trained_on, outside = _trained_on(project, record, images, prompt)
    if outside and not anyway:
        raise UserError(f"--run {run} was {trained_on}; {outside}. To have a number nevertheless: --anyway")
    there = record.selections
    if selection is not None and selection not in there:
        raise UserError(f"--selection {selection}: {run} has no such weights; it has: {', '.join(there)}")
    chosen = selection or next((name for name in PREFERRED if name in there), next(iter(there)))
    load_selection(system, folder, chosen, there[chosen])
    torch.manual_seed(record.run.seed)
    with device_for(project.config.device, project.config.jobs_per_gpu, project.config.determinism) as device:
        precision = usable_precision(project.config.evaluation_precision or record.precision_of_evaluation, device)
        system.to(device).eval()
        counter = _Counter(system, _size_rule(record), prompt, precision, device, f"{run}, {chosen}")
        counted = tuple(counter.count(image, target) for image, target in zip(images, targets, strict=True))
    table = None
    if output is not None or len(images) > 1:
        table = (output or Path()) / "recount_counts.csv"
        write_rows(table, COLUMNS, [entry.row(prompt, run, chosen) for entry in counted])
    return Counts(counted, table, chosen, f"{trained_on}; {outside}" if outside else trained_on)


def _trained_on(project: Project, record: RunRecord, images: Sequence[Path], prompt: str) -> tuple[str, str]:
    """Return what a run was trained on, and why these pictures or this prompt are nothing like it ("": they may be)."""
    training = record.run.training
    if training is None or training.dataset not in datasets.names():
        return "trained on data that are not known here", ""
    place = Split(dataset=training.dataset, split=training.split, preparation=training.preparation)
    dataset, index = datasets.load(place.dataset), project.root / project.index(place)
    words = f"trained on {training.dataset}/{training.split} ({dataset.title})"
    own = set(named_files(index).values()) if index.is_file() else set()
    if dataset.embedded:
        foreign = [image for image in images if image.is_file() and file_digest(image) not in own]
        if foreign:
            return words, f"{foreign[0]} is no picture of it, and what it counts in other pictures means nothing"
    prompts = read_prompts(index, training.split) if prompt and index.is_file() else set()
    if prompts and prompt not in prompts:
        return words, f"it was never asked for {prompt!r}: {unknown('prompt', prompt, prompts)}"
    return words, ""


def _training_of(project: Project, run: str) -> tuple[Path, dict[str, Any]]:
    """Return the folder of the training that a run reads, and the settings that the run lays over it."""
    if not RUN_ID.fullmatch(run):
        raise UserError(f"--run {run}: expected SYSTEM/VARIANT/seedK, for instance gigacount/full/seed0")
    runs = project.root / project.results / "runs"
    training, reading = run, {}
    with suppress(ConfigError):  # what was trained outside this choice of papers and tables lies under its own name
        system, variant, seed = run.split("/")
        known = project.run(system, variant, int(seed.removeprefix("seed")))
        training, reading = known.training_id, known.reading
    if not (runs / training / "run.json").is_file():
        found = sorted(path.parent.relative_to(runs).as_posix() for path in runs.glob("*/*/seed*/run.json"))
        trained = f"trained are: {', '.join(found)}" if found else "nothing is trained there yet"
        raise UserError(
            f"--run {run}: there is no such run in {runs}; {trained}. `recount train {training}` trains it; "
            "--config suite=NAME looks in another suite"
        )
    return runs / training, reading


def _size_rule(record: RunRecord) -> SizeRule:
    training = record.run.training
    if training is None:  # a released checkpoint without a training set in its suite
        return ORIGINAL_SIZE
    name, preparation = training.dataset, training.preparation
    if name not in datasets.names() or preparation not in datasets.load(name).preparations:
        raise UserError(f"run.json: this recount has no preparation {preparation!r} of a data set {name!r}")
    return datasets.load(name).preparations[preparation]


@dataclass
class _Counter:
    """A loaded system on its device, and how pictures reach it."""

    system: System
    rule: SizeRule
    prompt: str
    precision: Precision
    device: torch.device
    title: str

    def count(self, path: Path, target: Path) -> Counted:
        """Count one picture and write its overlay."""
        try:
            image = self._prepared(read_picture(path), path)
        except DataError as error:
            return Counted(path, problem=str(error))
        predicted = self._predicted(image, path)
        if isinstance(predicted, str):
            return Counted(path, width=image.width, height=image.height, problem=f"{path}: {predicted}")
        problem = f"{path}: the system's output is not a finite number" if math.isnan(predicted.count) else ""
        if not predicted.kept:
            problem = f"{path}: the system's protocol leaves this picture out"
        number = math.nan if problem else predicted.count
        shown = "no count" if problem else f"{number:.1f}".removesuffix(".0")
        drawn = _overlay(image, predicted, f"{f'{shown} {self.prompt}'.strip()} · {self.title}")
        overlay: Path | None = target
        try:
            write_atomically(target, lambda temporary: drawn.save(temporary, format="PNG"))
        except SaveError as error:  # a name that is too long with its ending; the number stands all the same
            overlay, problem = None, "; ".join(filter(None, [problem, str(error)]))
        return Counted(path, number, image.width, image.height, predicted.seconds, overlay, problem)

    def _prepared(self, picture: Picture, path: Path) -> Image.Image:
        if picture.turned:
            log.warning("%s: its EXIF orientation is not applied, as in preparation; turn the pixels if need be", path)
        image = picture.image
        image = resize(image, self.rule.new_size(*image.size), self.rule.resample, antialias=self.rule.antialias)
        if self.rule.encoding in ("jpeg75", "jpeg95"):  # the training pictures went through JPEG
            with tempfile.TemporaryDirectory() as folder:
                save(image, Path(folder) / "prepared.jpg", self.rule.encoding)
                image = read_picture(Path(folder) / "prepared.jpg").image
        width, height = (
            edge if edge <= window else max(round(edge / cell) * cell, window)
            for edge, (window, cell) in zip(image.size, self._grid, strict=True)
        )
        fitted = width, height
        if fitted != image.size:
            log.info("%s: resized from %d x %d to %d x %d, whole cells of the density map", path, *image.size, *fitted)
            image = resize(image, fitted, "bicubic", antialias=True)
        return image

    @cached_property
    def _grid(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """Along width and height, pixels of a window and of a cell of its density map, seen from a black window."""
        windows, density = self.system.windows, None
        # The other ways to fit and to stitch bring pictures to size themselves, or work on pixels.
        if windows is not None and windows.fit == "shift" and windows.stitch == "average":
            black = torch.zeros(1, 3, windows.height, windows.width, device=self.device)
            with torch.inference_mode():
                density = self.system.predict(black, [self.prompt]).density
        if windows is None or density is None:
            return ANY_SIZE, ANY_SIZE
        rows, columns = density.shape[-2:]
        return (windows.width, windows.width // columns), (windows.height, windows.height // rows)

    def _predicted(self, image: Image.Image, path: Path) -> Predicted | str:
        """Return the prediction, or what prevented it."""
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()  # (3, H, W)
        sample = Sample(path.name, "", path, np.zeros((0, 2), np.float32), math.nan, self.prompt, *image.size)
        try:
            asking = Asking(self.system, lambda _: pixels, self.device, self.precision)
            return next(asking.predict([sample], keep_density=True))
        except RuntimeError as error:
            size = f"{image.width} x {image.height} pixels"
            if "memory" in str(error):  # torch's word on cards and processors alike
                return f"{size} do not fit into the memory of {self.device}; make the picture smaller"
            if min(image.size) < SMALLEST:
                return f"{size} are too few for this system"
            raise


def _overlay(image: Image.Image, predicted: Predicted, caption: str) -> Image.Image:
    """Return the picture with the density over it; text and the density's scale below it."""
    picture = image.resize([edge * max(1, READABLE_EDGE // max(image.size)) for edge in image.size])
    picture.thumbnail((OVERLAY_EDGE, OVERLAY_EDGE), Image.Resampling.LANCZOS)
    scale = 0.0
    if predicted.density is not None:
        density = smoothed(np.nan_to_num(shrunk(predicted.density)[0].numpy()).clip(min=0))
        scale = crowded(density) * density.size / (image.width * image.height) * SCALE_PIXELS**2
        layer = Image.open(io.BytesIO(overlay_png(density, crowded(density)))).convert("RGBA")
        layer.putalpha(layer.getchannel("A").point(lambda value: int(value * OPACITY)))
        layer = layer.resize(picture.size, Image.Resampling.BILINEAR)
        picture = Image.alpha_composite(picture.convert("RGBA"), layer).convert("RGB")
    size = max(12, picture.width // 45)
    font = ImageFont.truetype(font_manager.findfont("DejaVu Sans"), size)
    lines = list(_wrapped(caption, font, picture.width - size))
    if scale:
        lines.append(f"{SCALE_START}{scale:.3g} in {SCALE_PIXELS} x {SCALE_PIXELS} px")
    whole = Image.new("RGB", (picture.width, picture.height + int(1.5 * size * len(lines)) + size // 2))
    whole.paste(picture)
    draw = ImageDraw.Draw(whole)
    for number, line in enumerate(lines):
        draw.text((size // 2, picture.height + size // 3 + int(1.5 * size * number)), line, fill="white", font=font)
    if scale:  # between the two numbers of the last line, in the colours that the picture has where it is black
        left, right = (size // 2 + int(font.getlength(text)) for text in ("0 ", SCALE_START[:-1]))
        steps = np.sqrt(np.linspace(0, 1, right - left))[None].repeat(size, axis=0)
        bar = Image.open(io.BytesIO(map_png(steps, "inferno", transparent=True))).convert("RGBA")
        bar.putalpha(bar.getchannel("A").point(lambda value: int(value * OPACITY)))
        whole.paste(bar, (left, whole.height - int(1.5 * size)), bar)
    return whole


def _wrapped(text: str, font: ImageFont.FreeTypeFont, width: int) -> Iterator[str]:
    line = ""
    for word in text.split():
        longer = f"{line} {word}".strip()
        if line and font.getlength(longer) > width:
            yield line
            longer = word
        line = longer
    yield line

"""Predictions of a system over samples.

Windows of one image, and of several, share a forward pass: GigaCount's and CLIP-EBC's code puts all windows of an image
into one batch (AdamHermes/GigaCount@d57191e); here a pass holds at most ``Windows.batch`` of them, whatever images they
come from. Which windows share a pass changes a prediction in the last digits of a float at most.
"""

import logging
import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import groupby, islice
from typing import TypeAlias

import torch
from torch import Tensor

from recount.data.sample import Sample
from recount.data.windows import Windows, cut, fit, stitch, stitch_intensities
from recount.nn.precision import computing_in
from recount.settings.recipe import Precision
from recount.systems.base import Prediction, System

log = logging.getLogger(__name__)

WHOLE_IMAGE_PIXELS = 2048 * 2048  # whole images of one size share a forward pass up to the area of one of UCF-QNRF's
IMAGES_AHEAD = 2

LoadImage = Callable[[Sample], Tensor]


@dataclass(frozen=True, slots=True)
class Predicted:
    """What a system says of one sample; tensors are float32 on the CPU, and maps may not be kept."""

    sample: Sample
    count: float  # NaN where the system's output is not finite
    seconds: float  # the share of the forward passes that its windows were in, and of stitching; not of decoding
    density: Tensor | None = None  # (1, h, w) objects per cell; None for count-by-caption systems
    maps: dict[str, Tensor] = field(default_factory=dict)  # further ones, (1, h, w); of windows: enlarged to pixels
    scores: Tensor | None = None  # (K,) class scores of a count-by-caption system
    kept: bool = True  # False where the system's protocol leaves the sample out

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


_Piece: TypeAlias = tuple[_Pending, Tensor]  # a window of an image or all of it, float32 (3, h, w)


def predict_samples(
    system: System,
    samples: Sequence[Sample],
    load_image: LoadImage,
    *,
    device: torch.device | str = "cpu",
    precision: Precision = "fp32",
    keep_density: bool = False,
    keep_maps: bool = False,
) -> Iterator[Predicted]:
    """Predict samples in order. The system is moved to ``device``; the mode of each of its modules is put back.

    The system's ``windows`` say how images are cut; None: whole images, of equal size together. ``load_image`` gives
    uint8 [3, H, W] RGB, in another thread, a few images ahead. Nothing of a picture outlives it but what is asked for:
    ``keep_density`` returns its density, ``keep_maps`` its further maps.
    """
    modes = {module: module.training for module in system.modules()}
    system.to(device).eval()
    pending: deque[_Pending] = deque()
    try:
        for batch in _batches(_pieces(system, samples, load_image, torch.device(device), pending), system.windows):
            _run_pass(system, batch, precision, keep_maps)
            while pending and len(pending[0].done) == pending[0].pieces:
                yield _finish(system, pending.popleft(), keep_density)
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
            yield owner, piece


def _batches(pieces: Iterable[_Piece], windows: Windows | None) -> Iterator[list[_Piece]]:
    """Group consecutive pieces of one size, as many as a forward pass may hold."""
    for (_, height, width), alike in groupby(pieces, key=lambda piece: piece[1].shape):
        limit = windows.batch if windows is not None else max(WHOLE_IMAGE_PIXELS // (height * width), 1)
        while batch := list(islice(alike, limit)):
            yield batch


def _run_pass(system: System, batch: list[_Piece], precision: Precision, keep_maps: bool) -> None:
    """Predict one batch and hand each piece's part to its image."""
    owners, pieces = zip(*batch, strict=True)
    device = pieces[0].device
    start = _now(device)
    with torch.inference_mode(), computing_in(precision, device):
        images = torch.stack(pieces)  # (B, 3, h, w)
        prediction = system.predict(images, [system.prompt_of(owner.sample) for owner in owners])
    if not keep_maps:
        prediction.maps = {}
    share = (_now(device) - start) / len(batch)
    for index, owner in enumerate(owners):
        owner.done.append(_row(prediction, index))
        owner.seconds += share


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
def _finish(system: System, image: _Pending, keep_density: bool) -> Predicted:
    start = time.perf_counter()
    whole = image.done[0] if system.windows is None else _stitched(image, system.windows)
    count = float(system.read_out(whole, image.sample)[0])
    # NaN scores have a largest one, too
    if not math.isfinite(count) or (whole.scores is not None and not whole.scores.isfinite().all()):
        log.warning("sample %s: the system's output is not finite; its count is recorded as NaN", image.sample.id)
        count = math.nan
    return Predicted(
        sample=image.sample,
        count=count,
        seconds=image.seconds + time.perf_counter() - start,
        density=whole.density[0].cpu() if keep_density and whole.density is not None else None,
        maps={name: values[0].cpu() for name, values in whole.maps.items()},
        scores=None if whole.scores is None else whole.scores[0].cpu(),
        kept=whole.kept is None or bool(whole.kept[0]),
    )


def _stitched(image: _Pending, windows: Windows) -> Prediction:
    densities = [part.density for part in image.done if part.density is not None]
    if len(densities) != image.pieces:
        raise ValueError("a system that predicts by windows must return densities; class scores cannot be stitched")
    maps = {name: torch.cat([part.maps[name] for part in image.done]) for name in image.done[0].maps}
    size = image.height, image.width
    return Prediction(
        density=stitch(torch.cat(densities), *size, windows),
        maps={name: stitch_intensities(values, *size, windows) for name, values in maps.items()},
    )


@dataclass(frozen=True, slots=True)
class Asking:
    """A network and how it is asked; fields as the arguments of ``predict_samples``."""

    system: System
    load_image: LoadImage
    device: torch.device | str = "cpu"
    precision: Precision = "fp32"

    def predict(
        self, samples: Sequence[Sample], load_image: LoadImage | None = None, **kept: bool
    ) -> Iterator[Predicted]:
        """Predict samples in order, with pictures of another loader if one is given; ``kept`` as there."""
        load, how = load_image or self.load_image, {"device": self.device, "precision": self.precision}
        return predict_samples(self.system, samples, load, **how, **kept)  # type: ignore[arg-type]

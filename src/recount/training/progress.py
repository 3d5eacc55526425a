"""What a person sees of a training: a bar with the time left on a terminal, a line per epoch in a log, a small file."""

import logging
import math
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from recount.results.attempts import PROGRESS, TrainingProgress
from recount.results.files import SaveError

log = logging.getLogger(__name__)

NOTE_SECONDS = 10.0  # between two notes in the file


class Reporter(Progress):
    """Shows progress, and notes it in ``folder``; use it as a context manager. Of several processes, only the first."""

    def __init__(self, folder: Path, device: torch.device, *, shown: bool = True) -> None:
        super().__init__(
            *(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()),
            TextColumn("loss {task.fields[loss]:.4g}"),
            console=Console(stderr=True),
            disable=not shown or not sys.stderr.isatty(),
        )
        self.shown, self.path = shown, folder / PROGRESS
        self.device = torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)

    def begin_stage(self, name: str, epochs: int, steps: int, done: int) -> None:
        """Begin a stage of ``epochs`` of so many ``steps``, of which ``done`` steps of all are behind us."""
        self.stage = self.add_task(name, total=epochs * steps, completed=done, loss=math.nan)
        self.name, self.epochs, self.steps, self.done, self.begun_with = name, epochs, steps, done, done
        self.began = time.monotonic()
        self._note(math.nan)

    def step(self, loss: float) -> None:
        """One step is done; ``loss`` is the epoch's mean so far."""
        self.update(self.stage, advance=1, loss=loss)
        self.done += 1
        if time.monotonic() - self.noted >= NOTE_SECONDS:
            self._note(loss)

    def _note(self, loss: float) -> None:
        self.noted, here = time.monotonic(), self.done - self.begun_with
        if not self.shown:
            return
        left = (self.noted - self.began) / here * (self.epochs * self.steps - self.done) if here else None
        epoch, step = divmod(self.done, max(self.steps, 1))
        known = None if math.isnan(loss) else loss
        with suppress(SaveError):  # a full disk stops the run where it saves something
            TrainingProgress(
                stage=self.name, epoch=min(epoch + 1, self.epochs), epochs=self.epochs, step=step, steps=self.steps,
                loss=known, seconds_left=left, device=self.device,
            ).write(self.path)  # fmt: skip

    def epoch(self, row: Mapping[str, Any]) -> None:
        """An epoch is done."""
        if self.shown:
            numbers = " ".join(f"{key} {value:.4g}" for key, value in row.items() if isinstance(value, float))
            log.info("%s epoch %s: %s", row["stage"], row["epoch"], numbers)

"""What a person sees of a training run: a bar with the time left on a terminal, a line per epoch in a log."""

import logging
import sys
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

log = logging.getLogger(__name__)


class Reporter(Progress):
    """Shows progress; use it as a context manager. Of several processes, the first one's is ``shown``."""

    def __init__(self, *, shown: bool = True) -> None:
        super().__init__(
            *(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()),
            TextColumn("loss {task.fields[loss]:.4g}"),
            console=Console(stderr=True),
            disable=not shown or not sys.stderr.isatty(),
        )
        self.shown = shown

    def begin_stage(self, name: str, steps: int, done: int) -> None:
        """Show a new bar for a stage of ``steps`` steps, ``done`` of which are behind us."""
        self.stage = self.add_task(name, total=steps, completed=done, loss=float("nan"))

    def step(self, loss: float) -> None:
        """One step is done; ``loss`` is the epoch's mean so far."""
        self.update(self.stage, advance=1, loss=loss)

    def epoch(self, row: Mapping[str, Any]) -> None:
        """An epoch is done."""
        if self.shown:
            numbers = " ".join(f"{key} {value:.4g}" for key, value in row.items() if isinstance(value, float))
            log.info("%s epoch %s: %s", row["stage"], row["epoch"], numbers)

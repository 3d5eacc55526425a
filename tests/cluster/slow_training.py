"""What ``python -m recount`` is where SLURM's time is short: the real one, each of whose steps is slow and noted.

``jobs.txt`` gets a line for each start, ``steps.txt`` one for each step that a training has made.
"""

import os
import sys
import time
from pathlib import Path

from recount.cli import app
from recount.training.loop import Trainer

STEP_SECONDS = 1.2
make_step = Trainer._train_step


def slow_step(trainer: Trainer, *batch: object) -> None:
    time.sleep(STEP_SECONDS)
    make_step(trainer, *batch)
    note("steps.txt", str(trainer.progress.steps_done))


def note(name: str, text: str) -> None:
    with Path(name).open("a", encoding="utf-8") as stream:
        stream.write(f"{text}\n")


if sys.argv[1] == "train":
    note("jobs.txt", f"{os.environ.get('SLURM_JOB_ID')};{os.environ.get('RECOUNT_ATTEMPT')}")
    Trainer._train_step = slow_step  # type: ignore[method-assign]
app()

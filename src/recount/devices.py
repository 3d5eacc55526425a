"""Which device a job computes on: the first free card by file lock, or the processor."""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import torch
from filelock import FileLock, Timeout

from recount.errors import UserError

log = logging.getLogger(__name__)

POLL_SECONDS = 5.0


class NoDevice(UserError):
    """The wanted device is not there; the message says what to do."""


@contextmanager
def device_for(wanted: Literal["auto", "cpu", "cuda"], jobs_per_gpu: int = 1) -> Iterator[torch.device]:
    """Yield the device of this job, holding a lock on a place on its card for as long as it is used.

    Cards that a scheduler has hidden (CUDA_VISIBLE_DEVICES) stay hidden. If all places are taken, waits for one.

    Raises:
        NoDevice: ``cuda`` is wanted and PyTorch sees no card.
    """
    if wanted == "cpu" or (wanted == "auto" and not torch.cuda.is_available()):
        yield torch.device("cpu")
        return
    if not torch.cuda.is_available():
        raise NoDevice("device = cuda, but PyTorch sees no GPU: check the driver (nvidia-smi), or set device: auto")
    lock, card = _free_place(torch.cuda.device_count(), jobs_per_gpu)
    try:
        torch.cuda.set_device(card)
        yield torch.device("cuda", card)
    finally:
        lock.release()


def _free_place(cards: int, places: int) -> tuple[FileLock, int]:
    folder = Path(tempfile.gettempdir()) / "recount-gpu-locks"
    folder.mkdir(exist_ok=True)
    waited = False
    while True:
        for place in range(places):
            for card in range(cards):
                lock = FileLock(folder / f"{torch.cuda.get_device_properties(card).uuid}.{place}.lock")
                try:
                    lock.acquire(timeout=0)
                except Timeout:
                    continue
                return lock, card
        if not waited:
            log.info("all %d places on %d GPUs are taken; waiting for one", places * cards, cards)
            waited = True
        time.sleep(POLL_SECONDS)

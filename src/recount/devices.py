"""Which device a job computes on: the first free card by file lock, or the processor."""

import ctypes
import itertools
import logging
import os
import platform
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Literal

import torch
from filelock import Timeout

from recount.errors import UserError
from recount.results.files import shared_lock

log = logging.getLogger(__name__)

Wanted = Literal["auto", "cpu", "cuda"]
POLL_SECONDS = 5.0
KEPT_BYTES = 512 * 2**20  # at the free end of the heap; blocks above the next number go back to the kernel anyway
_LARGEST_KEPT_BLOCK = 32 * 2**20  # the most that glibc takes from its heap
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of glibc's malloc.h


@contextmanager
def device_for(wanted: Wanted, jobs_per_gpu: int = 1) -> Iterator[torch.device]:
    """Yield the device of a job of one process: see ``devices_for``."""
    with devices_for(wanted, 1, jobs_per_gpu) as (device,):
        if device.type == "cuda":
            torch.cuda.set_device(device)
        yield device


@contextmanager
def devices_for(wanted: Wanted, number: int, jobs_per_gpu: int = 1) -> Iterator[list[torch.device]]:
    """Yield the devices of a job of ``number`` processes: different cards, or so many times the processor.

    A lock holds a place on each card. If too few are free, the job waits without holding any, so that two jobs cannot
    wait for each other. On the processor this process keeps memory that it frees: see ``keep_freed_memory``.
    """
    if wanted == "cpu" or (wanted == "auto" and not torch.cuda.is_available()):
        keep_freed_memory()
        yield [torch.device("cpu")] * number
        return
    if not torch.cuda.is_available():
        raise UserError("device = cuda, but PyTorch sees no GPU: check the driver (nvidia-smi), or set device: auto")
    if torch.cuda.device_count() < number:
        raise UserError(f"gpus_per_job = {number}, but PyTorch sees {torch.cuda.device_count()} GPUs; set it to fewer")
    names = [str(torch.cuda.get_device_properties(card).uuid) for card in range(torch.cuda.device_count())]
    for waits in itertools.count():
        with ExitStack() as held:
            cards = _free_cards(names, number, jobs_per_gpu, held)
            if len(cards) == number:
                yield [torch.device("cuda", card) for card in cards]
                return
        if not waits:
            log.info("of %d places on %d GPUs, too few are free; waiting", jobs_per_gpu * len(names), len(names))
        time.sleep(POLL_SECONDS)


def keep_freed_memory() -> None:
    """Let this process keep up to ``KEPT_BYTES`` at the free end of its heap.

    On the processor every step frees and allocates each activation, and glibc hands most of it back to the kernel:
    thousands of page faults per step. Another C library, or one told by the environment, is left as it is.
    """
    chosen = {"MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_"} & os.environ.keys()
    if platform.libc_ver()[0] == "glibc" and not chosen:
        library = ctypes.CDLL(None)
        library.mallopt(_MMAP_THRESHOLD, _LARGEST_KEPT_BLOCK)
        library.mallopt(_TRIM_THRESHOLD, KEPT_BYTES)


def _free_cards(names: Sequence[str], number: int, places: int, held: ExitStack) -> list[int]:
    """Lock places, until ``held`` ends, on at most ``number`` cards that have a free one; empty cards come first.

    Cards are all users', and so are the locks: whoever comes first opens their folder to the others (as /tmp is open).
    """
    folder = Path(tempfile.gettempdir()) / "recount-gpu-locks"
    with suppress(FileExistsError):
        folder.mkdir()
        folder.chmod(0o1777)
    cards: list[int] = []
    for place, (card, name) in itertools.product(range(places), enumerate(names)):
        if len(cards) < number and card not in cards:
            with suppress(Timeout):
                held.enter_context(shared_lock(folder / f"{name}.{place}.lock").acquire(timeout=0))
                cards.append(card)
    return cards

"""Which device a job computes on: the first free card by file lock, or the processor, and what its kernels may choose.

A job that was given a card, or that can see one, computes on it or stops: on the processor it would take days.
"""

import ctypes
import itertools
import logging
import os
import platform
import re
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from filelock import Timeout

from recount import feeding
from recount.errors import UserError
from recount.feeding import Feeding
from recount.provenance import hidden_gpus, output_of, visible_gpus
from recount.results.files import shared_lock
from recount.settings.project import Config
from recount.settings.recipe import Determinism

log = logging.getLogger(__name__)

Wanted = Literal["auto", "cpu", "cuda"]
POLL_SECONDS = 5.0
KEPT_BYTES = 512 * 2**20  # at the free end of the heap; blocks above the next number go back to the kernel anyway
_LARGEST_KEPT_BLOCK = 32 * 2**20  # the most that glibc takes from its heap
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of glibc's malloc.h
# where a job finds what it was given: Snakemake's resource (the rules hand it on), SLURM's cards, CUDA's
GIVEN = ("RECOUNT_GPUS", "SLURM_JOB_GPUS", "SLURM_STEP_GPUS", "CUDA_VISIBLE_DEVICES")
CUBLAS = "CUBLAS_WORKSPACE_CONFIG"
#: they limit the instructions of PyTorch's own kernels, of oneDNN and of MKL
KERNEL_LIMITS = ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "MKL_ENABLE_INSTRUCTIONS", "MKL_CBWR")
_INSTALL = "docs/gpu.md says what to install"


@dataclass(frozen=True)
class Trouble:
    """Why this PyTorch cannot compute on a card, and what to do."""

    found: str
    advice: str


@contextmanager
def device_for(wanted: Wanted, jobs_per_gpu: int = 1, determinism: Determinism = "seeded") -> Iterator[torch.device]:
    """Yield the device of a job of one process that trains nothing: see ``devices_for``."""
    with devices_for(wanted, 1, jobs_per_gpu, determinism) as (device,):
        if device.type == "cuda":
            torch.cuda.set_device(device)
            choose_kernels(determinism, device)
        yield device


@contextmanager
def devices_for(
    wanted: Wanted, number: int, jobs_per_gpu: int = 1, determinism: Determinism = "seeded"
) -> Iterator[list[torch.device]]:
    """Yield the devices of a job of ``number`` processes: different cards, or so many times the processor.

    A lock holds a place on each card. If too few are free, the job waits without holding any, so that two jobs cannot
    wait for each other. On the processor this process keeps memory that it frees: see ``keep_freed_memory``. A
    ``UserError`` where cards are wanted, given or to be seen, and none can be used (not with ``wanted`` "cpu").
    """
    if _is_processor(wanted, determinism):
        yield [torch.device("cpu")] * number
        return
    usable = _usable_cards()
    if len(usable) < number:
        raise UserError(f"gpus_per_job = {number}, but PyTorch can use {len(usable)} GPUs; set it to fewer")
    for waits in itertools.count():
        with ExitStack() as held:
            names = [str(torch.cuda.get_device_properties(card).uuid) for card in usable]
            cards = [usable[place] for place in _free_cards(names, number, jobs_per_gpu, held)]
            if len(cards) == number:
                devices = [torch.device("cuda", card) for card in cards]
                log.info("computing on %s", "; ".join(described(device, wanted) for device in devices))
                yield devices
                return
        if not waits:
            log.info("of %d places on %d GPUs, too few are free; waiting", jobs_per_gpu * len(usable), len(usable))
        time.sleep(POLL_SECONDS)


def _is_processor(wanted: Wanted, determinism: Determinism) -> bool:
    """Return whether a job computes on the processor, and make it or the cards ready; or say why it may not."""
    if determinism == "bitwise":
        os.environ.setdefault(CUBLAS, ":4096:8")  # cuBLAS reads it when it starts
    trouble = None if wanted == "cpu" else card_trouble()
    if wanted != "cpu" and trouble is None:
        return False
    if trouble and (given := "device is cuda" if wanted == "cuda" else given_card()):
        raise UserError(f"{given}, but {trouble.found}: {trouble.advice}; device: cpu would compute on the processor")
    log.info("computing on %s", described(torch.device("cpu"), wanted))
    keep_freed_memory()
    return True


def device_of_rank(wanted: Wanted, rank: int, determinism: Determinism = "seeded") -> torch.device:
    """Return what the process number ``rank`` of this machine computes on, where torchrun started them: its card.

    No card is locked: who calls torchrun was given them. Errors: ``devices_for``.
    """
    if _is_processor(wanted, determinism):
        return torch.device("cpu")
    if rank >= torch.cuda.device_count():
        raise UserError(
            f"torchrun starts more processes on this machine than PyTorch can use GPUs, {torch.cuda.device_count()}"
        )
    device = torch.device("cuda", rank)
    torch.cuda.set_device(device)
    log.info("computing on %s", described(device, wanted))
    return device


def feeding_of(config: Config, device: torch.device) -> Feeding:
    """Return what feeds a training on ``device``, its share of what this process may use."""
    return feeding.here(config, torch.cuda.device_count() if device.type == "cuda" else 0)


def described(device: torch.device, wanted: Wanted) -> str:
    """Return in words what is computed on: the card, its driver and the CUDA of PyTorch, or why the processor."""
    torch_is = f"PyTorch {torch.__version__}"
    if device.type == "cpu":
        trouble = None if wanted == "cpu" else card_trouble()
        return f"the processor: {trouble.found if trouble else 'device is cpu'} ({torch_is})"
    drivers = ", ".join(sorted({card["driver"] for card in visible_gpus()})) or "unknown"
    return f"{torch.cuda.get_device_name(device)} (driver {drivers}, {torch_is} for CUDA {torch.version.cuda})"


def kernels() -> str:
    """Return the instructions for which PyTorch chooses its kernels on this processor, and what limits them."""
    limits = [f"{name}={os.environ[name]}" for name in KERNEL_LIMITS if os.environ.get(name)]
    return ", ".join([torch.backends.cpu.get_cpu_capability(), *limits])


def given_card() -> str:
    """Return by what this job was given a card, or can see one ("": it was not)."""
    for name in GIVEN:
        if (value := os.environ.get(name, "").strip()) not in ("", "-1", "NoDevFiles") and (name, value) != (
            GIVEN[0],
            "0",
        ):
            return f"this job was given a card ({name}={value})"
    if cards := visible_gpus():
        return f"nvidia-smi shows {cards[0]['name']}"
    return "there is a card" if torch.cuda.is_available() else ""


def card_trouble() -> Trouble | None:
    """Return what keeps PyTorch from every card, and what to do; None: it can use one."""
    if torch.cuda.is_available():
        if _usable_cards():
            return None
        major, minor = torch.cuda.get_device_capability(0)
        card = f"{torch.cuda.get_device_name(0)} has compute capability {major}.{minor}"
        built = f"PyTorch {torch.__version__} is built for {', '.join(torch.cuda.get_arch_list())}"
        return Trouble(f"{card}, and {built}", f"install a PyTorch that is built for it ({_INSTALL})")
    shown, hidden = visible_gpus(), hidden_gpus()
    if hidden and not shown:
        value = os.environ["CUDA_VISIBLE_DEVICES"]
        names = ", ".join(card["name"] for card in hidden)
        return Trouble(f"CUDA_VISIBLE_DEVICES={value!r} hides {names}", "unset it, or let it name a card")
    if torch.version.cuda is None:
        built = f"PyTorch {torch.__version__} is a build without CUDA"
        return Trouble(built, f"install one with CUDA; conda on a machine without a card takes this one ({_INSTALL})")
    if not shown:
        return Trouble("nvidia-smi names no card", "install the driver, or ask for a card")
    driver, able = shown[0]["driver"], driver_cuda()
    if able and _number(able)[0] < _number(torch.version.cuda)[0]:  # minor versions go together
        found = (
            f"driver {driver} is for CUDA {able} at most, and PyTorch {torch.__version__} for CUDA {torch.version.cuda}"
        )
        return Trouble(found, f"update the driver, or install a PyTorch for CUDA {_number(able)[0]} ({_INSTALL})")
    found = (
        f"nvidia-smi shows {shown[0]['name']} (driver {driver}), and PyTorch cannot start CUDA ({_words_of_torch()})"
    )
    return Trouble(found, "in a container, hand the cards in (--gpus all); else restart after an update of the driver")


def driver_cuda() -> str:
    """Return the newest CUDA that the driver knows, as nvidia-smi's head says it ("": it says none)."""
    head = re.search(r"CUDA Version: *([0-9.]+)", output_of("nvidia-smi") or "")
    return head[1] if head else ""


def _number(version: str) -> list[int]:
    return [int(part) for part in re.findall(r"\d+", version)]


def _words_of_torch() -> str:
    try:
        torch.cuda.init()
    except (RuntimeError, AssertionError) as error:
        return str(error).splitlines()[0].partition(". ")[0]
    return "it gives no reason"


def _usable_cards() -> list[int]:
    """Return the cards that PyTorch sees and is built for."""
    built = torch.cuda.get_arch_list()
    return [card for card in range(torch.cuda.device_count()) if runs_on(torch.cuda.get_device_capability(card), built)]


def runs_on(capability: tuple[int, int], built: Sequence[str]) -> bool:
    """Return whether code that was ``built`` for sm_… (machine code) and compute_… (PTX) runs on a compute capability.

    Machine code runs on its generation from its own number on, PTX on everything from its number on; with a letter
    (sm_90a), on exactly its own. A build that tells nothing is believed.
    """
    own, codes = 10 * capability[0] + capability[1], re.findall(r"(sm|compute)_(\d+)([a-z]?)", " ".join(built))
    return not codes or any(
        own == int(code) or (not letter and own > int(code) and (kind == "compute" or own // 10 == int(code) // 10))
        for kind, code, letter in codes
    )


def usable_determinism(determinism: Determinism, device: torch.device) -> Determinism:
    """Return what is kept: on a processor every training is bitwise."""
    return "bitwise" if device.type == "cpu" else determinism


def choose_kernels(determinism: Determinism, device: torch.device) -> None:
    """Let this process use the fastest kernels, or (bitwise) only those that always add up in the same order.

    Then an operation that has none stops a job on a card with a RuntimeError. cuDNN never measures which of its kernels
    is the fastest: it would do so for each new size of picture, with another result from run to run.
    """
    bitwise = usable_determinism(determinism, device) == "bitwise"
    torch.backends.cudnn.benchmark = False
    # not use_deterministic_algorithms, which loads the compiler, too, to say the same to it
    torch.set_deterministic_debug_mode("default" if not bitwise else "warn" if device.type == "cpu" else "error")
    deterministic: Any = torch.utils.deterministic  # the attribute exists on the imported module only
    deterministic.fill_uninitialized_memory = False  # with NaN, which takes time
    if device.type == "cuda":
        # the backward pass of these two attentions adds up in any order; those left keep theirs
        torch.backends.cuda.enable_mem_efficient_sdp(not bitwise)
        torch.backends.cuda.enable_cudnn_sdp(not bitwise)


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

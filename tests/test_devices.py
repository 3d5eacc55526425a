"""Jobs of one machine share its cards by locks: a free one, or one place of several on a card, or they wait."""

import os
import platform
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from recount import devices
from recount.devices import devices_for
from recount.errors import UserError, in_words
from recount.settings.recipe import Determinism

PATIENCE = 300  # seconds that only a machine in trouble needs
HOLD = """
import sys, time
from filelock import FileLock
lock = FileLock(sys.argv[1])
lock.acquire()
print("held", flush=True)
time.sleep(600)
"""


@pytest.fixture
def cards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Return a function that gives this machine so many cards; their locks lie in a folder of the test."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    for name in devices.GIVEN:
        monkeypatch.delenv(name, raising=False)

    def card_of(card: Any) -> SimpleNamespace:
        number = torch.device("cuda", card).index if isinstance(card, int) else card.index
        return SimpleNamespace(uuid=f"GPU-{number}", name=f"card {number}", major=9, minor=0)

    def have(number: int) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: number > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: number)
        monkeypatch.setattr(torch.cuda, "get_device_properties", card_of)

    return have


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Return what is set as soon as a job has found too few free places and waits."""
    event = threading.Event()

    def pause(seconds: float) -> None:
        event.set()
        threading.Event().wait(0.05)

    monkeypatch.setattr(devices, "time", SimpleNamespace(sleep=pause))
    return event


def taken(stack: ExitStack, number: int = 1, jobs_per_gpu: int = 1) -> list[int]:
    """Return which cards a job gets, that holds them until the stack ends."""
    found = stack.enter_context(devices_for("auto", number, jobs_per_gpu))
    return [device.index for device in found]


def test_each_job_takes_a_free_card(cards: Callable[[int], None]) -> None:
    cards(2)
    with ExitStack() as stack:
        assert [taken(stack), taken(stack)] == [[0], [1]]


def test_jobs_share_cards_where_they_may_empty_ones_first(cards: Callable[[int], None]) -> None:
    cards(2)
    with ExitStack() as stack:
        assert [taken(stack, jobs_per_gpu=2) for _ in range(4)] == [[0], [1], [0], [1]]


def test_a_job_waits_for_a_card_and_gets_it_when_it_is_free(
    cards: Callable[[int], None], waits: threading.Event
) -> None:
    cards(1)
    got: list[int] = []

    def later() -> None:
        with ExitStack() as stack:
            got.extend(taken(stack))

    waiting = threading.Thread(target=later)
    with ExitStack() as stack:
        taken(stack)
        waiting.start()
        assert waits.wait(PATIENCE)
        assert got == []
    waiting.join(PATIENCE)
    assert got == [0]


def test_a_job_of_two_cards_holds_none_while_it_waits_for_both(
    cards: Callable[[int], None], waits: threading.Event
) -> None:
    cards(2)
    got: list[list[int]] = []

    def large() -> None:
        with ExitStack() as stack:
            got.append(taken(stack, number=2))

    waiting = threading.Thread(target=large)
    with ExitStack() as stack:
        taken(stack)
        waiting.start()
        assert waits.wait(PATIENCE)
        small = threading.Thread(target=lambda: got.append(taken(stack)))
        small.start()
        small.join(PATIENCE)
        assert got == [[1]]
    waiting.join(PATIENCE)
    assert got == [[1], [0, 1]]


def test_the_card_of_a_killed_job_is_free(cards: Callable[[int], None], tmp_path: Path) -> None:
    cards(2)
    (tmp_path / "recount-gpu-locks").mkdir()
    held = tmp_path / "recount-gpu-locks" / "GPU-0.0.lock"
    job = subprocess.Popen([sys.executable, "-c", HOLD, str(held)], stdout=subprocess.PIPE)
    assert job.stdout is not None and job.stdout.readline() == b"held\n"
    with ExitStack() as stack:
        assert taken(stack) == [1]
    job.kill()
    job.wait()
    job.stdout.close()
    with ExitStack() as stack:
        assert taken(stack) == [0]


def test_the_processor_is_for_everybody(cards: Callable[[int], None]) -> None:
    cards(0)
    with devices_for("auto", 2) as found:
        assert [device.type for device in found] == ["cpu", "cpu"]
    cards(1)
    with devices_for("cpu", 1) as found:
        assert [device.type for device in found] == ["cpu"]


KEPT = """
import ctypes
libc = ctypes.CDLL(None)
libc.malloc.argtypes, libc.malloc.restype = [ctypes.c_size_t], ctypes.c_void_p
libc.free.argtypes = [ctypes.c_void_p]
libc.sbrk.argtypes, libc.sbrk.restype = [ctypes.c_ssize_t], ctypes.c_void_p
def kept(size):
    start = libc.malloc(size)
    libc.free(start)
    return start + size < libc.sbrk(0)  # the heap, which ends at sbrk(0), still has all of it
# By itself glibc changes these numbers as the process goes on; as they are here, it gives 16 MiB back at once.
libc.mallopt(-3, 128 * 1024), libc.mallopt(-1, 128 * 1024)
print(kept(2**24))
from recount.devices import devices_for
with devices_for("cpu", 1):
    print(kept(2**24), kept(2**26))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's allocator is told to keep what is freed")
def test_on_the_processor_what_a_step_freed_is_kept_for_the_next_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES", "LD_PRELOAD"):
        monkeypatch.delenv(name, raising=False)
    assert subprocess.check_output([sys.executable, "-c", KEPT], text=True).split() == ["False", "True", "False"]


@pytest.mark.parametrize("name", ["MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_"])
def test_an_allocator_that_the_user_has_tuned_is_left_alone(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "131072")
    monkeypatch.setattr(devices.ctypes, "CDLL", lambda _: pytest.fail("the allocator is changed"))
    devices.keep_freed_memory()


def test_what_is_not_there_is_said_with_what_to_do(cards: Callable[[int], None]) -> None:
    cards(0)
    with (
        pytest.raises(UserError, match=r"device is cuda, but nvidia-smi names no card.*device: cpu"),
        devices_for("cuda", 1),
    ):
        pass
    cards(1)
    with pytest.raises(UserError, match="gpus_per_job = 2, but PyTorch can use 1 GPUs"), devices_for("auto", 2):
        pass


# ------------------------------------------------------------------------------ cards that are there and not usable


@pytest.fixture
def shown(cards: Callable[[int], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Return a function that lets nvidia-smi show a card, with a driver of this CUDA, that PyTorch does not see."""
    cards(0)

    def show(cuda: str = "13.5") -> None:
        program = tmp_path / "nvidia-smi"
        program.write_text(
            f"#!/bin/sh\n[ $# -eq 0 ] && echo '| Driver Version: 470.1  CUDA Version: {cuda} |'"
            " || echo '0, GPU-aa, H200, 470.1, 143771'\n"
        )
        program.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path), prepend=":")

    return show


def refused(wanted: Any = "auto") -> str:
    with pytest.raises(UserError) as error, devices_for(wanted, 1):
        pass
    return str(error.value)


def test_a_driver_that_is_too_old_stops_a_job(shown: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", "13.2")
    shown(cuda="11.4")
    assert "nvidia-smi shows H200, but driver 470.1 is for CUDA 11.4 at most" in refused()
    assert "for CUDA 13.2: update the driver, or install a PyTorch for CUDA 11 (docs/gpu.md" in refused()
    assert "\n" not in refused()
    with devices_for("cpu", 1) as (device,):
        assert device.type == "cpu"


def test_a_build_for_processors_stops_a_job(shown: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    shown()
    monkeypatch.setattr(torch.version, "cuda", None)
    assert "is a build without CUDA: install one with CUDA; conda on a machine without a card" in refused()


def test_what_pytorch_says_itself_is_told(shown: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    def init() -> None:
        raise RuntimeError("Unexpected error from cudaGetDeviceCount(). Did you run some cuda functions before?")

    shown()
    monkeypatch.setattr(torch.version, "cuda", "13.2")
    monkeypatch.setattr(torch.cuda, "init", init)
    assert "PyTorch cannot start CUDA (Unexpected error from cudaGetDeviceCount())" in refused()


@pytest.mark.parametrize("name", devices.GIVEN)
def test_a_job_that_was_given_a_card_does_not_compute_for_days_on_the_processor(
    name: str, cards: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    cards(0)
    monkeypatch.setenv(name, "1")
    assert refused().startswith(f"this job was given a card ({name}=1), but nvidia-smi names no card")


@pytest.mark.parametrize(("name", "value"), [("RECOUNT_GPUS", "0"), ("CUDA_VISIBLE_DEVICES", "")])
def test_a_job_that_was_given_none_computes_on_the_processor_and_says_why(
    name: str, value: str, shown: Callable[..., None], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    if name == "CUDA_VISIBLE_DEVICES":
        shown()
    monkeypatch.setenv(name, value)
    with devices_for("auto", 1) as (device,):
        assert device.type == "cpu"
    why = "nvidia-smi names no card" if name == "RECOUNT_GPUS" else "CUDA_VISIBLE_DEVICES='' hides H200"
    assert f"computing on the processor: {why}" in caplog.text


def test_a_card_that_pytorch_is_not_built_for_is_left_out_and_alone_stops_a_job(
    cards: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    cards(2)
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["sm_80", "sm_90"])
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda card: (9, 0) if card == 1 else (6, 1))
    with ExitStack() as stack:
        assert taken(stack) == [1]
    cards(1)
    assert "card 0 has compute capability 6.1, and PyTorch" in refused()
    assert "is built for sm_80, sm_90" in refused()


def test_the_choice_of_a_card_is_told(cards: Callable[[int], None], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    cards(1)
    with ExitStack() as stack:
        taken(stack)
    assert f"computing on card 0 (driver unknown, PyTorch {torch.__version__} for CUDA" in caplog.text


@pytest.mark.parametrize(
    ("capability", "built", "runs"),
    [
        ((8, 6), ["sm_80"], True),  # the same generation
        ((8, 0), ["sm_86"], False),
        ((9, 0), ["sm_80"], False),
        ((9, 0), ["sm_80", "compute_80"], True),  # compiled when it starts
        ((12, 1), ["sm_120"], True),
        ((9, 0), ["sm_90a"], True),
        ((10, 0), ["sm_90a", "compute_90a"], False),
        ((7, 0), ["gfx90a"], True),  # another maker's names
        ((7, 0), [], True),
    ],
)
def test_which_cards_a_build_runs_on(capability: tuple[int, int], built: list[str], runs: bool) -> None:
    assert devices.runs_on(capability, built) == runs


def test_bitwise_sets_the_workspace_of_cublas_before_cuda_starts(
    cards: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(devices.CUBLAS, raising=False)
    with devices_for("cpu", 1):
        assert devices.CUBLAS not in os.environ
    cards(1)
    seen: list[str | None] = []

    def is_available() -> bool:
        seen.append(os.environ.get(devices.CUBLAS))
        return True

    monkeypatch.setattr(torch.cuda, "is_available", is_available)
    with devices_for("auto", 1, determinism="bitwise"):
        assert set(seen) == {":4096:8"}
    monkeypatch.delenv(devices.CUBLAS)


def test_bitwise_that_cannot_be_kept_is_one_line() -> None:
    said = (
        "adaptive_avg_pool2d_backward_cuda does not have a deterministic implementation, but you set "
        "'torch.use_deterministic_algorithms(True)'. You can turn off determinism just for this operation."
    )
    assert in_words(RuntimeError(said)) == (
        "determinism: bitwise cannot be kept: adaptive_avg_pool2d_backward_cuda does not have a deterministic "
        "implementation on a card (PyTorch); set determinism: seeded"
    )
    assert in_words(RuntimeError("something else")) is None


@pytest.mark.parametrize("determinism", ["seeded", "bitwise"])
def test_on_a_card_deterministic_kernels_are_required_or_not_asked_for(
    determinism: Determinism, monkeypatch: pytest.MonkeyPatch
) -> None:
    attentions = torch.backends.cuda.mem_efficient_sdp_enabled, torch.backends.cuda.cudnn_sdp_enabled
    before = [is_on() for is_on in attentions]
    try:
        devices.choose_kernels(determinism, torch.device("cuda"))
        assert torch.are_deterministic_algorithms_enabled() == (determinism == "bitwise")
        assert not torch.is_deterministic_algorithms_warn_only_enabled()
        assert [is_on() for is_on in attentions] == [determinism == "seeded"] * 2
    finally:
        devices.choose_kernels("seeded", torch.device("cpu"))
        torch.backends.cuda.enable_mem_efficient_sdp(before[0])
        torch.backends.cuda.enable_cudnn_sdp(before[1])

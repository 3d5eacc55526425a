"""Jobs of one machine share its cards by locks: a free one, or one place of several on a card, or they wait."""

import platform
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from recount import devices
from recount.devices import devices_for
from recount.errors import UserError

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

    def have(number: int) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: number > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: number)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda card: SimpleNamespace(uuid=f"GPU-{card}"))

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
    with pytest.raises(UserError, match=r"cuda, but PyTorch sees no GPU.*device: auto"), devices_for("cuda", 1):
        pass
    cards(1)
    with pytest.raises(UserError, match="gpus_per_job = 2, but PyTorch sees 1 GPUs"), devices_for("auto", 2):
        pass

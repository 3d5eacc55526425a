"""Jobs of one machine share its cards by locks: a free one, or one place of several on a card, or they wait."""

from __future__ import annotations

import platform
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from recount import devices
from recount.devices import NoDevice, devices_for

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
    monkeypatch.setattr(devices, "POLL_SECONDS", 0.05)

    def have(number: int) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: number > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: number)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda card: SimpleNamespace(uuid=f"GPU-{card}"))

    return have


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


def test_a_job_waits_for_a_card_and_gets_it_when_it_is_free(cards: Callable[[int], None]) -> None:
    cards(1)
    got: list[int] = []

    def later() -> None:
        with ExitStack() as stack:
            got.extend(taken(stack))

    waiting = threading.Thread(target=later)
    with ExitStack() as stack:
        taken(stack)
        waiting.start()
        time.sleep(0.3)
        assert got == []
    waiting.join(timeout=30)
    assert got == [0]


def test_a_job_of_two_cards_holds_none_while_it_waits_for_both(cards: Callable[[int], None]) -> None:
    cards(2)
    got: list[list[int]] = []

    def large() -> None:
        with ExitStack() as stack:
            got.append(taken(stack, number=2))

    waiting = threading.Thread(target=large)
    with ExitStack() as stack:
        taken(stack)
        waiting.start()
        time.sleep(0.3)
        small = threading.Thread(target=lambda: got.append(taken(stack)))
        small.start()
        small.join(timeout=30)
        assert got == [[1]]
    waiting.join(timeout=30)
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


HELD = """
import resource, sys, torch
from contextlib import nullcontext
from pathlib import Path
from recount.devices import devices_for
def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
with devices_for("cpu", 1) if sys.argv[1] == "kept" else nullcontext():
    before = resident()
    activation = torch.ones(2**22)  # 16 MiB
    del activation
    print((resident() - before) // 2**20)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's allocator is told to keep what is freed")
def test_on_the_processor_what_a_step_freed_is_kept_for_the_next_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def held(mode: str) -> int:
        return int(subprocess.check_output([sys.executable, "-c", HELD, mode]))

    monkeypatch.delenv("MALLOC_TRIM_THRESHOLD_", raising=False)
    monkeypatch.delenv("MALLOC_MMAP_THRESHOLD_", raising=False)
    assert held("default") < 4 < 12 < held("kept")
    monkeypatch.setenv("MALLOC_MMAP_THRESHOLD_", "131072")
    assert held("kept") < 4, "what the user has set is left"


def test_what_is_not_there_is_said_with_what_to_do(cards: Callable[[int], None]) -> None:
    cards(0)
    with pytest.raises(NoDevice, match=r"device = cuda, but PyTorch sees no GPU.*device: auto"), devices_for("cuda", 1):
        pass
    cards(1)
    with pytest.raises(NoDevice, match="gpus_per_job = 2, but PyTorch sees 1 GPUs"), devices_for("auto", 2):
        pass

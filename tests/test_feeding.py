"""What feeds a training follows from cores, memory and cards, unless config.yaml says it."""

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from recount import feeding
from recount.feeding import Feeding
from recount.settings.project import Config


@pytest.mark.parametrize(
    ("config", "cards", "cores", "expected"),
    [
        ({}, 0, 64, Feeding(0, 1, 2000, 1)),  # on a processor a training takes one core
        ({"training_threads": 4}, 0, 64, Feeding(0, 4, 2000, 4)),
        ({"loader_processes": 2}, 0, 2, Feeding(2, 1, 2000, 3)),
        ({}, 1, 16, Feeding(14, 1, 32000, 15)),  # a core is left for jobs without a card
        ({}, 4, 16, Feeding(2, 1, 8000, 3)),
        ({"jobs_per_gpu": 2}, 2, 16, Feeding(2, 1, 8000, 3)),
        ({"training_threads": 4}, 1, 16, Feeding(11, 4, 32000, 15)),
        ({}, 1, 128, Feeding(16, 1, 32000, 17)),
        ({}, 4, 4, Feeding(1, 1, 8000, 1)),  # one loads ahead, and no card waits for cores
        ({"loader_processes": 0, "image_cache_mb": 7}, 1, 16, Feeding(0, 1, 7, 1)),
    ],
)
def test_cores_and_memory_are_shared_by_the_cards(
    config: dict[str, Any], cards: int, cores: int, expected: Feeding
) -> None:
    assert feeding.resolve(Config(**config), cards, cores, 64000) == expected


def test_what_was_resolved_is_what_the_settings_would_say() -> None:
    found = feeding.resolve(Config(), 2, 16, 64000)
    assert feeding.resolve(Config(**found.settings()), 2, 1, 1) == found


@pytest.fixture
def cgroup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of this process's cgroups, on a machine with 16 cores and 64 GB."""
    monkeypatch.setattr(feeding, "CGROUPS", tmp_path)
    monkeypatch.setattr(feeding, "OWN_CGROUPS", tmp_path / "own")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)), raising=False)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(total=64 * 10**9))
    return tmp_path


def test_without_a_limit_everything_may_be_used(cgroup: Path) -> None:
    assert (feeding.cores(), feeding.memory_mb()) == (16, 64000)
    (cgroup / "own").write_text("0::/\n")
    for name in ("cpu.max", "memory.max"):
        (cgroup / name).write_text({"cpu.max": "max 100000\n", "memory.max": "max\n"}[name])
    assert (feeding.cores(), feeding.memory_mb()) == (16, 64000)


def test_the_narrowest_limit_above_a_process_counts(cgroup: Path) -> None:
    (cgroup / "own").write_text("0::/slurm/job_7/step\n")
    for folder, cpu, memory in (("slurm/job_7", "400000 100000", "32000000000"), ("slurm", "max 100000", "max")):
        (cgroup / folder).mkdir(parents=True, exist_ok=True)
        (cgroup / folder / "cpu.max").write_text(f"{cpu}\n")
        (cgroup / folder / "memory.max").write_text(f"{memory}\n")
    assert (feeding.cores(), feeding.memory_mb()) == (4, 32000)


def test_cgroups_of_the_first_version_count_and_half_a_core_is_one(cgroup: Path) -> None:
    (cgroup / "own").write_text(
        "4:memory:/docker/x\n2:cpu,cpuacct:/docker/x\n"
    )  # seen from inside: /docker/x is no folder
    limits = {
        "cpu/cpu.cfs_quota_us": "50000",
        "cpu/cpu.cfs_period_us": "100000",
        "memory/memory.limit_in_bytes": "8000000000",
    }
    for name, text in limits.items():
        (cgroup / name).parent.mkdir(exist_ok=True)
        (cgroup / name).write_text(text)
    assert (feeding.cores(), feeding.memory_mb()) == (1, 8000)
    (cgroup / "cpu/cpu.cfs_quota_us").write_text("-1")
    assert feeding.cores() == 16

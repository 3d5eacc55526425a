"""How a training is fed: loader processes, threads and memory for pictures, from what this machine, or job, may use.

What config.yaml sets is taken as it is. What it leaves open follows from cores, memory and cards, each card's places
(``jobs_per_gpu``) having an equal share. On a processor a training takes one core and loads by itself, so that as many
trainings run at once as there are cores. Imports neither torch nor numpy: the workflow asks how many cores to reserve.
"""

import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from recount.settings.project import Config

CGROUPS = Path("/sys/fs/cgroup")
OWN_CGROUPS = Path("/proc/self/cgroup")
MOST_LOADERS = 16  # beyond which the training process, which hands on every batch, is the bottleneck
CLUSTER_CORES = 8  # asked of a scheduler for each card: the cores of its nodes are not known where jobs are submitted
ON_PROCESSOR_CACHE_MB = 2000
CACHED_SHARE = 0.5  # of the memory of a place on a card: the rest is for processes and batches


@dataclass(frozen=True)
class Feeding:
    """What one training process is fed by; ``threads`` are its own, beside the loader processes."""

    loader_processes: int
    training_threads: int
    image_cache_mb: int
    cores: int  # to be reserved for it

    def settings(self) -> dict[str, int]:
        """Return the settings of config.yaml that say the same."""
        return {name: value for name, value in asdict(self).items() if name != "cores"}


def resolve(config: Config, cards: int, cores: int, memory_mb: int) -> Feeding:
    """Return what is open in ``config`` filled in, for a training on one of ``cards`` (0: on the processor).

    ``cores`` and ``memory_mb`` (10^6 bytes) are those that the trainings on all cards share.
    """
    places, threads = cards * config.jobs_per_gpu, config.threads
    share = max((cores - 1) // places, 1) if cards else threads  # one is left for what needs no card
    loaders, cache = config.loader_processes, config.image_cache_mb
    if loaders is None:
        # on a card at least one: the next batch is made while this one is computed
        loaders = min(max(share - threads, 1), MOST_LOADERS) if cards else 0
        busy = min(share, loaders + threads)
    else:
        busy = loaders + threads
    if cache is None:
        cache = int(CACHED_SHARE * memory_mb / places) if cards else ON_PROCESSOR_CACHE_MB
    return Feeding(loaders, threads, cache, busy)


def here(config: Config, cards: int) -> Feeding:
    """Return the feeding of a training on one of ``cards``, with all that this process may use."""
    return resolve(config, cards, cores(), memory_mb())


def cores() -> int:
    """Return the cores that this process may use: its affinity, and the quota of its cgroup."""
    there = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quotas = [
        int(quota) // int(period)
        for quota, period in (
            *(text.split() for text in _limits("", "cpu.max")),
            *zip(_limits("cpu", "cpu.cfs_quota_us"), _limits("cpu", "cpu.cfs_period_us"), strict=False),
        )
        if quota.isdigit()  # neither "max" nor -1
    ]
    return max(min([there, *quotas]), 1)


def memory_mb() -> int:
    """Return the memory that this process may use, in MB (10^6 bytes): the machine's, or the limit of its cgroup."""
    import psutil

    limits = [*_limits("", "memory.max"), *_limits("memory", "memory.limit_in_bytes")]
    total: int = psutil.virtual_memory().total
    return min([total, *(int(limit) for limit in limits if limit.isdigit())]) // 10**6


def _limits(controller: str, name: str) -> Iterator[str]:
    """Yield what the file ``name`` says in this process's cgroup and all above it, of version 2 ("") or 1."""
    own = OWN_CGROUPS.read_text(encoding="utf-8").splitlines() if OWN_CGROUPS.is_file() else []
    for _, controllers, path in (line.split(":", 2) for line in own):
        if controller in controllers.split(","):
            place = Path(path.lstrip("/"))
            for folder in (place, *place.parents):
                file = CGROUPS / controller / folder / name
                if file.is_file():
                    yield file.read_text(encoding="utf-8").strip()

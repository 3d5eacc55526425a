"""Whether a batch may be computed in parts (out of memory, several GPUs), and what each part weighs in the whole."""

from __future__ import annotations

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from recount.errors import UserError
from recount.systems.base import System


class CannotShare(UserError):
    """A run cannot be trained on several GPUs as it is trained on one; the message says why, and what to do."""


class OutOfMemory(UserError):
    """A step does not fit into the GPU's memory, and its batch cannot be cut (further); the message says what to do."""


def batch_norms(network: nn.Module) -> list[nn.Module]:
    """Return the layers of a network that normalise by statistics of the batch when they are in training mode."""
    return [layer for layer in network.modules() if isinstance(layer, _BatchNorm)]


def why_whole(system: System) -> str:
    """Return why a batch, computed in parts, would train something else ("" if it would not)."""
    if system.batch_coupled_by:
        return system.batch_coupled_by
    trained = any(layer.training for layer in batch_norms(system))
    return "BatchNorm normalises by the whole batch" if trained else ""


def weight_of_part(system: System, term: str, examples: int, total: int, copies: int = 1) -> float:
    """Return what a loss term of a part of a batch weighs in that of the whole batch.

    Args:
        system: says which of its terms are sums.
        term: its name.
        examples: in the part.
        total: in all parts of all processes, copies counted.
        copies: how often the whole batch is computed.
    """
    return 1 / copies if term in system.batch_sums else examples / total


def shared_by(system: System, processes: int, samples: int, batch_size: int, *, on_gpu: bool) -> System:
    """Return a system that several processes can train together: its BatchNorm takes the statistics of all of them.

    Args:
        system: on the device; ``begin_stage`` has been called.
        processes: how many.
        samples: of the training set.
        batch_size: samples in a batch.
        on_gpu: where; PyTorch synchronises BatchNorm on GPUs only.

    Raises:
        CannotShare: its loss, its batch or its BatchNorm cannot be shared.
    """
    if processes == 1:
        return system
    reason = system.batch_coupled_by
    if min(batch_size, samples) < processes:
        reason = f"its batch of {min(batch_size, samples)} is too small for {processes} processes"
    elif batch_norms(system) and not on_gpu:
        reason = "PyTorch synchronises BatchNorm between GPUs only, not between processors"
    if reason:
        name = type(system).__module__.rpartition(".")[2]
        raise CannotShare(
            f"gpus_per_job = {processes}: {name} cannot be trained in several processes with the result of one: "
            f"{reason}. Train it with --config gpus_per_job=1 (and systems=[{name}] to leave the others alone)"
        )
    shared: System = nn.SyncBatchNorm.convert_sync_batchnorm(system) if on_gpu else system
    return shared

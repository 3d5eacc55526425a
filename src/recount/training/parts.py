"""Whether a batch may be computed in parts (out of memory, several GPUs), and what each part weighs in the whole."""

from recount.errors import UserError
from recount.systems.base import System
from recount.training.batch_norm import batch_norms


def why_whole(system: System) -> str:
    """Return why a batch, computed in parts, would train something else ("" if it would not)."""
    trained = any(layer.training for layer in batch_norms(system))
    return system.batch_coupled_by or ("BatchNorm normalises by the whole batch" if trained else "")


def weight_of_part(system: System, term: str, examples: int, total: int, copies: int = 1) -> float:
    """Return what a loss term of so many examples weighs in that of the ``total`` of all parts of all processes."""
    return 1 / copies if term in system.batch_sums else examples / total


def system_name(system: System) -> str:
    """Return the name of a system, for messages: that of its module."""
    return type(system).__module__.rpartition(".")[2]


def check_shareable(system: System, processes: int, samples: int, batch_size: int) -> None:
    """Raise ``UserError`` unless several processes train a system (in its stage) to what a single one would."""
    reason, batch = system.batch_coupled_by, min(batch_size, samples)
    if batch < processes:
        reason = f"its batch of {batch} is too small for {processes} processes"
    if reason:
        name = system_name(system)
        raise UserError(
            f"gpus_per_job = {processes}: {name} cannot be trained in several processes with the result of one: "
            f"{reason}. Train it with --config gpus_per_job=1 (and systems=[{name}] to leave the others alone)"
        )

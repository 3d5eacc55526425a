"""Training state on disk: atomic, never pickled objects, and only taken up again by the very same training."""

import logging
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from filelock import Timeout
from safetensors.torch import save_file
from torch import Tensor

from recount.errors import UserError
from recount.results.files import shared_lock, write_atomically

log = logging.getLogger(__name__)

STATE = "state.pt"


def only_training(folder: Path) -> AbstractContextManager[Any]:
    """Hold the run whose checkpoint folder is ``folder``, so that no two processes write its files; or ``UserError``.

    The lock lies beside the folder, which is deleted at success; the system releases it when a process is killed.
    """
    try:
        return shared_lock(folder.parent / f".{folder.name}.lock").acquire(timeout=0)
    except Timeout:
        raise UserError(f"{folder}: another process is training this run; wait until it is done, or end it") from None


def save_model(path: Path, state: dict[str, Tensor]) -> None:
    """Write a state dict as safetensors, atomically."""
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in state.items()}
    write_atomically(path, lambda temporary: save_file(tensors, temporary))


def save_state(folder: Path, digest: str, state: dict[str, Any]) -> None:
    """Write the state of an unfinished run atomically; ``digest`` is that of its settings and code."""
    write_atomically(folder / STATE, lambda temporary: torch.save({"digest": digest, **state}, temporary))


def load_state(folder: Path, digest: str) -> dict[str, Any] | None:
    """Return the state of an unfinished run, or None (with a message) if none fits."""
    path = folder / STATE
    if not path.is_file():
        return None
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        log.warning("%s cannot be read (%s): training starts anew", path, str(error).splitlines()[0][:200])
        return None
    if state.get("digest") != digest:
        log.warning("%s was written by other settings or other code: training starts anew", path)
        return None
    return state

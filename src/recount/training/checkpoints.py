"""Training state on disk: atomic, checked, never pickled objects, and only taken up again by the very same training.

A state carries its own SHA-256 at its end, and all that it was made from as text, so that a log can say what changed.
"""

import json
import logging
import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from filelock import Timeout
from safetensors.torch import save_file
from torch import Tensor

from recount.errors import UserError
from recount.results.files import file_digest, shared_lock, text_digest, write_atomically
from recount.results.seal import damage, seal

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


def save_model(path: Path, state: dict[str, Tensor]) -> str:
    """Write a state dict as safetensors, atomically; return the file's SHA-256."""
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in state.items()}
    digests: list[str] = []

    def write(temporary: Path) -> None:
        save_file(tensors, temporary)
        digests.append(file_digest(temporary))

    write_atomically(path, write)
    return digests[0]


def save_state(folder: Path, made_from: str, state: dict[str, Any]) -> None:
    """Write the state of an unfinished run atomically; ``made_from`` says what it depends on (JSON, where logged)."""

    def write(temporary: Path) -> None:
        torch.save({"made_from": made_from, **state}, temporary)
        seal(temporary)

    write_atomically(folder / STATE, write)


def load_state(folder: Path, made_from: str) -> dict[str, Any] | None:
    """Return the state of an unfinished run, or None if there is none that is whole and made from the same."""
    state = _read(folder / STATE)
    if state is not None and state.get("made_from") != made_from:
        log.warning("%s was made from something else: training starts anew", folder / STATE)
        return None
    return state


def _read(path: Path, *, lazily: bool = False) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    wrong = damage(path)
    try:
        if not wrong:
            state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True, mmap=lazily)
            return state
    except Exception as error:  # whole, but not written by recount
        wrong = str(error).splitlines()[0][:200]
    log.warning("%s cannot be read (%s): training starts anew", path, wrong)
    return None


def set_aside(folder: Path, made_from: str) -> None:
    """Leave in ``folder`` only what was made from the same; a state of something else waits beside it, as @<digest>.

    It returns when what it was made from is wanted again. The log says what changed.
    """
    state = _read(folder / STATE, lazily=True)
    if state is not None:
        other = str(state.get("made_from"))
        if other == made_from:
            return
        aside = _aside(folder, other)
        shutil.rmtree(aside, ignore_errors=True)
        folder.rename(aside)
        changed = "; ".join(_differences(other, made_from))
        log.warning("%s: the saved state was made from something else (%s); it waits in %s", folder, changed, aside)
    waiting = _aside(folder, made_from)
    if waiting.is_dir():
        shutil.rmtree(folder, ignore_errors=True)
        waiting.rename(folder)
        log.info("%s: what was saved for these settings goes on", folder)


def _aside(folder: Path, made_from: str) -> Path:
    return folder.with_name(f"{folder.name}@{text_digest(made_from)[:12]}")


def _differences(one: str, other: str) -> Iterator[str]:
    try:
        first, second = json.loads(one), json.loads(other)
    except ValueError:
        first, second = {"content": one}, {"content": other}
    for key in sorted(first.keys() | second.keys()):
        was, now = first.get(key), second.get(key)
        if isinstance(was, dict) and isinstance(now, dict):
            yield from (f"{key}: {line}" for line in _differences(json.dumps(was), json.dumps(now)))
        elif was != now:
            yield f"{key}: {str(was)[:60]} is now {str(now)[:60]}"

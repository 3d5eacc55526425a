"""Training state on disk: atomic, checked, never pickled objects, and only taken up again by the very same training.

A state carries its own SHA-256 at its end, and all that it was made from as text, so that a log can say what changed.
It is written by a thread, beside the last one, which is replaced only when the new one is whole. Of weights that are
frozen, and as the system started with, it has the digests.
"""

import hashlib
import json
import logging
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from filelock import Timeout
from safetensors.torch import save_file
from torch import Tensor

from recount.errors import UserError
from recount.results.files import SaveError, file_digest, shared_lock, text_digest, write_atomically
from recount.results.run_record import STATE
from recount.results.seal import damage, seal

log = logging.getLogger(__name__)


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

    check_room(folder / STATE, tensor_bytes(_tensors(state)), "for a state beside the last one")

    def write(temporary: Path) -> None:
        torch.save({"made_from": made_from, **state}, temporary)
        seal(temporary)

    write_atomically(folder / STATE, write)


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict | list | tuple):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _tensors(item)


class Writer:
    """Writes one state at a time in a thread, while training goes on; what fails is raised at the next ``look``."""

    def __init__(self) -> None:
        self.seconds = 0.0  # the longest that a state took
        self._thread = ThreadPoolExecutor(1, "state")
        self._writing: Future[None] | None = None

    def write(self, folder: Path, made_from: str, state: dict[str, Any], base: Mapping[str, str]) -> None:
        """Take a copy of a state, and write it when the one before is whole; ``base`` is as for ``without_base``."""
        self.wait()
        self._writing = self._thread.submit(self._write, folder, made_from, copied(state, {}), base)

    def _write(self, folder: Path, made_from: str, state: dict[str, Any], base: Mapping[str, str]) -> None:
        began = time.monotonic()
        left, frozen = without_base(state["system"], base)
        save_state(folder, made_from, {**state, "system": left, "frozen": frozen})
        self.seconds = max(self.seconds, time.monotonic() - began)

    def look(self) -> None:
        """Raise what went wrong, if a write has ended."""
        if self._writing is not None and self._writing.done():
            self.wait()

    def wait(self) -> None:
        """Return when nothing is being written; raise what went wrong."""
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()


def copied(value: Any, known: dict[Any, Tensor]) -> Any:
    """Return nested dicts, lists and tuples with every tensor copied to the processor; shared ones stay shared."""
    if isinstance(value, dict):
        return {key: copied(item, known) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(copied(item, known) for item in value)
    if not isinstance(value, Tensor):
        return value
    key = (value.device, value.data_ptr(), value.dtype, value.shape, value.stride())
    if key not in known or not value.numel():
        known[key] = value.detach().to("cpu", copy=True)
    return known[key]


def tensor_digest(tensor: Tensor) -> str:
    """Return the SHA-256 of a tensor's bytes."""
    content = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    return hashlib.sha256(content.numpy().data).hexdigest()


def without_base(system: Mapping[str, Tensor], base: Mapping[str, str]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return weights without those that still have their digest in ``base``, and the digests of these."""
    frozen = {name: digest for name, digest in base.items() if tensor_digest(system[name]) == digest}
    return {name: tensor for name, tensor in system.items() if name not in frozen}, frozen


def with_base(folder: Path, saved: Mapping[str, Any], system: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return saved weights, with the frozen ones that were not saved from a new system; ``UserError`` if it differs."""
    frozen: dict[str, str] = saved["frozen"]
    other = [name for name, digest in frozen.items() if name not in system or tensor_digest(system[name]) != digest]
    if other:
        raise UserError(
            f"{folder / STATE}: {len(other)} of {len(frozen)} frozen weights are not those that were trained on "
            f"({other[0]}, …): put back the file that the system started from, or delete {folder} to train anew"
        )
    return {**{name: system[name] for name in frozen}, **saved["system"]}


def tensor_bytes(tensors: Iterable[Tensor]) -> int:
    """Return how many bytes tensors have, each once."""
    return sum({tensor.data_ptr(): tensor.numel() * tensor.element_size() for tensor in tensors}.values())


def check_room(path: Path, needed: int, what: str) -> None:
    """Raise ``SaveError`` if the disk has no room for so many bytes at ``path``, whose folder there may not be yet."""
    there = next(folder for folder in path.parents if folder.exists())
    free = shutil.disk_usage(there).free
    if free < needed:
        short = f"{free / 1e9:.2f} GB are free, and {needed / 1e9:.2f} GB are needed {what}"
        raise SaveError(
            f"{path}: cannot be written: {short}; what was there before is unchanged: make room (`df -h {there}`), or "
            "set results in config.yaml to a larger disk"
        )


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

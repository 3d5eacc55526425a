"""State dicts from files: reading without executing anything, and strict renaming."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from recount.errors import UserError


class CheckpointError(UserError):
    """A checkpoint file cannot be used; the message lists what is missing, unexpected or of the wrong shape."""


def read_tensors(path: Path) -> dict[str, Any]:
    """Read a .safetensors or .pth/.pt/.ckpt file without executing anything in it.

    Raises:
        CheckpointError: the file is missing, damaged, or holds objects other than tensors and plain containers.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        reason = str(error).splitlines()[0][:200]
        raise CheckpointError(
            f"{path}: not a readable checkpoint, or it holds more than tensors (recount executes no pickle): {reason}"
        ) from error


def renamed(
    state: Mapping[str, Tensor],
    rename: Callable[[str], str | None],
    expected: Mapping[str, Tensor],
    *,
    source: Path | str,
) -> dict[str, Tensor]:
    """Return ``state`` under our names, checked strictly against ``expected`` (our own state dict).

    Args:
        state: the official state dict.
        rename: official key -> our key, or None for a key that our network has no use for.
        expected: our state dict, for names and shapes.
        source: named in the error.

    Raises:
        CheckpointError: lists all missing, unexpected and wrongly shaped keys.
    """
    result: dict[str, Tensor] = {}
    unexpected = []
    for key, value in state.items():
        ours = rename(key)
        if ours is None:
            continue
        if ours in expected:
            result[ours] = value
        else:
            unexpected.append(key)
    missing = sorted(set(expected) - set(result))
    shapes = [
        f"{key} {list(result[key].shape)} instead of {list(expected[key].shape)}"
        for key in result
        if result[key].shape != expected[key].shape
    ]
    problems = [
        f"{title}: {', '.join(keys)}"
        for title, keys in (("missing", missing), ("unexpected", unexpected), ("wrong shape", shapes))
        if keys
    ]
    if problems:
        raise CheckpointError(f"{source}: " + "; ".join(problems))
    return result

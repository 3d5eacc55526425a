"""State dicts from files: reading without executing anything, and strict renaming."""

import json
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from recount.errors import UserError
from recount.nn.hdf5 import arrays


def shipped(name: str) -> Path:
    """Return the path of a file among the weights that come with recount (``mini_clip.safetensors``)."""
    return Path(str(resources.files("recount") / "pretraining" / "weights" / name))


@cache
def card(name: str) -> dict[str, Any]:
    """Return the card of weights that come with recount ("mini_sd"): sizes, origin, measured quality."""
    return json.loads(shipped(f"{name}.json").read_text("utf-8"))


def read_tensors(path: Path) -> dict[str, Any]:
    """Read a .safetensors, .h5 or .pth/.pt/.ckpt file of tensors and plain containers, executing nothing in it.

    Of what is at its top, tensors by name and containers of them are returned, the script's numbers are not.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        if path.suffix in (".h5", ".hdf5"):
            found = arrays(path.read_bytes())
            return {name: torch.from_numpy(each.astype(each.dtype.newbyteorder("="))) for name, each in found.items()}
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        reason = str(error).splitlines()[0][:200]
        raise UserError(
            f"{path}: not a readable checkpoint, or it holds more than tensors (recount executes no pickle): {reason}"
        ) from error
    if not isinstance(content, Mapping):
        raise UserError(f"{path}: not a dictionary of tensors but {type(content).__name__}")
    return {name: value for name, value in content.items() if isinstance(value, Tensor | Mapping)}


def _some(keys: Sequence[str], most: int = 6) -> str:
    return ", ".join(keys[:most]) + (f" and {len(keys) - most} more" if len(keys) > most else "")


def read_released(path: Path, part: str = "state_dict") -> dict[str, Tensor]:
    """Return the state dict ``part`` of a training script's checkpoint; a file without it is a state dict itself."""
    with torch.serialization.safe_globals([Namespace]):
        content = read_tensors(path)
    return {name: value for name, value in content.get(part, content).items() if isinstance(value, Tensor)}


def renamed(
    state: Mapping[str, Tensor],
    rename: Callable[[str], str | None],
    expected: Mapping[str, Tensor],
    *,
    source: Path | str,
) -> dict[str, Tensor]:
    """Return the official ``state`` under our names, checked strictly against ``expected`` (our own state dict).

    ``rename`` gives our key of an official one, or None for one that our network has no use for. The UserError
    names ``source`` and missing, unexpected and wrongly shaped keys, the first of many.
    """
    tensors = [key for key, value in state.items() if isinstance(value, Tensor)]
    names = {key: ours for key in tensors if (ours := rename(key)) is not None}
    result = {ours: state[key] for key, ours in names.items() if ours in expected}
    problems = {
        "missing": sorted(set(expected) - set(result)),
        "unexpected": [key for key, ours in names.items() if ours not in expected],
        "wrong shape": [
            f"{key} {list(value.shape)} instead of {list(expected[key].shape)}"
            for key, value in result.items()
            if value.shape != expected[key].shape
        ],
    }
    problems["no floating-point numbers"] = [
        f"{key} ({str(value.dtype).removeprefix('torch.')})"
        for key, value in result.items()
        if expected[key].is_floating_point() and not value.is_floating_point()
    ]
    told = [f"{title}: {_some(keys)}" for title, keys in problems.items() if keys]
    if told:
        raise UserError(f"{source}: it is of another network, size or revision: " + "; ".join(told))
    return result

"""Parts of a network that must not run in half precision."""

from contextlib import AbstractContextManager

import torch
from torch import Tensor


def full_precision(tensor: Tensor) -> Tensor:
    """Return a floating tensor in float32, or unchanged if it is float64 (as gradient checks and golden cases are)."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def without_autocast(device: torch.device) -> AbstractContextManager:
    """Return a context in which autocast is off on ``device``."""
    return torch.autocast(device.type, enabled=False)

"""Block counts of several images, and the whole DM loss, as golden cases have them."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from recount.nn.bins import block_counts
from recount.nn.dm_loss import DM_WEIGHTS


def stacked_block_counts(points: Sequence[Tensor], height: int, width: int, block: int, **rules: Any) -> Tensor:
    """Return ``block_counts`` of B images of one size, [B, 1, height // block, width // block]."""
    return torch.stack([block_counts(each, height, width, block, **rules) for each in points])


def dm_loss(terms: Mapping[str, Tensor]) -> Tensor:
    """Return count + 0.1 transport + 0.01 variation."""
    return sum((DM_WEIGHTS[name] * terms[name] for name in ("transport", "variation")), terms["count"])

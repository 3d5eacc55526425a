"""Fixtures for all tests."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Small tensors are faster on one thread, and sums are then the same on every machine."""
    torch.set_num_threads(1)

"""Fixtures of the rehearsal's tests."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from accelerate.state import AcceleratorState

sys.path.insert(0, str(Path(__file__).parents[1] / "training"))  # tiny_system


@pytest.fixture(autouse=True)
def fresh_accelerator() -> Iterator[None]:
    """A process trains in one precision in real life, so accelerate keeps it for good."""
    yield
    AcceleratorState._reset_state(reset_partial_state=True)

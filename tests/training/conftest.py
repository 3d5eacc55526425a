"""Fixtures of the training loop's tests."""

from collections.abc import Iterator

import pytest
from accelerate.state import AcceleratorState


@pytest.fixture(autouse=True)
def fresh_accelerator() -> Iterator[None]:
    """A process trains once in real life, so accelerate keeps its precision for good."""
    yield
    AcceleratorState._reset_state(reset_partial_state=True)

"""The cluster's tests use the workflow's house, and one cluster."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "workflow")]


@pytest.fixture(scope="session")
def cluster() -> Iterator[dict[str, str]]:
    import slurm

    with slurm.running_cluster() as variables:
        yield variables


@pytest.fixture
def work(tmp_path: Path) -> Path:
    from small_training import small_training

    return small_training(tmp_path)

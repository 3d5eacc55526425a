"""Fixtures of the workflow's tests."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from house import House


@pytest.fixture
def house(tmp_path: Path) -> House:
    """Return a fresh copy."""
    return House(tmp_path)


@pytest.fixture(scope="module")
def finished_house(tmp_path_factory: pytest.TempPathFactory) -> House:
    """Return a copy where everything has been run; the tests of a module share it and leave it finished."""
    house = House(tmp_path_factory.mktemp("house"))
    answer = house.run()
    assert answer.code == 0, answer.text
    return house

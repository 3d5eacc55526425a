"""Fixtures for all tests."""

import os
import random
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings

sys.path.insert(0, str(Path(__file__).parent))

# A machine with much else to do is no fault of the code under test. ``make test`` tries the same examples everywhere;
# ``make test-search`` looks for new ones.
settings.register_profile("steady", deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)
settings.register_profile("searching", settings.get_profile("steady"), derandomize=False, max_examples=500)
settings.load_profile("steady")


@pytest.fixture(autouse=True)
def same_start() -> None:
    """One thread, on which small tensors are faster; numbers that do not depend on the tests before this one."""
    torch.set_num_threads(1)
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(autouse=True, scope="session")
def nothing_of_this_machine(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Nothing that was computed or set before the tests may answer for the code under test."""
    os.environ["RECOUNT_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    for name in ("RECOUNT_MIRROR", "RECOUNT_CONFIG"):
        os.environ.pop(name, None)

"""The authors' own evaluations that are drawn behind ours."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from recount.report.published_curves import published_curves
from recount.report.sections import Curves
from recount.report.sources import Sources
from recount.settings.project import load

NONE = pd.DataFrame(columns=["label", "seed", "epoch", "value"])


@pytest.fixture(scope="module")
def sources() -> Sources:
    return Sources(load(Path(__file__).parents[2], {"papers": []}))


def test_validation_errors_of_t2icounts_log_count_epochs_from_one(sources: Sources) -> None:
    (run,) = published_curves(sources, "t2icount", None, Curves(NONE, "mae", "held-out")).values()
    assert run["epoch"].min() >= 1
    assert run["value"].notna().all()


def test_recovered_accuracies_of_countclip_are_shares(sources: Sources) -> None:
    runs = published_curves(sources, "countclip", None, Curves(NONE, "accuracy", "test"))
    assert len(runs) == 3
    assert all(run["value"].between(0, 1).all() and list(run["epoch"]) == list(range(1, 11)) for run in runs.values())


def test_curves_of_another_metric_are_not_drawn_behind(sources: Sources) -> None:
    assert published_curves(sources, "countclip", None, Curves(NONE, "mae", "test")) == {}

"""No training starts on targets that nobody gave it."""

from typing import Any

import numpy as np
import pytest

from recount import datasets
from recount.data.dataset import DataError
from recount.data.needs import check_needs, unmet
from recount.data.sample import NO_POINTS, Sample

TWO = np.ones((2, 2), np.float32)
MAP = {"density_map": "fsc147/maps/a.npy"}


def sample(points: np.ndarray = TWO, name: str = "a", **more: Any) -> Sample:
    return Sample(name, "train", None, points, 2.0, more.pop("prompt", "cups"), 8, 8, **more)


@pytest.mark.parametrize(
    ("need", "good", "bad"),
    [
        ("points", sample(), sample(NO_POINTS)),
        ("points", sample(), sample(TWO[:1])),
        ("density", sample(), sample(NO_POINTS)),
        ("density", sample(NO_POINTS, attributes=MAP), sample(NO_POINTS)),
        ("boxes", sample(boxes=np.zeros((2, 4), np.float32)), sample()),
        ("prompts", sample(), sample(prompt=" ")),
    ],
)
def test_what_a_system_needs_is_there_or_named(need: Any, good: Sample, bad: Sample) -> None:
    check_needs([good], {need}, "mcnn")
    check_needs([bad], set(), "css_ccnn")
    with pytest.raises(DataError, match=r"mcnn: 1 of 1 training samples \(a\) have .*\n.*recount doctor"):
        check_needs([bad], {need}, "mcnn")


def test_counts_that_are_hidden_cannot_be_taught() -> None:
    hidden = Sample("a", "train", None, NO_POINTS, float("nan"), "cups", 8, 8)
    with pytest.raises(DataError, match="no points"):
        check_needs([hidden], {"points"}, "mcnn")


def test_ready_density_maps_are_all_there_or_none() -> None:
    check_needs([sample(attributes=MAP)] * 2, {"density"}, "t2icount")
    mixed = [sample(attributes=MAP), sample(name="b"), sample(name="c")]
    with pytest.raises(DataError, match=r"2 of 3 training samples \(b, c\) lack the ready density map"):
        check_needs(mixed, {"density"}, "t2icount")


def test_what_no_sample_of_a_data_set_has_is_unmet_before_there_are_samples() -> None:
    fsc147, pairs = datasets.load("fsc147"), datasets.load("countclip_zenodo")
    assert unmet(fsc147, ["density", "prompts"]) == unmet(datasets.load("crowd"), ["density"]) == []
    assert unmet(pairs, ["prompts", "points", "density"]) == ["density", "points"]

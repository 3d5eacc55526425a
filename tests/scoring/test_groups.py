"""Bins and terciles of the true count, and confusion matrices, at their edges."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recount.scoring.groups import confusion, count_bins, terciles


def test_count_bins() -> None:
    true = [0, 1, 10, 11, 50, 51, 200, 201, 3701]
    assert count_bins(true) == ["0", "1-10", "1-10", "11-50", "11-50", "51-200", "51-200", ">200", ">200"]


@given(st.lists(st.integers(0, 20), min_size=1, max_size=40))
def test_terciles_keep_order_and_equal_counts_together(true: list[int]) -> None:
    order = {"low": 0, "middle": 1, "high": 2}
    by_count = sorted(zip(true, (order[name] for name in terciles(true)), strict=True))
    for (count_a, rank_a), (count_b, rank_b) in pairwise(by_count):
        assert rank_a == rank_b if count_a == count_b else rank_a <= rank_b


def test_terciles_of_different_counts_are_thirds() -> None:
    assert terciles([1, 2, 3, 4, 5, 6]) == ["low", "low", "middle", "middle", "high", "high"]


def test_a_number_outside_the_captions_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\[11\.0\]"):
        confusion([2], [11], range(2, 11))

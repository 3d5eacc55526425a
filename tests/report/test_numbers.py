"""How numbers are written."""

import math

import pytest

from recount.report import numbers


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (103.34, "103.3"),
        (56.207, "56.21"),
        (0.1534, "0.153"),
        (-3.5, "−3.50"),
        (0.0, "0"),
        (None, "–"),
        (math.nan, "–"),
    ],
)
def test_errors_are_written_with_the_digits_they_deserve(value: float | None, text: str) -> None:
    assert numbers.number(value) == text


def test_standard_deviation_takes_the_digits_of_its_mean() -> None:
    assert numbers.number(0.994, 103.3) == "1.0"


def test_whole_counts_have_no_decimals() -> None:
    assert (numbers.count(88.0), numbers.count(87.71), numbers.count(312.4)) == ("88", "87.7", "312")
    assert numbers.count(-0.04) == "0.0"


def test_interval_without_bounds_is_left_out() -> None:
    assert numbers.interval(math.nan, 3.0) == ""


@pytest.mark.parametrize(
    ("value", "text"), [(0.041, "41 ms"), (14.2, "14.2 s"), (240.0, "4.0 min"), (57600.0, "16.0 h")]
)
def test_durations_have_the_unit_that_suits_them(value: float, text: str) -> None:
    assert numbers.seconds(value) == text


def test_a_share_that_rounds_to_nothing_has_no_sign() -> None:
    assert numbers.percent(-0.001) == "0 %"

"""Gaussian density maps."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from recount.nn.maps import blurred, gaussian_kernel


def test_kernel_is_even_and_sums_to_one() -> None:
    kernel = gaussian_kernel(15, 4.0)
    torch.testing.assert_close(kernel, kernel.flip(0))
    assert kernel.sum().item() == pytest.approx(1)


@given(x=st.integers(7, 24), y=st.integers(7, 32))
def test_a_dot_away_from_the_border_keeps_its_mass(x: int, y: int) -> None:
    dots = torch.zeros(1, 40, 32)
    dots[0, y, x] = 1
    assert blurred(dots, 15, 4.0).sum().item() == pytest.approx(1, rel=1e-5)


def test_mass_over_the_border_is_lost() -> None:
    dots = torch.zeros(1, 20, 20)
    dots[0, 0, 0] = 1
    assert 0.25 < blurred(dots, 15, 4.0).sum() < 0.4

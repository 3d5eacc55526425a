"""Cutting pictures into equal rectangles."""

import torch

from recount.nn.maps import cut_grid


def test_cells_lie_row_by_row_and_a_rest_is_left_out() -> None:
    image = torch.arange(6.0).view(1, 1, 2, 3).repeat_interleave(4, 2).repeat_interleave(4, 3).expand(1, 3, 8, 12)
    with_rest = torch.nn.functional.pad(image, (0, 2, 0, 1), value=9.0)
    cells = cut_grid(with_rest, 2, 3)
    assert cells.shape == (1, 6, 3, 4, 4)
    assert cells.flatten(2).amin(dim=2).tolist() == cells.flatten(2).amax(dim=2).tolist() == [[0, 1, 2, 3, 4, 5]]

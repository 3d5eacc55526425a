"""HDF5 files of weights: ``h5py.h5`` here was written by h5py 3.14; anything damaged ends in one kind of error."""

from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from recount.errors import UserError
from recount.nn.hdf5 import Hdf5Error, arrays
from recount.nn.weights import read_tensors

WRITTEN = (Path(__file__).parent / "h5py.h5").read_bytes()


def test_a_file_of_h5py_is_read_whole() -> None:
    found = arrays(WRITTEN)
    assert len(found) == 24
    for number in range(20):
        expected = (np.arange(6, dtype=np.float32) + number).reshape(2, 3, 1)
        np.testing.assert_array_equal(found[f"branch.{number}.weight"], expected, strict=True)
    assert (found["scalar"].shape, float(found["scalar"]), found["empty"].shape) == ((), 3.5, (0, 3))
    assert (found["counts"].tolist(), found["swapped"].tolist()) == ([-2, -1, 0, 1], [0, 1, 2, 3])


def test_its_arrays_become_tensors_of_their_own(tmp_path: Path) -> None:
    path = tmp_path / "mcnn.h5"
    path.write_bytes(WRITTEN)
    state = read_tensors(path)
    assert state["swapped"].dtype == torch.float32
    state["swapped"].add_(1)  # not the file's read-only bytes
    path.write_bytes(WRITTEN[:3000])
    with pytest.raises(UserError, match=r"mcnn\.h5: not a readable checkpoint.*cut off or damaged"):
        read_tensors(path)


@pytest.mark.parametrize(
    ("name", "at", "content", "told"),
    [
        ("signature", 0, b"\x00", "first bytes are not those of an HDF5 file"),
        ("version", 8, b"\x03", "superblock has version 3"),
        ("root", 64, b"\xff" * 8, "cut off or damaged"),
    ],
)
def test_what_it_cannot_be_is_said(name: str, at: int, content: bytes, told: str) -> None:
    with pytest.raises(Hdf5Error, match=told):
        arrays(WRITTEN[:at] + content + WRITTEN[at + len(content) :])


@given(
    st.lists(st.tuples(st.integers(0, len(WRITTEN) - 1), st.integers(0, 255)), max_size=6), st.integers(0, len(WRITTEN))
)
def test_a_damaged_file_gives_arrays_or_an_error_of_its_own(changes: list[tuple[int, int]], kept: int) -> None:
    damaged = bytearray(WRITTEN)
    for at, value in changes:
        damaged[at] = value
    for content in (bytes(damaged), bytes(damaged[:kept])):
        with suppress(Hdf5Error):
            assert all(each.nbytes <= len(WRITTEN) for each in arrays(content).values())

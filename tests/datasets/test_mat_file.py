"""Reading MATLAB files: as scipy does where a file is whole, and one error, never a crash, where it is not."""

import io
import struct
import tracemalloc
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy.io import loadmat, savemat

from golden_tools import shared
from recount.data.dataset import DataError
from recount.datasets.formats.mat import mat_points
from recount.datasets.formats.mat_file import MatError, variable

TYPES = ["<f8", "<f4", "<i4", "<u2", "|u1", "|i1", "<i8", "<u8"]


def saved(content: dict[str, Any], *, compressed: bool = False) -> bytes:
    stream = io.BytesIO()
    savemat(stream, content, do_compression=compressed)
    return stream.getvalue()


def image_info(points: Any, number: Any) -> dict[str, Any]:
    info, record = np.empty((1, 1), object), np.empty((1, 1), [("location", object), ("number", object)])
    record[0, 0] = (points, number)
    info[0, 0] = record
    return {"image_info": info}


@given(
    st.sampled_from(TYPES).flatmap(lambda kind: arrays.arrays(kind, arrays.array_shapes(min_dims=2, max_dims=3))),
    st.booleans(),
)
def test_numbers_are_as_scipy_reads_them(values: np.ndarray, compressed: bool) -> None:
    content = saved({"other": np.ones((2, 2)), "annPoints": values}, compressed=compressed)
    np.testing.assert_array_equal(variable(content, "annPoints"), loadmat(io.BytesIO(content))["annPoints"])


def test_every_annotation_of_the_mirror_is_as_scipy_reads_it() -> None:
    paths = sorted((shared("mirror") / "sha_train75").rglob("*.mat"))
    assert len(paths) == 75
    for path in paths:
        expected = loadmat(path)["image_info"][0, 0]["location"][0, 0]
        np.testing.assert_array_equal(mat_points(path, "image_info"), expected.astype(np.float32))


@given(st.integers(0, 3000), st.integers(0, 255), st.booleans(), st.booleans())
def test_any_changed_byte_gives_a_value_or_one_error(place: int, byte: int, compressed: bool, cut: bool) -> None:
    content = bytearray(saved(image_info(np.arange(20.0).reshape(10, 2), np.uint16([[10]])), compressed=compressed))
    place %= len(content)
    content[place] = byte
    try:
        variable(bytes(content[:place] if cut else content), "image_info")
    except MatError as error:
        assert "\n" not in str(error)


def declared(shape: tuple[int, int]) -> bytes:
    """Return a file whose header declares more numbers than it has."""
    content = bytearray(saved({"annPoints": np.zeros((3, 2))}))
    place = bytes(content).index(struct.pack("<ii", 3, 2))
    content[place : place + 8] = struct.pack("<ii", *shape)
    return bytes(content)


def bomb() -> bytes:
    packed = zlib.compress(struct.pack("<II", 14, 2**31) + b"\0" * 200_000_000, 9)
    return saved({})[:128] + struct.pack("<II", 15, len(packed)) + packed


@pytest.mark.parametrize("content", [declared((2**30, 2)), declared((2**31 - 1, 2**31 - 1)), bomb()])
def test_what_a_header_declares_is_not_allocated(content: bytes) -> None:
    tracemalloc.start()
    with pytest.raises(MatError):
        variable(content, "annPoints")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 250_000_000


@pytest.mark.parametrize(
    ("points", "message"),
    [
        (np.zeros((2, 7)), "shape (2, 7) and type float64, expected numbers (n, 2); rows and columns seem exchanged"),
        (np.array([["a", "b"]]), "a matrix of class 4 stands where numbers should"),
        (np.array([[1.0, 2.0], [3.0, np.nan]]), "1 points are NaN or infinite, first in row 2"),
        (np.array([[1e300, 2.0]]), "1 points are NaN or infinite, first in row 1"),
        (np.array([[1j, 2.0]]), "a matrix of class 6, complex, stands where numbers should"),
        (np.zeros((3, 2)), "it has 3 points and says that their number is 4"),
        ({"x": 1.0}, "the points have shape (1,) and type object, expected numbers (n, 2)"),
    ],
)
def test_wrong_points_are_named(points: Any, message: str, tmp_path: Path) -> None:
    path = tmp_path / "GT_IMG_1.mat"
    path.write_bytes(saved(image_info(points, np.uint16([[4]]))))
    with pytest.raises(DataError) as caught:
        mat_points(path, "image_info")
    assert message.replace("seem exchanged", "seem to be exchanged") in str(caught.value)
    assert str(caught.value).startswith(f"{path}: ")


@pytest.mark.parametrize("start", [b"MATLAB 7.3 MAT-file, Platform: GLNXA64", b"\x89HDF\r\n\x1a\n"])
def test_a_matlab_7_3_file_says_what_to_do(start: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.mat").write_bytes(start + b"\0" * 600)
    with pytest.raises(DataError, match=r"a\.mat: a MATLAB 7\.3 file .*save\(file, 'annPoints', '-v7'\)"):
        mat_points(tmp_path / "a.mat", "annPoints")


def test_a_variable_that_is_not_there_is_named() -> None:
    with pytest.raises(MatError, match="it has no variable 'annPoints'"):
        variable(saved({"other": np.ones((2, 2))}), "annPoints")

"""Reading a variable of a MATLAB 5 file: numbers, cells and structs, as the annotations of the crowd sets hold them.

After MathWorks, "MAT-File Format", level 5. scipy's reader (1.17) is not used because a file with a flipped bit can end
the whole process with a segmentation fault; tests/datasets/test_mat_file.py compares the two.
"""

import math
import struct
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np

_HEADER = 128  # bytes
_MATRIX, _COMPRESSED = 14, 15  # kinds of elements; the others are arrays of numbers
_NUMBERS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
_CELL, _STRUCT, _NUMERIC, _COMPLEX = 1, 2, range(6, 16), 0x800  # classes of matrices, and a flag
_MOST_BYTES = 100_000_000  # of an unpacked variable; the points of NWPU-Crowd's fullest picture take 320,528
_HDF5 = (b"MATLAB 7.3", b"\x89HDF")


class MatError(ValueError):
    """The bytes are no MATLAB 5 file that holds the variable; the message says why and what to do."""


def variable(content: bytes, name: str) -> Any:
    """Return a variable: numbers as an array, a cell as a list of its values, a struct as a list of dicts.

    Cells and structs are in the order of MATLAB's linear index. Raises only ``MatError``.
    """
    if content.startswith(_HDF5):
        raise MatError(
            "a MATLAB 7.3 file (HDF5), which is not read here; convert it in MATLAB: "
            f"load the file and save it again with save(file, '{name}', '-v7')"
        )
    order = {b"IM": "<", b"MI": ">"}.get(content[_HEADER - 2 : _HEADER])
    if order is None:
        raise MatError("not a readable MATLAB file: its header is not that of MATLAB 5; fetch or unpack it again")
    try:
        for kind, data in _elements(content[_HEADER:], order):
            if kind == _COMPRESSED:
                stream = zlib.decompressobj()
                unpacked = stream.decompress(data, _MOST_BYTES)
                if stream.unconsumed_tail:
                    raise ValueError(f"its content takes more than {_MOST_BYTES:,} bytes when it is unpacked")
                kind, data = next(_elements(unpacked, order))
            if kind == _MATRIX and _head(data, order)[2] == name:
                return _value(data, order)
    except (ValueError, StopIteration, struct.error, zlib.error, RecursionError) as error:
        what = "it is nested too deeply" if isinstance(error, RecursionError) else str(error) or "it is cut off"
        raise MatError(f"not a readable MATLAB file: {what}; fetch or unpack it again") from None
    raise MatError(f"it has no variable {name!r}")


def _elements(data: bytes, order: str) -> Iterator[tuple[int, bytes]]:
    """Yield (kind, content) of the elements that follow each other in ``data``."""
    position = 0
    while position < len(data):
        kind, size = struct.unpack_from(f"{order}II", data, position)
        start = position + 8
        if kind >> 16:  # a small element: size and kind in four bytes, the content in the next four
            kind, size, start = kind & 0xFFFF, kind >> 16, position + 4
        if start + size > len(data):
            raise ValueError("an element is longer than what is left of the file")
        yield kind, data[start : start + size]
        position = (
            start + size if kind == _COMPRESSED else position + 8 + (-(-size // 8) * 8 if start > position + 4 else 0)
        )


def _array(element: tuple[int, bytes], order: str) -> np.ndarray:
    kind, data = element
    if kind not in _NUMBERS:
        raise ValueError(f"an element of kind {kind} stands where numbers should")
    return np.frombuffer(data, order + _NUMBERS[kind])


def _head(data: bytes, order: str) -> tuple[int, tuple[int, ...], str, Iterator[tuple[int, bytes]]]:
    """Return flags and class, dimensions and name of a matrix, and the elements after them."""
    parts = _elements(data, order)
    flags = _array(next(parts), order)
    shape = tuple(_array(next(parts), order).tolist())
    name = next(parts)[1].decode("latin-1")
    if len(flags) < 1 or min(shape, default=-1) < 0:
        raise ValueError("a matrix has no class or no dimensions")
    return int(flags[0]), shape, name, parts


def _value(data: bytes, order: str) -> Any:
    if not data:
        return np.zeros((0, 0))
    flags, shape, _, parts = _head(data, order)
    number, kind = math.prod(shape), flags & 0xFF
    if kind == _CELL:
        return [_value(_matrix(next(parts)), order) for _ in range(number)]
    if kind == _STRUCT:
        length, names = int(_array(next(parts), order)[0]), next(parts)[1].decode("latin-1")
        fields = [names[k : k + length].rstrip("\0") for k in range(0, len(names), length)]
        return [{field: _value(_matrix(next(parts)), order) for field in fields} for _ in range(number)]
    if kind not in _NUMERIC or flags & _COMPLEX:
        raise ValueError(
            f"a matrix of class {kind}{', complex,' if flags & _COMPLEX else ''} stands where numbers should"
        )
    values = _array(next(parts), order)
    if len(values) != number:
        raise ValueError(f"a matrix of shape {shape} has {len(values)} numbers")
    return values.reshape(shape, order="F")


def _matrix(element: tuple[int, bytes]) -> bytes:
    if element[0] != _MATRIX:
        raise ValueError(f"an element of kind {element[0]} stands where a matrix should")
    return element[1]

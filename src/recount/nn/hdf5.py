"""Reading the arrays of an HDF5 file as h5py writes them by default: one group of whole, unpacked arrays of numbers.

After The HDF Group, "HDF5 File Format Specification", version 1.x of superblock and object headers, which h5py's
``create_dataset`` still gives. Anything else (packed or chunked arrays, later formats) is refused by name. Every
address is checked against the file, so that a damaged or hostile file ends in an ``Hdf5Error``; nothing is executed.
"""

import math
import struct
from collections.abc import Iterator
from typing import Any

import numpy as np

_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_ROOT = 64  # where a superblock of version 0 has the address of the root group's header
_DATASPACE, _DATATYPE, _LAYOUT, _FILTERS, _CONTINUED, _SYMBOLS = 0x1, 0x3, 0x8, 0xB, 0x10, 0x11  # messages of a header
_CONTIGUOUS = 1
_KINDS = {(0, False): "u", (0, True): "i", (1, False): "f", (1, True): "f"}  # by class, and whether integers are signed
_SIZES = {"u": (1, 2, 4, 8), "i": (1, 2, 4, 8), "f": (2, 4, 8)}
_MOST = 100_000  # of nodes, messages and arrays; a network has hundreds


class Hdf5Error(ValueError):
    """The bytes are no HDF5 file of whole arrays of numbers; the message says why."""


def arrays(content: bytes) -> dict[str, np.ndarray]:
    """Return the arrays of the root group by name. Raises only ``Hdf5Error``."""
    if not content.startswith(_SIGNATURE):
        raise Hdf5Error("its first bytes are not those of an HDF5 file")
    if content[8] != 0 or content[13:15] != b"\x08\x08":
        raise Hdf5Error(f"its superblock has version {content[8]} (only 0 is read); write it again with h5py's default")
    try:
        return dict(_File(content).arrays())
    except Hdf5Error:
        raise
    except (struct.error, ValueError, OverflowError, RecursionError) as error:
        raise Hdf5Error("it is cut off or damaged") from error


class _File:
    def __init__(self, content: bytes) -> None:
        self.content, self.left = content, _MOST

    def _at(self, layout: str, address: int) -> tuple[Any, ...]:
        if address < 0 or address >= len(self.content):
            raise Hdf5Error("it is cut off or damaged: an address lies outside the file")
        return struct.unpack_from(f"<{layout}", self.content, address)

    def _spent(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise Hdf5Error(f"it is damaged, or has more than {_MOST:,} parts")

    def arrays(self) -> Iterator[tuple[str, np.ndarray]]:
        """Yield name and array of each object of the root group."""
        symbols = self._messages(self._at("Q", _ROOT)[0]).get(_SYMBOLS)
        if symbols is None:
            raise Hdf5Error("its root group is of a later format; write it again with h5py's default")
        tree, heap = self._at("QQ", symbols)
        names = self._at("4s20xQ", heap)
        if names[0] != b"HEAP":
            raise Hdf5Error("it is damaged: no heap of names where one should be")
        for name, header in self._entries(tree):
            start = names[1] + name
            end = self.content.index(b"\0", start) if start < len(self.content) else -1
            title = self.content[start:end].decode() if end >= 0 else ""
            yield title, self._array(title, self._messages(header))

    def _entries(self, address: int) -> Iterator[tuple[int, int]]:
        """Yield (offset of the name, address of the header) of what hangs on a node of a group's tree."""
        self._spent()
        signature, kind, _, number = self._at("4sBBH", address)
        if signature == b"TREE" and kind == 0:
            for index in range(number):
                yield from self._entries(self._at("Q", address + 32 + 16 * index)[0])
        elif signature == b"SNOD":
            for index in range(self._at("H", address + 6)[0]):
                self._spent()
                yield self._at("QQ", address + 8 + 40 * index)
        else:
            raise Hdf5Error("it is damaged: no list of names where one should be")

    def _messages(self, header: int) -> dict[int, int]:
        """Return kind -> address of the messages of an object's header."""
        version, number = self._at("BxH", header)
        if version != 1:
            raise Hdf5Error("an object's header is of a later format; write it again with h5py's default")
        blocks, found = [(header + 16, self._at("I", header + 8)[0])], {}
        while blocks and number:
            place, size = blocks.pop(0)
            end = place + size
            while number and place + 8 <= end:
                self._spent()
                kind, length = self._at("HH", place)
                if kind == _CONTINUED:
                    blocks.append(self._at("QQ", place + 8))
                found[kind] = place + 8
                place, number = place + 8 + length, number - 1
        return found

    def _array(self, name: str, messages: dict[int, int]) -> np.ndarray:
        if _SYMBOLS in messages:
            raise Hdf5Error(f"{name} is a group; arrays are read of the root group alone")
        if missing := [part for part in (_DATASPACE, _DATATYPE, _LAYOUT) if part not in messages]:
            raise Hdf5Error(f"{name} has no message {missing[0]}, so it is no array")
        version, rank = self._at("BB", messages[_DATASPACE])
        shape = self._at(f"{rank}Q", messages[_DATASPACE] + (8 if version == 1 else 4)) if rank else ()
        coded, bits, _, _, size = self._at("BBBBI", messages[_DATATYPE])
        kind = _KINDS.get((coded & 0xF, bool(bits & 8)))
        if kind is None or size not in _SIZES[kind]:
            raise Hdf5Error(f"{name} holds no numbers")
        storage, way = self._at("BB", messages[_LAYOUT])
        if _FILTERS in messages or storage != 3 or way != _CONTIGUOUS:
            raise Hdf5Error(f"{name} is packed or cut into chunks, which is not read; write it as a plain array")
        address, length = self._at("QQ", messages[_LAYOUT] + 2)
        needed = math.prod(shape) * size
        if length < needed or address + needed > len(self.content):
            if needed:
                raise Hdf5Error(f"{name} is cut off")
            address = 0  # nothing is stored of an empty array
        order = ">" if bits & 1 else "<"
        return np.frombuffer(self.content, f"{order}{kind}{size}", math.prod(shape), address).reshape(shape)

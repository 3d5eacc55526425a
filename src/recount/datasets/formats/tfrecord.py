"""Reading TFRecord files of ``tf.train.Example`` without TensorFlow.

Framing: uint64 little-endian length, masked CRC-32C of the length, payload, masked CRC-32C of the payload. The
payload is a protocol-buffer message: Example { features: Features { feature: map<string, Feature> } }, a Feature
holding a list of bytes (field 1), floats (2) or ints (3).
"""

import struct
from collections.abc import Iterator
from pathlib import Path

from recount.data.dataset import DataError

Values = list[bytes] | list[float] | list[int]
_VARINT_BITS = 70  # ten bytes of seven bits hold 64
_CRC32C_POLYNOMIAL = 0x82F63B78  # Castagnoli, reflected


def _crc_of_byte(byte: int) -> int:
    for _ in range(8):
        byte = (byte >> 1) ^ (_CRC32C_POLYNOMIAL if byte & 1 else 0)
    return byte


_CRC_TABLE = [_crc_of_byte(byte) for byte in range(256)]


def crc32c(data: bytes) -> int:
    """Return the CRC-32C of ``data``."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _CRC_TABLE[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    return crc ^ 0xFFFFFFFF


def masked_crc32c(data: bytes) -> int:
    """Return the CRC-32C as TFRecord stores it: rotated right by 15 bits, plus a constant."""
    crc = crc32c(data)
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def records(path: Path) -> Iterator[bytes]:
    """Yield the payloads of a TFRecord file; a ``DataError`` names a record that is cut off or has a wrong checksum."""
    content = path.read_bytes()
    start = number = 0
    while start < len(content):
        where = f"{path}: record {number}"
        header = content[start : start + 12]
        if len(header) < 12:
            raise DataError(f"{where} is cut off; fetch the file again")
        length, length_crc = struct.unpack("<QI", header)
        end = start + 12 + length
        if masked_crc32c(header[:8]) != length_crc or end + 4 > len(content):
            raise DataError(f"{where} has a wrong length; fetch the file again")
        payload = content[start + 12 : end]
        if masked_crc32c(payload) != struct.unpack("<I", content[end : end + 4])[0]:
            raise DataError(f"{where} has a wrong checksum; fetch the file again")
        yield payload
        start, number = end + 4, number + 1


def example(payload: bytes) -> dict[str, Values]:
    """Return the features of one ``tf.train.Example`` by name."""
    features: dict[str, Values] = {}
    for _, message in _fields(payload):
        for _, entry in _fields(message):
            parts = dict(_fields(entry))
            features[parts[1].decode()] = _values(parts[2])
    return features


def _values(feature: bytes) -> Values:
    for kind, value in _fields(feature):
        contents = [content for _, content in _fields(value)]
        if kind == 1:
            return contents
        packed = b"".join(contents)
        if kind == 2:
            return list(struct.unpack(f"<{len(packed) // 4}f", packed))
        numbers, position = [], 0
        while position < len(packed):
            number, position = _varint(packed, position)
            numbers.append(number)
        return numbers
    return []


def _fields(message: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield (field number, value) of a protocol-buffer message, all of whose values are length-delimited."""
    position = 0
    while position < len(message):
        tag, position = _varint(message, position)
        length, position = _varint(message, position)
        if tag & 7 != 2:
            wrong = f"wire type {tag & 7}" if tag & 7 else "a number stands where a message should"
            raise DataError(f"not a tf.train.Example: {wrong}")
        if position + length > len(message):
            raise DataError("not a tf.train.Example: a part of it is longer than the whole")
        yield tag >> 3, message[position : position + length]
        position += length


def _varint(message: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while shift < _VARINT_BITS and position < len(message):
        byte = message[position]
        position += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value, position
    raise DataError("not a tf.train.Example: a number is cut off, or longer than 64 bits")

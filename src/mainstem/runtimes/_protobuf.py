"""Reads and writes just enough of an ONNX file's protobuf to serve it, without the onnx package: external data is refused,
nodes are added.

ONNX Runtime reads external data from the working directory even when it is handed bytes, so a shipped graph must hold
every tensor itself: in initialisers, sparse ones, attributes, subgraphs and functions alike.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

# message → {field number: message} for the fields that can lead to a tensor (onnx.proto3)
_PATHS = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
}
_EXTERNAL_DATA, _DATA_LOCATION = 13, 14


def has_external_data(data: bytes) -> bool:
    """Whether any tensor of an ONNX model lies outside the file. Raises ValueError where this is no protobuf."""
    return _walk(memoryview(data), "model", 0)


def _walk(data: memoryview, message: str, depth: int) -> bool:
    if depth > 64:
        raise ValueError("nested too deeply")
    for number, value in fields(data):
        if message == "tensor":
            if number == _EXTERNAL_DATA or (number == _DATA_LOCATION and value == 1):
                return True
        elif (inner := _PATHS[message].get(number)) and isinstance(value, memoryview) and _walk(value, inner, depth + 1):
            return True
    return False


def fields(data: memoryview) -> Iterator[tuple[int, int | float | memoryview]]:
    """(number, value) of each field of a message; numbers of 8 bytes are left out. Raises ValueError where this is none."""
    at, end = 0, len(data)
    while at < end:
        key, at = _varint(data, at)
        number, wire = key >> 3, key & 7
        if wire == 0:
            value, at = _varint(data, at)
            yield number, value
        elif wire == 2:
            size, at = _varint(data, at)
            if at + size > end:
                raise ValueError("cut short")
            yield number, data[at : at + size]
            at += size
        elif wire in (1, 5):
            at += 8 if wire == 1 else 4
            if at > end:
                raise ValueError("cut short")
            if wire == 5:
                yield number, float(struct.unpack("<f", data[at - 4 : at])[0])
        else:
            raise ValueError(f"wire type {wire}")


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at >= len(data) or shift > 63:
            raise ValueError("cut short")
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at


def varints(data: memoryview) -> list[int]:
    """A packed list of numbers."""
    values, at = [], 0
    while at < len(data):
        value, at = _varint(data, at)
        values.append(value)
    return values


def field(number: int, value: int | bytes | memoryview | str) -> bytes:
    """One field of a message, as `fields` reads it."""
    if isinstance(value, int):
        return _packed(number << 3) + _packed(value)
    data = value.encode() if isinstance(value, str) else value
    return head(number, len(data)) + data


def head(number: int, size: int) -> bytes:
    """What stands before the bytes of a field that holds so many."""
    return _packed(number << 3 | 2) + _packed(size)


def _packed(value: int) -> bytes:
    value &= (1 << 64) - 1  # negative numbers are written as their two's complement
    packed = bytearray()
    while value > 0x7F:
        packed.append(value & 0x7F | 0x80)
        value >>= 7
    packed.append(value)
    return bytes(packed)

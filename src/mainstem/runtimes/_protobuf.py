"""Reads just enough of an ONNX file's protobuf to refuse external data, without the onnx package.

ONNX Runtime reads external data from the working directory even when it is handed bytes, so a shipped graph must hold
every tensor itself: in initialisers, sparse ones, attributes, subgraphs and functions alike.
"""

from __future__ import annotations

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
    for number, value in _fields(data):
        if message == "tensor":
            if number == _EXTERNAL_DATA or (number == _DATA_LOCATION and value == 1):
                return True
        elif (inner := _PATHS[message].get(number)) and isinstance(value, memoryview) and _walk(value, inner, depth + 1):
            return True
    return False


def _fields(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
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

"""Messages between the front of a server and its engines: a JSON header and raw arrays. Never pickle; every size is checked.

    frame = b"ms01" · header length (4 bytes) · body length (8 bytes) · header · body

The header is one JSON object; its field "arrays" lists (dtype, shape) of the arrays, which lie in the body in that order,
each on a multiple of 16 bytes. Other fields name arrays by their place in that list.
"""

from __future__ import annotations

import math
import socket
import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import orjson

from mainstem.contracts import Array

Message = tuple[dict[str, Any], list[Array]]

_MARK = b"ms01"
_LENGTHS = struct.Struct("<4sIQ")
_ALIGNED = 16
MOST_HEADER, MOST_BODY = 64 << 20, 8 << 30
_DTYPES = {code: np.dtype(code) for code in ("|b1", "|i1", "<i2", "<i4", "<i8", "|u1", "<u2", "<u4", "<u8", "<f2", "<f4", "<f8")}


class BrokenChannel(Exception):
    """What came is no message: the other side is not one of ours, or has gone wrong."""


def pack(header: Mapping[str, Any], arrays: Sequence[Array] = ()) -> list[Any]:
    """A message as pieces of bytes, to be sent one after the other."""
    held = [np.ascontiguousarray(array) if array.ndim else array.copy() for array in arrays]
    data = orjson.dumps({**header, "arrays": [(array.dtype.str, array.shape) for array in held]})
    data += b" " * (-len(data) % _ALIGNED)
    body: list[Any] = []
    for array in held:
        if array.dtype.str not in _DTYPES:
            raise TypeError(f"arrays of {array.dtype} are not sent")
        body.append(array.reshape(-1).view(np.uint8).data if array.size else b"")
        body.append(bytes(-array.nbytes % _ALIGNED))
    return [_LENGTHS.pack(_MARK, len(data), sum(map(len, body))), data, *body]


def lengths(prefix: bytes | bytearray | memoryview) -> tuple[int, int]:
    """Bytes of header and body, from the first 16 of a frame. Raises BrokenChannel where they make no sense."""
    mark, header, body = _LENGTHS.unpack(prefix)
    if mark != _MARK or header > MOST_HEADER or body > MOST_BODY:
        raise BrokenChannel("this is not the start of a message")
    return header, body


def unpack(header: bytes | memoryview, body: bytes | bytearray | memoryview) -> Message:
    """A message from its two parts. The arrays are views of `body`. Raises BrokenChannel where the sizes contradict each other."""
    try:
        told = orjson.loads(header)
        listed = [(_DTYPES[dtype], tuple(int(size) for size in shape)) for dtype, shape in told.pop("arrays")]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BrokenChannel(f"a header that cannot be read ({type(error).__name__}: {error})") from None
    arrays, at = [], 0
    for dtype, shape in listed:
        if any(size < 0 for size in shape):
            raise BrokenChannel("an array of negative size")
        count = math.prod(shape)
        end = at + count * dtype.itemsize
        if end > len(body):
            raise BrokenChannel("a body that is too short")
        arrays.append(np.frombuffer(body, dtype, count, at).reshape(shape) if count else np.zeros(shape, dtype))
        at = end + -end % _ALIGNED
    if at != len(body):
        raise BrokenChannel("a body that is too long")
    return told, arrays


class Reader:
    """Messages from bytes as they come."""

    def __init__(self) -> None:
        self._held = bytearray()
        self._need = _LENGTHS.size

    def feed(self, data: bytes) -> Iterator[Message]:
        """The messages that are complete with these bytes."""
        if not self._held and len(data) >= _LENGTHS.size:
            header, body = lengths(data[: _LENGTHS.size])
            start = _LENGTHS.size + header
            if len(data) == start + body:  # as most do, a whole message comes at once
                yield unpack(data[_LENGTHS.size : start], memoryview(data)[start:])
                return
        self._held += data
        while len(self._held) >= self._need:
            header, body = lengths(memoryview(self._held)[: _LENGTHS.size])
            start = _LENGTHS.size + header
            self._need = start + body
            if len(self._held) < self._need:
                return
            frame = bytes(memoryview(self._held)[: self._need])
            del self._held[: self._need]
            self._need = _LENGTHS.size
            yield unpack(frame[_LENGTHS.size : start], memoryview(frame)[start:])


def receive(connection: socket.socket) -> Message | None:
    """The next message of a blocking socket; None where the other side has closed it."""
    prefix = _exactly(connection, _LENGTHS.size)
    if prefix is None:
        return None
    header, body = lengths(prefix)
    data = _exactly(connection, header + body)
    return None if data is None else unpack(memoryview(data)[:header], memoryview(data)[header:])


def _exactly(connection: socket.socket, size: int) -> bytearray | None:
    data = bytearray(size)
    view = memoryview(data)
    while view:
        got = connection.recv_into(view)
        if not got:
            return None
        view = view[got:]
    return data


def send(connection: socket.socket, header: Mapping[str, Any], arrays: Sequence[Array] = ()) -> None:
    """One message over a blocking socket."""
    connection.sendall(b"".join(pack(header, arrays)))

"""How the server writes to its sockets: the head of an answer and its first bytes go out as one, not as two wake-ups of the other side."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

_HEAD = b"HTTP/1.1 "


class Protocol(HttpToolsProtocol):
    """uvicorn's protocol over a transport that joins."""

    def connection_made(self, transport: Any) -> None:
        """A client is there."""
        super().connection_made(Joining(transport))  # type: ignore[arg-type]  # it has all that a transport has


class Joining:
    """A transport that holds the head of an answer until more of it is written in the same moment, or the moment is over."""

    def __init__(self, transport: Any) -> None:
        self._transport, self._head = transport, b""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Send this, now or in a moment."""
        if self._head:
            self._head, data = b"", self._head + data
        elif data.startswith(_HEAD) and data.endswith(b"\r\n\r\n"):
            self._head = data
            asyncio.get_running_loop().call_soon(self._over)
            return
        self._transport.write(data)

    def close(self) -> None:
        """Send what is held, and close."""
        self._over()
        self._transport.close()

    def _over(self) -> None:
        if self._head:
            self._head, data = b"", self._head
            self._transport.write(data)

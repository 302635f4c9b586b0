"""What stands before every route: who may ask, from where, and how much. Nothing is open by default but /health."""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from starlette.exceptions import HTTPException
from starlette.responses import Response

from mainstem.errors import MainstemError

OPEN = frozenset({"/health"})  # routes that need no token
MOST_BYTES = 32 << 20  # of a request's body
LOCAL_NAMES = frozenset({"localhost", "127.0.0.1", "[::1]", "::1"})
HEADERS = [(b"x-content-type-options", b"nosniff"), (b"cache-control", b"no-store")]

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


def check_host(host: str, token: str) -> None:
    """Raises MainstemError where `host` can be reached from other machines and there is no token."""
    try:
        local = host in LOCAL_NAMES or ipaddress.ip_address(host).is_loopback
    except ValueError:
        local = False
    if not local and not token:
        raise MainstemError(
            f"the address {host} can be reached from other machines, and no token is set", do="Give one with --token, or keep to 127.0.0.1."
        )


class Guard:
    """ASGI middleware. With a token every route but those of OPEN asks for it; without one the Host must be this machine's own
    (a web page that points a name of its own at 127.0.0.1 is refused). Bodies above `most_bytes` are cut off."""

    def __init__(self, app: Any, token: str = "", most_bytes: int = MOST_BYTES) -> None:
        self.app, self.token, self.most_bytes = app, token, most_bytes

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        if refused := self._refused(scope["path"], headers):
            await refused(scope, receive, send)
            return

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", []), *HEADERS]
            await send(message)

        await self.app(scope, self._counted(receive), guarded)

    def _refused(self, path: str, headers: dict[bytes, bytes]) -> Response | None:
        if self.token:
            given = headers.get(b"authorization", b"")
            if path not in OPEN and not hmac.compare_digest(given, b"Bearer " + self.token.encode()):
                return error(401, "a token is needed: Authorization: Bearer TOKEN", {"WWW-Authenticate": "Bearer"})
        elif _name_of(headers.get(b"host", b"")) not in LOCAL_NAMES:
            return error(403, "this server answers its own machine only")
        length = headers.get(b"content-length", b"0")
        if length.isdigit() and int(length) > self.most_bytes:
            return error(413, self._too_large())
        return None

    def _too_large(self) -> str:
        return f"the body is larger than {self.most_bytes >> 20} MiB"

    def _counted(self, receive: Receive) -> Receive:
        taken = 0

        async def counted() -> Message:
            nonlocal taken
            message = await receive()
            taken += len(message.get("body", b""))
            if taken > self.most_bytes:
                raise HTTPException(413, self._too_large())
            return message

        return counted


def _name_of(host: bytes) -> str:
    """The name in a Host header, without the port."""
    text = host.decode("latin-1")
    return text[: text.index("]") + 1] if text.startswith("[") and "]" in text else text.rpartition(":")[0] or text


def error(status: int, text: str, headers: dict[str, str] | None = None, **more: Any) -> Response:
    """An error as every route answers it: {"error": sentence, …}."""
    return reply({"error": text, **more}, status, headers)


def reply(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """A value as JSON. NaN becomes null."""
    import orjson

    data = orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS)
    return Response(data, status, headers, "application/json")

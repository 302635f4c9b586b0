"""What stands before every route: who may ask, from where, how often and how much. Nothing is open but what a route declares open."""

from __future__ import annotations

import ipaddress
import math
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from enum import Enum
from functools import wraps
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from mainstem.errors import MainstemError
from mainstem.serve.metrics import Metrics
from mainstem.serve.tokens import Tokens

MOST_BYTES = 32 << 20  # of a request's body
LOCAL_NAMES = frozenset({"localhost", "127.0.0.1", "[::1]", "::1"})
LINES = b"application/x-ndjson"  # a body of lines is a stream: its lines are limited, not the whole

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Handler = Callable[[Request], Awaitable[Response]]


class Access(Enum):
    """Who may ask a route."""

    OPEN = "anyone"  # health, and the page that holds nothing of the models
    TOKEN = "whoever has a token"
    ADMIN = "whoever has a token with `admin`"


class Guarded(Route):
    """A route that declares who may ask it."""

    def __init__(self, path: str, handler: Handler, access: Access, methods: Sequence[str] = ("GET",)) -> None:
        checked = _checked(path, handler, access)
        super().__init__(path, checked, methods=list(methods))
        self.access, self.app = access, _answering(checked)


def _checked(path: str, handler: Handler, access: Access) -> Handler:
    @wraps(handler)
    async def checked(request: Request) -> Response:
        trail = request.scope.get("trail")
        if trail is not None:
            trail.route = path
            if access is Access.ADMIN and not trail.admin:
                return error(403, "this token may not load and unload models")
        return await handler(request)

    return checked


def _answering(handler: Handler) -> ASGIApp:
    """The handler as an application. What it raises is answered by that of the server, not by the route as well."""

    async def app(scope: Message, receive: Receive, send: Send) -> None:
        response = await handler(Request(scope, receive, send))
        await response(scope, receive, send)

    return app


def check_host(host: str, guarded: object) -> None:
    """Raises MainstemError where `host` can be reached from other machines and there is no token."""
    try:
        local = host in LOCAL_NAMES or ipaddress.ip_address(host).is_loopback
    except ValueError:
        local = False
    if not local and not guarded:
        raise MainstemError(
            f"the address {host} can be reached from other machines, and no token is set", do="Give one with --token, or keep to 127.0.0.1."
        )


class Guard:
    """ASGI middleware. With tokens every route but those that are open asks for one; without any the Host must be this machine's own
    (a web page that points a name of its own at 127.0.0.1 is refused). A web page of another origin is never answered. Bodies above
    `most_bytes` are cut off."""

    def __init__(self, app: Any, tokens: Tokens, opened: frozenset[str], metrics: Metrics, most_bytes: int = MOST_BYTES) -> None:
        self.app, self.tokens, self.opened, self.metrics, self.most_bytes = app, tokens, opened, metrics, most_bytes

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        if refused := self._refused(scope, headers):
            await refused(scope, receive, send)
            return
        streamed = headers.get(b"content-type", b"").split(b";")[0].strip() == LINES
        await self.app(scope, receive if streamed else self._counted(receive), send)

    def _refused(self, scope: Message, headers: dict[bytes, bytes]) -> Response | None:
        host, origin = headers.get(b"host", b""), headers.get(b"origin", b"")
        if not self.tokens and _name_of(host) not in LOCAL_NAMES:
            return self._away("host", 403, "this server answers its own machine only")
        foreign = (origin and origin.partition(b"://")[2] != host) or headers.get(b"sec-fetch-site", b"") == b"cross-site"
        if foreign and scope["path"] not in self.opened:  # a link elsewhere may lead to the page
            return self._away("origin", 403, "pages of other origins are not answered")
        if self.tokens and scope["path"] not in self.opened and (refused := self._unknown(scope, headers)):
            return refused
        if headers.get(b"content-encoding", b"identity") != b"identity":
            return self._away("encoding", 415, "the body is compressed, and is taken as it is only")
        length = headers.get(b"content-length", b"0")
        if length.isdigit() and int(length) > self.most_bytes and headers.get(b"content-type", b"").split(b";")[0].strip() != LINES:
            return self._away("size", 413, self._too_large())
        return None

    def _unknown(self, scope: Message, headers: dict[bytes, bytes]) -> Response | None:
        token = self.tokens.find(headers.get(b"authorization", b""))
        if token is None:
            told = {"WWW-Authenticate": "Bearer"}
            return self._away("token", 401, "a token is needed: Authorization: Bearer TOKEN", told)
        if trail := scope.get("trail"):
            trail.token, trail.admin = token.name, token.admin
        if wait := token.wait():
            told = {"Retry-After": str(math.ceil(wait))}
            return self._away("rate", 429, f"the token '{token.name}' may ask {token.rate:g} times a second", told)
        return None

    def _away(self, reason: str, status: int, text: str, headers: dict[str, str] | None = None) -> Response:
        self.metrics.rejected(reason)
        return error(status, text, headers)

    def _too_large(self) -> str:
        return f"the body is larger than {self.most_bytes >> 20} MiB"

    def _counted(self, receive: Receive) -> Receive:
        taken = 0

        async def counted() -> Message:
            nonlocal taken
            message = await receive()
            taken += len(message.get("body", b""))
            if taken > self.most_bytes:
                self.metrics.rejected("size")
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
    return Response(packed(value), status, headers, "application/json")


def packed(value: Any) -> bytes:
    """A value as the bytes of its JSON. NaN becomes null."""
    import orjson

    data: bytes = orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS)
    return data

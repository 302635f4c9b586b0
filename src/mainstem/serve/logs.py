"""What follows one request: its id, its trace (W3C Trace Context), its line in the log, its place in the figures.

No input content is logged unless it is asked for, and no header ever.
"""

from __future__ import annotations

import json
import logging
import random
import re
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from mainstem.serve.guard import Message, Receive, Send
from mainstem.serve.metrics import Metrics

_ID = re.compile(rb"[A-Za-z0-9._:-]{1,128}")
_HEADERS = [(b"x-content-type-options", b"nosniff"), (b"cache-control", b"no-store"), (b"cross-origin-resource-policy", b"same-origin")]
_TRACE = re.compile(rb"00-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})")
_numbers = random.Random()
LONGEST_PATH = 200  # characters of a path in the log
MOST_INPUT = 4096  # bytes of a body in the log, where inputs are asked for

Say = Callable[[str], None]


@dataclass
class Trail:
    """What is known of one request while it is answered; handlers fill in the rest (`request.scope["trail"]`)."""

    id: str
    trace: str = ""
    parent: str = ""
    flags: str = ""
    span: str = ""
    token: str = ""
    admin: bool = True
    route: str = ""
    model: str = ""
    rows: int | None = None
    body: bytearray = field(default_factory=bytearray)

    @classmethod
    def of(cls, headers: dict[bytes, bytes]) -> Trail:
        """From a request's headers; what is not well formed is as if it were not there."""
        given = headers.get(b"x-request-id", b"")
        made = cls(given.decode() if _ID.fullmatch(given) else _fresh())
        if found := _TRACE.fullmatch(headers.get(b"traceparent", b"")):
            made.trace, made.parent, made.flags = (part.decode() for part in found.groups())
            made.span = _fresh()
        return made

    def headers(self) -> list[tuple[bytes, bytes]]:
        """Those that the answer carries."""
        told = [(b"x-request-id", self.id.encode())]
        if self.trace:
            told.append((b"traceparent", f"00-{self.trace}-{self.span}-{self.flags}".encode()))
        return told


def _fresh() -> str:
    """A number that no other request has, as 16 hex digits."""
    return f"{_numbers.getrandbits(64):016x}"


class Journal:
    """ASGI middleware, the outermost: ids in, ids and the headers of every answer out, figures, and one JSON line a request
    where `say` is given.

    inputs: whether the first bytes of bodies stand in the lines too.
    """

    def __init__(self, app: Any, metrics: Metrics, say: Say | None = None, inputs: bool = False) -> None:
        self.app, self.metrics, self.say, self.inputs = app, metrics, say, inputs

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        trail = scope["trail"] = Trail.of(dict(scope["headers"]))
        began, status = time.perf_counter(), 0

        async def told(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", []), *trail.headers(), *_HEADERS]
            await send(message)

        self.metrics.add("in_flight", 1)
        try:
            await self.app(scope, self._heard(receive, trail) if self.inputs and self.say else receive, told)
        finally:
            took = time.perf_counter() - began
            route = trail.route or "other"
            self.metrics.add("in_flight", -1)
            self.metrics.add("requests", 1, route=route, status=str(status))
            self.metrics.observe("request_seconds", took, route=route)
            if self.say:
                self.say(line(self._fields(scope, trail, status, took)))

    def _heard(self, receive: Receive, trail: Trail) -> Receive:
        async def heard() -> Message:
            message = await receive()
            trail.body += message.get("body", b"")[: MOST_INPUT - len(trail.body)]
            return message

        return heard

    def _fields(self, scope: Message, trail: Trail, status: int, took: float) -> dict[str, Any]:
        client = scope.get("client") or ("",)
        fields = {
            "level": "error" if status >= 500 and status != 503 else "info",
            "request": trail.id,
            "trace": trail.trace,
            "span": trail.span,
            "parent": trail.parent,
            "client": client[0],
            "token": trail.token,
            "method": scope["method"],
            "path": scope["path"][:LONGEST_PATH],
            "status": status,
            "seconds": round(took, 6),
            "model": trail.model,
            "rows": trail.rows,
        }
        if self.inputs:
            fields["input"] = trail.body.decode("utf-8", "replace")
        return fields


def line(fields: dict[str, Any]) -> str:
    """One line of the log: JSON, with the time; what is empty is left out."""
    now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return json.dumps({"time": now, **{k: v for k, v in fields.items() if v not in ("", None)}}, ensure_ascii=False)


def say(text: str) -> None:
    """A line on standard error, at once."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


class JsonFormatter(logging.Formatter):
    """What libraries log, as lines of the same form."""

    def format(self, record: logging.LogRecord) -> str:
        """One record."""
        fields = {"level": record.levelname.lower(), "logger": record.name, "message": record.getMessage()}
        if record.exc_info:
            fields["traceback"] = self.formatException(record.exc_info)
        return line(fields)


CONFIG: dict[str, Any] = {  # of Python's logging, for the server's own messages under --log json
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"json": {"()": "mainstem.serve.logs.JsonFormatter"}},
    "handlers": {"json": {"class": "logging.StreamHandler", "formatter": "json", "stream": "ext://sys.stderr"}},
    "loggers": {"uvicorn": {"handlers": ["json"], "level": "WARNING", "propagate": False}},
}

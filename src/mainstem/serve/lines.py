"""Big batches as newline-delimited JSON: rows in as a stream, answers out as a stream in their order, one line a row.

What is read ahead is bounded, so that a client that sends faster than rows are answered waits, and so does the server for one that
reads slowly. A bad line is answered by {"error": …}; the others go on.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from typing import Any

import orjson
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from mainstem.contracts import Rows
from mainstem.errors import MainstemError
from mainstem.inference import check_options
from mainstem.serve import asking, requests
from mainstem.serve.guard import packed
from mainstem.serve.models import Served
from mainstem.serve.scheduler import Late

CHUNK = 64  # rows that are asked for at a time
AHEAD = 4  # chunks that are under way or wait to be sent
WAIT = 0.2  # seconds before a chunk that the server had no room for is asked again

Row = dict[str, Any] | MainstemError


def wanted(request: Request) -> bool:
    """Whether a request is a stream of lines."""
    return request.headers.get("content-type", "").partition(";")[0].strip() == "application/x-ndjson"


class Gone:
    """What a model watches in place of the request, whose body is still being read: whether the client has hung up."""

    def __init__(self) -> None:
        self.left = asyncio.Event()

    async def receive(self) -> dict[str, Any]:
        """Comes back once the client has gone."""
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def is_disconnected(self) -> bool:
        """Whether it has."""
        return self.left.is_set()


class Streamed(Response):
    """A response whose parts are sent as they come, while the body of the request is still being read."""

    media_type = "application/x-ndjson"

    def __init__(self, parts: AsyncIterator[bytes], headers: dict[str, str]) -> None:
        self.parts = parts
        self.status_code = 200
        self.background = None
        self.init_headers(headers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send all of it."""
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        try:
            async for part in self.parts:
                await send({"type": "http.response.body", "body": part, "more_body": True})
            await send({"type": "http.response.body", "body": b""})
        finally:
            await asking.emptied(self.parts)


def respond(request: Request, served: Served) -> Response:
    """The answer to a stream of lines. Raises MainstemError for options (?options=JSON) that make no sense."""
    text = request.query_params.get("options", "")
    options = requests.parsed(text, "options") if text else {}
    check_options(served.pipeline.task, options)
    if any(hasattr(column.module, "gather") for column in served.pipeline.artifact.schema.columns):
        raise MainstemError("this model gathers many rows into one answer, which lines cannot do", do="Send the rows as JSON.")
    return Streamed(_answered(request, served, options), asking.stamp(served))


async def _answered(request: Request, served: Served, options: dict[str, Any]) -> AsyncIterator[bytes]:
    """Lines out. A task reads and starts chunks; here they are sent in their order."""
    gone = Gone()
    started: asyncio.Queue[asyncio.Task[bytes] | None] = asyncio.Queue(AHEAD)

    async def read() -> None:
        try:
            async for rows in _chunks(request):
                await started.put(asyncio.create_task(_chunk(request, gone, served, rows, options)))
        except ClientDisconnect:
            gone.left.set()
        await started.put(None)

    reading = asyncio.create_task(read())
    try:
        while (task := await started.get()) is not None:
            yield await task
    finally:
        gone.left.set()
        reading.cancel()
        while not started.empty():
            if (task := started.get_nowait()) is not None:
                task.cancel()
                with suppress(asyncio.CancelledError, Exception):
                    await task


async def _chunk(request: Request, gone: Any, served: Served, rows: Sequence[Row], options: dict[str, Any]) -> bytes:
    """The lines of one chunk."""
    good = [row for row in rows if not isinstance(row, MainstemError)]
    made = iter(await _predicted(request, gone, served, good, options) if good else ())
    told = []
    for row in rows:
        answer = row if isinstance(row, MainstemError) else next(made)
        told.append(packed({"error": str(answer)} if isinstance(answer, MainstemError) else served.pipeline.render(answer)))
    return b"\n".join(told) + b"\n"


async def _predicted(request: Request, gone: Any, served: Served, rows: Sequence[Any], options: dict[str, Any]) -> Sequence[Any]:
    """An answer a row. Where the server has no room, the chunk waits, as long as a request may; what is too much for it, or breaks it,
    is told in the place of its rows."""
    state = request.app.state
    try:
        asked = requests.from_list(list(rows), served.pipeline.artifact.schema.names, state.limits)
        state.limits.check(asked, served.pipeline.artifact.schema.long)
    except MainstemError as problem:
        if len(rows) == 1:
            return [problem]
        return [each for row in rows for each in await _predicted(request, gone, served, [row], options)]
    return await _patient(request, gone, served, asked, options)


async def _patient(request: Request, gone: Any, served: Served, rows: Rows, options: dict[str, Any]) -> Sequence[Any]:
    state, waited = request.app.state, 0.0
    while True:
        try:
            found = await served.answer(gone, rows, options)
            asking.count(request, served, found)
            return found
        except MainstemError as problem:
            if getattr(problem, "status", 422) != 503 or isinstance(problem, Late) or waited > state.limits.timeout:
                return [problem] * len(rows)
        await asyncio.sleep(WAIT)
        waited += WAIT


async def _chunks(request: Request) -> AsyncIterator[list[Row]]:
    """Rows by CHUNK at most, and no more than have arrived: a slow client is answered as it sends."""
    rows: list[Row] = []
    limit, line, number, skipping = request.app.state.limits.line, bytearray(), 0, False
    parts = aiter(request.stream())
    while True:
        try:
            async with asyncio.timeout(asking.PATIENCE):
                part = await anext(parts, None)
        except TimeoutError:
            yield [*rows, MainstemError("the next line did not arrive in time")]
            return
        ended = part is None
        pieces = (part or b"").split(b"\n")
        for i, piece in enumerate(pieces):
            skipping = skipping or len(line) + len(piece) > limit
            line = bytearray() if skipping else line + piece
            if i == len(pieces) - 1 and not ended:
                break
            number += bool(line.strip()) or skipping
            if skipping:
                rows.append(requests.TooMuch(f"line {number} is longer than {limit:,} bytes"))
            elif line.strip():
                rows.append(_row(bytes(line), number))
            line, skipping = bytearray(), False
            if len(rows) >= CHUNK:
                yield rows
                rows = []
        if rows:
            yield rows
            rows = []
        if ended:
            return


def _row(line: bytes, number: int) -> Row:
    try:
        row = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        return requests.Malformed(f"this is not JSON: {error}", where=f"line {number}")
    if not isinstance(row, dict):
        return MainstemError("a row is an object of columns and values", where=f"line {number}")
    if not requests.is_flat(row):
        return MainstemError(f"it is nested deeper than {requests.MOST_DEPTH} levels", where=f"line {number}")
    return row

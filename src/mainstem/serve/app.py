"""The HTTP application: /health, /ready, /predict/NAME, /docs, and the routes of the tasks that are served.

POST /predict/NAME  {"rows": [{"COLUMN": value}], "options": {}} → {"predictions": [{"prediction": …, "score": …}]}
                    or a file as the multipart field "file"
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from mainstem.contracts import Rows
from mainstem.errors import MainstemError
from mainstem.inference import check_options
from mainstem.serve import describe, requests
from mainstem.serve.guard import MOST_BYTES, Guard, error, reply
from mainstem.serve.models import Cancelled, Models, Served

PATIENCE = 30.0  # seconds that a body may take to arrive
LIGHT = 64 << 10  # bytes of a body that is parsed without leaving the event loop
SHOWN = 1000  # bad rows that an answer names


def build(
    models: Models, token: str = "", failed: Callable[[Exception], None] = lambda error: None, most_bytes: int = MOST_BYTES
) -> Starlette:
    """The application over these models. They are replayed once it starts; `failed` hears of those that differ."""

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with models.running(failed):
            yield

    app = Starlette(
        routes=[
            Route("/health", _health),
            Route("/ready", _ready),
            Route("/predict/{name}", _predict, methods=["POST"]),
            Route("/openapi.json", _openapi),
            Route("/docs", _docs),
            *_own_routes(models),
        ],
        middleware=[Middleware(Guard, token=token, most_bytes=most_bytes)],
        exception_handlers={
            HTTPException: _http_error,
            MainstemError: _mistake,
            ClientDisconnect: _left,
            Cancelled: _left,
            Exception: _bug,
        },
        lifespan=lifespan,
    )
    app.state.models = models
    return app


def _own_routes(models: Models) -> list[Route]:
    """What tasks bring themselves: under their model's name, or once for all models that bring it."""
    made: list[Route] = []
    common: dict[Any, dict[str, Served]] = {}
    for served in models:
        for route in served.pipeline.task.routes:
            if route.common:
                common.setdefault(route, {})[served.name] = served
            else:
                own = partial(_own, route.handler, served)
                made.append(Route(f"/predict/{served.name}{route.path}", own, methods=list(route.methods)))
    return made + [Route(route.path, partial(_common, route.handler, each), methods=list(route.methods)) for route, each in common.items()]


async def _own(handler: Callable[[Request, Served], Awaitable[Response]], served: Served, request: Request) -> Response:
    return _not_ready(served) or await handler(await _arrived(request), served)


async def _common(
    handler: Callable[[Request, Mapping[str, Served]], Awaitable[Response]], models: Mapping[str, Served], request: Request
) -> Response:
    return await handler(await _arrived(request), models)


async def _arrived(request: Request) -> Request:
    """The request once its body is here."""
    try:
        async with asyncio.timeout(PATIENCE):
            await request.body()
    except TimeoutError:
        raise HTTPException(408, "the body did not arrive in time") from None
    return request


# --- routes -----------------------------------------------------------------------------------------------------------


async def _health(request: Request) -> Response:
    """The process answers."""
    return reply({"health": "ok"})


async def _ready(request: Request) -> Response:
    """Every model answered its golden rows as it did when it was measured (or keeps only their hashes, and says so)."""
    models: Models = request.app.state.models
    states = {served.name: served.state for served in models}
    return reply({"ready": models.ready, "models": states}, 200 if models.ready else 503)


async def _predict(request: Request) -> Response:
    models: Models = request.app.state.models
    try:
        served = models.find(request.path_params["name"])
    except KeyError as unknown:
        return error(404, unknown.args[0])
    if refused := _not_ready(served):
        return refused
    rows, options = await _asked(request, served.pipeline.artifact.schema.names)
    return await _answer(request, served, rows, check_options(served.pipeline.task, options))


def _not_ready(served: Served) -> Response | None:
    return None if served.ready else error(503, f"the model '{served.name}' is not ready: {served.state}", {"Retry-After": "1"})


async def _asked(request: Request, columns: list[str]) -> tuple[Rows, Any]:
    """The rows and options of a request, whichever way they are sent."""
    try:
        async with asyncio.timeout(PATIENCE):
            if request.headers.get("content-type", "").startswith("multipart/form-data"):
                async with request.form(max_files=1, max_fields=1, max_part_size=MOST_BYTES) as form:
                    file = form.get("file")
                    if not isinstance(file, UploadFile):
                        raise requests.Malformed("the form has no file", do="Send it as the field 'file'.")
                    name, data = file.filename or "", await file.read()
                return await run_in_threadpool(requests.from_file, name, data, columns), {}
            body = await request.body()
    except TimeoutError:
        raise HTTPException(408, "the body did not arrive in time") from None
    if len(body) <= LIGHT:
        return requests.from_json(body, columns)
    return await run_in_threadpool(requests.from_json, body, columns)


async def _answer(request: Request, served: Served, rows: Rows, options: dict[str, Any]) -> Response:
    answers = await served.answer(request, rows, options)
    bad = [{"row": i, "error": str(answer)} for i, answer in enumerate(answers, 1) if isinstance(answer, MainstemError)]
    if bad:
        text = f"{len(bad):,} of {len(answers):,} rows cannot be predicted: {bad[0]['error']}"
        return error(422, text, rows=bad[:SHOWN])
    return reply({"predictions": [served.pipeline.render(a) for a in answers if not isinstance(a, MainstemError)]})


async def _openapi(request: Request) -> Response:
    return reply(describe.openapi(request.app.state.models))


async def _docs(request: Request) -> Response:
    policy = {"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'"}
    return HTMLResponse(describe.page(request.app.state.models), headers=policy)


# --- errors -----------------------------------------------------------------------------------------------------------


async def _http_error(request: Request, raised: Exception) -> Response:
    assert isinstance(raised, HTTPException)
    known = {404: f"there is nothing at {request.url.path[:100]}", 405: f"{request.method} is not allowed here"}
    headers = dict(raised.headers) if raised.headers else None
    return error(raised.status_code, known.get(raised.status_code, raised.detail), headers)


async def _mistake(request: Request, raised: Exception) -> Response:
    return error(getattr(raised, "status", 422), str(raised), getattr(raised, "headers", None))


async def _left(request: Request, raised: Exception) -> Response:
    return Response(status_code=499)  # nobody reads it


async def _bug(request: Request, raised: Exception) -> Response:
    return error(500, "this request could not be answered; the log of the server says more")

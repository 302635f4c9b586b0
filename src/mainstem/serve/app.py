"""The HTTP application: one table of routes, each with who may ask it, behind the guard.

The routes of predictions are in answers.py, those of other protocols in protocols/, those of tasks come with the tasks.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import BaseRoute

from mainstem import artifact
from mainstem.contracts import Route as TaskRoute
from mainstem.errors import MainstemError
from mainstem.serve import answers, describe, openapi, playground
from mainstem.serve.asking import arrived, identity
from mainstem.serve.guard import Access, Guard, Guarded, error, reply
from mainstem.serve.logs import Journal
from mainstem.serve.manners import Manners
from mainstem.serve.metrics import Metrics
from mainstem.serve.models import Cancelled, Models, Served
from mainstem.serve.protocols import v1, v2
from mainstem.serve.requests import NotFound
from mainstem.serve.tokens import single


def build(
    models: Models, token: str = "", failed: Callable[[Exception], None] = lambda error: None, manners: Manners | None = None
) -> Starlette:
    """The application over these models. They are replayed once it starts; `failed` hears of those that differ.

    token: the one token, where `manners` has none.
    """
    manners = manners or Manners(single(token))

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with models.running(failed):
            yield

    metrics = Metrics()
    fixed = _fixed()
    opened = frozenset(route.path for route in fixed if route.access is Access.OPEN)
    app = Starlette(
        middleware=[
            Middleware(Journal, metrics=metrics, say=manners.say, inputs=manners.inputs),
            Middleware(Guard, tokens=manners.tokens, opened=opened, metrics=metrics, most_bytes=manners.limits.body),
        ],
        exception_handlers={
            HTTPException: _http_error,
            MainstemError: _mistake,
            ClientDisconnect: _left,
            Cancelled: _left,
            Exception: _bug,
        },
        lifespan=lifespan,
    )

    app.router.redirect_slashes = False  # a path that is no route is none

    def refresh() -> None:
        """Routes of tasks come and go with the models."""
        own: list[BaseRoute] = list(_own_routes(models))
        app.router.routes[:] = [*fixed, *own]

    folders = {served.name: served.folder for served in models}
    app.state.models, app.state.metrics, app.state.limits = models, metrics, manners.limits
    app.state.guarded = bool(manners.tokens)
    app.state.place, app.state.refresh = partial(_place, manners.repository, folders), refresh
    models.scheduler.watch, models.scheduler.timeout = metrics, manners.limits.timeout or 3600.0
    refresh()
    return app


def _fixed() -> list[Guarded]:
    """The routes that are there whatever is served."""
    return [
        Guarded("/predict/{name}", answers.predict, Access.TOKEN, ["POST"]),
        Guarded("/predict", answers.predict_tasks, Access.TOKEN, ["POST"]),
        Guarded("/health", _health, Access.OPEN),
        Guarded("/ready", _ready, Access.TOKEN),
        Guarded("/models", _models, Access.TOKEN),
        Guarded("/metrics", _metrics, Access.TOKEN),
        Guarded("/openapi.json", _openapi, Access.TOKEN),
        Guarded("/docs", _docs, Access.TOKEN),
        *playground.routes(),
        *v1.routes(),
        *v2.routes(),
    ]


def _own_routes(models: Models) -> list[Guarded]:
    """What tasks bring themselves: under their model's name, or once for all models that bring it."""
    made: list[Guarded] = []
    common: dict[TaskRoute, None] = {}
    for served in models:
        for route in served.pipeline.task.routes:
            if route.common:
                common[route] = None
            else:
                own = partial(_own, route.handler, served.name)
                made.append(Guarded(f"/predict/{served.name}{route.path}", own, Access.TOKEN, route.methods))
    return made + [Guarded(route.path, partial(_common, route), Access.TOKEN, route.methods) for route in common]


def _place(repository: Path | None, folders: Mapping[str, Path], name: str) -> Path:
    """The folder that a name may be loaded from: in the repository, or that of the command line. A client never names a folder."""
    if repository is not None:
        place = artifact.inside(repository, artifact.safe_name(name, "model name"))
        if place.is_dir():
            return place
    if name in folders:
        return folders[name]
    raise NotFound(f"there is no model '{name[:64]}' to load", do="Start the server with --repository FOLDER, and put it there.")


async def _own(handler: Callable[[Request, Served], Awaitable[Response]], name: str, request: Request) -> Response:
    served = request.app.state.models.find(name)
    served.check_ready()
    await arrived(request)
    return await handler(request, served)


async def _common(route: TaskRoute, request: Request) -> Response:
    await arrived(request)
    models = {served.name: served for served in request.app.state.models if route in served.pipeline.task.routes}
    made: Response = await route.handler(request, models)
    return made


# --- routes -----------------------------------------------------------------------------------------------------------


async def _health(request: Request) -> Response:
    """The process answers."""
    return reply({"health": "ok"})


async def _ready(request: Request) -> Response:
    """Every model answered its golden rows as it did when it was measured (or keeps only their hashes, and says so)."""
    models: Models = request.app.state.models
    states = {served.name: served.state for served in models}
    return reply({"ready": models.ready, "models": states}, 200 if models.ready else 503)


async def _models(request: Request) -> Response:
    """What is served, as programs and the playground need it."""
    return reply({"models": [describe.about(served) for served in request.app.state.models]})


async def _metrics(request: Request) -> Response:
    state = request.app.state
    state.metrics.put("ready", [({"model": served.name}, float(served.ready)) for served in state.models])
    known = [(served.name, *identity(served)) for served in state.models]
    state.metrics.put("model_info", [({"model": name, "version": version, "digest": digest}, 1.0) for name, version, digest in known])
    return Response(state.metrics.render(), media_type="text/plain; version=0.0.4")


async def _openapi(request: Request) -> Response:
    state = request.app.state
    return reply(openapi.document(state.models, request.app.routes, state.guarded))


async def _docs(request: Request) -> Response:
    policy = {"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"}
    return HTMLResponse(describe.page(request.app.state.models), headers=policy)


# --- errors -----------------------------------------------------------------------------------------------------------


async def _http_error(request: Request, raised: Exception) -> Response:
    assert isinstance(raised, HTTPException)
    known = {404: f"there is nothing at {request.url.path[:100]}", 405: f"{request.method} is not allowed here"}
    headers = dict(raised.headers) if raised.headers else None
    return error(raised.status_code, known.get(raised.status_code, raised.detail), headers)


async def _mistake(request: Request, raised: Exception) -> Response:
    status, headers = getattr(raised, "status", 422), getattr(raised, "headers", None)
    return error(status, str(raised), headers or ({"Retry-After": "1"} if status == 503 else None))


async def _left(request: Request, raised: Exception) -> Response:
    return Response(status_code=499)  # nobody reads it


async def _bug(request: Request, raised: Exception) -> Response:
    return error(500, "this request could not be answered; the log of the server says more")

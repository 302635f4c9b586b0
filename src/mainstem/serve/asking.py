"""Rows of one request → answers, for every protocol: within the limits of a request, counted, with the model named."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request

from mainstem.contracts import Rows
from mainstem.errors import MainstemError
from mainstem.inference import check_options
from mainstem.serve.models import Answers, Models, Served
from mainstem.serve.requests import NotFound

PATIENCE = 30.0  # seconds that a body may take to arrive
LARGE = 64 << 10  # bytes of a body that is parsed beside the event loop


async def answer(request: Request, served: Served, rows: Rows, options: Mapping[str, Any]) -> Answers:
    """One answer a row, within the limits of a request. Raises MainstemError for options that the task does not know."""
    state = request.app.state
    state.limits.check(rows, served.pipeline.artifact.schema.long)
    checked = check_options(served.pipeline.task, options)
    began = time.perf_counter()
    answers = await served.answer(request, rows, checked)
    state.metrics.took("answer", served.name, time.perf_counter() - began)
    count(request, served, answers)
    return answers


async def ask(request: Request, chosen: Mapping[str, Served], rows: Rows, options: Mapping[str, Any]) -> dict[str, Answers | MainstemError]:
    """One input for several models: {name: answers, or why there are none}."""
    state = request.app.state
    wrong: dict[str, MainstemError] = {}
    for name, served in chosen.items():
        try:
            served.check_ready()
            check_options(served.pipeline.task, options.get(name, {}))
        except MainstemError as problem:
            wrong[name] = problem

    good = [served for name, served in chosen.items() if name not in wrong]
    found = await state.models.ask([served.name for served in good], rows, options, request)
    for served in good:
        if not isinstance(found[served.name], MainstemError):
            count(request, served, found[served.name])
    return {name: wrong.get(name) or found[name] for name in chosen}


def named(request: Request) -> Served:
    """The model that the path names. Raises NotFound."""
    models: Models = request.app.state.models
    try:
        served = models.find(request.path_params["name"])
    except KeyError as unknown:
        raise NotFound(unknown.args[0]) from None
    if trail := request.scope.get("trail"):
        trail.model = served.name
    return served


async def arrived(request: Request) -> bytes:
    """The body. Raises HTTPException 408 where it takes too long."""
    try:
        async with asyncio.timeout(PATIENCE):
            return await request.body()
    except TimeoutError:
        raise HTTPException(408, "the body did not arrive in time") from None


async def parsing(size: int, work: Any, *arguments: Any) -> Any:
    """What `work` makes of a body of `size` bytes: at once, or of a large one beside the event loop."""
    return work(*arguments) if size < LARGE else await run_in_threadpool(work, *arguments)


def stamp(served: Served) -> dict[str, str]:
    """The headers by which an answer names the model that made it."""
    version, digest = identity(served)
    return {"x-model-version": version, "x-model-digest": digest}


def identity(served: Served) -> tuple[str, str]:
    """Version and digest of a model, as answers name them."""
    return str(served.version), served.digest


def count(request: Request, served: Served, answers: Answers | MainstemError) -> None:
    """Rows by model, in the figures and in the log."""
    if isinstance(answers, MainstemError):
        return
    wrong = len([each for each in answers if isinstance(each, MainstemError)])
    metrics = request.app.state.metrics
    if wrong:
        metrics.add("rows", wrong, model=served.name, outcome="refused")
    if len(answers) > wrong:
        metrics.add("rows", len(answers) - wrong, model=served.name, outcome="answered")
    if trail := request.scope.get("trail"):
        trail.rows = (trail.rows or 0) + len(answers)


async def emptied(parts: AsyncIterator[Any]) -> None:
    """Close a stream that nobody reads any more."""
    await parts.aclose()  # type: ignore[attr-defined]  # an asynchronous generator

"""The routes that answer predictions.

POST /predict/NAME  {"rows": [{"COLUMN": value}], "options": {}} → {"predictions": [{"prediction": …, "score": …}]}
                    or a file as the multipart field "file"; or a stream of lines (application/x-ndjson), answered line by line
POST /predict       {"tasks": [names] or "*", "rows": […], "options": {NAME: {}}} → {"answers": {NAME: {"predictions": […]}}}

What answers one model names its version and digest in the headers x-model-version and x-model-digest; what answers several, beside
each one's predictions.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from mainstem.contracts import Prediction, Rows
from mainstem.errors import MainstemError
from mainstem.serve import lines, requests
from mainstem.serve.asking import PATIENCE, answer, arrived, ask, identity, named, parsing, stamp
from mainstem.serve.guard import error, reply
from mainstem.serve.models import Answers, Models, Served
from mainstem.serve.requests import Limits

SHOWN = 1000  # bad rows that an answer names


async def predict(request: Request) -> Response:
    """One model."""
    served = named(request)
    served.check_ready()
    if lines.wanted(request):
        return lines.respond(request, served)
    rows, options = await _asked(request, served)
    return _told(served, await answer(request, served, rows, options))


async def predict_tasks(request: Request) -> Response:
    """Several models on the same rows: what each answers, or what is wrong for it."""
    state = request.app.state
    models: Models = state.models
    data = await arrived(request)
    names, raw, options = await parsing(len(data), requests.for_tasks, data, [served.name for served in models], state.limits)
    chosen = {name: models.find(name) for name in names}
    columns = list(dict.fromkeys(name for served in chosen.values() for name in served.pipeline.artifact.schema.names))
    rows = await parsing(len(data), requests.from_list, raw, columns, state.limits)
    for served in {served.pipeline.reads: served for served in chosen.values()}.values():
        state.limits.check(rows, served.pipeline.artifact.schema.long)
    began = time.perf_counter()
    found = await ask(request, chosen, rows, options)
    seconds = round(time.perf_counter() - began, 6)
    told: dict[str, Any] = {"answers": {name: _one_of_several(chosen[name], given) for name, given in found.items()}, "seconds": seconds}
    if all("error" in given for given in told["answers"].values()):
        busy = all(getattr(given, "status", 422) == 503 for given in found.values())
        return reply({"error": "none of the tasks can answer this", **told}, 503 if busy else 422, {"Retry-After": "1"} if busy else None)
    return reply(told)


# --- what is asked ------------------------------------------------------------------------------------------------------


async def _asked(request: Request, served: Served) -> tuple[Rows, Any]:
    """The rows and options of a request, whichever way they are sent."""
    limits: Limits = request.app.state.limits
    columns = served.pipeline.artifact.schema.names
    began = time.perf_counter()
    if request.headers.get("content-type", "").startswith("multipart/form-data"):
        try:
            async with asyncio.timeout(PATIENCE), request.form(max_files=1, max_fields=0, max_part_size=limits.body) as form:
                file = form.get("file")
                if not isinstance(file, UploadFile):
                    raise requests.Malformed("the form has no file", do="Send it as the field 'file'.")
                name, data = file.filename or "", await file.read()
        except TimeoutError:
            raise HTTPException(408, "the body did not arrive in time") from None
        return await run_in_threadpool(requests.from_file, name, data, columns, limits), {}
    body = await arrived(request)
    asked: tuple[Rows, Any] = await parsing(len(body), requests.from_json, body, columns, limits)
    request.app.state.metrics.took("read", served.name, time.perf_counter() - began)
    return asked


# --- what is told -------------------------------------------------------------------------------------------------------


def _told(served: Served, answers: Answers) -> Response:
    bad = _bad(answers)
    if bad:
        return error(422, _sentence(bad, answers), stamp(served), rows=bad[:SHOWN])
    return reply({"predictions": rendered(served, answers)}, headers=stamp(served))


def rendered(served: Served, answers: Sequence[Prediction | MainstemError]) -> list[dict[str, Any]]:
    """Answers as JSON, errors as their sentence."""
    return [{"error": str(a)} if isinstance(a, MainstemError) else served.pipeline.render(a) for a in answers]


def _bad(answers: Answers) -> list[dict[str, Any]]:
    return [{"row": i, "error": str(answer)} for i, answer in enumerate(answers, 1) if isinstance(answer, MainstemError)]


def _sentence(bad: Sequence[Mapping[str, Any]], answers: Answers) -> str:
    return f"{len(bad):,} of {len(answers):,} rows cannot be predicted: {bad[0]['error']}"


def _one_of_several(served: Served, given: Answers | MainstemError) -> dict[str, Any]:
    version, digest = identity(served)
    about = {"task": served.pipeline.artifact.task, "version": version, "digest": digest}
    if isinstance(given, MainstemError):
        return {**about, "error": str(given)}
    if bad := _bad(given):
        return {**about, "error": _sentence(bad, given), "rows": bad[:SHOWN]}
    return {**about, "predictions": rendered(served, given)}

"""`/v1/models`, as clients of OpenAI's API list what is served. What they ask of models comes with their tasks."""

from __future__ import annotations

import time
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from mainstem.serve.asking import identity
from mainstem.serve.guard import Access, Guarded, reply
from mainstem.serve.models import Models, Served

_STARTED = int(time.time())


def routes() -> list[Guarded]:
    """The list, and one of it."""
    return [Guarded("/v1/models", _list, Access.TOKEN), Guarded("/v1/models/{name}", _one, Access.TOKEN)]


async def _list(request: Request) -> Response:
    models: Models = request.app.state.models
    return reply({"object": "list", "data": [_entry(served) for served in models]})


async def _one(request: Request) -> Response:
    try:
        return reply(_entry(request.app.state.models.find(request.path_params["name"])))
    except KeyError as unknown:
        told = {"message": unknown.args[0], "type": "invalid_request_error", "param": "model", "code": "model_not_found"}
        return reply({"error": told}, 404)


def _entry(served: Served) -> dict[str, Any]:
    version, digest = identity(served)
    about = {"task": served.pipeline.artifact.task, "version": version, "digest": digest}
    return {"id": served.name, "object": "model", "created": _STARTED, "owned_by": "mainstem", **about}

"""What the routes of OpenAI's API have in common: bodies, errors, the model that is asked."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from typing import Any

from mainstem.contracts import Json, Prediction
from mainstem.errors import MainstemError, suggest


class Malformed(MainstemError):
    """A body that cannot be read at all."""

    status = 400


class Unknown(MainstemError):
    """A model that is not served."""

    status = 404


async def told(answer: Callable[[Any, Mapping[str, Any]], Awaitable[Any]], request: Any, models: Mapping[str, Any]) -> Any:
    """What `answer` makes of a request, a MainstemError as the API has errors."""
    from starlette.responses import Response

    try:
        return await answer(request, models)
    except MainstemError as error:
        body = {"error": {"message": str(error), "type": "invalid_request_error", "param": None, "code": None}}
        status = getattr(error, "status", 422)
        headers = getattr(error, "headers", None) or ({"Retry-After": "1"} if status == 503 else None)
        return Response(packed(body), status, headers, "application/json")


def read(body: bytes, do: str, wrong: Callable[[Mapping[str, Any]], Iterator[str]]) -> dict[str, Any]:
    """The fields that are set. Raises MainstemError for what cannot be read, and for all that `wrong` tells of them."""
    import orjson

    try:
        asked = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise Malformed(f"the body is not JSON: {error}", do=do) from None
    if not isinstance(asked, dict):
        raise Malformed("the body is an object", do=do)
    asked = {name: value for name, value in asked.items() if value is not None}
    if found := list(wrong(asked)):
        raise MainstemError("; ".join(found))
    return asked


def model(asked: Mapping[str, Any], models: Mapping[str, Any], what: str) -> Any:
    """The model that is named. Raises Unknown where none that does `what` is."""
    name = asked.get("model")
    if not isinstance(name, str):
        raise MainstemError("no model is named", do=f'Send "model": one of {", ".join(sorted(models))}.')
    if name not in models:
        raise Unknown(f"no model that {what} is served as '{name[:64]}'", do=suggest(name[:64], models))
    return models[name]


def good(answers: Sequence[Any]) -> list[Prediction]:
    """The answers. Raises the first error among them."""
    for answer in answers:
        if isinstance(answer, MainstemError):
            raise answer
    return list(answers)


def packed(value: Any) -> bytes:
    """A value as JSON."""
    import orjson

    data: bytes = orjson.dumps(value)
    return data


def described(summary: str, fields: Mapping[str, Json], required: Sequence[str], answered: Mapping[str, Json], kind: str = "") -> Json:
    """A route of the API in OpenAPI. kind: of what is answered beside JSON, "text/event-stream" where it may be a stream."""
    asked = {"type": "object", "properties": dict(fields), "required": list(required), "additionalProperties": False}
    answer = {"type": "object", "properties": dict(answered), "required": list(answered)}
    streamed: dict[str, Json] = {kind: {}} if kind else {}
    return {
        "summary": summary,
        "x-errors": "api",
        "requestBody": {"required": True, "content": {"application/json": {"schema": asked}}},
        "responses": {"200": {"description": "answered", "content": {"application/json": {"schema": answer}, **streamed}}},
    }

"""`/v1/embeddings`, as clients of OpenAI's API ask for it, over the served models whose task is embedding."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from mainstem.contracts import Json, Route, Rows
from mainstem.errors import MainstemError, suggest
from mainstem.tasks import _openai

MOST_INPUTS = 2048
FIELDS = ("model", "input", "encoding_format", "user", "dimensions")
_DO = 'Send {"model": NAME, "input": TEXT}.'


async def embeddings(request: Any, models: Mapping[str, Any]) -> Any:
    """The route's handler. `models`: those whose task is embedding, by name."""
    return await _openai.told(_answer, request, models)


async def _answer(request: Any, models: Mapping[str, Any]) -> Any:
    from starlette.responses import Response

    asked = _openai.read(await request.body(), _DO, _wrong)
    model = _openai.model(asked, models, "embeds")
    model.check_ready()
    columns = model.pipeline.artifact.schema.columns
    if len(columns) != 1:
        raise MainstemError(f"'{model.name}' reads {len(columns)} columns, and an input here is one", do=f"Ask /predict/{model.name}.")
    rows = Rows({columns[0].name: _inputs(asked)}, where="input")
    answers = _openai.good(await model.answer(request, rows, {}))
    if asked.get("dimensions", len(answers[0].value)) != len(answers[0].value):
        raise MainstemError(f"the vectors of '{model.name}' have {len(answers[0].value)} dimensions, and are not cut")
    coded = asked.get("encoding_format") == "base64"
    data = [{"object": "embedding", "index": i, "embedding": _coded(a.value) if coded else a.value} for i, a in enumerate(answers)]
    read = sum(answer.more["tokens"] for answer in answers)
    told = {"object": "list", "data": data, "model": model.name, "usage": {"prompt_tokens": read, "total_tokens": read}}
    return Response(_openai.packed(told), media_type="application/json")


def _wrong(asked: Mapping[str, Any]) -> Iterator[str]:
    for name in asked:
        if name not in FIELDS:
            yield f"unknown field '{name[:64]}'. {suggest(name[:64], FIELDS)}".rstrip(".")
    if asked.get("encoding_format", "float") not in ("float", "base64"):
        yield "'encoding_format' is float or base64"
    if type(asked.get("dimensions", 1)) is not int:
        yield "'dimensions' is a whole number"


def _inputs(asked: Mapping[str, Any]) -> list[str]:
    inputs = asked.get("input")
    inputs = [inputs] if isinstance(inputs, str) else inputs
    if not isinstance(inputs, list) or not inputs or not all(isinstance(each, str) for each in inputs):
        raise MainstemError("the input is a text or a list of texts; tokens are not taken", do=_DO)
    if len(inputs) > MOST_INPUTS:
        raise MainstemError(f"{len(inputs):,} inputs are more than one request may hold ({MOST_INPUTS:,})", do="Send several requests.")
    return inputs


def _coded(vector: list[float]) -> str:
    """Little-endian float32 as base64, as the API has it."""
    return base64.b64encode(np.asarray(vector, "<f4").tobytes()).decode()


def _described(names: Sequence[str]) -> Json:
    """The route in OpenAPI."""
    text, number = {"type": "string"}, {"type": "integer"}
    known = {
        "model": {"enum": list(names)},
        "input": {"oneOf": [text, {"type": "array", "items": text, "minItems": 1, "maxItems": MOST_INPUTS}]},
        "encoding_format": {"enum": ["float", "base64", None]},
        "dimensions": {"type": ["integer", "null"]},
        "user": {},
    }
    vector = {"oneOf": [{"type": "array", "items": {"type": "number"}}, text]}
    one = {"type": "object", "required": ["embedding", "index"], "properties": {"embedding": vector, "index": number}}
    return _openai.described("features of texts", known, ["model", "input"], {"data": {"type": "array", "items": one}, "model": text})


route = Route("/v1/embeddings", ("POST",), embeddings, common=True, described=_described)

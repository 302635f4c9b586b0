"""What a server answers, for machines: an OpenAPI 3.1 document of every route, made from the models that are served."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import mainstem
from mainstem.contracts import Json
from mainstem.contracts import Route as TaskRoute
from mainstem.schema import Column
from mainstem.serve import describe
from mainstem.serve.asking import identity
from mainstem.serve.guard import Access, Guarded
from mainstem.serve.models import Models, Served
from mainstem.serve.protocols._tensors import DTYPES, FIELDS

_STRING, _NUMBER, _BOOLEAN, _INTEGER = ({"type": kind} for kind in ("string", "number", "boolean", "integer"))
_CELLS: dict[str, Json] = {
    "number": {"type": ["number", "string", "null"], "description": "a number, also written as text"},
    "category": {"type": ["string", "number", "boolean", "null"]},
    "date": {"type": ["string", "number", "null"], "description": "a date or a time, best ISO 8601"},
    "text": {"type": ["string", "number", "boolean", "null"]},
    "image": {"type": ["string", "null"], "contentEncoding": "base64"},
}
_WRONG: Mapping[str, str] = {
    "400": "what was sent cannot be read",
    "401": "a token is needed, or this one is not known",
    "403": "not for this token, this machine or this origin",
    "404": "there is no such thing",
    "408": "the body did not arrive in time",
    "413": "more than one request may hold",
    "415": "compressed bodies are not taken",
    "422": "what was sent cannot be answered; every bad row is named",
    "429": "the token is over its rate",
    "503": "not ready, or too much to do: ask again after Retry-After seconds",
}


def document(models: Models, routes: Sequence[Guarded], guarded: bool) -> dict[str, Any]:
    """The whole of it. guarded: whether tokens are asked for."""
    listed: dict[str, Any] = {}
    described = {**_fixed(models), **_tasks(models)}
    for route in routes:
        for path, operations in _paths(route, models).items():
            for method in operations:
                operation = described.get((method, path)) or described.get((method, route.path)) or {"summary": "of a task"}
                listed.setdefault(path, {})[method] = _operation(operation, path, route.access, guarded, models)
    schemas: dict[str, Any] = {
        "Error": _object({"error": _STRING, "rows": _array(_object({"row": _INTEGER, "error": _STRING}))}, ["error"]),
        "ApiError": _object({"error": _object({"message": _STRING, "type": _STRING}, ["message"])}, ["error"]),
        "Tensor": _tensor(),
    }
    for served in models:
        schemas[f"{served.name}.row"], schemas[f"{served.name}.prediction"] = _row(served), _prediction(served)
    return {
        "openapi": "3.1.0",
        "info": {"title": "mainstem", "version": mainstem.__version__},
        "paths": listed,
        "components": {"schemas": schemas, "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}}},
    }


def _paths(route: Guarded, models: Models) -> dict[str, list[str]]:
    """The paths of a route with their methods: that of predictions once a model, since each takes other rows."""
    methods = sorted(method.lower() for method in (route.methods or ()) if method != "HEAD")
    names = [f"/predict/{served.name}" for served in models] if route.path == "/predict/{name}" else [route.path]
    return dict.fromkeys(names, methods)


def _operation(told: Mapping[str, Any], path: str, access: Access, guarded: bool, models: Models) -> Json:
    """One operation with what all have: errors, security, the parameters of its path."""
    api = told.get("x-errors") == "api"  # but what is turned away before the task is asked has the plain form
    error = {"application/json": {"schema": {"anyOf": [_ref("ApiError"), _ref("Error")]} if api else _ref("Error")}}
    wrong = {status: {"description": text, "content": error} for status, text in _WRONG.items()}
    fine = told.get("responses", {"200": {"description": "answered"}})
    parameters = [*told.get("parameters", ()), *_parameters(path, models)]
    open_to_all = access is Access.OPEN or not guarded
    return {
        **{key: value for key, value in told.items() if key != "x-errors"},
        **({"parameters": parameters} if parameters else {}),
        "responses": {**wrong, **fine},
        "security": [] if open_to_all else [{"token": []}],
    }


def _parameters(path: str, models: Models) -> list[Json]:
    names, versions = zip(*((served.name, identity(served)[0]) for served in models), strict=True) if list(models) else ((), ())
    known = {"{name}": {**_STRING, "enum": list(names)}, "{version}": {**_STRING, "enum": sorted(set(versions))}}
    return [{"name": name[1:-1], "in": "path", "required": True, "schema": schema} for name, schema in known.items() if name in path]


# --- the routes that are there whatever is served ---------------------------------------------------------------------------


def _fixed(models: Models) -> dict[tuple[str, str], Json]:
    ready = _object({"ready": _BOOLEAN}, ["ready"])
    tensors = _array(_ref("Tensor"))
    some = {**tensors, "minItems": 1}
    page = {"200": {"description": "a page", "content": {"text/html": {"schema": _STRING}}}}
    named = _object({"name": _STRING, "version": _STRING}, ["name"])
    infer = _object(
        {"inputs": some, "outputs": _array(_object({"name": _STRING, "parameters": {"type": "object"}}, ["name"]))}, ["inputs"], False
    )
    infer["properties"] |= {"id": _STRING, "parameters": {"type": "object"}}
    answer = _object({"model_name": _STRING, "model_version": _STRING, "outputs": tensors}, ["model_name", "outputs"])
    binary = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
    load = _object({"parameters": _object({"unload_dependents": _BOOLEAN}, (), False)}, (), False)
    index = _array(_object({"name": _STRING, "version": _STRING, "state": _STRING, "reason": _STRING}, ["name", "state"]))
    made: dict[tuple[str, str], Json] = {
        ("get", "/health"): {"summary": "the process answers", **_answers(_object({"health": _STRING}, ["health"]))},
        ("get", "/ready"): {"summary": "every model has answered its golden rows again", **_answers(ready, not_yet=True)},
        ("get", "/models"): {"summary": "what is served", **_answers(_object({"models": _array({"type": "object"})}, ["models"]))},
        ("get", "/metrics"): {"summary": "figures for Prometheus", **_text("text/plain")},
        ("get", "/openapi.json"): {"summary": "this document", **_answers({"type": "object"})},
        ("get", "/docs"): {"summary": "how to ask, for people", "responses": page},
        ("get", "/"): {"summary": "the playground", "responses": page},
        ("get", "/playground.js"): {"summary": "of the playground", **_text("text/javascript")},
        ("get", "/playground.css"): {"summary": "of the playground", **_text("text/css")},
        ("post", "/predict"): _several(models),
        ("get", "/v1/models"): {"summary": "what is served, as OpenAI's API lists it", **_answers({"type": "object"})},
        ("get", "/v1/models/{name}"): {"summary": "one of them", "x-errors": "api", **_answers({"type": "object"})},
        ("get", "/v2"): {"summary": "the server", **_answers(_object({"name": _STRING, "version": _STRING}, ["name", "version"]))},
        ("get", "/v2/health/live"): {"summary": "the process answers", **_answers({"type": "object"})},
        ("get", "/v2/health/ready"): {"summary": "every model may be asked", **_answers(ready, not_yet=True)},
        ("post", "/v2/repository/index"): {
            "summary": "models and their states",
            **_asks(_object({"ready": _BOOLEAN}, (), False), required=False),
            **_answers(index),
        },
    }
    for verb, what in (("load", "open its folder again, or for the first time"), ("unload", "serve it no more")):
        path = f"/v2/repository/models/{{name}}/{verb}"
        made["post", path] = {"summary": what, **_asks(load, required=False), **_answers(named)}
    made["post", "/v2/repository/models/{name}/rollback"] = {"summary": "back to the version before", **_answers(named)}
    for start in ("/v2/models/{name}", "/v2/models/{name}/versions/{version}"):
        made["get", start] = {"summary": "its inputs and outputs", **_answers(_object({"name": _STRING, "inputs": _array({})}, ["name"]))}
        made["get", f"{start}/ready"] = {"summary": "whether it may be asked", **_answers(ready, not_yet=True)}
        answers = {"200": {"description": "one value a row", "content": {"application/json": {"schema": answer}, **binary}}}
        made["post", f"{start}/infer"] = {"summary": "tensors in, tensors out", **_asks(infer), "responses": answers}
    return made


def _several(models: Models) -> Json:
    tasks = {"oneOf": [{"const": "*"}, {**_array({"enum": [served.name for served in models]}), "minItems": 1}]}
    options = {"type": ["object", "null"], "additionalProperties": {"type": "object"}}
    asked = _object({"tasks": tasks, "rows": _array({"type": "object"}), "options": options}, ["tasks", "rows"], False)
    one = _object(
        {"predictions": _array({"type": "object"}), "error": _STRING, "version": _STRING, "digest": _STRING}, ["version", "digest"]
    )
    answer = _object({"answers": {"type": "object", "additionalProperties": one}, "seconds": _NUMBER}, ["answers", "seconds"])
    return {"summary": "several tasks on the same rows", **_asks(asked), **_answers(answer)}


# --- those of the models ----------------------------------------------------------------------------------------------------


def _tasks(models: Models) -> dict[tuple[str, str], Json]:
    made: dict[tuple[str, str], Json] = {}
    common: dict[TaskRoute, list[str]] = {}
    for served in models:
        made["post", f"/predict/{served.name}"] = _predict(served)
        for route in served.pipeline.task.routes:
            common.setdefault(route, []).append(served.name)
    for route, names in common.items():
        for path in [route.path] if route.common else [f"/predict/{name}{route.path}" for name in names]:
            for method in route.methods:
                made[method.lower(), path] = route.described(names) if route.described else {"summary": "of a task"}
    return made


def _predict(served: Served) -> Json:
    rows = _array(_ref(f"{served.name}.row"))
    body = _object({"rows": rows, "options": _options(served)}, ["rows"], False)
    form = _object({"file": {"type": "string", "format": "binary"}}, ["file"], False)
    predictions = _array(_ref(f"{served.name}.prediction"))
    answer = _object({"predictions": predictions}, ["predictions"])
    lines = {"application/x-ndjson": {"schema": _STRING}}
    return {
        "summary": f"{served.pipeline.artifact.task}, one prediction a row",
        "description": "As application/x-ndjson: a row a line, answered by a line each, as they come.",
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {"schema": body, "example": {"rows": [describe.example(served)]}},
                "multipart/form-data": {"schema": form},
                **lines,
            },
        },
        "responses": {"200": {"description": "in the order of the rows", "content": {"application/json": {"schema": answer}, **lines}}},
    }


def _row(served: Served) -> Json:
    columns = served.pipeline.artifact.schema.long
    return _object({c.name: _cell(c) for c in columns}, [c.name for c in columns])


def _cell(column: Column) -> Json:
    return {"title": f"{column.name} ({column.kind})", **_CELLS.get(column.kind, {})}


def _prediction(served: Served) -> Json:
    labels = [str(label) for label in served.pipeline.artifact.state.json.get("labels", [])]
    value: Json = {
        "number": _NUMBER,
        "labels": _array({**_STRING, "enum": labels} if labels else _STRING),
        "series": _array(_NUMBER),
    }.get(served.pipeline.task.target or "", {**_STRING, "enum": labels} if labels else {})
    scores = _object({label: _NUMBER for label in labels}, ())
    more: dict[str, Json] = {"score": _NUMBER, "scores": scores} if labels else {"low": _NUMBER, "high": _NUMBER}
    return _object({"prediction": value, **more}, ["prediction"])


def _options(served: Served) -> Json:
    kinds: dict[type, Json] = {bool: _BOOLEAN, int: _INTEGER, float: _NUMBER, str: _STRING, list: {"type": ["array", "string"]}}
    known = {name: {**kinds.get(type(default), {}), "default": default} for name, default in served.pipeline.task.options.items()}
    return {"type": ["object", "null"], "properties": known, "additionalProperties": False}


def _tensor() -> Json:
    shape = {**_array({"type": "integer", "minimum": 0}), "minItems": 1}
    known = {"name": _STRING, "datatype": {"enum": [*DTYPES, "BYTES"]}, "shape": shape, "data": {"type": "array"}}
    return _object({**known, "parameters": {"type": "object"}}, list(FIELDS[:3]), False)


# --- forms ------------------------------------------------------------------------------------------------------------------


def _object(properties: Mapping[str, Json], required: Sequence[str] = (), more: bool = True) -> dict[str, Any]:
    made = {"type": "object", "properties": dict(properties), **({"required": list(required)} if required else {})}
    return made if more else {**made, "additionalProperties": False}


def _array(items: Json) -> dict[str, Any]:
    return {"type": "array", "items": items}


def _ref(name: str) -> Json:
    return {"$ref": f"#/components/schemas/{name}"}


def _asks(schema: Json, *, required: bool = True) -> dict[str, Any]:
    return {"requestBody": {"required": required, "content": {"application/json": {"schema": schema}}}}


def _answers(schema: Json, *, not_yet: bool = False) -> dict[str, Any]:
    content = {"application/json": {"schema": schema}}
    fine = {"200": {"description": "answered", "content": content}}
    return {"responses": {**fine, "503": {"description": "not yet, or one differs", "content": content}} if not_yet else fine}


def _text(kind: str) -> dict[str, Any]:
    return {"responses": {"200": {"description": "as text", "content": {kind: {"schema": _STRING}}}}}

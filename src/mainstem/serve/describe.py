"""What a server answers, for machines (OpenAPI 3.1) and for people (one page of HTML that loads nothing)."""

from __future__ import annotations

import json
from html import escape
from typing import Any

import mainstem
from mainstem.contracts import Json
from mainstem.schema import Column
from mainstem.serve.asking import identity
from mainstem.serve.models import Models, Served

_CELLS: dict[str, Json] = {
    "number": {"type": ["number", "string", "null"]},
    "category": {"type": ["string", "number", "boolean", "null"]},
    "date": {"type": ["string", "null"], "description": "a date or a time, best ISO 8601"},
    "text": {"type": ["string", "null"]},
    "image": {"type": ["string", "null"], "contentEncoding": "base64"},
}
_EXAMPLES: dict[str, Json] = {"number": 1.5, "category": "a", "date": "2026-01-31", "text": "some text", "image": "iVBORw0KGgo…"}
_ERROR = {"description": "what is wrong", "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}}


def openapi(models: Models) -> dict[str, Any]:
    """The description of all routes, made from the models' schemas."""
    paths: dict[str, Any] = {
        "/health": {"get": {"summary": "the process answers", "security": [], "responses": {"200": {"description": "it does"}}}},
        "/ready": {
            "get": {
                "summary": "every model has answered its golden rows again",
                "responses": {"200": {"description": "all have"}, "503": {"description": "not yet, or one differs"}},
            }
        },
    }
    schemas: dict[str, Any] = {
        "Error": {"type": "object", "required": ["error"], "properties": {"error": {"type": "string"}, "rows": {"type": "array"}}}
    }
    for served in models:
        paths[f"/predict/{served.name}"] = {"post": _operation(served)}
        schemas[f"{served.name}.row"] = _row(served)
        schemas[f"{served.name}.prediction"] = _prediction(served)
        for route in served.pipeline.task.routes:
            own = {
                method.lower(): {"summary": "of the task", "responses": {"200": {"description": "answered"}}} for method in route.methods
            }
            paths[route.path if route.common else f"/predict/{served.name}{route.path}"] = own
    return {
        "openapi": "3.1.0",
        "info": {"title": "mainstem", "version": mainstem.__version__},
        "paths": paths,
        "components": {"schemas": schemas, "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}}},
        "security": [{"token": []}, {}],
    }


def _operation(served: Served) -> Json:
    rows = {"type": "array", "items": {"$ref": f"#/components/schemas/{served.name}.row"}}
    answer = {
        "type": "object",
        "properties": {"predictions": {"type": "array", "items": {"$ref": f"#/components/schemas/{served.name}.prediction"}}},
    }
    body = {
        "type": "object",
        "required": ["rows"],
        "properties": {"rows": rows, "options": _options(served)},
        "additionalProperties": False,
    }
    form = {"type": "object", "required": ["file"], "properties": {"file": {"type": "string", "format": "binary"}}}
    return {
        "summary": f"{served.pipeline.artifact.task}, one prediction a row",
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {"schema": body, "example": {"rows": [example(served)]}},
                "multipart/form-data": {"schema": form},
            },
        },
        "responses": {
            "200": {"description": "in the order of the rows", "content": {"application/json": {"schema": answer}}},
            **{status: _ERROR for status in ("401", "404", "413", "422", "503")},
        },
    }


def _row(served: Served) -> Json:
    columns = served.pipeline.artifact.schema.long
    return {"type": "object", "required": [c.name for c in columns], "properties": {c.name: _cell(c) for c in columns}}


def _cell(column: Column) -> Json:
    return {"title": f"{column.name} ({column.kind})", **_CELLS.get(column.kind, {})}


def _prediction(served: Served) -> Json:
    labels = [str(label) for label in served.pipeline.artifact.state.json.get("labels", [])]
    number, text = {"type": "number"}, {"type": "string"}
    value: Json = {
        "number": number,
        "labels": {"type": "array", "items": {**text, "enum": labels} if labels else text},
        "series": {"type": "array", "items": number},
    }.get(served.pipeline.task.target or "", {**text, "enum": labels} if labels else {})
    scores = {"type": "object", "properties": {label: number for label in labels}}
    more: dict[str, Json] = {"score": number, "scores": scores} if labels else {"low": number, "high": number}
    return {"type": "object", "required": ["prediction"], "properties": {"prediction": value, **more}}


def _options(served: Served) -> Json:
    return {"type": "object", "properties": {name: {"default": default} for name, default in served.pipeline.task.options.items()}}


def about(served: Served) -> dict[str, Any]:
    """One model as its users need to know it: task, columns, labels, state, version."""
    version, digest = identity(served)
    contents, task = served.pipeline.artifact, served.pipeline.task
    return {
        "name": served.name,
        "task": contents.task,
        "state": served.state,
        "ready": served.ready,
        "version": version,
        "digest": digest,
        "columns": [{"name": c.name, "kind": c.kind} for c in contents.schema.long],
        "targets": [t.name for t in contents.schema.targets],
        "labels": [str(label) for label in contents.state.json.get("labels") or []],
        "options": dict(task.options),
        "example": example(served),
    }


def example(served: Served) -> dict[str, Json]:
    """One made-up row."""
    return {column.name: _EXAMPLES.get(column.kind) for column in served.pipeline.artifact.schema.long}


# --- for people ---------------------------------------------------------------------------------------------------------

_STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:46rem;margin:2rem auto;padding:0 1rem;color:#222}"
    "pre{background:#f4f4f2;padding:.8rem;overflow:auto}td,th{text-align:left;padding:.1rem 1rem .1rem 0}"
    "@media(prefers-color-scheme:dark){body{background:#181818;color:#ddd}pre{background:#262626}a{color:#8bf}}"
)


def page(models: Models) -> str:
    """The page at /docs."""
    parts = "".join(_section(served) for served in models)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>mainstem</title><style>{_STYLE}</style></head><body><h1>Models served here</h1>{parts}"
        '<h2>Besides</h2><p><a href="/openapi.json">/openapi.json</a> describes all this for machines; '
        '<a href="/health">/health</a> says that the process answers, <a href="/ready">/ready</a> that every model has '
        "answered its golden rows as it did when it was measured.</p></body></html>"
    )


def _section(served: Served) -> str:
    artifact = served.pipeline.artifact
    columns = "".join(f"<tr><td>{escape(c.name)}</td><td>{escape(c.kind)}</td></tr>" for c in artifact.schema.long)
    body = json.dumps({"rows": [example(served)]}, ensure_ascii=False)
    quoted = body.replace("'", "'\\''")
    command = f"curl -H 'Content-Type: application/json' \\\n  -d '{quoted}' \\\n  http://HOST:PORT/predict/{served.name}"
    targets = ", ".join(t.name for t in artifact.schema.targets)
    what = f"{artifact.task}{' of ' * bool(targets)}{targets}"
    return (
        f"<h2>{escape(served.name)}</h2><p>{escape(what)}; {escape(served.state)}.</p>"
        f"<table><tr><th>column</th><th>kind</th></tr>{columns}</table>"
        f"<pre>{escape(command)}</pre><p>Or a whole file: <code>curl -F file=@rows.csv …/predict/{escape(served.name)}</code></p>"
    )

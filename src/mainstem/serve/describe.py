"""What a server answers, for the playground and for people (one page of HTML that loads nothing)."""

from __future__ import annotations

import json
from html import escape
from typing import Any

from mainstem.contracts import Json
from mainstem.serve.asking import identity
from mainstem.serve.models import Models, Served

_EXAMPLES: dict[str, Json] = {"number": 1.5, "category": "a", "date": "2026-01-31", "text": "some text", "image": "iVBORw0KGgo…"}


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
        "gathers": any(hasattr(c.module, "gather") for c in contents.schema.columns),  # many rows make one answer
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

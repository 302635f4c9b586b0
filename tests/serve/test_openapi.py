"""The OpenAPI document: every route is in it, and what it says is what the server does (schemathesis finds nothing)."""

import contextlib
import json
import re
import shutil
import subprocess
import sys
import threading
import urllib.request

import pytest
from live_server import live
from starlette.testclient import TestClient

from mainstem import artifact
from mainstem.serve.app import build
from mainstem.serve.manners import of
from mainstem.serve.models import Models


@pytest.fixture(scope="module")
def folders(table_run, embedder):
    return {"dear": table_run.path, "embed": embedder.path}


def test_every_route_is_described(folders, writer_run):
    app = build(Models({**folders, "writer": writer_run.path}), token="s3cret-token")
    with TestClient(app, base_url="http://any.example") as http:
        document = http.get("/openapi.json", headers={"Authorization": "Bearer s3cret-token"}).json()
    for route in app.routes:
        paths = [f"/predict/{name}" for name in ("dear", "embed", "writer")] if route.path == "/predict/{name}" else [route.path]
        for path in paths:
            for method in route.methods - {"HEAD"}:
                operation = document["paths"][path][method.lower()]
                assert operation["summary"] != "of a task"
                assert operation["security"] == ([] if route.access.name == "OPEN" else [{"token": []}])
                assert {"200", "401", "422", "503"} <= set(operation["responses"])
                assert [p["name"] for p in operation.get("parameters", ())] == re.findall(r"{(\w+)}", path)
    assert len(document["paths"]) >= len({route.path for route in app.routes})


def test_without_tokens_none_is_asked_for(folders):
    with TestClient(build(Models(folders)), base_url="http://127.0.0.1") as http:
        document = http.get("/openapi.json").json()
    assert all(operation["security"] == [] for path in document["paths"].values() for operation in path.values())


CONFIG = """
[checks.positive_data_acceptance]  # a row that cannot be read is answered by 422, a model that is not there by 404
expected-statuses = ["2xx", 401, 403, 404, 413, 422]
"""


@contextlib.contextmanager
def reloading(address, names):
    """Meanwhile, what the tests unload is loaded again, so that the other operations find it. Yields how often that was."""
    stop, again = threading.Event(), []

    def post(path):
        request = urllib.request.Request(f"{address}/v2/repository/{path}", b"{}", {"Authorization": "Bearer s3cret-token"})
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.loads(answer.read())

    def watch():
        while not stop.wait(0.05):
            for name in names - {model["name"] for model in post("index")}:
                again.append(post(f"models/{name}/load"))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield again
    finally:
        stop.set()
        thread.join(30)


def test_what_it_says_is_what_the_server_does(folders, tmp_path):
    """Against a live server with tokens: examples, borders, and what is drawn from the schemas and against them."""
    pytest.importorskip("schemathesis", reason="needs schemathesis", exc_type=ImportError)
    (tmp_path / "schemathesis.toml").write_text(CONFIG)
    for name, run in folders.items():
        shutil.copytree(artifact.find(run), tmp_path / "models" / name)
    manners = of(token="s3cret-token", repository=tmp_path / "models")
    with live(folders, manners=manners) as address, reloading(address, set(folders)) as again:
        run = [sys.executable, "-c", "from schemathesis.cli import schemathesis; schemathesis()"]
        run += ["--config-file", str(tmp_path / "schemathesis.toml"), "run", f"{address}/openapi.json"]
        run += ["-H", "Authorization: Bearer s3cret-token", "--phases", "examples,coverage,fuzzing", "--max-examples", "4"]
        run += ["--seed", "8", "--no-color", "--request-timeout", "30"]
        done = subprocess.run(run, cwd=tmp_path, capture_output=True, text=True, encoding="utf-8", timeout=240)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert int(re.search(r"Tested: +(\d+)", done.stdout)[1]) >= 27, done.stdout[-3000:]
    assert again  # it did unload

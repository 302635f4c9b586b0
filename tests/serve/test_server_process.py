"""The server as it is started: what it imports, how it stops, what it refuses."""

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request

import pytest
from live_server import altered

PROGRAM = "import json, sys; from mainstem.cli import main; code = main(sys.argv[1:]); print(json.dumps([code, sorted(sys.modules)]))"
NEVER = ("onnxruntime", "torch", "transformers", "timm", "pandas", "sklearn", "onnx", "pyarrow", "matplotlib", "rich.progress")
NEVER_OURS = ("training", "nn", "network", "backbones", "data.kinds", "data.leaks", "data.splits", "evaluation.intervals")


def start(*arguments):
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, "serve", *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def until_ready(process):
    """What it said until it was ready, and the address of its first model."""
    said = []
    for line in process.stderr:
        said.append(line)
        if line.startswith("ready"):
            break
    return said, re.search(r"https?://\S+", said[0])[0]


def ask(url, rows):
    request = urllib.request.Request(url, json.dumps({"rows": rows}).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=10) as answer:
        return json.loads(answer.read())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_server_answers_imports_nothing_heavy_and_stops_cleanly(table_run, table_data, number):
    process = start(f"dear={table_run.path}", "--port", "0")
    try:
        said, url = until_ready(process)
        assert url.endswith("/predict/dear")
        assert said[-1] == "ready: dear replayed\n"
        rows = [{"area": 50, "rooms": 2, "城区": "海淀"}]
        assert ask(url, rows)["predictions"][0]["prediction"] == table_run.model.predict(rows)[0]["prediction"]
        data = table_data.read_bytes()
        body = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.csv"\r\n\r\n' + data + b"\r\n--x--\r\n"
        request = urllib.request.Request(url, body, {"Content-Type": "multipart/form-data; boundary=x"})
        with urllib.request.urlopen(request, timeout=10) as answer:
            assert len(json.loads(answer.read())["predictions"]) == data.count(b"\n") - 1
        process.send_signal(number)
        out, err = process.communicate(timeout=20)
    finally:
        process.kill()
    code, modules = json.loads(out)
    assert (code, process.returncode, err) == (0, 0, "")
    heavy = [name for name in modules if name.split(".")[0] in NEVER or name in NEVER]
    ours = [name for name in modules if any(f"{name}.".startswith(f"mainstem.{each}.") for each in NEVER_OURS)]
    assert heavy + ours == []


def test_it_verifies_against_a_live_server(table_run):
    process = start(f"dear={table_run.path}", "--port", "0", "--token", "t")
    try:
        _, url = until_ready(process)
        assert table_run.model.verify(url=url, token="t")["worst"]["served"] < 1e-5
    finally:
        process.terminate()
        process.communicate(timeout=20)


def test_a_model_that_answers_otherwise_stops_the_server(table_run, tmp_path):
    process = start(f"dear={altered(table_run.path / 'model', tmp_path / 'model')}", "--port", "0")
    out, err = process.communicate(timeout=30)
    assert json.loads(out)[0] == 2
    assert "error: dear: this does not answer as the measured model did: replay row 1, stage call head" in err
    assert "ready" not in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["--host", "0.0.0.0"], "no token is set"),
        (["--port", "99999"], "cannot listen"),
        (["--host", "no.such.host.invalid", "--token", "t"], "cannot listen"),
    ],
)
def test_what_cannot_be_served_is_one_sentence(table_run, arguments, part):
    process = start(f"dear={table_run.path}", *arguments)
    out, err = process.communicate(timeout=30)
    assert json.loads(out)[0] == 2
    assert part in err
    assert "Traceback" not in err


def test_it_is_ready_soon_and_small(table_run):
    began = time.monotonic()
    process = start(f"dear={table_run.path}", "--port", "0")
    try:
        until_ready(process)
        took = time.monotonic() - began
        if os.path.exists(f"/proc/{process.pid}/smaps_rollup"):
            with open(f"/proc/{process.pid}/smaps_rollup") as stream:
                pss = next(int(line.split()[1]) for line in stream if line.startswith("Pss:"))
            assert pss < 400 * 1024
        assert took < 20  # of wall time on a busy machine; benchmarks/ measures the 2 s
    finally:
        process.terminate()
        process.communicate(timeout=20)

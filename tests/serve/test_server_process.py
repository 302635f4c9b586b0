"""The server as it is started: what it imports, how it stops, what it refuses."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.request

import pytest
from live_server import altered

from mainstem.testing.faults import relist

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


FAULTS = {  # planted in the engine: what it does when it loads, and what is told of it
    "killed": ("os.kill(os.getpid(), 9)", "the engine process ended while it loaded this model. Most often the system ended it"),
    "memory": ("raise RuntimeError('Failed to allocate memory for requested buffer of size 9')", "there is not enough memory to load"),
    "provider": ("raise ValueError('no CPUExecutionProvider')", "a graph cannot be read (ValueError: no CPUExecutionProvider)"),
    "bug": (
        "raise RuntimeError('two\\nlines')",
        "the engine cannot run this model (RuntimeError: two lines). See whether `mainstem verify`",
    ),
    "library": ("raise ImportError('libonnx.so: no such file')", "cannot run this model (ImportError: libonnx.so: no such file)"),
}


@pytest.mark.parametrize("layout", ["", "--in-process"])
@pytest.mark.parametrize("fault", FAULTS)
def test_an_engine_that_fails_at_the_start_is_one_sentence(table_run, tmp_path, monkeypatch, fault, layout):
    if layout and fault == "killed":
        pytest.skip("it is the server that is killed")
    does, told = FAULTS[fault]
    planted = f"import os, sys\nif {bool(layout)} or 'mainstem.serve.engine' in sys.orig_argv:\n from mainstem.runtimes import onnx\n"
    (tmp_path / "sitecustomize.py").write_text(f"{planted} def runner(*given): {does}\n onnx.runner = runner\n")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    process = start(f"dear={table_run.path}", "--port", "0", *filter(None, [layout]))
    out, err = process.communicate(timeout=60)
    assert json.loads(out)[0] == 2
    errors = [line for line in err.splitlines() if not line.startswith("http")]
    assert len(errors) == 1
    assert errors[0].startswith("error: ")
    assert str(table_run.path / "model") in errors[0]
    assert told in errors[0]


@pytest.mark.parametrize("layout", ["", "--in-process"])
def test_a_broken_graph_is_one_sentence(mood_run, tmp_path, layout):
    shutil.copytree(mood_run.path / "model", tmp_path / "model")
    graph = next((tmp_path / "model/onnx").glob("backbone.*.onnx"))
    graph.write_bytes(graph.read_bytes()[:-1000])
    relist(tmp_path / "model")
    process = start(f"mood={tmp_path / 'model'}", "--port", "0", *filter(None, [layout]))
    out, err = process.communicate(timeout=60)
    assert json.loads(out)[0] == 2
    errors = [line for line in err.splitlines() if not line.startswith("http")]
    assert len(errors) == 1
    assert f"{graph}: this is not a graph that ONNX Runtime can read" in errors[0]


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

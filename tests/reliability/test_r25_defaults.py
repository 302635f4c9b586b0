"""Row 25: safe as installed. The server as it is started without a flag: where it listens, what is open, what it says, what it logs."""

import json
import os
import re
import subprocess
import sys
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import pytest
import serving
import trials
from starlette.testclient import TestClient

from mainstem.serve.app import build
from mainstem.serve.guard import Access
from mainstem.serve.models import Models

PROMISE = "as installed it listens on this machine alone, every route says who may ask it, other origins are refused, no secret is logged"
OPEN = {"/health", "/v2/health/live", "/v2/health/ready", "/", "/playground.js", "/playground.css"}
SECRET = "kEy-7f3a-never-to-be-seen"

BARE = ({}, {"Authorization": "Bearer wrong"}, {"Authorization": SECRET}, {"Cookie": f"token={SECRET}"}, {"X-Api-Key": SECRET})  # no token


def listening(pids):
    """The addresses (hexadecimal, as /proc/net has them) that these processes listen on."""
    inodes = set()
    for pid in pids:
        for name in os.listdir(f"/proc/{pid}/fd"):
            try:
                found = re.fullmatch(r"socket:\[(\d+)\]", os.readlink(f"/proc/{pid}/fd/{name}"))
            except OSError:
                continue
            inodes |= {found[1]} if found else set()
    addresses = set()
    for table in ("tcp", "tcp6", "udp", "udp6"):
        with open(f"/proc/net/{table}") as stream:
            for fields in map(str.split, stream.readlines()[1:]):
                if fields[9] in inodes and (fields[3] == "0A" or table.startswith("udp")):
                    addresses.add(fields[1].partition(":")[0])
    return addresses


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_it_listens_on_this_machine_alone(table_run):
    with serving.started(f"dear={table_run.path}") as (process, _):
        assert listening([process.pid, *serving.children(process.pid)]) == {"0100007F"}


def test_no_other_address_without_a_token(table_run):
    for host in ("0.0.0.0", "::", "192.0.2.1", "example.org"):
        run = [sys.executable, "-c", serving.PROGRAM, "serve", f"dear={table_run.path}", "--host", host, "--port", "0"]
        done = subprocess.run(run, capture_output=True, text=True, timeout=60)
        assert (done.returncode, "no token is set" in done.stderr) == (2, True)


def routes(count, folders):
    """Every route, with and without what it asks for."""
    models = Models(folders)
    app = build(models, token=SECRET)
    with TestClient(app, base_url="http://any.example", raise_server_exceptions=False) as http:
        assert models.done.wait(60)
        for route in app.routes:
            count(isinstance(getattr(route, "access", None), Access), f"{route.path} does not say who may ask it")
            count((route.access is Access.OPEN) == (route.path in OPEN), f"{route.path} is {route.access}")
            path = route.path.replace("{name}", "dear").replace("{version}", "1")
            for method in sorted(route.methods):
                for given in BARE:
                    answer = http.request(method, f"{path}?token={SECRET}", headers=given)
                    count((answer.status_code == 401) == (route.path not in OPEN), f"{method} {path} {given}: {answer.status_code}")
                foreign = http.request(method, path, headers={"Origin": "https://other.example", "Authorization": f"Bearer {SECRET}"})
                allowed = [name for name in foreign.headers if name.startswith("access-control")]
                count(not allowed and (foreign.status_code == 403 or route.path in OPEN), f"{method} {path} from elsewhere: {allowed}")
                count(foreign.headers["x-content-type-options"] == "nosniff", path)


def test_every_route_says_who_may_ask_it(table_run, writer_run, embedder):
    count = trials.Count(25, PROMISE, 0)
    routes(count, {"dear": table_run.path, "writer": writer_run.path, "embed": embedder.path})
    count.check()
    assert count.n > 300


def asked(port, n):
    """Requests with the secret in every place that a client might put it."""
    base = f"http://127.0.0.1:{port}"
    rows = json.dumps({"rows": [{"area": SECRET, "rooms": 1, "城区": SECRET}]}).encode()
    places = [
        (f"{base}/predict/dear?key={SECRET}", rows, {"Authorization": f"Bearer {SECRET}"}),
        (f"{base}/predict/dear", rows, {"Authorization": f"Bearer {SECRET}x"}),
        (f"{base}/predict/dear", rows, {"Authorization": f"Basic {SECRET}", "Cookie": SECRET, "X-Api-Key": SECRET, "X-Request-Id": "id"}),
        (f"{base}/ready?{SECRET}", None, {"Authorization": f"Bearer {SECRET}", "User-Agent": SECRET, "Referer": SECRET}),
        (f"{base}/predict/dear", b'{"rows": [' + SECRET.encode(), {"Authorization": f"Bearer {SECRET}"}),
    ]
    for i in range(n):
        url, body, headers = places[i % len(places)]
        try:
            with urllib.request.urlopen(urllib.request.Request(url, body, headers), timeout=30) as answer:
                answer.read()
        except urllib.error.HTTPError as error:
            error.read()
            error.close()


def logged(count, folder, tokens, n):
    """Whatever the server writes, while it is asked with secrets."""
    run = [sys.executable, "-c", serving.PROGRAM, "serve", f"dear={folder}", "--port", "0", "--log", "json", *tokens]
    piped = subprocess.Popen(run, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    with piped as process, ThreadPoolExecutor(1) as pool:
        try:
            said = []
            while not said or not said[-1].startswith("ready"):
                said.append(process.stderr.readline())
                assert said[-1], said
            err = pool.submit(process.stderr.read)  # meanwhile, else the server waits for room in the pipe
            asked(int(said[0].partition("127.0.0.1:")[2].partition("/")[0]), n)
            process.terminate()
            out = process.stdout.read()
            process.wait(60)
        finally:
            process.kill()
    lines = [*said, *out.splitlines(), *err.result().splitlines()]
    count(sum(text.startswith("{") for text in lines) == n, f"{len(lines)} lines")
    for text in lines:
        count(SECRET not in text and "never-to-be" not in text, text)


def files(tmp_path):
    (tmp_path / "tokens.yaml").write_text(f"someone: {{token: {SECRET}}}\n")
    return ["--tokens", str(tmp_path / "tokens.yaml")]


@pytest.mark.parametrize("how", ["token", "file"])
def test_no_secret_is_logged(table_run, tmp_path, how):
    count = trials.Count(25, PROMISE, 0)
    logged(count, table_run.path, ["--token", SECRET] if how == "token" else files(tmp_path), 20)
    count.check()


@pytest.mark.torture
def test_all_of_it(table_run, writer_run, embedder, tmp_path):
    count = trials.Count(25, PROMISE, 0)
    routes(count, {"dear": table_run.path, "writer": writer_run.path, "embed": embedder.path})
    logged(count, table_run.path, files(tmp_path), trials.scaled(2000))
    with serving.started(f"dear={table_run.path}") as (process, _):
        count(listening([process.pid, *serving.children(process.pid)]) == {"0100007F"}, "it listens elsewhere")
    count.write()

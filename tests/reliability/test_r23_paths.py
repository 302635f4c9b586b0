"""Row 23: names cannot leave the root, URLs cannot leave the box. Paths of every disguise are put wherever a client can put a text;
outside lies a model and a picture that any escape would show, and every file opened and address connected to is heard of."""

import base64
import json
import random
import shutil
import socket
import sys

import pytest
import trials
from starlette.testclient import TestClient

from mainstem.serve.app import build
from mainstem.serve.manners import Manners
from mainstem.serve.models import Models

PROMISE = "of generated paths and addresses none opens a file outside the root, and none is connected to"
HEARD: list[str] = []  # while LISTENING, what was opened or connected to
LISTENING: list[str] = []  # parts of what is told of


def hear(event, arguments):
    if LISTENING and event in ("open", "os.listdir", "os.scandir", "socket.connect", "socket.getaddrinfo", "os.remove", "os.rename"):
        told = f"{event} {arguments!r}"
        if event.startswith("socket") or any(part in told for part in LISTENING):
            HEARD.append(told)


sys.addaudithook(hear)
PARTS = [
    *("..", ".", "%2e%2e", "%252e%252e", "..%2f", "%2e%2e%2f", "%c0%ae%c0%ae", "..\\", "..%5c", "%00", "\uff0e\uff0e", "....//", "~"),
    *("C:", "proc/self"),
]
URLS = [
    "http://{}/x.png",
    "https://{}/x",
    "ftp://{}/x",
    "file://{}/etc/passwd",
    "gopher://{}/",
    "http://user@{}/",
    "//{}/x",
    "http://{}:80@x.example/",
]
HOSTS = [
    *("127.0.0.1", "169.254.169.254", "[::1]", "[::ffff:169.254.169.254]", "2130706433", "0x7f.1", "0177.0.0.1", "localhost"),
    "metadata.internal",
]
READ = ("/v2/models/{}", "/v1/models/{}", "/{}", "/playground/{}")
WRITTEN = ("/predict/{}", "/v2/models/{}/infer", "/v2/repository/models/{}/load", "/v2/repository/models/{}/unload")


def path(rng, outside):
    """A path that means to get to `outside`."""
    start = rng.choice(["", "/", "\\", "./", "dear/", "x/", "//", "file:", "%2f"])
    parts = rng.choices(PARTS, k=rng.randint(0, 6))
    ends = [
        str(outside / "model"),
        str(outside / "canary.png"),
        "etc/passwd",
        "outside/model",
        "outside",
        f"{outside.name}\x00.png",
        "link",
    ]
    end = rng.choice(ends)
    return start + rng.choice(["/", "%2f", "\\", "%5c"]).join([*parts, end.lstrip("/") if rng.random() < 0.5 else end])


def url(rng):
    return rng.choice(URLS).format(rng.choice(HOSTS))


def places(http, text):
    """What a client can send with a text in it: answers."""
    quoted = text.replace("\x00", "%00").replace("\n", "%0a").replace("?", "%3f").replace("#", "%23")
    quoted = quoted.encode("utf-8", "surrogateescape").decode("latin-1") if quoted.isascii() else quoted
    row = {"image": text}
    tensor = {"name": "image", "datatype": "BYTES", "shape": [1], "data": [text]}
    yield http.post("/predict/pixels", json={"rows": [row]})
    yield http.post("/predict/pixels", files={"file": (text or "x", b"image\n" + text.encode())})
    yield http.post("/predict/pixels", files={"file": ("a.csv", b"image\n" + text.encode())})
    yield http.post("/predict", json={"tasks": [text], "rows": [row]})
    yield http.post("/predict/pixels", content=json.dumps(row).encode(), headers={"Content-Type": "application/x-ndjson"})
    yield http.post("/v2/models/pixels/infer", json={"inputs": [tensor]})
    yield http.post("/v1/embeddings", json={"model": text, "input": text})
    yield http.post("/v2/repository/models/new/load", json={"parameters": {"folder": text, "config": text}})
    for route in (*READ, *WRITTEN):
        yield http.request("GET" if route in READ else "POST", route.format(quoted.lstrip("/")))


def torment(count, folder, pixels, tmp_path, paths, urls, seed):
    """Every text in every place."""
    rng = random.Random(seed)
    outside, root = tmp_path / "outside", tmp_path / "repository"
    outside.mkdir()
    root.mkdir()
    shutil.copytree(folder / "model", outside / "model")
    canary = next((pixels.parent / "pictures").rglob("*.png"))
    shutil.copy(canary, outside / "canary.png")
    (root / "link").symlink_to(outside / "model")
    secret = base64.b64encode((outside / "canary.png").read_bytes())[:40].decode()
    models = Models({"dear": folder, "pixels": pixels})
    with TestClient(build(models, manners=Manners(repository=root)), base_url="http://127.0.0.1", raise_server_exceptions=False) as http:
        assert models.done.wait(60)
        http.post("/predict/pixels", json={"rows": [{"image": None}]})  # what is imported late is imported now
        LISTENING[:] = [str(outside), "passwd", "/proc/self"]
        try:
            for i in range(paths + urls):
                text = path(rng, outside) if i < paths else url(rng)
                for answer in places(http, text):
                    told = answer.text
                    right = answer.status_code < 500 and secret not in told and "root:" not in told and not HEARD
                    loaded = answer.status_code == 200 and "repository" in str(answer.request.url)
                    count(right and not loaded, f"{text!r} at {answer.request.url}: {answer.status_code} {told[:200]} {HEARD[:3]}")
                    HEARD.clear()
        finally:
            LISTENING.clear()
        count({served.name for served in models} == {"dear", "pixels"}, "other models are served")


def test_paths_and_addresses(table_run, picture_run, tmp_path):
    count = trials.Count(23, PROMISE, 1)
    torment(count, table_run.path, picture_run.path, tmp_path, 40, 12, 1)
    count.check()


def test_the_ear_hears(tmp_path):
    """The trial would notice a file that is opened, and an address that is connected to."""
    (tmp_path / "passwd").write_text("x")
    LISTENING[:] = ["passwd"]
    try:
        (tmp_path / "passwd").read_text()
        with socket.socket() as outward:
            outward.setblocking(False)
            outward.connect_ex(("127.0.0.1", 9))
        assert [told.split()[0] for told in HEARD] == ["open", "socket.connect"]
    finally:
        LISTENING.clear()
        HEARD.clear()


@pytest.mark.torture
def test_ten_thousand(table_run, picture_run, tmp_path):
    count = trials.Count(23, PROMISE, 20261129)
    paths, urls = trials.scaled(10_000 // 16), trials.scaled(500)
    torment(count, table_run.path, picture_run.path, tmp_path, paths, urls, 20261129)
    count.write(paths=paths, urls=urls, places_each=16)

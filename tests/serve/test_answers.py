"""Several tasks on one input, and streams of lines."""

import asyncio
import json
import threading

import httpx
import pytest
from live_server import live
from starlette.testclient import TestClient

from mainstem.serve import asking, lines
from mainstem.serve.app import build
from mainstem.serve.manners import Manners
from mainstem.serve.models import Models
from mainstem.serve.requests import Limits

ROWS = [{"area": 70.5, "rooms": 3, "城区": "朝阳"}, {"area": 33, "rooms": 1, "城区": "海淀"}]


@pytest.fixture(scope="module")
def folders(table_run, number_run, mood_run):
    return {"dear": table_run.path, "rent": number_run.path, "mood": mood_run.path}


@pytest.fixture(scope="module")
def http(folders):
    models = Models(folders)
    with TestClient(build(models), base_url="http://127.0.0.1") as made:
        assert models.done.wait(60)
        yield made


@pytest.fixture(scope="module")
def address(folders):
    with live(folders, manners=Manners(limits=Limits(line=2000))) as made:
        yield made


# --- several tasks --------------------------------------------------------------------------------------------------------


def test_each_task_answers_one_input_as_it_does_alone(http, table_run, number_run):
    answer = http.post("/predict", json={"tasks": ["dear", "rent"], "rows": ROWS})
    assert answer.status_code == 200
    told = answer.json()
    assert told["seconds"] > 0
    for name in ("dear", "rent"):
        alone = http.post(f"/predict/{name}", json={"rows": ROWS})
        assert told["answers"][name]["predictions"] == alone.json()["predictions"]
        for field in ("version", "digest"):
            assert told["answers"][name][field] == alone.headers[f"x-model-{field}"]


def test_all_tasks_and_one_error_where_columns_do_not_fit(http):
    told = http.post("/predict", json={"tasks": "*", "rows": [{**ROWS[0], "area": "wide"}]}).json()
    assert "error" in told  # mood has no text, the others cannot read the area
    told = http.post("/predict", json={"tasks": "*", "rows": ROWS}).json()["answers"]
    assert {name: "predictions" in each for name, each in told.items()} == {"dear": True, "rent": True, "mood": False}
    assert "text" in told["mood"]["error"]
    assert [bad["row"] for bad in told["mood"]["rows"]] == [1, 2]
    rows = [{**ROWS[0], "text": "fine film"}]
    assert all("predictions" in each for each in http.post("/predict", json={"tasks": "*", "rows": rows}).json()["answers"].values())


@pytest.mark.parametrize(
    ("body", "status", "part"),
    [
        ({"rows": ROWS}, 400, "has no 'tasks'"),
        ({"tasks": "*"}, 400, "has no 'rows'"),
        ({"tasks": "dear", "rows": ROWS}, 422, "a list of names, or '*'"),
        ({"tasks": [], "rows": ROWS}, 422, "a list of names, or '*'"),
        ({"tasks": ["deer"], "rows": ROWS}, 404, "Did you mean 'dear'"),
        ({"tasks": ["x"] * 300, "rows": ROWS}, 404, "no model is served as 'x'"),
        ({"tasks": [str(i) for i in range(300)], "rows": ROWS}, 413, "300 tasks"),
        ({"tasks": ["dear"], "rows": {}}, 422, "a list of objects"),
        ({"tasks": ["dear"], "rows": ROWS, "options": {"rent": {}}}, 422, "options for 'rent', which is not asked"),
        ({"tasks": ["dear"], "rows": ROWS, "options": {"dear": {"beams": 1}}}, 422, "none of the tasks"),
        ({"tasks": ["dear"], "rows": ROWS, "options": {"dear": 1}}, 422, "by the name of each task"),
        ({"tasks": ["dear"], "row": ROWS}, 422, "Did you mean 'rows'"),
    ],
)
def test_what_cannot_be_asked_is_told_in_one_sentence(http, body, status, part):
    answer = http.post("/predict", json=body)
    assert (answer.status_code, part in answer.json()["error"]) == (status, True), answer.text


def test_a_task_that_is_not_ready_says_so(folders):
    models = Models(folders)
    with TestClient(build(models), base_url="http://127.0.0.1") as http:
        assert models.done.wait(60)
        models.by_name["rent"].state = "waiting"
        told = http.post("/predict", json={"tasks": ["dear", "rent"], "rows": ROWS}).json()["answers"]
        assert ("predictions" in told["dear"], "not ready" in told["rent"]["error"]) == (True, True)
        assert http.post("/predict", json={"tasks": ["rent"], "rows": ROWS}).status_code == 503


# --- limits ---------------------------------------------------------------------------------------------------------------


def test_texts_rows_and_pixels_are_limited(folders, picture_run):
    picture = next((picture_run.path.parent / "pictures").rglob("*.png")).read_bytes()
    models = Models({**folders, "pixels": picture_run.path})
    with TestClient(build(models, manners=Manners(limits=Limits(text=20, rows=3, pixels=63))), base_url="http://127.0.0.1") as http:
        assert models.done.wait(60)
        assert http.post("/predict/mood", json={"rows": [{"text": "x" * 20}]}).status_code == 200
        refused = http.post("/predict/mood", json={"rows": [{"text": "x"}, {"text": "x" * 21}]})
        assert (refused.status_code, refused.json()["error"]) == (
            413,
            "row 2 column 'text': the text is longer than 20 characters. Send less of it.",
        )
        assert http.post("/predict", json={"tasks": ["mood"], "rows": [{"text": "x" * 21}]}).status_code == 413
        assert http.post("/predict/mood", json={"rows": [{"text": "x"}] * 4}).status_code == 413
        refused = http.post("/predict/pixels", files={"file": ("a.png", picture)})
        assert (refused.status_code, "63 pixels" in refused.json()["error"]) == (413, True)
        assert http.post("/predict/pixels", files={"file": ("a.png", picture[:20])}).status_code == 422


def test_a_request_that_takes_too_long_is_ended(folders):
    models = Models(folders)

    cancelled = threading.Event()

    async def predict(*given, **more):
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            cancelled.set()
            raise

    served = models.by_name["dear"]
    served.predict, served.state = predict, "replayed"
    models.replay = lambda failed: None
    app = build(models, manners=Manners(limits=Limits(timeout=0.05)))
    with TestClient(app, base_url="http://127.0.0.1") as http:
        answer = http.post("/predict/dear", json={"rows": ROWS})
        assert (answer.status_code, answer.headers["retry-after"], "0.05 seconds" in answer.json()["error"]) == (503, "1", True)
        assert cancelled.wait(5)
        assert 'mainstem_rejected_total{reason="timeout"} 1' in http.get("/metrics").text


# --- lines ----------------------------------------------------------------------------------------------------------------


def stream(address, content, name="dear", **more):
    headers = {"Content-Type": "application/x-ndjson"}
    with httpx.stream("POST", f"{address}/predict/{name}", content=content, headers=headers, timeout=30, **more) as answer:
        answer.read()
        return answer


def told(answer):
    return [json.loads(line) for line in answer.text.splitlines()]


def packed(rows):
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def test_lines_are_answered_in_their_order(address, number_run):
    rows = [{"area": 20 + i / 10, "rooms": i % 5 + 1, "城区": "海淀"} for i in range(500)]
    expected = [p["prediction"] for p in number_run.model.predict(rows)]
    answer = stream(address, packed(rows), "rent")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/x-ndjson")
    assert [line["prediction"] for line in told(answer)] == pytest.approx(expected, rel=1e-5)
    assert "x-model-version" in answer.headers
    cut = packed(rows)[:-1]
    pieces = (cut[i : i + 37] for i in range(0, len(cut), 37))  # lines across pieces, and no newline at the end
    assert [line["prediction"] for line in told(stream(address, pieces, "rent"))] == pytest.approx(expected, rel=1e-5)


def test_bad_lines_are_answered_in_their_place(address):
    bad = [
        b"{",
        b"[1]",
        b'{"area": "wide", "rooms": 1, "\xe5\x9f\x8e\xe5\x8c\xba": "x"}',
        b"{}",
        b'{"area": "' + b"x" * 3000 + b'"}',
        b"\xff",
    ]
    good = packed([ROWS[0]]).strip()
    answers = told(stream(address, b"\n\n".join(line for each in bad for line in (good, each, b"  ")) + b"\n"))
    assert ["error" in each for each in answers] == [False, True] * len(bad)
    assert "line 2" in answers[1]["error"]
    assert "'wide'" in answers[5]["error"]
    assert "longer than 2,000 bytes" in answers[9]["error"]
    assert stream(address, b"").text == ""


def test_options_of_a_stream(address):
    assert stream(address, packed(ROWS), params={"options": "{}"}).status_code == 200
    for options, status in (("{", 400), ('{"beams": 1}', 422), ("[]", 422)):
        assert stream(address, packed(ROWS), params={"options": options}).status_code == status
    assert stream(address, packed(ROWS), "nobody").status_code == 404


def test_answers_come_while_rows_are_sent(address):
    """A client that waits for the answer to what it sent before it sends more."""
    answers = asyncio.run(by_socket(address, [packed([ROWS[0]]), packed([ROWS[1]])]))
    assert ["prediction" in each for each in answers] == [True, True]


async def by_socket(address, pieces):
    """Send a piece, wait for its line, send the next."""
    host, port = address.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    head = f"POST /predict/dear HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n"
    writer.write(head.encode())
    answers = []
    for piece in pieces:
        writer.write(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
        await writer.drain()
        while not (line := await asyncio.wait_for(reader.readline(), 20)).startswith(b"{"):
            assert line
        answers.append(json.loads(line))
    writer.write(b"0\r\n\r\n")
    await writer.drain()
    writer.close()
    return answers


class Held:
    """A request of endless lines that counts what is read of it."""

    def __init__(self, app, rows):
        self.app, self.rows, self.read = app, rows, 0
        self.query_params, self.scope = {}, {}

    async def stream(self):
        for row in self.rows:
            self.read += 1
            yield packed([row])
            await asyncio.sleep(0)


def test_no_more_is_read_ahead_than_is_kept(http):
    """Back-pressure: a client that reads no answers is not read from."""
    request = Held(http.app, [ROWS[0]] * 1000)
    served = http.app.state.models.find("dear")

    async def ask():
        parts = lines._answered(request, served, {})
        first = await anext(parts)
        for _ in range(50):
            await asyncio.sleep(0.01)
        read = request.read
        await parts.aclose()
        return first, read

    first, read = asyncio.run(ask())
    assert json.loads(first)["prediction"]
    assert read <= lines.AHEAD + 3


def test_a_chunk_waits_where_the_server_has_no_room(http):
    served, refused = http.app.state.models.find("dear"), []
    real = served.answer

    class Full(asking.MainstemError):
        status = 503

    async def answer(request, rows, options):
        if len(refused) < 2:
            refused.append(1)
            raise Full("too much to do")
        return await real(request, rows, options)

    served.answer = answer
    try:
        answers = told(http.post("/predict/dear", content=packed(ROWS), headers={"Content-Type": "application/x-ndjson"}))
    finally:
        del served.answer
    assert ["prediction" in each for each in answers] == [True, True]
    assert len(refused) == 2

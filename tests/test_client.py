"""The client, against a live server and one that misbehaves."""

import asyncio
import json
import threading
import time
from datetime import date
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pandas
import pytest
from live_server import live

import mainstem as ms
from mainstem import client as clients
from mainstem.serve.manners import of

ROWS = [{"area": 70.5, "rooms": 3, "城区": "朝阳"}, {"area": None, "rooms": 2, "城区": "海淀"}, {"area": 20, "rooms": 1, "城区": ""}]


@pytest.fixture(scope="module")
def client(table_run, number_run, mood_run):
    folders = {"dear": table_run.path, "rent": number_run.path, "mood": mood_run.path}
    with live(folders, manners=of(token="秘密s3cret")) as address:
        yield ms.Client(address, "秘密s3cret", retries=0)


def near(found, expected):
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        assert a.keys() == b.keys()
        assert a["prediction"] == (b["prediction"] if isinstance(b["prediction"], str) else pytest.approx(b["prediction"], rel=1e-5))


def test_one_model_answers_as_it_does_here(client, table_run, number_run, mood_run):
    near(client.predict(ROWS, "dear"), table_run.model.predict(ROWS))
    near(client.predict({name: [row[name] for row in ROWS] for name in ROWS[0]}, "rent"), number_run.model.predict(ROWS))
    near(client.predict(["lovely film", "很差"], "mood"), mood_run.model.predict(["lovely film", "很差"]))
    assert client.predict([], "dear") == []


def test_several_models_in_one_request(client, table_run, number_run):
    both = client.predict(ROWS, ["dear", "rent"])
    assert list(both) == ["dear", "rent"]
    near(both["dear"], table_run.model.predict(ROWS))
    near(both["rent"], number_run.model.predict(ROWS))
    everything = client.predict([{**row, "text": "fine"} for row in ROWS], "*")
    assert set(everything) == {"dear", "rent", "mood"}
    near(everything["dear"], both["dear"])


def test_more_rows_than_one_request_takes(client, number_run, monkeypatch):
    monkeypatch.setattr(clients, "ROWS", 7)
    rows = [{"area": 20.0 + i, "rooms": i % 5, "城区": "海淀"} for i in range(20)]
    near(client.predict(rows, "rent"), number_run.model.predict(rows))
    rows[17]["area"] = "wide"
    with pytest.raises(ms.MainstemError, match=r"row 18: .*'wide'"):
        client.predict(rows, "rent")


def test_frames_come_back_as_frames(client, table_run):
    frame = pandas.DataFrame(ROWS, index=["x", "y", "z"])
    made = client.predict(frame, "dear")
    assert list(made.index) == ["x", "y", "z"]
    assert list(made.columns) == ["prediction", "score", "score.便宜", "score.贵"]
    assert made["prediction"].tolist() == [row["prediction"] for row in table_run.model.predict(frame)]
    both = client.predict(frame, ["dear", "rent"])
    assert both["dear"].tolist() == made["prediction"].tolist()
    assert {"rent", "rent.low", "rent.high", "dear.score"} <= set(both.columns)


def test_bad_rows_fail_or_are_told_in_their_place(client):
    rows = [ROWS[0], {**ROWS[1], "area": "wide"}, ROWS[2], {**ROWS[0], "rooms": [1]}]
    with pytest.raises(clients.Refused, match="'wide'") as raised:
        client.predict(rows, "dear")
    assert (raised.value.status, [each["row"] for each in raised.value.rows]) == (422, [2, 4])
    told = client.predict(rows, "dear", on_error="skip")
    assert ["error" in each for each in told] == [False, True, False, True]
    near([told[0], told[2]], client.predict([rows[0], rows[2]], "dear"))
    several = client.predict(rows, ["dear", "mood"], on_error="skip")
    assert ["error" in each for each in several["dear"]] == [False, True, False, True]
    assert all("text" in each["error"] for each in several["mood"])
    with pytest.raises(clients.Refused, match="mood: "):
        client.predict(rows[:1], ["dear", "mood"])


def test_beside_an_event_loop(client, table_run):
    async def ask():
        return await asyncio.gather(*(client.predict_async(ROWS, "dear") for _ in range(8)))

    for found in asyncio.run(ask()):
        near(found, table_run.model.predict(ROWS))


@pytest.mark.parametrize(
    ("data", "task", "part"),
    [
        (ROWS, "deer", "Did you mean 'dear'"),
        (ROWS, "", "Served are: dear, rent, mood"),
        (["x"], "dear", "these are read: area, rooms, 城区"),
        (3, "dear", "cannot read rows from a int"),
    ],
)
def test_what_cannot_be_asked_is_one_sentence(client, data, task, part):
    with pytest.raises(ms.MainstemError, match=part):
        client.predict(data, task)


def test_tokens_and_addresses(client):
    assert "s3cret" not in repr(client)
    with pytest.raises(clients.Refused, match="a token is needed"):
        ms.Client(client.url).models()
    for url in ("nowhere", "ftp://x", "http://"):
        with pytest.raises(ms.MainstemError, match="no address"):
            ms.Client(url)
    with pytest.raises(ms.MainstemError, match="does not answer"):
        ms.Client("http://127.0.0.1:9", retries=0).models()
    with pytest.raises(ms.MainstemError, match="Known: fail, skip"):
        client.predict(ROWS, "dear", on_error="drop")


def test_cells_as_json(tmp_path):
    (tmp_path / "a.png").write_bytes(b"\x89PNG")
    cells = [np.float32(1.5), np.int64(3), float("nan"), pandas.NaT, pandas.NA, pandas.Timestamp("2026-01-31"), date(2026, 1, 31), b"ab"]
    told = [clients._cell(cell) for cell in [*cells, np.array([1, 2]), {"a": np.nan}, tmp_path / "a.png", True, "文"]]
    assert json.loads(json.dumps(told)) == told
    assert told == [1.5, 3, None, None, None, "2026-01-31T00:00:00", "2026-01-31", "YWI=", [1, 2], {"a": None}, "iVBORw==", True, "文"]


class Moody(BaseHTTPRequestHandler):
    """Answers as its class is told to."""

    answers, times = [], []

    def do_GET(self):
        self.times.append(time.monotonic())
        status, headers, body = self.answers.pop(0)
        if status is None:  # hang up
            self.close_connection = True
            self.connection.close()
            return
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


@pytest.fixture
def moody(monkeypatch):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Moody)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    Moody.times.clear()
    monkeypatch.setattr(clients, "FIRST", 0.01)
    yield ms.Client(f"http://127.0.0.1:{server.server_port}/", retries=3)
    server.shutdown()
    server.server_close()
    thread.join()


FINE = (200, {}, b'{"models": []}')


def test_what_has_no_room_is_asked_again(moody):
    Moody.answers[:] = [(503, {}, b'{"error": "full"}'), (None, {}, b""), (429, {"Retry-After": "1"}, b'{"error": "slow down"}'), FINE]
    assert moody.models() == []
    assert Moody.times[3] - Moody.times[2] >= 1
    Moody.answers[:] = [(503, {}, b'{"error": "full"}')] * 4
    with pytest.raises(clients.Refused, match="full") as raised:
        moody.models()
    assert (raised.value.status, len(Moody.answers)) == (503, 0)


def test_what_is_wrong_is_not_asked_again(moody):
    Moody.answers[:] = [(422, {}, b'{"error": "no"}'), FINE]
    with pytest.raises(clients.Refused, match="no"):
        moody.models()
    assert len(Moody.answers) == 1
    for body in (b"<html>", b"[1]", b""):
        Moody.answers[:] = [(404, {}, body)]
        with pytest.raises(clients.Refused):
            moody.models()
    Moody.answers[:] = [(302, {"Location": "http://127.0.0.1:1/"}, b"")]  # another server is not followed to
    with pytest.raises(clients.Refused, match="status 302"):
        moody.models()

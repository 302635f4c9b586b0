"""Figures and logs: what a request leaves behind, and what it must not."""

import json
import logging
import re
import sys
import threading

import pytest
from starlette.testclient import TestClient

from mainstem.serve import logs
from mainstem.serve.app import build
from mainstem.serve.manners import Manners
from mainstem.serve.metrics import MOST_SERIES, Metrics
from mainstem.serve.models import Models
from mainstem.serve.tokens import single

ROW = {"area": 70.5, "rooms": 3, "城区": "a-secret-place"}
TRACE = "0af7651916cd43dd8448eb211c80319c"
SAMPLE = re.compile(r'[a-z_]+(\{([a-z_]+="(\\.|[^"\\])*",?)*\})? (-?[0-9.e+-]+|\+Inf|NaN)')


def served(models, **manners):
    return TestClient(build(models, manners=Manners(**manners)), base_url="http://127.0.0.1")


@pytest.fixture
def models(table_run, number_run):
    return Models({"dear": table_run.path, "rent": number_run.path})


STAGES = {"read": 4, "queue": 5, "encode": 4, "compute": 5, "decode": 4, "answer": 4}  # calls of one request are one model's in the queue


def test_figures_of_what_was_asked(models):
    with served(models) as http:
        assert models.done.wait(60)
        for _ in range(3):
            http.post("/predict/dear", json={"rows": [ROW, ROW]})
        http.post("/predict/dear", json={"rows": [{**ROW, "area": "wide"}]})
        http.post("/predict", json={"tasks": "*", "rows": [ROW]})
        http.get("/nowhere")
        text = http.get("/metrics").text
    lines = text.splitlines()
    for line in lines:
        assert line.startswith(("# HELP ", "# TYPE ")) or SAMPLE.fullmatch(line), line
    for line in (
        'mainstem_requests_total{route="/predict/{name}",status="200"} 3',
        'mainstem_requests_total{route="/predict/{name}",status="422"} 1',
        'mainstem_requests_total{route="/predict",status="200"} 1',
        'mainstem_requests_total{route="other",status="404"} 1',
        'mainstem_rows_total{model="dear",outcome="answered"} 7',
        'mainstem_rows_total{model="dear",outcome="refused"} 1',
        'mainstem_rows_total{model="rent",outcome="answered"} 1',
        'mainstem_ready{model="dear"} 1',
        "mainstem_in_flight 1",  # the one that asks
        *(f'mainstem_stage_seconds_count{{model="dear",stage="{stage}"}} {count}' for stage, count in STAGES.items()),
        'mainstem_request_seconds_count{route="/predict"} 1',
    ):
        assert line in lines, text


def test_histograms_are_cumulative():
    metrics = Metrics()
    for seconds in (0.0001, 0.003, 0.003, 99):
        metrics.took("queue", 'a"b\n', seconds)
    metrics.batch("backbone.text", 8, 0.25)
    lines = metrics.render().splitlines()
    buckets = [int(line.rpartition(" ")[2]) for line in lines if line.startswith("mainstem_stage_seconds_bucket")]
    assert buckets == sorted(buckets)
    assert (buckets[0], buckets[-1]) == (1, 4)
    assert 'mainstem_stage_seconds_count{model="a\\"b\\n",stage="queue"} 4' in lines
    assert 'mainstem_batch_rows_bucket{graph="backbone.text",le="8"} 1' in lines
    assert 'mainstem_padding_share_sum{graph="backbone.text"} 0.25' in lines


def test_labels_cannot_grow_without_end():
    metrics = Metrics()
    for i in range(MOST_SERIES + 100):
        metrics.rejected(str(i))
    assert metrics.render().count("mainstem_rejected_total{") == MOST_SERIES


def test_counts_hold_under_threads():
    metrics = Metrics()
    threads = [threading.Thread(target=lambda: [metrics.rejected("rate") for _ in range(2000)]) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 'mainstem_rejected_total{reason="rate"} 16000' in metrics.render()


def test_a_line_a_request_without_what_was_asked(models):
    heard = []
    with served(models, say=heard.append, tokens=single("s3cret-token")) as http:
        assert models.done.wait(60)
        headers = {"Authorization": "Bearer s3cret-token", "X-Request-Id": "mine-7", "traceparent": f"00-{TRACE}-b7ad6b7169203331-01"}
        answer = http.post("/predict/dear?token=s3cret-token", json={"rows": [ROW]}, headers=headers)
        assert answer.status_code == 200
        assert answer.headers["x-request-id"] == "mine-7"
        passed = answer.headers["traceparent"].split("-")
        assert (passed[1], passed[3]) == (TRACE, "01")
        assert passed[2] != "b7ad6b7169203331"
        assert http.post("/predict/dear", json={"rows": [ROW]}, headers={"Authorization": "Bearer wrong-s3cret"}).status_code == 401
    line = json.loads(heard[0])
    assert {name: line[name] for name in ("request", "trace", "parent", "method", "path", "status", "model", "rows", "token")} == {
        "request": "mine-7",
        "trace": TRACE,
        "parent": "b7ad6b7169203331",
        "method": "POST",
        "path": "/predict/dear",
        "status": 200,
        "model": "dear",
        "rows": 1,
        "token": "token",
    }
    assert line["span"] == passed[2]
    assert json.loads(heard[1])["status"] == 401
    assert not [text for text in heard if "s3cret" in text or "a-secret-place" in text]


def test_what_was_asked_where_it_is_wanted(models):
    heard = []
    with served(models, say=heard.append, inputs=True) as http:
        assert models.done.wait(60)
        assert http.post("/predict/dear", json={"rows": [ROW]}).status_code == 200
        http.post("/predict/dear", content=b"\xff" * 10_000)
    assert "a-secret-place" in json.loads(heard[0])["input"]
    assert len(json.loads(heard[1])["input"]) == logs.MOST_INPUT


@pytest.mark.parametrize(
    "headers",
    [
        {"X-Request-Id": "a b"},
        {"X-Request-Id": "x" * 200},
        {"X-Request-Id": 'x"}\n{'},
        {"traceparent": f"01-{TRACE}-b7ad6b7169203331-01"},
        {"traceparent": f"00-{'0' * 32}-b7ad6b7169203331-01"},
        {"traceparent": f"00-{TRACE}-{'0' * 16}-01"},
        {"traceparent": "junk"},
    ],
)
def test_ids_that_are_none_are_made_anew(models, headers):
    models.replay = lambda failed: None
    with served(models) as http:
        answer = http.get("/health", headers={name: value.encode() for name, value in headers.items()})
    assert re.fullmatch("[0-9a-f]{16}", answer.headers["x-request-id"])
    assert "traceparent" not in answer.headers


def test_messages_of_libraries_are_lines_as_well():
    try:
        raise ValueError("broken")
    except ValueError:
        record = logging.getLogger("uvicorn.error").makeRecord("uvicorn.error", 40, "", 1, "it %s", ("broke",), sys.exc_info())
    told = json.loads(logs.JsonFormatter().format(record))
    assert (told["level"], told["message"]) == ("error", "it broke")
    assert "ValueError" in told["traceback"]

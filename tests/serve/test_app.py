"""The routes over real models: answers, errors, limits, tokens."""

import asyncio
import json
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from starlette.testclient import TestClient

from mainstem import files
from mainstem.contracts import Route as TaskRoute
from mainstem.errors import MainstemError
from mainstem.serve.app import build
from mainstem.serve.guard import Access, check_host, reply
from mainstem.serve.manners import Manners
from mainstem.serve.models import Models
from mainstem.serve.requests import MOST_ROWS, Limits

ROW = {"area": 70.5, "rooms": 3, "城区": "朝阳"}


def client(models, **settings):
    return TestClient(build(models, **settings), base_url="http://127.0.0.1", raise_server_exceptions=False)


def wait_until_ready(http, headers=None):
    for _ in range(200):
        if (answer := http.get("/ready", headers=headers)).status_code == 200:
            return answer.json()
        time.sleep(0.02)
    raise AssertionError(answer.json())


@pytest.fixture(scope="module")
def http(table_run, number_run):
    with client(Models({"dear": table_run.path, "rent": number_run.path})) as made:
        wait_until_ready(made)
        yield made


def test_health_ready_and_an_answer(http, table_run):
    assert http.get("/health").json() == {"health": "ok"}
    assert http.get("/ready").json() == {"ready": True, "models": {"dear": "replayed", "rent": "replayed"}}
    answer = http.post("/predict/dear", json={"rows": [ROW, {"area": None, "rooms": "2", "城区": ""}]})
    assert answer.status_code == 200
    expected = table_run.model.predict([ROW, {"area": None, "rooms": "2", "城区": ""}])
    assert [p["prediction"] for p in answer.json()["predictions"]] == [p["prediction"] for p in expected]
    assert answer.json()["predictions"][0]["scores"]["贵"] == pytest.approx(expected[0]["scores"]["贵"], abs=1e-6)
    assert http.post("/predict/dear", json={"rows": []}).json() == {"predictions": []}


def test_bad_rows_are_all_named_by_number(http):
    rows = [ROW, {**ROW, "area": "wide"}, {"area": 1, "rooms": 2}, ROW]
    answer = http.post("/predict/rent", json={"rows": rows})
    assert answer.status_code == 422
    assert [bad["row"] for bad in answer.json()["rows"]] == [2, 3]
    assert "'wide'" in answer.json()["rows"][0]["error"]
    assert "城区" in answer.json()["rows"][1]["error"]


@pytest.mark.parametrize(
    ("body", "status", "part"),
    [
        (b"", 400, "not JSON"),
        (b"{", 400, "not JSON"),
        (b'{"rows": [{"area": NaN}]}', 400, "not JSON"),
        (b'{"rows": [{"area": "\\ud800"}]}', 400, "not JSON"),
        (b"[]", 400, "an object with the fields rows, options"),
        (b"{}", 400, "has no 'rows'"),
        (b'{"rows": [], "option": {}}', 422, "Did you mean 'options'"),
        (b'{"rows": {}}', 422, "a list of objects"),
        (b'{"rows": [1, {}]}', 422, "row 1 is a number"),
        (b'{"rows": [{}], "options": {"beams": 3}}', 422, "unknown option 'beams'"),
        (b'{"rows": [{}], "options": [1]}', 422, "options are an object"),
        (b'{"rows": [{"area": ' + b"[" * 100 + b"]" * 100 + b"}]}", 422, "nested deeper"),
        (b'{"rows": ' + b"[" * 100_000, 400, "not JSON"),
        (json.dumps({"rows": [{}] * (MOST_ROWS + 1)}).encode(), 413, "more than one request may hold"),
    ],
)
def test_what_cannot_be_read_is_refused_in_one_sentence(http, body, status, part):
    answer = http.post("/predict/dear", content=body)
    assert answer.status_code == status
    assert part in answer.json()["error"]


def test_unknown_names_paths_and_methods(http):
    answer = http.post("/predict/deer", json={"rows": [ROW]})
    assert (answer.status_code, answer.headers["content-type"]) == (404, "application/json")
    assert "Did you mean 'dear'" in answer.json()["error"]
    assert http.get("/nowhere").status_code == 404
    assert http.get("/predict/dear").status_code == 405
    assert "error" in http.get("/predict/dear").json()
    for path in ("..%2f..%2fetc%2fpasswd", "%2e%2e", "a\\b", "dear/../rent"):
        assert http.post(f"/predict/{path}", json={"rows": []}).status_code in (404, 200)


def test_an_uploaded_file_answers_as_its_rows(http, table_data, table_run):
    expected = [p["prediction"] for p in table_run.model.predict(str(table_data))]
    data = table_data.read_bytes()
    encoded = table_data.read_text(encoding="utf-8").encode("gb18030")
    for name, content in (("flats.csv", data), ("flats.CSV", encoded)):
        answer = http.post("/predict/dear", files={"file": (name, content)})
        assert [p["prediction"] for p in answer.json()["predictions"]] == expected
    lines = f"{json.dumps(ROW, ensure_ascii=False)}\n\n{json.dumps(ROW)}\n".encode()
    assert len(http.post("/predict/dear", files={"file": ("a.jsonl", lines)}).json()["predictions"]) == 2
    for name, content, part in (
        ("a.csv", b"area,rooms\n1,2\n", "城区"),
        ("a.csv", b"area,rooms\n1\n", "differs from the header"),
        ("a.exe", b"MZ", "do not know how to read"),
        ("a.png", b"\x89PNG", "takes 3 columns"),
        ("a.jsonl", b'{"area": 1}\n{', "line 2"),
    ):
        answer = http.post("/predict/dear", files={"file": (name, content)})
        assert answer.status_code in (400, 422)
        assert part in answer.json()["error"]
    assert "no file" in http.post("/predict/dear", files={"other": ("a.csv", b"x")}).json()["error"]
    assert http.post("/predict/dear", content=b"x", headers={"Content-Type": "multipart/form-data"}).status_code == 400


def test_fifty_requests_at_once_of_two_models_answer_as_alone(http):
    def ask(i):
        name = ("dear", "rent")[i % 2]
        rows = [{"area": 20 + i + j, "rooms": j % 5 + 1, "城区": "海淀" if (i + j) % 3 else "浦东"} for j in range(i % 7 + 1)]
        if i % 10 == 9:
            rows[0]["area"] = "poison"
        return http.post(f"/predict/{name}", json={"rows": rows})

    alone = [ask(i) for i in range(50)]
    with ThreadPoolExecutor(50) as pool:
        together = list(pool.map(ask, range(50)))
    assert [a.status_code for a in together] == [422 if i % 10 == 9 else 200 for i in range(50)]
    for a, b in zip(alone, together, strict=True):
        for one, other in zip(a.json().get("predictions", []), b.json().get("predictions", []), strict=True):
            value = one["prediction"]
            assert other["prediction"] == (value if isinstance(value, str) else pytest.approx(value, rel=1e-5))
            assert other.get("score") == pytest.approx(one.get("score"), abs=1e-5)


def test_equal_weights_share_one_session(table_run, monkeypatch):
    from mainstem.runtimes import _widths

    opened, real = [], _widths.sessions
    monkeypatch.setattr(_widths, "sessions", lambda data, widths: opened.append(widths) or real(data, widths))
    models = Models({"a": table_run.path, "b": table_run.path / "model"})
    with client(models) as http:
        wait_until_ready(http)
        assert len(opened) == len(models.by_name["a"].pipeline.artifact.graphs)
        assert len({http.post(f"/predict/{name}", json={"rows": [ROW]}).text for name in ("a", "b")}) == 1


OPEN = {"/health", "/v2/health/live", "/v2/health/ready", "/", "/playground.js", "/playground.css"}


def test_with_a_token_every_route_but_health_and_the_empty_page_asks_for_it(table_run):
    models = Models({"dear": table_run.path})
    app = build(models, token="秘密s3cret")
    with TestClient(app, base_url="http://any.example") as http:
        right = {"Authorization": "Bearer 秘密s3cret".encode()}
        wait_until_ready(http, right)
        assert {route.path for route in app.routes if route.access is Access.OPEN} == OPEN
        for route in app.routes:
            method = next(iter(route.methods - {"HEAD"}))
            path = route.path.replace("{name}", "dear").replace("{version}", "1")
            for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "秘密s3cret".encode()}):
                answer = http.request(method, path, headers=headers)
                assert answer.status_code == (200 if route.path in OPEN else 401), path
        assert http.post("/predict/dear", json={"rows": [ROW]}, headers=right).status_code == 200


def test_without_a_token_only_this_machine_is_answered(table_run):
    with pytest.raises(MainstemError, match="no token"):
        check_host("0.0.0.0", "")
    with pytest.raises(MainstemError, match="no token"):
        check_host("example.org", "")
    check_host("0.0.0.0", "token")
    for host in ("127.0.0.1", "::1", "localhost", "127.1.2.3"):
        check_host(host, "")
    with client(Models({"dear": table_run.path})) as http:
        assert http.get("/health", headers={"Host": "attacker.example"}).status_code == 403
        assert http.get("/health", headers={"Host": "localhost:8000"}).status_code == 200
        assert http.get("/health", headers={"Host": "[::1]:8000"}).status_code == 200
        assert "access-control-allow-origin" not in http.get("/health", headers={"Origin": "http://x.example"}).headers


def test_a_body_that_is_too_large_is_cut_off(table_run):
    with client(Models({"dear": table_run.path}), manners=Manners(limits=Limits(body=1000))) as http:
        wait_until_ready(http)
        assert http.post("/predict/dear", content=b" " * 2000).status_code == 413
        chunks = (b" " * 300 for _ in range(10))  # no Content-Length
        answer = http.post("/predict/dear", content=chunks)
        assert (answer.status_code, "larger" in answer.json()["error"]) == (413, True)
        upload = http.post("/predict/dear", files={"file": ("a.csv", b"x" * 5000)})
        assert upload.status_code == 413


def test_docs_describe_the_models_and_load_nothing(http):
    described = http.get("/openapi.json").json()
    row = described["components"]["schemas"]["dear.row"]
    assert set(row["properties"]) == {"area", "rooms", "城区"}
    assert described["components"]["schemas"]["dear.prediction"]["properties"]["prediction"]["enum"] == ["便宜", "贵"]
    example = described["paths"]["/predict/dear"]["post"]["requestBody"]["content"]["application/json"]["example"]
    assert http.post("/predict/dear", json=example).status_code == 200
    page = http.get("/docs")
    assert "城区" in page.text
    assert "src=" not in page.text
    assert "http://" not in page.text.replace("http://HOST:PORT", "")
    assert "default-src 'none'" in page.headers["content-security-policy"]


def test_a_model_that_differs_from_its_replay_is_never_ready(table_run, number_run, tmp_path):
    models = Models({"dear": table_run.path, "rent": number_run.path})
    served, heard = models.by_name["dear"], []
    real = served.scheduler.ask

    def ask(graph, call, ticket):
        answer = real(graph, call, ticket)

        async def altered():
            return {name: array + 0.1 for name, array in (await answer).items()}

        return asyncio.ensure_future(altered()) if graph is served.graphs["head"] else answer

    served.scheduler.ask = ask
    with client(models, failed=heard.append) as http:
        assert models.done.wait(20)
        answer = http.get("/ready")
        assert answer.status_code == 503
        assert "stage call head" in answer.json()["models"]["dear"]
        assert http.post("/predict/dear", json={"rows": [ROW]}).status_code == 503
        assert http.post("/predict/rent", json={"rows": [ROW]}).status_code == 200
    assert len(heard) == 1


def test_before_the_replay_nothing_is_answered(table_run):
    models = Models({"dear": table_run.path})
    models.replay = lambda failed: None
    with client(models) as http:
        assert http.get("/ready").status_code == 503
        answer = http.post("/predict/dear", json={"rows": [ROW]})
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")


def test_a_changed_folder_is_not_opened(table_run, tmp_path):
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(table_run.path / "model", copy)
    (copy / "card.md").write_text("changed")
    with pytest.raises(MainstemError, match=r"card\.md: changed"):
        Models({"a": copy})
    with pytest.raises(MainstemError, match="not allowed"):
        Models({"../a": table_run.path})
    assert files.broken(table_run.path / "model") == []


def test_a_task_brings_its_own_routes(table_run):
    models = Models({"dear": table_run.path})

    async def labels(request, served):
        return reply(served.pipeline.artifact.state.json["labels"])

    models.by_name["dear"].pipeline.task.routes = (TaskRoute("/labels", ("GET",), labels),)
    with client(models) as http:
        wait_until_ready(http)
        assert http.get("/predict/dear/labels").json() == ["便宜", "贵"]
        assert "/predict/dear/labels" in http.get("/openapi.json").json()["paths"]


def test_a_bug_costs_one_request(http):
    models = http.app.state.models
    pipeline = models.by_name["dear"].pipeline
    real = pipeline.render
    pipeline.render = lambda prediction: 1 / 0
    try:
        answer = http.post("/predict/dear", json={"rows": [ROW]})
    finally:
        pipeline.render = real
    assert (answer.status_code, "ZeroDivision" in answer.text) == (500, False)
    assert http.post("/predict/dear", json={"rows": [ROW]}).status_code == 200

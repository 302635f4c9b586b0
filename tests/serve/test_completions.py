"""`/v1/completions`, asked by the client of OpenAI's own package."""

import asyncio
import gc
import json
import time
from concurrent.futures import ThreadPoolExecutor

import openai
import pytest
from starlette.testclient import TestClient

from mainstem.contracts import Emit, Rows
from mainstem.serve.app import build
from mainstem.serve.models import Models

PROMPTS = ["The film", "A long book fell apart and", "这部电影"]
LONG = {"max_tokens": 12, "extra_body": {"min_tokens": 12}}


@pytest.fixture(scope="module")
def http(writer_run, table_run):
    models = Models({"writer": writer_run.path, "other": writer_run.path, "dear": table_run.path})
    with TestClient(build(models), base_url="http://127.0.0.1") as made:
        assert models.done.wait(60)
        assert models.ready
        yield made


@pytest.fixture(scope="module")
def client(http):
    return openai.OpenAI(base_url="http://127.0.0.1/v1", api_key="none", http_client=http, max_retries=0)


def greedy(writer_run, prompts, **options):
    return [answer["prediction"] for answer in writer_run.model.predict(prompts, options=options)]


def test_a_completion_is_what_predict_answers(client, writer_run):
    made = client.completions.create(model="writer", prompt=PROMPTS, temperature=0, **LONG)
    assert [choice.text for choice in made.choices] == greedy(writer_run, PROMPTS, max_tokens=12, min_tokens=12)
    assert [choice.index for choice in made.choices] == [0, 1, 2]
    assert {choice.finish_reason for choice in made.choices} == {"length"}
    assert (made.model, made.object) == ("writer", "text_completion")
    assert made.usage.completion_tokens == 36
    assert made.usage.total_tokens == made.usage.prompt_tokens + 36


def test_a_stream_is_the_same_in_parts(client, writer_run):
    parts = list(
        client.completions.create(
            model="writer", prompt=PROMPTS, temperature=0, stream=True, stream_options={"include_usage": True}, **LONG
        )
    )
    assert parts[-1].usage.completion_tokens == 36
    choices = [part.choices[0] for part in parts[:-1]]
    texts = ["".join(choice.text for choice in choices if choice.index == i) for i in range(3)]
    assert texts == greedy(writer_run, PROMPTS, max_tokens=12, min_tokens=12)
    assert [choice.finish_reason for choice in choices[-3:]] == ["length"] * 3
    assert len({part.id for part in parts}) == 1
    assert len(choices) > 12


def test_drawing_follows_the_seed_and_without_one_differs(client):
    def drawn(**more):
        return client.completions.create(model="writer", prompt="The film", temperature=1.5, **LONG, **more).choices[0].text

    assert drawn(seed=4) == drawn(seed=4)
    assert len({drawn() for _ in range(6)}) > 1


def test_stop_and_the_ends_of_texts(client, writer_run):
    [whole] = greedy(writer_run, ["The film"], max_tokens=12, min_tokens=12)
    made = client.completions.create(model="writer", prompt="The film", temperature=0, stop=[whole[3:5]], **LONG)
    assert (made.choices[0].text, made.choices[0].finish_reason) == (whole[: whole.index(whole[3:5])], "stop")


@pytest.mark.parametrize(
    ("asked", "status", "part"),
    [
        ({"model": "writter"}, 404, "Did you mean 'writer'"),
        ({"model": "dear"}, 404, "no model that generates text is served as 'dear'"),
        ({"prompt": [[1, 2]]}, 422, "a text or a list of texts"),
        ({"prompt": []}, 422, "a text or a list of texts"),
        ({"prompt": ["x"] * 65}, 422, "65 prompts are more"),
        ({"max_tokens": 0}, 422, "'max_tokens' is a whole number from 1 on"),
        ({"max_tokens": 0, "stream": True}, 422, "'max_tokens' is a whole number from 1 on"),
        ({"max_tokens": 100}, 422, "more than the 40 that the model reads"),
        ({"temperature": -1}, 422, "'temperature' is a number from 0 on"),
        ({"n": 2}, 422, "'n' is not supported"),
        ({"echo": True}, 422, "'echo' is not supported"),
        ({"extra_body": {"tempratur": 1}}, 422, "Did you mean 'temperature'"),
        ({"extra_body": {"top_k": "3"}}, 422, "'top_k' cannot be '3'"),
        ({"extra_body": {"stream": 1}}, 422, "'stream' cannot be 1"),
    ],
)
def test_what_is_wrong_is_told_in_one_sentence(client, asked, status, part):
    with pytest.raises(openai.APIStatusError) as raised:
        client.completions.create(**{"model": "writer", "prompt": "x", **asked})
    assert raised.value.status_code == status
    assert part in str(raised.value)


@pytest.mark.parametrize(
    ("body", "part"), [(b"{", "not JSON"), (b"[]", "the body is an object"), (b'{"prompt": "x"}', "no model is named")]
)
def test_bodies_that_no_client_sends(http, body, part):
    answer = http.post("/v1/completions", content=body)
    assert answer.status_code in (400, 422)
    assert part in answer.json()["error"]["message"]


def test_what_asks_for_nothing_is_taken(client):
    made = client.completions.create(
        model="writer", prompt="x", n=1, best_of=1, echo=False, presence_penalty=0, logprobs=None, suffix=None, user="u"
    )
    assert made.choices[0].finish_reason in ("stop", "length")


def test_many_at_once_answer_as_alone(client, http):
    """Prompts of differing lengths, of two models of equal graphs, that start and end at different times."""

    def ask(i):
        prompt = "The film was a joy and "[: 3 + 5 * (i % 4)]
        made = client.completions.create(model=("writer", "other")[i % 2], prompt=prompt, max_tokens=4 + i % 9, temperature=0.8, seed=i)
        return made.choices[0].text

    scheduler = http.app.state.models.scheduler
    alone, before = [ask(i) for i in range(16)], (scheduler.calls, scheduler.runs)
    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(ask, range(16))) == alone
    assert scheduler.runs - before[1] < scheduler.calls - before[0]  # some steps of several requests ran as one


def test_rows_of_the_plain_route_take_the_same_options(http, writer_run):
    answer = http.post("/predict/writer", json={"rows": [{"text": "The film"}], "options": {"max_tokens": 3, "stop": "x"}})
    assert answer.json()["predictions"][0]["prediction"] == greedy(writer_run, ["The film"], max_tokens=3, stop=["x"])[0]
    assert http.post("/predict/writer", json={"rows": [{"text": "x"}], "options": {"top_p": 3}}).status_code == 422


def test_the_route_is_described_and_asks_for_the_token(http, writer_run):
    assert "/v1/completions" in http.get("/openapi.json").json()["paths"]
    models = Models({"writer": writer_run.path})
    with TestClient(build(models, token="secret"), base_url="http://any.example") as guarded:
        assert models.done.wait(60)
        asked = {"model": "writer", "prompt": "x", "max_tokens": 2}
        assert guarded.post("/v1/completions", json=asked).status_code == 401
        client = openai.OpenAI(base_url="http://any.example/v1", api_key="secret", http_client=guarded)
        assert client.completions.create(**asked).usage.completion_tokens <= 2


def test_before_the_replay_nothing_is_answered(writer_run):
    models = Models({"writer": writer_run.path})
    models.replay = lambda failed: None
    with TestClient(build(models), base_url="http://127.0.0.1") as http:
        answer = http.post("/v1/completions", json={"model": "writer", "prompt": "x"})
    assert (answer.status_code, "not ready" in answer.json()["error"]["message"]) == (503, True)


def test_an_error_on_the_way_ends_the_stream_with_a_sentence(http):
    served = http.app.state.models.by_name["other"]
    real, calls = served.scheduler.ask, []

    def breaking(graph, call, ticket):
        calls.append(call)
        answer, broken = real(graph, call, ticket), len(calls) > 2

        async def altered():
            made = dict(await answer)
            return {**made, "logits": made["logits"] * float("nan")} if broken else made

        return asyncio.ensure_future(altered())

    served.scheduler.ask = breaking
    try:
        told = http.post("/v1/completions", json={"model": "other", "prompt": "The film", "stream": True, "max_tokens": 9}).text
    finally:
        served.scheduler.ask = real
    events = [line.removeprefix("data: ") for line in told.splitlines() if line]
    assert "not a number" in json.loads(events[-1])["error"]["message"]


def test_a_stream_that_takes_too_long_ends_with_a_sentence_and_its_work(http):
    served = http.app.state.models.by_name["other"]
    scheduler, calls = served.scheduler, []
    real, timeout = scheduler.ask, scheduler.timeout

    def slow(graph, call, ticket):
        calls.append(call)

        async def later():
            await asyncio.sleep(0.05)
            return await real(graph, call, ticket)

        return asyncio.ensure_future(later())

    scheduler.ask, scheduler.timeout = slow, 0.3
    try:
        told = http.post(
            "/v1/completions", json={"model": "other", "prompt": "The film", "stream": True, "max_tokens": 30, "min_tokens": 30}
        ).text
        asked = len(calls)
        time.sleep(0.2)
    finally:
        scheduler.ask, scheduler.timeout = real, timeout
    events = [json.loads(line.removeprefix("data: ")) for line in told.splitlines() if line]
    assert "choices" in events[0]  # what was final by then was sent
    assert "no answer within 0.3 seconds" in events[-1]["error"]["message"]
    assert asked == len(calls) < 10  # of 30
    assert scheduler.requests == 0


def test_a_stream_that_is_closed_stops_the_work(http):
    served = http.app.state.models.by_name["writer"]

    async def listen():
        parts = served.stream(Rows({"text": ["The film"]}), {"max_tokens": 30, "min_tokens": 30})
        first = await anext(parts)
        await parts.aclose()
        return first

    before = served.scheduler.calls
    assert isinstance(http.portal.call(listen), Emit)
    time.sleep(0.3)
    assert served.scheduler.calls - before < 20
    assert served.scheduler.requests == 0


def test_caches_are_let_go_of(http, client):
    """What a text keeps in the engine goes with it."""
    [line] = {served.line for served in http.app.state.models if served.name != "dear"}
    client.completions.create(model="writer", prompt=PROMPTS, temperature=0, **LONG)
    gc.collect()
    assert not line.engine.engine._kept

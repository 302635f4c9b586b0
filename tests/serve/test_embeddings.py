"""`/v1/embeddings` and `/v1/models`, asked by the client of OpenAI's own package."""

import base64

import numpy as np
import openai
import pytest
from starlette.testclient import TestClient

from mainstem.serve.app import build
from mainstem.serve.models import Models

TEXTS = ["some words", "一些词 and words", ""]


@pytest.fixture(scope="module")
def http(embedder, table_run):
    models = Models({"embed": embedder.path, "dear": table_run.path})
    with TestClient(build(models), base_url="http://127.0.0.1") as made:
        assert models.done.wait(60)
        yield made


@pytest.fixture(scope="module")
def client(http):
    return openai.OpenAI(base_url="http://127.0.0.1/v1", api_key="none", http_client=http, max_retries=0)


@pytest.mark.parametrize("form", ["float", "base64", None])
def test_vectors_are_those_of_predict(client, embedder, form):
    more = {"encoding_format": form} if form else {}
    made = client.embeddings.create(model="embed", input=TEXTS, **more)
    expected = embedder.predict(TEXTS)
    for i, (each, answer) in enumerate(zip(made.data, expected, strict=True)):
        vector = np.frombuffer(base64.b64decode(each.embedding), "<f4") if isinstance(each.embedding, str) else each.embedding
        assert (each.index, each.object) == (i, "embedding")
        assert vector == pytest.approx(answer["prediction"], abs=1e-6)
    assert made.usage.prompt_tokens == made.usage.total_tokens == sum(answer["tokens"] for answer in expected)
    assert (made.model, made.object) == ("embed", "list")


def test_one_text_is_a_list_of_one(client, embedder):
    made = client.embeddings.create(model="embed", input="some words", dimensions=16, user="u")
    assert made.data[0].embedding == pytest.approx(embedder.predict(["some words"])[0]["prediction"], abs=1e-6)


def test_models_are_listed(client):
    assert {model.id for model in client.models.list()} == {"embed", "dear"}
    assert client.models.retrieve("embed").owned_by == "mainstem"
    with pytest.raises(openai.NotFoundError, match="Did you mean 'embed'"):
        client.models.retrieve("embedd")


@pytest.mark.parametrize(
    ("asked", "status", "part"),
    [
        ({"model": "embedd"}, 404, "Did you mean 'embed'"),
        ({"model": "dear"}, 404, "no model that embeds is served as 'dear'"),
        ({"input": [[1, 2]]}, 422, "tokens are not taken"),
        ({"input": []}, 422, "a text or a list of texts"),
        ({"input": ["x"] * 2049}, 422, "2,049 inputs are more"),
        ({"dimensions": 8}, 422, "have 16 dimensions, and are not cut"),
        ({"encoding_format": "int8"}, 422, "float or base64"),
        ({"extra_body": {"inputs": "x"}}, 422, "Did you mean 'input'"),
    ],
)
def test_what_is_wrong_is_told_in_one_sentence(client, asked, status, part):
    with pytest.raises(openai.APIStatusError) as raised:
        client.embeddings.create(**{"model": "embed", "input": "x", **asked})
    assert (raised.value.status_code, part in str(raised.value)) == (status, True), raised.value


def test_it_answers_the_plain_route_as_well(http, embedder):
    answer = http.post("/predict/embed", json={"rows": [{"text": "some words"}], "options": {"normalize": False}})
    expected = embedder.predict(["some words"], options={"normalize": False})
    assert answer.json()["predictions"][0]["prediction"] == pytest.approx(expected[0]["prediction"], abs=1e-5)
    infer = {"inputs": [{"name": "text", "datatype": "BYTES", "shape": [2], "data": ["a", "b"]}]}
    outputs = http.post("/v2/models/embed/infer", json=infer).json()["outputs"]
    assert (outputs[0]["datatype"], outputs[0]["shape"]) == ("FP32", [2, 16])

"""Five tiny tasks that stretch the contracts, each from data to a served answer by the same loop, exporter, seal and server.

The replay that a model is sealed with was recorded on PyTorch; `verify`, `predict` and the server run on ONNX Runtime.
"""

import asyncio
import io
import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

import mainstem as ms
from mainstem import seal
from mainstem.contracts import Rows
from mainstem.errors import MainstemError
from mainstem.serve.app import build
from mainstem.serve.models import Models

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255), "white": (255, 255, 255), "black": (0, 0, 0)}
CENTRE, SPREAD = (2.0, -1.0), (0.5, 0.2)


def sentences(rng):
    said = [rng.integers(0, 5, rng.integers(1, 4)) for _ in range(240)]
    return [{"letters": "".join("abcde"[i] for i in row), "digits": "".join("12345"[i] for i in row)} for row in said]


def points(rng):
    return [{"x": float(x), "y": float(y)} for x, y in rng.normal(CENTRE, SPREAD, (300, 2))]


def quarters(rng):
    return [{"x": float(x), "y": float(y), "quarter": f"q{int(x > 0)}{int(y > 0)}"} for x, y in rng.uniform(-1, 1, (200, 2))]


def scenes(rng):
    rows = []
    for a, b, c, d in rng.uniform(-1, 1, (300, 4)).round(3).tolist():
        boxes = [(a, b, a + 2, b + 2), (c, d, c + 3, d + 2)][: 1 + (c > 0)]
        rows.append({"a": a, "b": b, "c": c, "d": d, "boxes": "; ".join(" ".join(map(str, box)) for box in boxes)})
    return rows


def pictures(rng):
    rows = []
    for i in range(160):
        name = list(COLOURS)[i % 5]
        pixels = np.clip(np.array(COLOURS[name]) + rng.integers(-60, 60, (16, 16, 3)), 0, 255).astype(np.uint8)
        stream = io.BytesIO()
        Image.fromarray(pixels).save(stream, "PNG")
        rows.append({"words": f"{name} number {i}", "picture": stream.getvalue()})
    return rows


TOWERS = {
    "name": "towers",
    "inputs": [
        {"name": "caption", "columns": ["words"], "backbone": "ngram", "settings": {"buckets": 4096, "dim": 16}},
        {"name": "picture", "columns": ["picture"], "backbone": "cnn", "settings": {"size": 16, "width": 8}},
    ],
    "training": {"optimizer": "adam", "lr": 0.01, "batch_size": 32, "epochs": 6},
}
PROBES = {
    "probe_beam": (
        sentences,
        {"target": "digits", "input": "source=letters", "epochs": 25, "lr": 0.01, "batch_size": 32, "schedule": "cosine"},
    ),
    "probe_gan": (points, {"epochs": 60, "lr": 0.005, "optimizer": "adam", "training__betas": (0.5, 0.9), "schedule": "cosine"}),
    "probe_incontext": (quarters, {"target": "quarter"}),
    "probe_boxes": (scenes, {"target": "boxes", "epochs": 60, "lr": 0.005}),
    "probe_towers": (pictures, {"input": {"caption": "words", "picture": "picture"}, "config": {"candidates": [TOWERS]}}),
}


def unseen(name, rows=12):
    return PROBES[name][0](np.random.default_rng(1))[:rows]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Probe name → its run, trained once."""
    runs = {}

    def train(name):
        if name not in runs:
            make, settings = PROBES[name]
            runs[name] = ms.train(make(np.random.default_rng(0)), task=name, out=tmp_path_factory.mktemp(name) / "run", **settings)
        return runs[name]

    return train


def asked(model, name):
    """Rows that the model has not seen, with the columns that it reads and no others."""
    names = [column.name for column in model.pipeline.artifact.schema.columns]
    return [{key: row[key] for key in names} for row in unseen(name)]


def same(model, a, b):
    """Whether two rendered answers are equal, as the task itself sees it."""
    return model.pipeline.task.differ(seal.as_prediction(a), seal.as_prediction(b)) <= model.pipeline.task.tolerance


@pytest.mark.parametrize("name", PROBES)
def test_is_sealed_on_every_graph(name, trained):
    run = trained(name)
    sealed = json.loads((run.model.path / "seal.json").read_bytes())
    graphs = {f"call {graph}" for graph in run.model.pipeline.artifact.graphs}
    assert set(sealed["worst"]) == {"parse", "encode", "decode", *graphs}
    assert sealed["rows"] >= 20
    assert sealed["worst"]["encode"] == 0
    assert max(sealed["worst"].values()) < 1e-3
    assert run.model.verify()["rows"] == sealed["rows"]


@pytest.mark.parametrize("name", PROBES)
def test_answers_do_not_depend_on_the_batch(name, trained):
    model = trained(name).model
    rows = asked(model, name)
    together = model.predict(rows)
    for row, answer in zip(rows, together, strict=True):
        assert same(model, answer, model.predict([row])[0])


@pytest.mark.parametrize("name", PROBES)
def test_merged_with_other_requests_it_answers_the_same(name, trained):
    model = trained(name).model
    rows = asked(model, name)

    async def run():
        models = Models({"m": model.path})
        async with models.running():
            await asyncio.to_thread(models.done.wait)
            served, scheduler = models.find("m"), models.scheduler
            calls, runs = scheduler.calls, scheduler.runs
            answers = await asyncio.gather(*(served.answer(None, Rows({key: [cell] for key, cell in row.items()}), {}) for row in rows))
            return [answer for [answer] in answers], scheduler.calls - calls, scheduler.runs - runs

    answers, calls, runs = asyncio.run(run())
    for lone, merged in zip(model.predict(rows), answers, strict=True):
        assert not isinstance(merged, MainstemError)
        assert same(model, lone, model.pipeline.render(merged))
    assert runs < calls


def test_are_served_side_by_side(trained):
    models = Models({name.replace("_", "-"): trained(name).model.path for name in PROBES})
    with TestClient(build(models), base_url="http://127.0.0.1") as client:
        assert models.done.wait(30)
        assert client.get("/ready").json() == {"ready": True, "models": {name.replace("_", "-"): "replayed" for name in PROBES}}

        def ask(name):
            rows = [{key: seal._sent(cell) for key, cell in row.items()} for row in asked(trained(name).model, name)]
            return client.post(f"/predict/{name.replace('_', '-')}", json={"rows": rows})

        with ThreadPoolExecutor(len(PROBES)) as pool:
            answers = dict(zip(PROBES, pool.map(ask, PROBES), strict=True))
    for name, answer in answers.items():
        assert answer.status_code == 200, answer.text
        model = trained(name).model
        expected = model.predict(asked(model, name))
        assert all(same(model, a, b) for a, b in zip(expected, answer.json()["predictions"], strict=True))


# --- each has learned what it is for ----------------------------------------------------------------------------------


def test_beam_search_translates(trained):
    rows = unseen("probe_beam", 60)
    answers = trained("probe_beam").model.predict(rows)
    assert np.mean([row["digits"] == answer["prediction"] for row, answer in zip(rows, answers, strict=True)]) > 0.85


def test_a_wider_beam_is_an_option(trained):
    model = trained("probe_beam").model
    rows = asked(model, "probe_beam")
    assert [a["prediction"] for a in model.predict(rows, options={"beams": 1, "longest": 2})] != model.predict(rows)


def test_the_gan_makes_rows_like_those_it_saw(trained):
    model = trained("probe_gan").model
    made = np.array([answer["prediction"] for answer in model.predict(asked(model, "probe_gan") + points(np.random.default_rng(2)))])
    assert np.abs(made.mean(0) - CENTRE).max() < 0.7  # untrained, it is 2 away
    assert made.std(0).min() > 0.02
    assert len({tuple(row) for row in made.tolist()}) == len(made)  # every row has noise of its own


def test_the_table_answers_from_the_rows_it_stores(trained):
    run = trained("probe_incontext")
    assert run.report["metrics"]["accuracy"]["value"] > 0.8
    state, rows = run.model.pipeline.artifact.state, run.model.pipeline.artifact.about["rows"]
    assert state.arrays["context"].shape == (rows["train"] + rows["valid"], 2)
    assert state.json["labels"] == ["q00", "q01", "q10", "q11"]


def test_boxes_are_found_where_they_are(trained):
    model, rows = trained("probe_boxes").model, unseen("probe_boxes", 60)
    found = [answer["prediction"] for answer in model.predict(rows)]
    truth = [[list(map(float, box.split())) for box in row["boxes"].split(";")] for row in rows]
    assert np.mean([len(a) == len(b) for a, b in zip(found, truth, strict=True)]) > 0.8
    assert {len(boxes) for boxes in found} == {1, 2}
    assert np.mean([same_place(a[0], b[0]) for a, b in zip(found, truth, strict=True) if a]) > 0.8


def same_place(a, b):
    return np.abs(np.subtract(a, b)).max() < 0.3


def test_towers_agree_on_what_belongs_together(trained):
    model, rows = trained("probe_towers").model, unseen("probe_towers", 20)
    moved = [{**row, "picture": other["picture"]} for row, other in zip(rows, [*rows[1:], rows[0]], strict=True)]
    right, wrong = ([answer["prediction"] for answer in model.predict(each)] for each in (rows, moved))
    assert np.mean(right) > np.mean(wrong) + 0.3


# --- what a user can get wrong ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"task": "probe_beam", "target": "digits"}, "reads 'source' (text), and no column is named 'source'"),
        ({"task": "probe_beam", "target": "digits", "input": "sauce=letters"}, "has no input 'sauce'. Did you mean 'source'?"),
        ({"task": "probe_beam", "input": "source=letters"}, "no target is named"),
        ({"task": "probe_gan", "target": "digits"}, "has no target, and 'digits' is named"),
        ({"task": "probe_bean", "target": "digits"}, "Did you mean 'probe_beam'?"),
    ],
)
def test_mistakes_are_told(settings, said, tmp_path):
    with pytest.raises(MainstemError) as raised:
        ms.train(sentences(np.random.default_rng(0)), out=tmp_path / "run", **settings)
    assert said in str(raised.value)

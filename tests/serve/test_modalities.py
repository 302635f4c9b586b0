"""Pictures over one backbone, and tables in context, by a server as it is started: every answer is that of its model alone."""

import base64
import contextlib
import json
import re
import signal
import subprocess
import sys
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from sklearn.datasets import load_wine
from small_pictures import write_pictures

import mainstem as ms
from mainstem import registry

TOLERANCE = 1e-5


@contextlib.contextmanager
def served(models):
    """The address of a server of these models, each backbone in a process of its own."""
    named = [f"{name}={run.path}" for name, run in models.items()]
    process = subprocess.Popen([sys.executable, "-m", "mainstem", "serve", *named, "--port", "0"], stderr=subprocess.PIPE, text=True)
    try:
        for line in process.stderr:
            if found := re.match(r"(https?://[^/]+)/docs", line):
                url = found[1]
            if line.startswith("ready"):
                break
        yield url
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=20)


def ask(url, path, body=None):
    data = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(urllib.request.Request(url + path, data, {"Content-Type": "application/json"}), timeout=30) as answer:
        return answer.read().decode()


def runs(url):
    """Runs of backbones until now, and the rows in them."""
    metrics = ask(url, "/metrics")
    found = [re.findall(rf'^mainstem_batch_rows_{what}{{graph="backbone[^}}]*}} (\S+)', metrics, re.M) for what in ("count", "sum")]
    return tuple(sum(map(float, each)) for each in found)


def same(given, alone):
    for one, other in zip(given, alone, strict=True):
        label = isinstance(other["prediction"], str)
        assert one["prediction"] == (other["prediction"] if label else pytest.approx(other["prediction"], rel=TOLERANCE, abs=TOLERANCE))
        assert one.get("scores") == pytest.approx(other.get("scores"), abs=TOLERANCE)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Files of pictures, by their label."""
    folder = write_pictures(tmp_path_factory.mktemp("pictures"))
    return [{"image": str(path), "where": path.parent.name} for path in sorted(folder.rglob("*.png"))]


@pytest.fixture(scope="module")
def vit(tmp_path_factory):
    """A small vision transformer of random weights, as a folder."""
    import torch

    ref = replace(registry.resolve("vit-tiny"), settings={"size": 8})
    plugin = registry.load("backbones", "vit").plugin
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("vit")
    for name, content in plugin.save(plugin.build(ref), ref).items():
        (folder / name).write_bytes(content)
    return folder


def trained(rows, answer, vit, out, adapt, rank=8):
    network = {"name": "image", "columns": ["image"], "backbone": str(vit), "adapt": adapt, "lora": {"rank": rank}}
    training = {"epochs": 2, "batch_size": 12, "lr": 0.01}
    config = {"candidates": [{"name": adapt, "inputs": [network], "training": training}]}
    return ms.train(rows, answer, inputs=["image"], config=config, out=out)


@pytest.fixture(scope="module")
def picture_runs(pictures, vit, tmp_path_factory):
    """By kind of adaptation, two models each: another answer, and of adapters another rank."""
    folder = tmp_path_factory.mktemp("runs")
    rows = [{**row, "bright": 1.5 if row["where"] == "above" else -0.5} for row in pictures]
    return {
        kind: {
            "where": trained(rows, "where", vit, folder / f"where-{kind}", kind, rank=2),
            "bright": trained(rows, "bright", vit, folder / f"bright-{kind}", kind, rank=5),
        }
        for kind in ("probe", "lora")
    }


def encoded(row):
    with open(row["image"], "rb") as stream:
        return {"image": base64.b64encode(stream.read()).decode()}


def test_one_pass_answers_all_probes_of_a_picture(picture_runs, pictures):
    models, rows = picture_runs["probe"], [{"image": row["image"]} for row in pictures[:3]]
    with served(models) as url:
        before = runs(url)
        told = json.loads(ask(url, "/predict", {"tasks": "*", "rows": [encoded(row) for row in rows]}))["answers"]
        after = runs(url)
    assert after[1] - before[1] == len(rows)  # each row went through the backbone once, for both
    for name, run in models.items():
        same(told[name]["predictions"], run.model.predict(rows))


def test_adapters_of_two_ranks_on_a_vision_transformer_share_batches(picture_runs, pictures):
    models, rows = picture_runs["lora"], [{"image": row["image"]} for row in pictures]
    asked = [(name, row) for row in rows for name in models]
    with served(models) as url:
        before = runs(url)
        with ThreadPoolExecutor(16) as pool:
            told = list(pool.map(lambda each: json.loads(ask(url, f"/predict/{each[0]}", {"rows": [encoded(each[1])]})), asked))
        after = runs(url)
    assert after[1] - before[1] == len(asked)
    assert after[0] - before[0] < len(asked)  # some ran together
    for name, run in models.items():
        same([each["predictions"][0] for each, (which, _) in zip(told, asked, strict=True) if which == name], run.model.predict(rows))


def test_tables_in_context_are_answered_together_as_alone(tmp_path):
    wine = load_wine(as_frame=True)
    columns = list(wine.data.columns[:4])
    rows = wine.data[columns].assign(kind=[str(k) for k in wine.target], colour=wine.data["color_intensity"])[::2]
    models = {name: ms.train(rows, name, inputs=columns, backbone="incontext", out=tmp_path / name) for name in ("kind", "colour")}
    asked = wine.data[columns][1:9:2].to_dict("records")
    with served(models) as url:
        told = json.loads(ask(url, "/predict", {"tasks": "*", "rows": asked}))["answers"]
    for name, run in models.items():
        same(told[name]["predictions"], run.model.predict(asked))

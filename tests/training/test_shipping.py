"""Models that adapt one backbone by LoRA ship its graph as it is, and their adapter beside it."""

import io
import json
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import peft
import pytest
import torch
from PIL import Image
from small_gpt import sentences
from starlette.testclient import TestClient

import mainstem as ms
from mainstem import artifact, registry, seal
from mainstem.backbones import hf, timm
from mainstem.contracts import Rows, Task
from mainstem.errors import MainstemError
from mainstem.runtimes import onnx
from mainstem.runtimes._calls import Bound
from mainstem.serve.app import build
from mainstem.serve.models import Models

GRAPH = "backbone.text"


@pytest.fixture(scope="module")
def runs(writer_run, tmp_path_factory):
    """Three models over one backbone by name: two with an adapter each, of other ranks, and one that leaves it as it is."""
    backbone = f"hf:{writer_run.path / 'model' / 'backbones' / 'text'}"
    rows = [{"text": text.upper() if i % 2 else text, "loud": "yes" if i % 2 else "no"} for i, text in enumerate(sentences(60))]
    out = tmp_path_factory.mktemp("runs")
    made = {}
    for name, adapt, rank in (("a", "lora", 2), ("b", "lora", 5), ("plain", "probe", 8)):
        each = {"name": "text", "columns": ["text"], "backbone": backbone, "adapt": adapt, "lora": {"rank": rank}}
        candidate = {"name": name, "inputs": [each], "training": {"optimizer": "adamw", "lr": 0.02, "epochs": 2, "batch_size": 16}}
        made[name] = ms.train(rows, "loud", config={"candidates": [candidate]}, seed=rank, out=out / name)
    return made


def test_the_graph_and_its_id_are_those_of_the_backbone_whatever_adapts_it(runs):
    assert len({(run.path / "model/onnx" / f"{GRAPH}.onnx").read_bytes() for run in runs.values()}) == 1
    told = {name: json.loads((run.path / "model/mainstem.json").read_bytes())["graphs"][GRAPH] for name, run in runs.items()}
    assert len({each["weights_id"] for each in told.values()}) == 1
    assert len({each["adapter_id"] for each in told.values()}) == 3
    assert [told[name]["adapter"] for name in ("a", "b", "plain")] == ["text", "text", ""]
    assert not (runs["plain"].path / "model/adapters").exists()


def test_one_session_serves_them_all_and_each_answers_as_it_was_sealed(runs):
    cache = {}
    opened = {name: seal.open_folder(artifact.find(run.path), cache) for name, run in runs.items()}
    backbones = {name: runner.functions[GRAPH] for name, (_, runner) in opened.items()}
    assert backbones["a"].function is backbones["b"].function is backbones["plain"]
    features = {}
    for name, (pipeline, runner) in opened.items():
        assert seal.compare(pipeline, runner, seal.read(artifact.find(runs[name].path)))["decode"] <= pipeline.task.tolerance
        batch = pipeline.encode(pipeline.parse(Rows({"text": sentences(3)}))[0])
        features[name] = backbones[name](batch.inputs["text"], ("last",))["last"]
    assert min(np.abs(features[x] - features[y]).max() for x, y in (("a", "b"), ("a", "plain"), ("b", "plain"))) > 1e-3


def both(backbone):
    """A model of two texts, each through a copy of one backbone with an adapter of its own, and rows for it."""
    inputs = [
        {"name": c, "columns": [c], "backbone": backbone, "adapt": "lora", "lora": {"rank": r}} for c, r in (("title", 2), ("body", 3))
    ]
    candidate = {"name": "both", "inputs": inputs, "training": {"optimizer": "adamw", "lr": 0.02, "epochs": 2, "batch_size": 16}}
    texts = sentences(60)
    rows = [
        {"title": text.upper() if i % 2 else text, "body": text if i % 3 else text.upper(), "loud": "yes" if i % 2 else "no"}
        for i, text in enumerate(texts)
    ]
    return rows, {"candidates": [candidate]}


def test_two_adapted_backbones_of_one_model_each_take_their_own_adapter(writer_run, runs, tmp_path):
    rows, config = both(f"hf:{writer_run.path / 'model' / 'backbones' / 'text'}")
    run = ms.train(rows, "loud", config=config, out=tmp_path / "both")
    pipeline, runner = seal.open_folder(artifact.find(run.path))
    title, body = (runner.functions[f"backbone.{name}"] for name in ("title", "body"))
    assert title.function is body.function  # one session
    assert title.rows != body.rows
    arrays = pipeline.encode(pipeline.parse(Rows({"title": sentences(3), "body": sentences(3)}))[0]).inputs["title"]
    assert np.abs(title(arrays, ("last",))["last"] - body(arrays, ("last",))["last"]).max() > 1e-3
    assert seal.compare(pipeline, runner, seal.read(artifact.find(run.path)))["decode"] <= pipeline.task.tolerance
    with TestClient(build(Models({"both": run.path, "a": runs["a"].path})), base_url="http://127.0.0.1") as http:
        asked = [{name: row[name] for name in ("title", "body")} for row in rows[:8]]
        while http.get("/ready").status_code != 200:
            time.sleep(0.01)
        served = http.post("/predict/both", json={"rows": asked}).json()["predictions"]
    for here, there in zip(run.model.predict(asked), served, strict=True):
        assert here["prediction"] == there["prediction"]
        assert abs(here["score"] - there["score"]) < 1e-5


def test_a_graph_of_two_adapted_backbones_is_refused(writer_run, tmp_path, monkeypatch):
    rows, config = both(f"hf:{writer_run.path / 'model' / 'backbones' / 'text'}")

    def graphs(self, networks, specs, state):
        joint = torch.nn.ModuleList([networks["backbone.title"], networks["backbone.body"]])
        return {**specs, "joint": replace(specs["backbone.title"], module=joint)}

    monkeypatch.setattr(Task, "graphs", graphs)
    with pytest.raises(MainstemError, match="graph 'joint' runs the backbones of title and body, and can hold one adapter alone"):
        ms.train(rows, "loud", config=config, out=tmp_path / "both")


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")  # peft asks transformers for it
def test_peft_answers_with_the_shipped_adapter_as_the_shipped_graph_does(runs):
    folder = artifact.find(runs["b"].path)
    module = hf.plugin.build(registry.resolve(f"hf:{folder / 'backbones/text'}"))
    theirs = peft.PeftModel.from_pretrained(module, folder / "adapters/text").eval()
    pipeline, runner = seal.open_folder(folder)
    arrays = pipeline.encode(pipeline.parse(Rows({"text": sentences(4)}))[0]).inputs["text"]
    with torch.no_grad():
        expected = hf.plugin.forward(theirs.base_model.model, {name: torch.from_numpy(array) for name, array in arrays.items()})["last"]
    assert np.abs(runner.functions[GRAPH](arrays, ("last",))["last"] - expected.numpy()).max() < 1e-5


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "adapter_config.json"])
def test_an_adapter_that_was_tampered_with_is_refused(runs, name):
    path = runs["a"].path / "model/adapters/text" / name
    good = path.read_bytes()
    try:
        changed = bytearray(good)
        changed[-3] ^= 1
        path.write_bytes(changed)
        with pytest.raises(MainstemError, match=f"not as it was sealed: adapters/text/{name}"):
            ms.load(runs["a"].path).verify()
        path.unlink()
        with pytest.raises(MainstemError, match=f"adapters/text/{name}"):
            ms.load(runs["a"].path).verify()
    finally:
        path.write_bytes(good)
    assert ms.load(runs["a"].path).verify()["rows"] > 0


def test_another_models_adapter_does_not_reproduce_the_replay(runs):
    folders = {name: artifact.find(runs[name].path) for name in ("a", "b")}
    pipeline, _ = seal.open_folder(folders["a"])
    _, other = seal.open_folder(folders["b"])
    own = {**other.functions, "head": seal.open_folder(folders["a"])[1].functions["head"]}
    other.functions = own
    with pytest.raises(seal.Mismatch, match=r"stage call backbone\.text"):
        seal.compare(pipeline, other, seal.read(folders["a"]))


def test_a_vision_transformer_ships_its_adapter_beside_its_graph(tmp_path):
    ref = replace(registry.resolve("timm:test_vit"), settings={"pretrained": False, "size": 32})
    folder = tmp_path / "vit"
    folder.mkdir()
    for name, content in timm.plugin.save(timm.plugin.build(ref), ref).items():
        (folder / name).write_bytes(content)
    rows = [{"picture": picture(i), "shade": "dark" if i % 2 else "light"} for i in range(40)]
    each = {"name": "image", "columns": ["picture"], "backbone": f"timm:{folder}", "adapt": "lora"}
    candidate = {"name": "vit", "inputs": [each], "training": {"optimizer": "adamw", "lr": 0.02, "epochs": 2, "batch_size": 16}}
    run = ms.train(rows, "shade", config={"candidates": [candidate]}, out=tmp_path / "run")
    model = artifact.find(run.path)
    layers = artifact.read_adapter(model / "adapters/image").layers
    assert {name.partition(".attn.")[2] for name in layers} == {"qkv", "proj"}
    pipeline, runner = seal.open_folder(model)
    assert isinstance(runner.functions["backbone.image"], Bound)
    worst = seal.compare(pipeline, runner, seal.read(model))
    plain = replace(pipeline.artifact.graphs["backbone.image"], adapter="", adapter_id="")
    runner.functions["backbone.image"] = onnx.runner(model, {"backbone.image": plain}).functions["backbone.image"]
    with pytest.raises(seal.Mismatch, match=r"stage call backbone\.image"):
        seal.compare(pipeline, runner, seal.read(model))
    assert worst["call backbone.image"] < 1e-4


def picture(i):
    """A grey picture with noise, dark or light in turn, as the bytes of a PNG."""
    noise = np.random.default_rng(i).integers(0, 120, (32, 32, 3)) + (0 if i % 2 else 130)
    stream = io.BytesIO()
    Image.fromarray(noise.astype(np.uint8)).save(stream, "PNG")
    return stream.getvalue()


def test_an_adapter_is_served_without_torch_and_without_the_onnx_package(runs):
    script = (
        "import sys; sys.modules.update(dict.fromkeys(('torch', 'onnx', 'peft', 'transformers')))\n"
        "from mainstem import artifact, seal\n"
        "for path in sys.argv[1:]:\n"
        "    print(seal.verify(artifact.find(path))['rows'])"
    )
    done = subprocess.run([sys.executable, "-c", script, *(str(run.path) for run in runs.values())], capture_output=True, text=True)
    assert [int(line) > 0 for line in done.stdout.split()] == [True] * 3, done.stderr

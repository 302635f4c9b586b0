"""Models that adapt one backbone by LoRA ship its graph as it is, and their adapter beside it."""

import json

import numpy as np
import peft
import pytest
import torch
from small_gpt import sentences

import mainstem as ms
from mainstem import artifact, registry, seal
from mainstem.backbones import hf
from mainstem.contracts import Rows
from mainstem.errors import MainstemError

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

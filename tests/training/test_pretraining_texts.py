"""Pretraining on texts: killed and gone on with, in parts, by two processes, and the backbone in use."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from safetensors.numpy import load

import mainstem as ms
from mainstem import api, files
from mainstem.contracts import Batch
from mainstem.errors import MainstemError
from mainstem.training import engine

WORDS = "river stone cloud paper engine window garden letter market summer 河流 石头 云朵".split()
DRAWN = np.random.default_rng(1)
TEXTS = [" ".join(DRAWN.choice(WORDS, 3 + i % 30)) for i in range(250)]
NETWORK = {"width": 32, "heads": 2, "layers": 2, "vocab_size": 400, "max_length": 16, "dropout": 0.0}
CONFIG = {
    "backbone_settings": NETWORK,
    "settings": {"held_out": 0.2},
    "training": {"steps": 7, "batch_size": 12, "precision": "float32", "checkpoint_every": 0, "lr": 0.001},
    "evaluate_every": 3,
}
BACKBONES = {"mlm": "bert", "clm": "gpt"}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "texts.csv"
    path.write_text("id,text\n" + "".join(f"{i},{text}\n" for i, text in enumerate(TEXTS)))
    return path


def pretrain(data, out, objective="mlm", **more):
    return api.pretrain(data, objective, backbone=BACKBONES[objective], inputs="text", out=out, config=CONFIG, **more)


def weights(run):
    return load((run.backbone / "model.safetensors").read_bytes())


def lines(folder):
    timed = ("seconds", "tokens_per_second", "of_limit")
    told = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in timed} for line in told]


@pytest.fixture(scope="module", params=["mlm", "clm"])
def whole(request, data, tmp_path_factory):
    return request.param, pretrain(data, tmp_path_factory.mktemp("whole") / "run", request.param)


def test_held_out_texts_are_told_in_nats_perplexity_and_bits_per_byte(whole):
    _, run = whole
    told = lines(run.folder)
    assert [line["step"] for line in told] == [3, 6, 7]
    assert all(line["perplexity"] == pytest.approx(np.exp(line["valid"])) for line in told)
    assert all(line["bits_per_byte"] > 0 for line in told)
    assert told[-1]["valid"] < told[0]["valid"]
    assert run.figures["perplexity"] == pytest.approx(np.exp(run.valid))
    speeds = [json.loads(line) for line in (run.folder / "log.jsonl").read_text().splitlines()]
    assert all(line["tokens_per_second"] > 0 and line["of_limit"] > 0 for line in speeds)
    assert not files.broken(run.backbone)


class After:
    def __init__(self, questions):
        self.left = questions

    def __call__(self):
        self.left -= 1
        return self.left < 0


@pytest.mark.parametrize("after", [1, 5, 8])
def test_an_interrupted_run_ends_in_the_same_weights(whole, data, tmp_path, after):
    objective, run = whole
    try:
        assert pretrain(data, tmp_path / "run", objective, stopped=After(after)).interrupted
    except KeyboardInterrupt:  # while it made its tokens ready
        assert after == 1
    again = pretrain(data, tmp_path / "run", objective, resume=True)
    assert (again.backbone / "model.safetensors").read_bytes() == (run.backbone / "model.safetensors").read_bytes()
    assert lines(again.folder) == lines(run.folder)


def test_a_killed_run_ends_in_the_same_weights(data, tmp_path):
    config = tmp_path / "c.yaml"
    tree = {**CONFIG, "objective": "mlm", "backbone": "bert", "data": str(data), "inputs": ["text"]}
    tree["training"] = {**CONFIG["training"], "steps": 60}
    config.write_text(json.dumps(tree))
    command = [sys.executable, "-m", "mainstem", "pretrain", "-c", str(config), "-o"]
    process = subprocess.Popen([*command, str(tmp_path / "killed")], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    checkpoint = tmp_path / "killed" / "stages" / "01" / "checkpoints"
    deadline = time.monotonic() + 120
    while not (checkpoint.is_dir() and any(p.name >= "step-000002" for p in checkpoint.iterdir())) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "killed" / "backbone").exists()
    again = api.pretrain(config=config, out=tmp_path / "killed", resume=True)
    whole = api.pretrain(config=config, out=tmp_path / "whole")
    assert (again.backbone / "model.safetensors").read_bytes() == (whole.backbone / "model.safetensors").read_bytes()


def far(run, other):
    """The largest difference of two backbones, beside how far training moved them."""
    a, b = weights(run), weights(other)
    assert a.keys() == b.keys()
    return max(float(np.abs(a[key] - b[key]).max()) for key in a)


SGD = {"training.optimizer": "sgd", "training.lr": 0.5}


@pytest.mark.parametrize("objective", ["mlm", "clm"])
def test_a_batch_in_parts_gives_the_same_weights(data, tmp_path, objective):
    whole = pretrain(data, tmp_path / "whole", objective, **SGD)
    parts = pretrain(data, tmp_path / "parts", objective, **SGD, **{"training.accumulate": 5})
    other = pretrain(data, tmp_path / "other", objective, **SGD, **{"training.batch_size": 11})
    assert far(whole, parts) < 1e-5 < 1e-3 < far(whole, other)


def test_activations_that_are_computed_again_give_the_same_weights(data, tmp_path):
    whole = pretrain(data, tmp_path / "whole", **SGD)
    again = pretrain(data, tmp_path / "again", **SGD, **{"training.checkpoint_activations": True})
    assert far(whole, again) < 1e-6


def test_a_compiled_network_gives_the_same_weights(data, tmp_path, monkeypatch):
    import torch

    real, compiled = torch.compile, []

    def traced(function, **asked):  # the graph that is found, without the minutes of the C++ compiler
        compiled.append(asked)
        return real(function, backend="eager", **asked)

    whole = pretrain(data, tmp_path / "whole", **SGD)
    monkeypatch.setattr(torch, "compile", traced)
    again = pretrain(data, tmp_path / "again", **SGD, **{"training.compile": True})
    assert compiled
    assert far(whole, again) < 1e-5
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(MainstemError, match=r"needs a C\+\+ compiler"):
        pretrain(data, tmp_path / "none", **SGD, **{"training.compile": True})


def test_two_processes_give_the_weights_of_one(data, tmp_path):
    config = tmp_path / "c.yaml"
    training = {**CONFIG["training"], "optimizer": "sgd", "lr": 0.5, "steps": 5, "batch_size": 13, "accumulate": 2}
    tree = {**CONFIG, "objective": "mlm", "backbone": "bert", "data": str(data), "inputs": ["text"], "training": training}
    config.write_text(json.dumps(tree))
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*launch, "-m", "mainstem", "pretrain", "-c", str(config), "-o", str(tmp_path / "two")]
    done = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Backbone:") == 1  # the first process alone speaks
    assert done.stderr.count("to learn from:") == 1
    one = api.pretrain(config=config, out=tmp_path / "one")
    two = api.pretrain(config=config, out=tmp_path / "two", resume=True)  # it is done: nothing but the backbone is written again
    assert two.steps == 5
    assert far(one, two) < 1e-5
    assert [line["step"] for line in lines(tmp_path / "two")] == [3, 5]


def test_the_precision_that_was_measured_is_kept(data, tmp_path, monkeypatch):
    auto = {"training.precision": "auto"}
    monkeypatch.setattr(engine, "_PAYS", float("inf"))  # bfloat16 whatever it costs
    whole = pretrain(data, tmp_path / "whole", **auto)
    assert pretrain(data, tmp_path / "cut", stopped=After(7), **auto).interrupted
    monkeypatch.setattr(engine, "_PAYS", 0.0)
    again = pretrain(data, tmp_path / "cut", resume=True, **auto)
    assert far(whole, again) == 0
    assert json.loads((tmp_path / "cut" / "stages" / "01" / engine.CHOSEN).read_text())["precision"] == "bfloat16"
    assert far(whole, pretrain(data, tmp_path / "exact", **auto)) > 0


def test_the_backbone_is_fine_tuned_like_any_other(whole, tmp_path):
    _, run = whole
    rows = [{"text": text, "label": "long" if len(text) > 90 else "short"} for text in TEXTS[:120]]
    made = ms.train(rows, "label", backbone=str(run.backbone), adapt="full", epochs=1, out=tmp_path / "run")
    assert made.model.predict([TEXTS[0]])[0]["prediction"] in ("long", "short")


def test_mistakes_are_told_before_anything_is_made(data, tmp_path):
    cases = [
        ({"data": ""}, "there is no data"),
        ({"backbone": ""}, "does not know what to train"),
        ({"backbone": "birt"}, "no backbone is named"),
        ({"settings": {"share": 0.5, "lenth": 1}}, "no setting 'lenth'"),
        ({"inputs": ["body"]}, "no column 'body'"),
        ({"training": {"precision": "half"}}, "float32"),
        ({"data": str(tmp_path / "none.csv")}, "no such file"),
        ({"objective": "tables"}, "makes its own data"),
    ]
    for number, (change, message) in enumerate(cases):
        tree = {**CONFIG, "objective": "mlm", "backbone": "bert", "data": str(data), "inputs": ["text"], **change}
        with pytest.raises(MainstemError, match=message):
            api.pretrain(config=tree, out=tmp_path / str(number))


def test_a_run_that_never_began_is_started_anew_in_its_place(data, tmp_path):
    mistake = {"settings.length": 3, "backbone_settings.vocab_size": 300}
    with pytest.raises(MainstemError, match="too long for a backbone of 16"):
        pretrain(data, tmp_path / "run", **{"settings.length": 17})
    with pytest.raises(MainstemError, match="none of the"):
        pretrain(data, tmp_path / "run", **{"settings.held_out": 0.0}, **mistake)
    again = pretrain(data, tmp_path / "run")
    assert json.loads((again.backbone / "config.json").read_text())["vocab_size"] > 300  # its own tokenizer
    with pytest.raises(MainstemError, match="exists already"):
        pretrain(data, tmp_path / "run")


def test_other_data_is_not_gone_on_with(data, tmp_path):
    copy = tmp_path / "texts.csv"
    copy.write_bytes(data.read_bytes())
    assert pretrain(copy, tmp_path / "run", stopped=After(5)).interrupted
    copy.write_text(copy.read_text() + "999,one more text\n")
    with pytest.raises(MainstemError, match="data differs"):
        pretrain(copy, tmp_path / "run", resume=True)


def test_parts_of_a_batch_keep_what_is_shared():
    import torch

    batch = Batch(
        {"a": {"x": torch.arange(5), "all": torch.arange(9)}}, np.array([0, 0, 1, 2, 2]), 3, (), {"y": torch.arange(3)}, torch.arange(3.0)
    )
    part = engine.part_of(batch, np.array([1, 2]))
    assert part.inputs["a"]["x"].tolist() == [2, 3, 4]
    assert part.inputs["a"]["all"].tolist() == list(range(9))
    assert part.owner.tolist() == [0, 1, 1]
    assert part.examples == 2
    assert part.target["y"].tolist() == part.weights.tolist() == [1, 2]

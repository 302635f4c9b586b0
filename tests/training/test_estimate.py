"""What a pretraining run will need: parameters and bytes that can be counted, steps, and what does not fit."""

import json

import numpy as np
import pytest

from mainstem.cli import main
from mainstem.config import Pretraining, parse
from mainstem.training import estimate as module
from mainstem.training.estimate import estimate

NETWORK = {"width": 32, "heads": 2, "layers": 2, "vocab_size": 400, "max_length": 16, "dropout": 0.0}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "texts.txt"
    words = "river stone cloud paper engine window garden letter market summer".split()
    drawn = np.random.default_rng(1)
    path.write_text("".join(" ".join(drawn.choice(words, 3 + i % 30)) + "\n" for i in range(250)))
    return path


def config(data, **more):
    tree = {"objective": "mlm", "backbone": "bert", "data": str(data), "backbone_settings": NETWORK, "settings": {"held_out": 0.2}}
    training = {"steps": 7, "batch_size": 12, "precision": "float32", **more}
    return parse(Pretraining, {**tree, "training": training})


def test_what_can_be_counted_is_counted(data):
    need = estimate(config(data))
    memory = need.memory
    assert memory["weights"] == 4 * need.parameters == memory["gradients"]
    assert memory["optimiser"] == pytest.approx(2 * memory["weights"], rel=0.01)
    assert need.steps == 7
    assert need.fits
    assert need.seconds >= 7 * need.step
    assert need.peak > memory["process"] + memory["weights"]


def test_activations_grow_with_the_batch_and_shrink_with_its_parts(data):
    small, large = (estimate(config(data, batch_size=size)).memory["activations"] for size in (16, 64))
    assert 3 < large / small < 7  # what does not depend on the batch is little
    parts = estimate(config(data, batch_size=64, accumulate=4)).memory["activations"]
    assert parts == pytest.approx(small, rel=0.3)
    assert estimate(config(data, batch_size=64, optimizer="sgd")).memory["optimiser"] == 0


def test_passes_are_counted_over_all_the_data(data, monkeypatch):
    whole = estimate(config(data, steps=None, epochs=2)).steps
    monkeypatch.setattr(module, "_ROWS", 100)
    assert estimate(config(data, steps=None, epochs=2)).steps == pytest.approx(whole, rel=0.25)


def test_what_does_not_fit_is_told_and_not_tried(data, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(module, "_free", lambda: 1000)
    need = estimate(config(data))
    assert not need.fits
    assert need.seconds is None
    path = tmp_path / "c.yaml"
    path.write_text(json.dumps(config(data).model_dump(mode="json", exclude_defaults=True)))
    assert main(["inspect", str(path)]) == 0
    assert "does not fit" in capsys.readouterr().out
    monkeypatch.undo()
    assert main(["inspect", str(path)]) == 0
    told = capsys.readouterr().out
    assert f"parameters: {need.parameters:,}" in told
    assert "7 steps" in told
    path.write_text("objective: mlm\n")
    assert main(["inspect", str(path)]) == 2

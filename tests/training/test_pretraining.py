"""Pretraining runs: stages, resumption, what is left behind."""

import json

import numpy as np
import onnxruntime
import pytest
import torch
from safetensors.numpy import load_file

from mainstem import api, files
from mainstem.contracts import State
from mainstem.errors import MainstemError
from mainstem.training.loop import tensors
from mainstem.training.pretraining import curve

SMALL = {"width": 32, "heads": 1, "layers": 2, "cells": 300, "context": [10, 20], "asked": 6, "columns": [2, 4]}
CONFIG = {
    "objective": "tables",
    "settings": SMALL,
    "training": {"optimizer": "muon", "lr": 0.002, "checkpoint_every": 0},
    "stages": [
        {"training": {"steps": 5, "warmup": 2}},
        {"settings": {"context": [20, 30]}, "training": {"steps": 3, "schedule": "cosine"}},
    ],
    "evaluate_every": 2,
}


class After:
    """Says to stop after so many questions."""

    def __init__(self, steps):
        self.left = steps

    def __call__(self):
        self.left -= 1
        return self.left < 0


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return api.pretrain(config=CONFIG, out=tmp_path_factory.mktemp("whole") / "run")


def test_the_backbone_is_a_folder_that_holds_together(whole):
    assert whole.steps == 8
    assert not whole.interrupted
    assert not files.broken(whole.backbone)
    assert json.loads((whole.backbone / "config.json").read_bytes())["width"] == 32
    log = [json.loads(line) for line in (whole.folder / "log.jsonl").read_text().splitlines()]
    assert [(line["part"], line["step"]) for line in log] == [(1, 2), (1, 4), (1, 5), (2, 2), (2, 3)]
    assert all(np.isfinite(line["valid"]) for line in log)


def test_the_curve_runs_over_all_stages(whole):
    from PIL import Image

    with Image.open(whole.folder / "curve.png") as picture:
        assert picture.size == (768, 480)
    lines = [{"part": p, "step": s, "loss": 1.0, "valid": None} for p, s in ((1, 2), (1, 4), (2, 2), (2, 4))]
    assert curve(lines) != curve(lines[:3])


@pytest.mark.parametrize("after", [1, 4, 6])
def test_an_interrupted_run_ends_in_the_same_weights(whole, tmp_path, after):
    out = tmp_path / "run"
    cut = api.pretrain(config=CONFIG, out=out, stopped=After(after))
    assert cut.interrupted
    again = api.pretrain(config=CONFIG, out=out, resume=True)
    assert (again.backbone / "model.safetensors").read_bytes() == (whole.backbone / "model.safetensors").read_bytes()
    strip = lambda path: [{**json.loads(line), "seconds": 0} for line in (path / "log.jsonl").read_text().splitlines()]  # noqa: E731
    assert strip(out) == strip(whole.folder)


def test_another_config_is_not_resumed(whole):
    with pytest.raises(MainstemError, match=r"config differs.*seed"):
        api.pretrain(config=CONFIG, out=whole.folder, resume=True, seed=3)


def test_a_torn_log_is_read_and_a_torn_request_refused(tmp_path):
    out = tmp_path / "run"
    api.pretrain(config=CONFIG, out=out, stopped=After(3))
    with (out / "log.jsonl").open("a") as log:
        log.write('{"part": 1, "st')
    assert api.pretrain(config=CONFIG, out=out, resume=True).steps == 8
    (out / "asked.json").write_bytes(b"{")
    with pytest.raises(MainstemError, match="asked for"):
        api.pretrain(config=CONFIG, out=out, resume=True)


def test_a_wrong_stage_is_told_before_the_first_begins(tmp_path):
    wrong = {**CONFIG, "stages": [*CONFIG["stages"], {"training": {"stepz": 3}}]}
    with pytest.raises(MainstemError, match=r"unknown field 'stepz'\. Did you mean 'steps'"):
        api.pretrain(config=wrong, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_run_goes_on_from_the_folder_of_another(whole, tmp_path):
    one = {**CONFIG, "stages": [{"training": {"steps": 1, "lr": 1e-9}}], "backbone": str(whole.backbone)}
    made = api.pretrain(config=one, out=tmp_path / "run")
    before, after = (load_file(run.backbone / "model.safetensors") for run in (whole, made))
    for name, tensor in before.items():
        np.testing.assert_allclose(after[name], tensor, atol=1e-6)
    fresh = api.pretrain(config={**one, "backbone": ""}, out=tmp_path / "fresh")
    assert not np.allclose(load_file(fresh.backbone / "model.safetensors")["norm.weight"], before["norm.weight"], atol=1e-6)


def test_folders_that_do_not_fit_are_told(whole, tmp_path):
    with pytest.raises(MainstemError, match="goes on from a folder alone"):
        api.pretrain(config={**CONFIG, "backbone": "mlp"}, out=tmp_path / "a")
    with pytest.raises(MainstemError, match="weights are of another network"):
        api.pretrain(config={**CONFIG, "settings": {**SMALL, "width": 64}, "backbone": str(whole.backbone)}, out=tmp_path / "b")


def test_the_graph_beside_the_weights_answers_like_the_network(whole):
    from mainstem.objectives.tables import Tables

    objective = Tables(SMALL)
    batch = objective.make(np.random.default_rng(0))
    net = objective.networks({}, State(), {})["backbone"].eval()
    net.load_state_dict({name: torch.from_numpy(array) for name, array in load_file(whole.backbone / "model.safetensors").items()})
    session = onnxruntime.InferenceSession(str(whole.backbone / "network.onnx"))
    logits, nodes = session.run(["logits", "nodes"], batch.inputs["table"])
    with torch.inference_mode():
        expected = objective.forward({"backbone": net}, tensors(batch))
    np.testing.assert_allclose(logits, expected["logits"], atol=2e-3)
    np.testing.assert_allclose(nodes, expected["nodes"], atol=2e-3)

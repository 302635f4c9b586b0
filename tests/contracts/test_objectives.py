"""Every objective: its batches, a step, and the backbone it leaves."""

import numpy as np
import pytest
from PIL import Image

from mainstem import registry
from mainstem.contracts import Material, Objective, Ref, State
from mainstem.training.loop import tensors

SMALL = {
    "tables": {"width": 16, "heads": 1, "layers": 1, "cells": 200, "context": (8, 12), "asked": 4, "columns": (1, 3)},
    "series": {"width": 16, "heads": 1, "layers": 1, "tokens": 60, "context": (16, 60)},
}
BACKBONES = {"mlm": "bert", "clm": "gpt", "contrastive": "bert"}
NETWORK = {"width": 16, "heads": 2, "layers": 1, "vocab_size": 300, "max_length": 16}


def given(name, folder):
    """What a run of the objective is given."""
    reads = registry.load("objectives", name).plugin.reads
    if reads == "pictures":
        rng = np.random.default_rng(0)
        for number in range(12):
            Image.fromarray(rng.integers(0, 256, (16, 16, 3), np.uint8)).save(folder / f"{number}.png")
        return Material(str(folder), backbone=Ref("vit", "vit", settings={"size": 16}), folder=folder / "run")
    if "text" in reads:
        words = "alpha beta gamma delta epsilon zeta eta theta iota kappa".split()
        lines = [" ".join(words[(i * j) % 10] for j in range(1, 3 + i % 20)) for i in range(80)]
        (folder / "texts.txt").write_text("".join(f"{line}\n" for line in lines))
        return Material(str(folder / "texts.txt"), backbone=Ref(BACKBONES[name], BACKBONES[name], settings=NETWORK), folder=folder / "run")
    assert not reads
    return Material(folder=folder)


@pytest.mark.parametrize("name", registry.names("objectives"))
def test_an_objective_is_learned_from_its_stream_and_leaves_files(name, tmp_path):
    objective = registry.load("objectives", name).plugin(SMALL.get(name, {"held_out": 0.3}))
    assert isinstance(objective, Objective)
    objective.open(given(name, tmp_path))
    stream, held_out = objective.stream(3), objective.held_out()
    assert len(stream) == 3
    assert len(held_out) > 0
    networks = objective.networks({}, State(), {})
    for batch in (stream.take(np.array([0]), np.random.default_rng(0)), held_out.take(np.arange(len(held_out)))):
        batch = tensors(batch)
        loss = objective.loss(objective.forward(networks, batch), batch)
        assert loss.ndim == 0
        assert np.isfinite(float(loss.detach()))
    first, again = (held_out.take(np.arange(len(held_out))) for _ in range(2))
    for arrays, others in zip(first.inputs.values(), again.inputs.values(), strict=True):
        for key in arrays:
            np.testing.assert_array_equal(arrays[key], others[key])
    files = objective.artifact(networks)
    assert {"config.json", "model.safetensors"} <= files.keys()
    assert all(isinstance(content, bytes) for content in files.values())

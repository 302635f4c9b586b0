"""The worked example: linear regression by gradient descent against least squares."""

import json

import numpy as np
import pytest

import mainstem as ms


def line(noise, rows=100, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.uniform(-3, 40, rows)
    return x, 2.5 * x - 14 + noise * rng.normal(size=rows)


@pytest.mark.parametrize("noise", [0.0, 3.0])
def test_gradient_descent_ends_at_least_squares(tmp_path, noise):
    x, y = line(noise)
    said, told = [], []
    run = ms.train(
        {"input": list(x), "output": list(y)},
        "output",
        out=tmp_path / "run",
        backbone="linear",
        optimizer="gd",
        lr=0.01,
        epochs=1000,
        say=said.append,
        report=told.append,
    )
    split = json.loads((run.path / "split.json").read_text())
    hashes = run.model.pipeline.parse(run.model.read({"input": list(x)}))[0].hashes
    known = np.array([h in {*split["train"], *split["valid"]} for h in hashes])
    slope, intercept = np.polyfit(x[known], y[known], 1)
    found = json.loads((run.path / "line.json").read_text())
    scale = x[known].std() / y[known].std()
    assert abs(found["slopes"]["input"] - slope) * scale < 1e-3
    centre = x[known].mean()
    assert abs(found["intercept"] + found["slopes"]["input"] * centre - intercept - slope * centre) / y[known].std() < 1e-3
    assert (run.path / "line.png").read_bytes().startswith(b"\x89PNG")
    assert any(text.startswith("output = ") and "·input" in text for text in said)
    losses = [f["loss"] for f in told if f.get("ended") and f["part"] == "refit"]
    assert losses == sorted(losses, reverse=True)
    if noise:
        assert len(losses) < 1000  # converged before the last epoch


def test_the_closed_form_is_least_squares_too(tmp_path):
    x, y = line(1.0)
    run = ms.train({"气温": list(x), "output": list(y)}, "output", out=tmp_path / "run", backbone="linear")
    found = json.loads((run.path / "line.json").read_text())
    assert found["slopes"]["气温"] == pytest.approx(2.5, abs=0.05)
    assert not run.model.pipeline.artifact.inputs[0].backbone  # no network: a predictor

"""The in-context series predictor on its way from rows to a sealed model."""

import json

import numpy as np
import pytest

import mainstem as ms
from mainstem import api, pretrained, registry
from mainstem.backbones import _zeroshot
from mainstem.contracts import Ref
from mainstem.errors import MainstemError
from mainstem.modalities import _continuations


def rows(months=96):
    rng = np.random.default_rng(0)
    return [
        {"store": store, "date": f"{2014 + t // 12}-{t % 12 + 1:02d}", "value": level + 0.3 * t + 9 * np.sin(t / 6 * np.pi) + rng.normal()}
        for store, level in (("a", 50), ("b", 4e5))
        for t in range(months)
    ]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "run"
    return ms.train(rows(), "value", series="store", time="date", horizon=6, backbone=["naive", "incontext"], out=out)


def test_it_is_chosen_before_the_seasonal_naive_and_sealed(run):
    report = json.loads((run.path / "report.json").read_bytes())
    assert [each["name"] for each in report["compared"]] == ["naive", "incontext-series"]
    assert run.chosen.startswith("Chosen: incontext-series")
    assert run.model.verify()["rows"] > 0


def test_the_model_forecasts_as_the_network_does_alone(run):
    history = [row for row in rows() if row["store"] == "a"]
    (answer,) = run.model.predict(history)
    (alone,) = _zeroshot.forecast(np.array([[row["value"] for row in history]])[:, -_window(run) :], 6, [0.5])
    np.testing.assert_allclose(answer["prediction"], alone[:, 0], rtol=1e-4)


def _window(run):
    config = json.loads((run.path / "model" / "mainstem.json").read_bytes())
    return config["inputs"][0]["state"]["json"]["window"]


def test_a_seal_allows_the_last_digits_of_what_is_computed_to_differ_and_no_more(run, monkeypatch):
    true = _continuations.encoded

    def shaken(size):
        return lambda *given: {**(made := true(*given)), "base": made["base"] + size}

    monkeypatch.setattr(_continuations, "encoded", shaken(1e-6))
    assert run.model.verify()["rows"] > 0
    monkeypatch.setattr(_continuations, "encoded", shaken(0.1))
    with pytest.raises(MainstemError, match="encode"):
        run.model.verify()


def test_a_pretraining_run_leaves_a_backbone(tmp_path):
    config = {
        "objective": "series",
        "settings": {"width": 16, "heads": 1, "layers": 1, "tokens": 60, "context": [16, 60]},
        "training": {"optimizer": "muon", "lr": 0.002},
        "stages": [{"training": {"steps": 2}}],
        "evaluate_every": 2,
    }
    made = api.pretrain(config=config, out=tmp_path / "pretrained")
    run = ms.train(rows(36), "value", series="store", time="date", horizon=3, backbone=str(made.backbone), out=tmp_path / "run")
    assert "the only candidate" in run.chosen
    sizes = [(made.backbone / "network.onnx").stat().st_size, (run.path / "model" / "onnx" / "head.onnx").stat().st_size]
    assert sizes[0] < sizes[1] < len(pretrained.shipped("series").graph)


def test_it_has_no_settings():
    with pytest.raises(MainstemError, match="no setting 'depth'"):
        registry.load("backbones", "incontext_series").predictor.describe(
            Ref("incontext-series", "incontext_series", settings={"depth": 3})
        )

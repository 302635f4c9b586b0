"""Made series, and the objective that learns from them."""

import numpy as np
import pytest
import torch

from mainstem.errors import MainstemError
from mainstem.objectives import _series
from mainstem.objectives.series import Series
from mainstem.runtimes import onnx
from mainstem.training.loop import tensors
from mainstem.training.pretraining import graphs

SMALL = {"width": 32, "heads": 2, "layers": 2, "tokens": 200, "context": (16, 120)}


@pytest.mark.parametrize("length", [2, 20, 300])
def test_series_can_be_learned_from(length):
    for seed in range(60):
        made = _series.series(np.random.default_rng(seed), length)
        assert made.shape == (length,)
        head = made[: max(2, length // 2)]
        assert not np.isinf(made).any()
        assert np.nanmax(head) > np.nanmin(head)


def test_there_are_holes_zeros_and_cycles_among_them():
    made = [_series.series(np.random.default_rng(seed), 480) for seed in range(150)]
    assert 5 < sum(bool(np.isnan(x).any()) for x in made) < 60
    assert sum((x == 0).mean() > 0.2 for x in made) > 5
    same = [np.nanmean(np.abs(x[24:] - x[:-24])) / np.nanmean(np.abs(x - np.nanmean(x))) for x in made]
    assert sum(ratio < 0.3 for ratio in same) > 5  # days that repeat


def test_a_process_is_stationary_and_of_spread_one():
    spreads = [_series.process(np.random.default_rng(seed), 4000).std() for seed in range(40)]
    assert 0.5 < np.median(spreads) < 1.2


def test_the_same_seed_makes_the_same_windows():
    a, b = (Series(SMALL).make(np.random.default_rng(3)) for _ in range(2))
    for name, array in a.inputs["series"].items():
        np.testing.assert_array_equal(array, b.inputs["series"][name])
    np.testing.assert_array_equal(a.target["truth"], b.target["truth"])


def test_the_truth_is_what_came_after_the_window(monkeypatch):
    monkeypatch.setattr(_series, "series", lambda rng, length: np.arange(float(length)))
    batch = Series(SMALL).make(np.random.default_rng(0), (1, 60, 1))
    assert np.abs(batch.target["truth"]).max() < 3.0  # units; a straight line is told by several rules
    assert (batch.target["counted"] == 1).all()


def test_loss_falls_below_that_of_the_start():
    torch.manual_seed(0)
    objective = Series(SMALL)
    networks = objective.networks({}, None, {})
    batch = tensors(objective.make(np.random.default_rng(0), (64, 64, 2)))
    optimiser = torch.optim.Adam(networks["backbone"].parameters(), 3e-3)
    losses = []
    for _ in range(60):
        loss = objective.loss(objective.forward(networks, batch), batch)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert np.mean(losses[-5:]) < 0.8 * losses[0]


def test_a_missing_step_does_not_count():
    objective = Series(SMALL)
    networks = objective.networks({}, None, {})
    batch = tensors(objective.make(np.random.default_rng(0), (4, 40, 1)))
    batch.target["counted"][:, 3:] = 0.0
    with torch.no_grad():
        before = objective.loss(objective.forward(networks, batch), batch)
        batch.target["truth"][:, 3:] = 9.0
        assert objective.loss(objective.forward(networks, batch), batch) == before


def test_the_graph_answers_as_the_network_for_any_sizes():
    torch.manual_seed(0)
    objective = Series(SMALL)
    networks = objective.networks({}, None, {})
    networks["backbone"].eval()
    run = onnx.function(onnx.session(graphs(objective, networks)["network.onnx"]))
    for shape in ((1, 17, 1), (3, 200, 2), (2, 40, 10)):
        batch = objective.make(np.random.default_rng(1), shape)
        told = run(batch.inputs["series"], ("quantiles",))["quantiles"]
        with torch.no_grad():
            expected = objective.forward(networks, tensors(batch))["quantiles"].numpy()
        np.testing.assert_allclose(told, expected, atol=1e-3 * (1 + np.abs(expected).max()))


def test_an_unknown_setting_names_the_nearest():
    with pytest.raises(MainstemError, match=r"Did you mean 'width'"):
        Series({"widht": 3})

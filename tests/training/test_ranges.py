import io
import math
import random

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from mainstem.config import Training
from mainstem.errors import MainstemError
from mainstem.training.optimisers import Optimiser
from mainstem.training.ranges import choose, plot, range_test, smooth


def problem(name="sgd"):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(5, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.1), nn.Linear(16, 1))
    x = torch.randn(64, 5)
    y = x @ torch.randn(5, 1)
    optimiser = Optimiser(list(net.named_parameters()), Training(optimizer=name), 0.123)
    return net, optimiser, lambda: (net(x) - y).square().mean() / 2


@pytest.mark.parametrize("name", ["sgd", "momentum", "adamw"])
@pytest.mark.parametrize("steps_before", [0, 3])
def test_everything_is_put_back_exactly(name, steps_before):
    net, optimiser, loss = problem(name)
    for _ in range(steps_before):
        optimiser.step(loss)
    state = {k: v.clone() for k, v in net.state_dict().items()}
    held, arrays = optimiser.state()
    draws = random.getstate(), torch.get_rng_state()
    range_test({"net": net}, {"main": optimiser}, lambda i: optimiser.step(loss), high=1e8)
    assert all(torch.equal(state[k], v) for k, v in net.state_dict().items())
    again, others = optimiser.state()
    assert again == held
    assert optimiser.lr == 0.123
    assert all(np.array_equal(arrays[k], others[k]) for k in arrays)
    assert draws[0] == random.getstate()
    assert torch.equal(draws[1], torch.get_rng_state())
    assert all(p.grad is None for p in net.parameters())


@pytest.mark.parametrize("name", ["sgd", "momentum", "adam", "rmsprop"])
def test_the_chosen_rate_trains(name):
    net, optimiser, loss = problem(name)
    result = range_test({"net": net}, {"main": optimiser}, lambda i: optimiser.step(loss))
    lowest = result.smoothed.index(min(result.smoothed))
    assert result.lr == pytest.approx(result.rates[lowest] / 10, rel=0.1)
    assert f"{result.lr:g}" in result.why
    optimiser.lr = result.lr
    losses = [optimiser.step(loss) for _ in range(100)]
    assert losses[-1] < 0.3 * losses[0]


def test_the_test_ends_where_it_diverges():
    net, optimiser, _ = problem("sgd")
    result = range_test({"net": net}, {"main": optimiser}, lambda i: optimiser.step(lambda: net[4].weight.square().sum() * 50), high=1e6)
    assert len(result.rates) < 100
    assert all(map(math.isfinite, result.losses))


def test_a_loss_that_never_falls_chooses_nothing():
    assert choose([1e-3, 1e-2], [1.0, 1.0])[0] is None
    assert choose([], [])[0] is None
    assert choose([0.01, 0.1, 1.0], [1.0, 0.4, 0.6]) == (
        0.01,
        "learning rate 0.01: a tenth of 0.1, where the loss of the range test was lowest",
    )


def test_smoothing_has_no_bias_at_its_start():
    assert smooth([2.0, 2.0, 2.0]) == pytest.approx([2.0] * 3)


def test_lbfgs_has_no_rate_to_find():
    net, optimiser, loss = problem("lbfgs")
    with pytest.raises(MainstemError, match="lbfgs"):
        range_test({"net": net}, {"main": optimiser}, lambda i: optimiser.step(loss))


def test_the_plot_is_a_picture():
    net, optimiser, loss = problem("sgd")
    result = range_test({"net": net}, {"main": optimiser}, lambda i: optimiser.step(loss))
    picture = Image.open(io.BytesIO(plot(result)))
    assert picture.format == "PNG"
    assert picture.size == (768, 480)
    assert len(np.unique(np.asarray(picture.convert("L")))) > 20

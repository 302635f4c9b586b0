import copy
import json
import math

import numpy as np
import pytest
import torch
from torch import nn

from mainstem.config import Training
from mainstem.errors import MainstemError
from mainstem.training.optimisers import DEFAULT_LR, NonFinite, Optimiser, is_weight
from mainstem.training.tensors import to_array, to_tensor

NAMES = sorted(DEFAULT_LR)


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.Tanh(), nn.Linear(8, 1))


def rows(step, n=16):
    generator = torch.Generator().manual_seed(step)
    x = torch.randn(n, 4, generator=generator)
    return x, (x @ torch.tensor([[1.0], [-2.0], [0.5], [0.0]])) + 0.3


def closure(net, step):
    x, y = rows(step)
    return lambda: (net(x) - y).square().mean() / 2


def made(net, name, lr=None, **settings):
    return Optimiser(list(net.named_parameters()), Training(optimizer=name, **settings), DEFAULT_LR[name] if lr is None else lr)


def weights(net):
    return torch.cat([p.detach().flatten() for p in net.parameters()]).clone()


@pytest.mark.parametrize("name", NAMES)
def test_every_optimiser_learns(name):
    net = network()
    optimiser = made(net, name)
    first = optimiser.step(closure(net, 0))
    for _ in range(60):
        last = optimiser.step(closure(net, 0))
    assert last < 0.9 * first
    assert optimiser.steps == 61


REFERENCES = {
    "gd": lambda p: torch.optim.SGD(p, lr=0.1),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    "nesterov": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.1),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=0.1),
    "adam": lambda p: torch.optim.Adam(p, lr=0.1),
}


@pytest.mark.parametrize("name", sorted(REFERENCES))
def test_updates_are_those_of_torch(name):
    ours, theirs = network(), network()
    optimiser, reference = made(ours, name, lr=0.1), REFERENCES[name](theirs.parameters())
    for step in range(5):
        optimiser.step(closure(ours, step))
        reference.zero_grad()
        closure(theirs, step)().backward()
        reference.step()
    assert torch.allclose(weights(ours), weights(theirs), atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_state_round_trip_is_bit_exact(name):
    net = network()
    optimiser = made(net, name)
    for step in range(4):
        optimiser.step(closure(net, step))
    held, arrays = optimiser.state()
    again = copy.deepcopy(net)
    resumed = made(again, name)
    resumed.load(json.loads(json.dumps(held, allow_nan=False)), arrays)
    assert resumed.steps == 4
    for step in range(4, 9):
        assert optimiser.step(closure(net, step)) == resumed.step(closure(again, step))
    assert torch.equal(weights(net), weights(again))


def test_state_of_bfloat16_parameters_round_trips():
    net = network().bfloat16()
    optimiser = made(net, "momentum")
    optimiser.step(lambda: net(torch.ones(2, 4, dtype=torch.bfloat16)).sum())
    held, arrays = optimiser.state()
    again = copy.deepcopy(net)
    resumed = made(again, "momentum")
    resumed.load(held, arrays)
    for n, o in ((net, optimiser), (again, resumed)):
        o.step(lambda n=n: n(torch.ones(2, 4, dtype=torch.bfloat16)).sum())
    assert torch.equal(weights(net), weights(again))


def test_state_of_another_network_is_refused():
    optimiser = made(network(), "adam")
    held, arrays = optimiser.state()
    with pytest.raises(MainstemError, match="Resume with the settings"):
        made(nn.Linear(4, 1), "adam").load(held, arrays)
    with pytest.raises(MainstemError, match="adam"):
        made(network(), "sgd").load(held, arrays)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_non_finite_loss_stops_before_weights_change(name, bad):
    net = network()
    optimiser = made(net, name)
    optimiser.step(closure(net, 0))
    before = weights(net)
    with pytest.raises(NonFinite) as caught:
        optimiser.step(lambda: closure(net, 1)() * bad)
    assert torch.equal(weights(net), before)
    assert (caught.value.which, caught.value.step) == ("loss", 2)
    assert "step 2" in str(caught.value)
    assert f"{optimiser.lr:g}" in str(caught.value)
    assert "--lr" in str(caught.value)


@pytest.mark.parametrize("name", NAMES)
def test_a_non_finite_gradient_names_its_parameter(name):
    net = network()
    optimiser = made(net, name)
    before = weights(net)
    handle = net[3].bias.register_hook(lambda gradient: gradient * math.nan)
    with pytest.raises(NonFinite) as caught:
        optimiser.step(closure(net, 0))
    handle.remove()
    assert (caught.value.which, caught.value.parameter) == ("gradient", "3.bias")
    assert torch.equal(weights(net), before)
    optimiser.step(closure(net, 0))


def test_a_non_finite_value_during_the_line_search_restores_the_weights():
    net, calls = network(), []
    optimiser = made(net, "lbfgs")
    before = weights(net)

    def loss():
        calls.append(1)
        value = closure(net, 0)()
        return value * math.nan if len(calls) == 2 else value

    with pytest.raises(NonFinite):
        optimiser.step(loss)
    assert len(calls) == 2
    assert torch.equal(weights(net), before)


@pytest.mark.parametrize("lr", [math.nan, math.inf])
def test_a_non_finite_rate_stops(lr):
    net = network()
    before = weights(net)
    with pytest.raises(NonFinite, match="learning rate"):
        made(net, "sgd", lr=lr).step(closure(net, 0))
    assert torch.equal(weights(net), before)


def test_check_finds_weights_that_an_update_made_infinite():
    net = network()
    optimiser = made(net, "sgd", lr=1e38)
    optimiser.check()
    optimiser.step(lambda: closure(net, 0)() * 1e6)
    with pytest.raises(NonFinite) as caught:
        optimiser.check()
    assert caught.value.which == "weight"


def test_penalties_touch_weights_only_and_are_not_part_of_the_loss_returned():
    net = network()
    plain = copy.deepcopy(net)
    optimiser = made(net, "sgd", lr=0.1, l1=0.01, l2=0.5)
    expected = {n: p.detach().clone() for n, p in plain.named_parameters()}
    loss = closure(plain, 0)()
    loss.backward()
    assert optimiser.step(closure(net, 0)) == float(loss.detach())
    for name, p in plain.named_parameters():
        w = expected[name]
        extra = 0.5 * w + 0.01 * w.sign() if is_weight(name, p) else 0
        assert torch.allclose(dict(net.named_parameters())[name], w - 0.1 * (p.grad + extra), atol=1e-7), name
    assert [n for n, p in net.named_parameters() if is_weight(n, p)] == ["0.weight", "3.weight"]


def test_adamw_decays_weights_only():
    net = network()
    before = {n: p.detach().clone() for n, p in net.named_parameters()}
    made(net, "adamw", lr=0.1, weight_decay=0.5).step(lambda: sum(p.sum() for p in net.parameters()) * 0.0)
    for name, p in net.named_parameters():
        assert torch.allclose(p, before[name] * (0.95 if is_weight(name, p) else 1.0)), name


def test_clipping_bounds_the_norm_of_the_gradient():
    net = network()
    before = weights(net)
    made(net, "sgd", lr=1.0, clip=0.01).step(lambda: closure(net, 0)() * 100)
    assert float((weights(net) - before).norm()) == pytest.approx(0.01, rel=1e-3)


def test_lbfgs_refuses_clipping():
    with pytest.raises(MainstemError, match="lbfgs cannot clip"):
        made(network(), "lbfgs", clip=1.0)


def test_lbfgs_solves_least_squares_in_few_steps():
    torch.manual_seed(0)
    net, (x, y) = nn.Linear(4, 1), rows(0, 64)
    optimiser = made(net, "lbfgs")
    for _ in range(15):
        loss = optimiser.step(lambda: (net(x) - y).square().mean() / 2)
    assert loss < 1e-8


class Bag(nn.Module):
    def __init__(self, sparse):
        super().__init__()
        torch.manual_seed(0)
        self.table, self.out = nn.EmbeddingBag(20, 3, mode="mean", sparse=sparse), nn.Linear(3, 1)

    def forward(self, ids):
        return self.out(self.table(ids))


IDS = torch.tensor([[1, 2, 2], [3, 3, 4]])


@pytest.mark.parametrize("name", NAMES)
def test_sparse_gradients_work_and_resume(name):
    net = Bag(sparse=True)
    optimiser = made(net, name, clip=None if name == "lbfgs" else 1.0)
    before = net.table.weight.detach().clone()
    losses = [optimiser.step(lambda: net(IDS).square().mean()) for _ in range(3)]
    assert losses[-1] < losses[0]
    changed = (net.table.weight != before).any(dim=1)
    assert set(torch.nonzero(changed).flatten().tolist()) == {1, 2, 3, 4}
    held, arrays = optimiser.state()
    again = copy.deepcopy(net)
    resumed = made(again, name, clip=None if name == "lbfgs" else 1.0)
    resumed.load(json.loads(json.dumps(held)), arrays)
    for n, o in ((net, optimiser), (again, resumed)):
        o.step(lambda n=n: n(IDS + 3).square().mean())
    assert torch.equal(weights(net), weights(again))


@pytest.mark.parametrize("name", ["gd", "sgd", "adagrad", "momentum", "nesterov", "rmsprop"])
def test_sparse_equals_dense(name):
    nets = [Bag(sparse=True), Bag(sparse=False)]
    for net in nets:
        optimiser = made(net, name, clip=0.05)
        for step in range(4):
            optimiser.step(lambda net=net, step=step: net(IDS + step).square().mean())
    assert torch.allclose(weights(nets[0]), weights(nets[1]), atol=1e-6)


def test_adam_leaves_absent_rows_alone():
    net = Bag(sparse=True)
    optimiser = made(net, "adamw", weight_decay=0.1)
    optimiser.step(lambda: net(IDS).square().mean())
    after = net.table.weight.detach().clone()
    optimiser.step(lambda: net(IDS + 10).square().mean())
    assert torch.equal(net.table.weight[:5], after[:5])
    assert not torch.equal(net.table.weight[11:15], after[11:15])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.bool, torch.uint8])
@pytest.mark.parametrize("shape", [(), (0,), (3, 2)])
def test_tensors_round_trip(dtype, shape):
    tensor = (torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 3).to(dtype)
    array = to_array(tensor)
    assert array.shape == shape
    again = to_tensor(array)
    assert again.dtype == dtype
    assert torch.equal(again, tensor)
    if array.size and dtype != torch.bfloat16:
        assert np.array_equal(array, tensor.numpy())


def test_a_gradient_whose_norm_overflows_is_named():
    net = network()
    with pytest.raises(NonFinite) as caught:
        made(net, "sgd").step(lambda: (net[3].weight * 1e25).sum())
    assert (caught.value.which, caught.value.parameter) == ("gradient", "3.weight")


def test_the_forward_pass_alone_is_in_bfloat16():
    net = network()
    optimiser = made(net, "adamw")
    optimiser.around = lambda: torch.autocast("cpu", torch.bfloat16)
    seen = []
    net[0].register_forward_hook(lambda module, given, out: seen.append(out.dtype))
    loss = optimiser.step(closure(net, 0))
    assert seen == [torch.bfloat16]
    assert {p.dtype for p in net.parameters()} == {p.grad.dtype for p in net.parameters()} == {torch.float32}
    assert loss == pytest.approx(made(network(), "adamw").step(closure(network(), 0)), rel=2e-2)

"""Muon beside the one of torch, which differs by rounding to bfloat16 alone."""

import pytest
import torch

from mainstem.config import Training
from mainstem.training.muon import Muon, orthogonal
from mainstem.training.optimisers import Optimiser, in_block


@pytest.mark.parametrize("shape", [(5, 12, 12), (3, 8, 20), (3, 20, 8)])
def test_singular_values_come_near_one(shape):
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(1))
    found = orthogonal(x)
    assert found.shape == x.shape
    values = torch.linalg.svdvals(found)
    assert float(values.min()) > 0.3
    assert float(values.max()) < 1.3
    assert torch.einsum("kij,kij->", found, x) > 0


def test_steps_are_those_of_torch():
    torch.manual_seed(0)
    ours, theirs = [[torch.randn(16, 24).requires_grad_(), torch.randn(24, 16).requires_grad_()] for _ in range(2)]
    for a, b in zip(ours, theirs, strict=True):
        b.data.copy_(a.data)
    before = [p.detach().clone() for p in ours]
    settings = {"lr": 0.01, "momentum": 0.95, "weight_decay": 0.1}
    one, other = Muon(ours, **settings), torch.optim.Muon(theirs, **settings, adjust_lr_fn="match_rms_adamw")
    for seed in range(4):
        for params in (ours, theirs):
            generator = torch.Generator().manual_seed(seed)
            for p in params:
                p.grad = torch.randn(p.shape, generator=generator)
        one.step()
        other.step()
    for a, b, start in zip(ours, theirs, before, strict=True):
        assert float((a - b).detach().norm()) < 0.05 * float((a - start).detach().norm())


def test_blocks_go_to_muon_and_the_rest_to_adamw_and_back_from_a_checkpoint():
    def made():
        torch.manual_seed(0)
        net = torch.nn.ModuleDict(
            {"first": torch.nn.Linear(3, 4), "layers": torch.nn.ModuleList([torch.nn.Linear(4, 4) for _ in range(2)])}
        )
        return net, Optimiser(list(net.named_parameters()), Training(optimizer="muon"), 0.01)

    def step(net, optimiser, seed):
        x = torch.randn(8, 3, generator=torch.Generator().manual_seed(seed))
        optimiser.step(lambda: net["layers"][1](net["layers"][0](net["first"](x))).square().mean())

    net, optimiser = made()
    assert [n for n, p in net.named_parameters() if in_block(n, p)] == ["layers.0.weight", "layers.1.weight"]
    for seed in range(3):
        step(net, optimiser, seed)
    json, arrays = optimiser.state()
    assert set(json["parts"]) == {"blocks", "dense"}
    again, resumed = made()
    again.load_state_dict(net.state_dict())
    resumed.load(json, arrays)
    for each, o in ((net, optimiser), (again, resumed)):
        step(each, o, 9)
    for a, b in zip(net.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)

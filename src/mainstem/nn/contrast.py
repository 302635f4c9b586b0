"""Pairs that belong together against all others of the batch: InfoNCE (van den Oord et al. 2018, arXiv:1807.03748).

B pairs, D channels of a backbone, P of the space that both sides are compared in.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

LARGEST = 100.0  # of the factor of cosines, as in CLIP (Radford et al. 2021, arXiv:2103.00020)


class Head(nn.Module):
    """Features of each tower → points of length 1 in one space, and the factor of their cosines. Used for pretraining alone.

    widths: channels by tower. projection: those of the space; 0 compares the features themselves. hidden: whether a layer stands
    between, as in SimCLR (Chen et al. 2020, arXiv:2002.05709). temperature: the inverse of the factor; learned: whether it only starts
    there.
    """

    def __init__(self, widths: Mapping[str, int], projection: int, *, hidden: bool, temperature: float, learned: bool) -> None:
        super().__init__()
        self.project = nn.ModuleDict({name: _projection(width, projection, hidden) for name, width in widths.items()})
        self.log_factor = nn.Parameter(torch.tensor(math.log(1 / temperature)), requires_grad=learned)

    def forward(self, features_BD: Tensor, tower: str) -> Tensor:
        """[B, D] → [B, P]."""
        return functional.normalize(self.project[tower](features_BD).float(), dim=-1)

    def factor(self) -> Tensor:
        """What cosines are multiplied by, a scalar."""
        return self.log_factor.exp().clamp(max=LARGEST)


def _projection(width: int, projection: int, hidden: bool) -> nn.Module:
    if not projection:
        return nn.Identity()
    if not hidden:
        return nn.Linear(width, projection, bias=False)
    return nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, projection, bias=False))


def features(run: Callable[[Mapping[str, Tensor]], Tensor], arrays: Mapping[str, Tensor], parts: int) -> Tensor:
    """run(arrays) [B, D], in `parts` parts whose activations are computed again for the gradient, one part after the other.

    So memory is that of one part, and the loss that of the whole batch (GradCache, Gao et al. 2021, arXiv:2101.06983). Dropout draws
    the same numbers both times.
    """
    if parts <= 1 or not torch.is_grad_enabled():
        return run(arrays)
    chunks: list[dict[str, Any]] = [
        dict(zip(arrays, values, strict=True)) for values in zip(*(tensor.chunk(parts) for tensor in arrays.values()), strict=True)
    ]
    return torch.cat([checkpoint(run, chunk, use_reentrant=False) for chunk in chunks])


def info_nce(first_BP: Tensor, second_BP: Tensor, factor: Tensor, *, one_space: bool) -> Tensor:
    """The loss of finding each point's partner, both ways, a scalar.

    one_space: whether points of its own side stand among the others too (NT-Xent of SimCLR), which asks for one network on both sides.
    """
    with torch.autocast("cpu", enabled=False):
        across_BB = factor * first_BP.float() @ second_BP.float().T
        sides = [across_BB, across_BB.T]
        if one_space:
            itself = torch.eye(len(across_BB), dtype=torch.bool)
            for number, points_BP in enumerate((first_BP.float(), second_BP.float())):
                own_BB = (factor * points_BP @ points_BP.T).masked_fill(itself, -torch.inf)
                sides[number] = torch.cat([sides[number], own_BB], dim=1)
        partner = torch.arange(len(across_BB))
        return (functional.cross_entropy(sides[0], partner) + functional.cross_entropy(sides[1], partner)) / 2


def likeness(first_BP: Tensor, wanted_BP: Tensor, others_MP: Any, factor: Tensor) -> Tensor:
    """The cross entropy of each point's likenesses to M others, as a distribution, from those of the point where it should be, a scalar."""
    with torch.autocast("cpu", enabled=False):
        others_PM = torch.as_tensor(others_MP).T
        wanted_BM = (factor.detach() * wanted_BP.float() @ others_PM).softmax(1)
        return functional.cross_entropy(factor * first_BP.float() @ others_PM, wanted_BM)


def found(first_BP: Tensor, second_BP: Tensor) -> Tensor:
    """The share of points whose nearest one of the other side is their partner, over both ways, a scalar."""
    across_BB = first_BP @ second_BP.T
    partner = torch.arange(len(across_BB))
    return ((across_BB.argmax(1) == partner).float().mean() + (across_BB.argmax(0) == partner).float().mean()) / 2

"""Muon: momentum whose step has all its singular values near one. In float32, matrices of one shape at once.

torch.optim.Muon rounds to bfloat16, which a processor without it emulates: on two AVX2 cores its step took longer than the gradient
of a small network, here a twentieth of it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the quintic iteration; five rounds bring singular values to 0.7 … 1.2
_ROUNDS = 5


class Muon(torch.optim.Optimizer):
    """For matrices alone (Jordan et al. 2024), with Nesterov momentum, decoupled decay, and steps as large as those of AdamW
    (Liu et al. 2025, arXiv:2502.16982), so that a rate found for AdamW suits."""

    def __init__(self, params: Iterable[Tensor], lr: float = 1e-3, momentum: float = 0.95, weight_decay: float = 0.0) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """One update of all parameters that have a gradient."""
        for group in self.param_groups:
            alike: dict[torch.Size, list[Tensor]] = defaultdict(list)
            for p in group["params"]:
                if p.grad is not None:
                    alike[p.shape].append(p)
            for shape, matrices in alike.items():
                pushed = torch.stack([self._pushed(p, group["momentum"]) for p in matrices])
                lr, size = group["lr"], 0.2 * max(shape) ** 0.5
                for p, direction in zip(matrices, orthogonal(pushed), strict=True):
                    p.mul_(1.0 - lr * group["weight_decay"]).add_(direction, alpha=-lr * size)
        return None

    def _pushed(self, p: Tensor, momentum: float) -> Tensor:
        held = self.state[p].setdefault("momentum", torch.zeros_like(p))
        held.mul_(momentum).add_(p.grad)
        pushed: Tensor = p.grad + momentum * held
        return pushed


def orthogonal(x: Tensor) -> Tensor:
    """Matrices [k, m, n] → with the same singular vectors, and singular values near one (Newton–Schulz iteration)."""
    wide = x.shape[-2] > x.shape[-1]
    x = x.mT if wide else x
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    a, b, c = _COEFFICIENTS
    for _ in range(_ROUNDS):
        square = x @ x.mT
        x = a * x + (b * square + c * square @ square) @ x
    return x.mT if wide else x

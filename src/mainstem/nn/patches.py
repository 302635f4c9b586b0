"""The in-context series network: patches of the past and of candidate continuations in, quantiles of each step ahead out.

Every token sees every other (patches: Nie et al. 2023, PatchTST). The median is a mixture of the candidates, weighed for each patch ahead,
plus a correction; the other quantiles are steps away from it, so that they cannot cross. Letters of shapes: n series, s patches of the
past, f patches ahead, h = f × patch steps, c candidates, q quantiles, d width.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

QUANTILES = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
_HALF = len(QUANTILES) // 2
_SEEN = 1  # the channel of the past that is 0 where a step is missing
_NEVER = -1e9


class Layer(nn.Module):
    """Attention of `x` over all tokens, then a small network for each token."""

    def __init__(self, width: int, heads: int, inner: int) -> None:
        super().__init__()
        self.heads = heads
        self.norms = nn.ModuleList([nn.LayerNorm(width) for _ in range(2)])
        self.query, self.pair, self.out = (nn.Linear(width, k * width, bias=False) for k in (1, 2, 1))
        self.inner, self.outer = nn.Linear(width, inner), nn.Linear(inner, width)

    def forward(self, x: Tensor, bias: Tensor, ahead: int, *, last: bool = False) -> Tensor:
        """x [n, s + f, d], bias [n, 1, 1, s + f] of the attention → the same; `last`: of the `ahead` patches alone, [n, f, d]."""
        n, tokens, d = x.shape
        seen = self.norms[0](x)
        key, value = self.pair(seen).view(n, tokens, 2, self.heads, d // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        if last:
            x, seen = x[:, -ahead:], seen[:, -ahead:]
        query = self.query(seen).view(n, -1, self.heads, d // self.heads).transpose(1, 2)
        with torch.autocast(x.device.type, enabled=False):  # on a processor, going back through attention in bfloat16 is slow
            mixed = functional.scaled_dot_product_attention(query.float(), key.float(), value.float(), attn_mask=bias)
        x = x + self.out(mixed.transpose(1, 2).reshape(n, -1, d))
        moved: Tensor = x + self.outer(functional.gelu(self.inner(self.norms[1](x))))
        return moved


class Patches(nn.Module):
    """The arrays of a reading (modalities/_continuations.py) → quantiles of each step ahead, in its units.

    patch: steps a token; channels: numbers a step of the past; bounds: which candidates lie low and high; summary: numbers a series;
    past, ahead: patches of each with a place of their own (further ones ahead take the last).
    """

    def __init__(
        self,
        width: int,
        layers: int,
        heads: int,
        *,
        patch: int,
        channels: int,
        candidates: int,
        bounds: tuple[int, int],
        summary: int,
        past: int,
        ahead: int,
    ) -> None:
        super().__init__()
        self.patch, self.candidates, self.bounds = patch, candidates, bounds
        self.context = nn.Linear(patch * channels, width)
        self.future = nn.Linear(patch * (candidates + 2), width)
        self.summary = nn.Linear(summary, width)
        self.place = nn.Parameter(torch.randn(past + ahead, width) * 0.1)  # the first patch ahead stands at `past`
        self.past = past
        self.layers = nn.ModuleList([Layer(width, heads, 3 * width) for _ in range(layers)])
        self.norm = nn.LayerNorm(width)
        self.weights = nn.Linear(width, candidates + 1)
        self.correction = nn.Linear(width, patch)
        self.steps, self.reach = nn.Linear(width, patch * 2 * _HALF), nn.Linear(width, 2 * _HALF)
        self.trust = nn.Parameter(torch.tensor(2.0))
        for linear in (self.weights, self.correction, self.steps, self.reach):
            nn.init.normal_(linear.weight, std=0.01)
            nn.init.zeros_(linear.bias)
        for layer in self.layers:
            for linear in (layer.out, layer.outer):
                nn.init.normal_(linear.weight, std=0.5 / math.sqrt(width * layers))

    def forward(self, context: Tensor, future: Tensor, level: Tensor, width: Tensor, summary: Tensor) -> dict[str, Tensor]:
        """context [n, s, patch × channels]; future [n, c, h]: candidates less their base, in units; level and width [n, h]: of the base
        and of the spread; summary [n, …], whose first c say how much better each candidate did than the base, as logarithms.

        → "quantiles" [n, h, q], which rise along q.
        """
        n, s = context.shape[0], context.shape[1]
        h = future.shape[2]
        f = h // self.patch
        told = torch.cat([_asinh(future), level[:, None], torch.log(width)[:, None]], dim=1)
        told = told.view(n, -1, f, self.patch).transpose(1, 2).reshape(n, f, -1)
        x = torch.cat([self.context(context), self.future(told)], dim=1).float()  # what layers add to stays in float32
        place = torch.arange(self.past - s, self.past + f).clamp(max=len(self.place) - 1)
        x = x + self.summary(summary)[:, None] + self.place[place]
        seen = context.view(n, s, self.patch, -1)[..., _SEEN].amax(-1)
        before = torch.cumsum(seen, dim=1) == 0  # patches before a series begins, which nothing attends to
        bias = functional.pad(before.float() * _NEVER, (0, f))[:, None, None]
        for i, layer in enumerate(self.layers):
            x = layer(x, bias, f, last=i == len(self.layers) - 1)
        x = self.norm(x)
        skill = functional.pad(summary[:, : self.candidates], (0, 1))
        share = functional.softmax(self.weights(x).float() + self.trust * skill[:, None], dim=-1)[..., : self.candidates]
        mixed = (share.transpose(1, 2)[..., None] * future.view(n, -1, f, self.patch)).sum(1).view(n, h)
        middle = mixed + width * self.correction(x).float().view(n, h)
        apart = functional.softplus(self.steps(x).float() - 0.5).view(n, h, 2, _HALF) * width[..., None, None]
        low, high = (future[:, i] for i in self.bounds)
        bounds = functional.relu(torch.stack([middle - low, high - middle], dim=-1)).view(n, f, self.patch, 2, 1)
        apart = apart + (functional.softplus(self.reach(x).float() - 3.0).view(n, f, 1, 2, _HALF) * bounds).view(n, h, 2, _HALF)
        below = torch.cumsum(apart[:, :, 0], dim=-1).flip(-1)
        above = torch.cumsum(apart[:, :, 1], dim=-1)
        centre = middle[..., None]
        return {"quantiles": torch.cat([centre - below, centre, centre + above], dim=-1)}


def _asinh(x: Tensor) -> Tensor:
    """As numpy has it, in operations that the exporter knows."""
    return torch.sign(x) * torch.log(x.abs() + torch.sqrt(x * x + 1.0))


class Window(nn.Module):
    """The network as a graph takes it: a dict of arrays in, a dict out."""

    def __init__(self, network: Patches) -> None:
        super().__init__()
        self.network = network

    def forward(self, arrays: dict[str, Tensor]) -> dict[str, Tensor]:
        """arrays: the arguments of Patches.forward."""
        told: dict[str, Tensor] = self.network(**arrays)
        return told


def pinball(quantiles: Tensor, truth: Tensor) -> Tensor:
    """Quantile losses [n, h], twice the mean over QUANTILES, of quantiles [n, h, q] against truth [n, h] (Koenker and Bassett 1978)."""
    levels = quantiles.new_tensor(QUANTILES)
    missed = truth[..., None] - quantiles
    return 2.0 * torch.maximum(levels * missed, (levels - 1.0) * missed).mean(-1)

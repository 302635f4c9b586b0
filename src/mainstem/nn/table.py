"""Networks over the `table` input: numbers float32 [B, F], NaN where missing, and categories int64 [B, C], 0 missing, 1 unseen."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from mainstem import choices

ACTIVATIONS = dict(zip(choices.ACTIVATIONS, (nn.Sigmoid, nn.Tanh, nn.ReLU, nn.GELU, nn.SiLU), strict=True))


class Expand(nn.Module):
    """Columns as a linear model reads them: numbers, an indicator for each of `gaps`, categories one-hot.

    A missing number is 0 (the mean, once scaled) and an unseen category all zeros: no untrained weight is ever used.
    """

    def __init__(self, numbers: int, categories: Sequence[int], gaps: Sequence[int]) -> None:
        super().__init__()
        self.gaps = [i for i in gaps if i < numbers]
        self.known = [[0] * (numbers + i in gaps) + list(range(2, size)) for i, size in enumerate(categories)]

    def forward(self, arrays: Mapping[str, Tensor]) -> Tensor:
        """[B, numbers + gaps among them + the known values of every category]."""
        parts = []
        if "numbers" in arrays:
            x_BF = arrays["numbers"]
            missing_BF = torch.isnan(x_BF)
            parts = [torch.where(missing_BF, torch.zeros_like(x_BF), x_BF)]
            parts += [missing_BF[:, i : i + 1].to(x_BF.dtype) for i in self.gaps]
        for i, known in enumerate(self.known):
            ids_B1 = arrays["categories"][:, i : i + 1]
            parts.append((ids_B1 == torch.tensor(known, device=ids_B1.device)).float())
        return torch.cat(parts, 1)


class Piecewise(nn.Module):
    """Each number as a learned piecewise linear curve with values in `dim` channels (Gorishniy et al. 2022, arXiv:2203.05556).

    Knots stand at the quantiles of the normal distribution, since numbers come scaled to it.
    """

    def __init__(self, numbers: int, dim: int, bins: int = 16) -> None:
        super().__init__()
        inner = torch.distributions.Normal(0.0, 1.0).icdf(torch.linspace(0, 1, bins + 1)[1:-1])
        edges = torch.cat([torch.tensor([-4.0]), inner, torch.tensor([4.0])])
        self.register_buffer("left", edges[:-1], persistent=False)
        self.register_buffer("span", edges[1:] - edges[:-1], persistent=False)
        self.weight = nn.Parameter(torch.randn(numbers, bins, dim) / math.sqrt(bins))
        self.bias = nn.Parameter(torch.zeros(numbers, dim))

    def forward(self, x_BF: Tensor) -> Tensor:
        """[B, F] → [B, F, dim]."""
        share_BFK = ((x_BF.unsqueeze(-1) - self.left) / self.span).clamp(0, 1)
        return (torch.einsum("bfk,fkd->bfd", share_BFK, self.weight) + self.bias).relu()


class Periodic(nn.Module):
    """Each number as sines and cosines of learned frequencies, then a linear layer of its own (Gorishniy et al. 2022)."""

    def __init__(self, numbers: int, dim: int, frequencies: int = 24, sigma: float = 0.1) -> None:
        super().__init__()
        self.frequencies = nn.Parameter(torch.randn(numbers, frequencies) * sigma)
        self.weight = nn.Parameter(torch.randn(numbers, 2 * frequencies, dim) / math.sqrt(2 * frequencies))
        self.bias = nn.Parameter(torch.zeros(numbers, dim))

    def forward(self, x_BF: Tensor) -> Tensor:
        """[B, F] → [B, F, dim]."""
        angle_BFK = 2 * math.pi * x_BF.unsqueeze(-1) * self.frequencies
        return (torch.einsum("bfk,fkd->bfd", torch.cat([angle_BFK.sin(), angle_BFK.cos()], -1), self.weight) + self.bias).relu()


class Plain(nn.Module):
    """Each number as it is, in one channel."""

    def forward(self, x_BF: Tensor) -> Tensor:
        """[B, F] → [B, F, 1]."""
        return x_BF.unsqueeze(-1)


def embedding_width(values: int) -> int:
    """The width of the embedding of a category with so many values: min(50, ⌈1.6·n^0.56⌉), fastai's rule."""
    return min(50, math.ceil(1.6 * values**0.56))


class Embed(nn.Module):
    """Columns as a deep network reads them: numbers by `curves` (plain, piecewise, periodic) and category embeddings.

    A missing number is a learned vector. Vectors of missing and unseen values start at zero and stay there if training
    never meets them.
    """

    def __init__(self, numbers: int, categories: Sequence[int], curves: str, dim: int) -> None:
        super().__init__()
        dim = 1 if curves == "plain" else dim
        self.curves: nn.Module | None = None
        if numbers:
            self.curves = {"plain": Plain, "piecewise": Piecewise, "periodic": Periodic}[curves](
                *(() if curves == "plain" else (numbers, dim))
            )
            self.missing = nn.Parameter(torch.zeros(numbers, dim))
        self.categories = nn.ModuleList(nn.Embedding(n, embedding_width(n)) for n in categories)
        for table in self.categories:
            nn.init.normal_(table.weight, std=1 / math.sqrt(table.embedding_dim))
            nn.init.zeros_(table.weight[:2])
        self.width = numbers * dim + sum(t.embedding_dim for t in self.categories)

    def forward(self, arrays: Mapping[str, Tensor]) -> Tensor:
        """[B, width]."""
        parts = []
        if self.curves is not None:
            x_BF = arrays["numbers"]
            missing_BF = torch.isnan(x_BF)
            values_BFD = self.curves(torch.where(missing_BF, torch.zeros_like(x_BF), x_BF))
            parts.append(torch.where(missing_BF.unsqueeze(-1), self.missing, values_BFD).flatten(1))
        return torch.cat(parts + [table(arrays["categories"][:, i]) for i, table in enumerate(self.categories)], 1)


class BatchNorm(nn.BatchNorm1d):
    """Batch norm that takes a training batch of one row (the last of an epoch) with the running statistics."""

    def forward(self, input: Tensor) -> Tensor:
        """[B, D] → [B, D]."""
        if self.training and input.shape[0] == 1:
            return functional.batch_norm(input, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps)
        return super().forward(input)


NORMS = dict(zip(choices.NORMS, (nn.Identity, BatchNorm, nn.LayerNorm), strict=True))


class MLP(nn.Module):
    """`depth` layers of `width`: linear, norm, activation, dropout."""

    def __init__(self, embed: Embed, depth: int, width: int, activation: str, norm: str, dropout: float, init: str) -> None:
        super().__init__()
        self.embed = embed
        layers: list[nn.Module] = []
        for i in range(depth):
            linear = nn.Linear(embed.width if i == 0 else width, width)
            initialise(linear, init)
            layers += [linear, NORMS[norm](width), ACTIVATIONS[activation](), nn.Dropout(dropout)]
        self.layers = nn.Sequential(*layers)

    def forward(self, arrays: Mapping[str, Tensor]) -> Tensor:
        """[B, width]."""
        return self.layers(self.embed(arrays))


def initialise(linear: nn.Linear, name: str) -> None:
    """Weights by the initialiser of torch.nn.init of that name, biases zero; "default" leaves what PyTorch gave."""
    if name != "default":
        spread = {"normal": {"std": 0.02}, "trunc_normal": {"std": 0.02}, "uniform": {"a": -0.05, "b": 0.05}}.get(name, {})
        getattr(nn.init, f"{name}_")(linear.weight, **spread)
        nn.init.zeros_(linear.bias)

"""The in-context table network: attention over the columns of a row, then over the rows of a column, layer by layer.

Rows to answer see the context rows alone, so that no answer depends on what else is asked (Hollmann et al. 2025, TabPFN v2). Letters
of shapes: b tables, n context rows, r rows in all (context first), c columns, t tokens of a row (pairs of columns, then the answer),
d width.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

PAIR = 2  # columns a token
CHANNELS = 3  # numbers a cell: standardised, its rank, whether it is missing


class Rows(nn.Module):
    """Attention over `length` tokens whose keys are those of the first `known` of them."""

    def __init__(self, width: int, heads: int, *, stretched: bool) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.pair, self.out = (nn.Linear(width, k * width, bias=False) for k in (1, 2, 1))
        # Attention over more rows than were seen in training stays as sharp (Nakanishi 2025, scalable softmax).
        self.stretch = nn.Parameter(torch.full((heads, 1, 1), 0.2)) if stretched else None

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """x [s, length, d], context [s, known, d] → [s, length, d]."""
        s, length, d = x.shape
        known = context.shape[1]
        query = self.query(x).view(s, length, self.heads, d // self.heads).transpose(1, 2)
        key, value = self.pair(context).view(s, known, 2, self.heads, d // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        if self.stretch is not None:
            size = torch.log(torch.as_tensor(known, dtype=x.dtype) / 128.0)
            query = query * (1.0 + self.stretch * size)
            mixed = _attended(query, key, value)
        else:  # so few columns that plain products are quicker
            mixed = (query @ key.mT / math.sqrt(d // self.heads)).softmax(-1) @ value
        out: Tensor = self.out(mixed.transpose(1, 2).reshape(s, length, d))
        return out


def _attended(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """In float32 whatever is asked for: on a processor, going back through attention in bfloat16 takes three times as long."""
    with torch.autocast(query.device.type, enabled=False):
        return functional.scaled_dot_product_attention(query.float(), key.float(), value.float())


class Layer(nn.Module):
    """Columns, rows, and a small network for each cell."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList([nn.LayerNorm(width) for _ in range(3)])
        self.columns, self.rows = Rows(width, heads, stretched=False), Rows(width, heads, stretched=True)
        self.inner, self.outer = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: Tensor, known: int, *, last: bool = False) -> Tensor:
        """x [b, r, t, d] → the same; `last`: of the answers alone, [b, r, 1, d]."""
        b, r, t, d = x.shape
        flat = self.norms[0](x).view(b * r, t, d)
        if last:
            x, t = x[:, :, -1:], 1
        x = x + self.columns(flat[:, -t:], flat).view(b, r, t, d)
        turned = self.norms[1](x).transpose(1, 2).reshape(b * t, r, d)
        x = x + self.rows(turned, turned[:, :known]).view(b, t, r, d).transpose(1, 2)
        return x + self.outer(functional.gelu(self.inner(self.norms[2](x))))


class TwoWay(nn.Module):
    """Cells of context rows and rows to answer, answers of the context rows → `classes` and `nodes` logits of each row to answer.

    codes: how many there are, with 0 for none; mark: the width of the random vector that tells one token of a row from another.
    """

    def __init__(self, width: int, layers: int, heads: int, *, codes: int, mark: int, classes: int = 10, nodes: int = 64) -> None:
        super().__init__()
        self.width, self.codes, self.classes = width, codes, classes
        self.cell = nn.Linear(PAIR * CHANNELS, width)
        self.code = nn.Embedding(PAIR * codes, width)  # by place in the pair
        self.mark = nn.Linear(mark, width, bias=False)
        self.of_class = nn.Embedding(classes, width)
        self.of_value = nn.Linear(2, width)
        self.unknown = nn.Embedding(2, width)
        self.layers = nn.ModuleList([Layer(width, heads) for _ in range(layers)])
        self.norm = nn.LayerNorm(width)
        self.inner, self.outer = nn.Linear(width, 2 * width), nn.Linear(2 * width, classes + nodes)
        for embedding in (self.code, self.of_class, self.unknown):
            nn.init.normal_(embedding.weight, std=0.5)
        for layer in self.layers:
            for linear in (layer.columns.out, layer.rows.out, layer.outer):
                nn.init.normal_(linear.weight, std=0.5 / math.sqrt(width * layers))

    def forward(self, cells: Tensor, codes: Tensor, marks: Tensor, index: Tensor, value: Tensor, regression: Tensor) -> dict[str, Tensor]:
        """cells float [b, r, c, 3], codes int [b, r, c] (c even), marks float [b, c/2, mark]; of the context rows: index int [b, n]
        (classes) and value float [b, n, 2] (standardised, rank); regression float [b], 1 or 0.

        → "logits" [b, r-n, classes], "nodes" [b, r-n, nodes].
        """
        b, r, c, _ = cells.shape
        known = index.shape[1]
        x = self.cell(cells.reshape(b, r, c // PAIR, PAIR * CHANNELS)).float()  # what layers add to stays in float32
        for place in range(PAIR):
            of_pair = codes[:, :, place::PAIR]
            x = x + (of_pair > 0)[..., None] * self.code(of_pair + place * self.codes)
        x = x + self.mark(marks)[:, None]
        flag = regression[:, None, None]
        answers = flag * self.of_value(value) + (1.0 - flag) * self.of_class(index)
        asked = (flag * self.unknown.weight[1] + (1.0 - flag) * self.unknown.weight[0]).expand(b, r - known, self.width)
        x = torch.cat([x, torch.cat([answers, asked], dim=1)[:, :, None]], dim=2)
        for i, layer in enumerate(self.layers):
            x = layer(x, known, last=i == len(self.layers) - 1)
        out = self.outer(functional.gelu(self.inner(self.norm(x[:, known:, 0])))).float()
        return {"logits": out[..., : self.classes], "nodes": out[..., self.classes :]}


def nodes(count: int = 64, reach: float = 6.0, bend: float = 3.0) -> Tensor:
    """The values, in standard deviations, that a distribution of answers has its mass on: dense in the middle."""
    even = torch.linspace(-1.0, 1.0, count, dtype=torch.float64)
    return (reach * torch.sinh(bend * even) / math.sinh(bend)).float()


def spread(value: Tensor, at: Tensor) -> Tensor:
    """Values [...] as mass on the two nodes beside each [..., nodes], with the value as its mean."""
    value = value.clamp(at[0], at[-1])
    right = torch.searchsorted(at, value).clamp(1, len(at) - 1)
    share = (value - at[right - 1]) / (at[right] - at[right - 1])
    mass = torch.zeros(*value.shape, len(at), dtype=value.dtype)
    return mass.scatter(-1, (right - 1)[..., None], (1.0 - share)[..., None]).scatter(-1, right[..., None], share[..., None])

"""The in-context table network: attention over the columns of a row, then over the rows of a column, layer by layer.

Rows to answer see the context rows alone, so that no answer depends on what else is asked (Hollmann et al. 2025, TabPFN v2). Letters
of shapes: b tables, n context rows, r rows to answer, c columns, t tokens of a row (pairs of columns, then the answer),
d width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

PAIR = 2  # columns a token
CHANNELS = 3  # numbers a cell: standardised, its rank, whether it is missing


Memory = tuple[Tensor, Tensor]  # keys and values [s, heads, length, d/heads]


class Attention(nn.Module):
    """Attention of tokens over the keys and values of others; `stretched`: as sharp over more of them than training showed."""

    def __init__(self, width: int, heads: int, *, stretched: bool) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.pair, self.out = (nn.Linear(width, k * width, bias=False) for k in (1, 2, 1))
        # Nakanishi 2025, scalable softmax
        self.stretch = nn.Parameter(torch.full((heads, 1, 1), 0.2)) if stretched else None

    def memory(self, x: Tensor) -> Memory:
        """Keys and values of x [s, length, d]."""
        s, length, d = x.shape
        key, value = self.pair(x).view(s, length, 2, self.heads, d // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        return key, value

    def forward(self, x: Tensor, memory: Memory) -> Tensor:
        """x [s, length, d] → the same."""
        s, length, d = x.shape
        key, value = memory
        query = self.query(x).view(s, length, self.heads, d // self.heads).transpose(1, 2)
        if self.stretch is not None:
            size = torch.log(torch.as_tensor(key.shape[2], dtype=x.dtype) / 128.0)
            query = query * (1.0 + self.stretch * size)
            mixed = _attended(query, key, value)
        else:  # so few columns that plain products are quicker
            mixed = (query @ key.transpose(-1, -2) / math.sqrt(d // self.heads)).softmax(-1) @ value
        out: Tensor = self.out(mixed.transpose(1, 2).reshape(s, length, d))
        return out


def _attended(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """In float32 whatever is asked for: on a processor, going back through attention in bfloat16 takes three times as long."""
    with torch.autocast(query.device.type, enabled=False):
        return functional.scaled_dot_product_attention(query.float(), key, value)


class Layer(nn.Module):
    """Columns, rows, and a small network for each cell."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList([nn.LayerNorm(width) for _ in range(3)])
        self.columns, self.rows = Attention(width, heads, stretched=False), Attention(width, heads, stretched=True)
        self.inner, self.outer = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def across(self, x: Tensor, tokens: int = 0) -> Tensor:
        """Attention over the tokens of each row, x [b, r, t, d] → the same; of the last `tokens` alone, or of all."""
        b, r, t, d = x.shape
        flat = self.norms[0](x).view(b * r, t, d)
        told = self.columns(flat[:, -tokens:], self.columns.memory(flat))
        return x[:, :, -tokens:] + told.view(b, r, tokens or t, d)

    def memory(self, known: Tensor) -> Memory:
        """What other rows see of context rows [b, n, t, d], in float32."""
        key, value = self.rows.memory(_turned(self.norms[1](known)))
        return key.float(), value.float()

    def down(self, x: Tensor, memory: Memory) -> Tensor:
        """Attention of each token over the same token of the context rows, and the network for each cell."""
        b, r, t, d = x.shape
        x = x + self.rows(_turned(self.norms[1](x)), memory).view(b, t, r, d).transpose(1, 2)
        return x + self.outer(functional.gelu(self.inner(self.norms[2](x))))


def _turned(x: Tensor) -> Tensor:
    """[b, r, t, d] → [b·t, r, d]."""
    return x.transpose(1, 2).flatten(0, 1)


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

    def forward(
        self,
        cells: Tensor,
        codes: Tensor,
        known_cells: Tensor,
        known_codes: Tensor,
        index: Tensor,
        value: Tensor,
        marks: Tensor,
        regression: Tensor,
    ) -> dict[str, Tensor]:
        """Rows to answer: cells float [b, r, c, 3], codes int [b, r, c] (c even). Context rows: known_cells [b, n, c, 3], known_codes
        [b, n, c], their answers index int [b, n] (classes) and value float [b, n, 2] (standardised, rank). Of the tables: marks float
        [b, c/2, mark], regression float [b], 1 or 0.

        → "logits" [b, r, classes], "nodes" [b, r, nodes].
        """
        return self.answer(cells, codes, marks, regression, self.remember(known_cells, known_codes, index, value, marks, regression))

    def remember(
        self, known_cells: Tensor, known_codes: Tensor, index: Tensor, value: Tensor, marks: Tensor, regression: Tensor
    ) -> list[Memory]:
        """What answers need of the context rows, layer by layer: it depends on nothing that is asked."""
        flag = regression[:, None, None]
        answers = flag * self.of_value(value) + (1.0 - flag) * self.of_class(index)
        known, memories = self._tokens(known_cells, known_codes, marks, answers), []
        for layer in self.layers[:-1]:
            known = layer.across(known)
            memories.append(layer.memory(known))
            known = layer.down(known, memories[-1])
        last = self.layers[-1]
        return [*memories, last.memory(last.across(known, 1))]  # there the answer alone is looked at

    def answer(self, cells: Tensor, codes: Tensor, marks: Tensor, regression: Tensor, memories: Sequence[Memory]) -> dict[str, Tensor]:
        """Rows to answer, over what was remembered."""
        flag = regression[:, None, None]
        unknown = flag * self.unknown.weight[1] + (1.0 - flag) * self.unknown.weight[0]
        x = self._tokens(cells, codes, marks, unknown.expand(-1, cells.shape[1], -1))
        for i, (layer, memory) in enumerate(zip(self.layers, memories, strict=True)):
            x = layer.down(layer.across(x, int(i == len(self.layers) - 1)), memory)
        out = self.outer(functional.gelu(self.inner(self.norm(x[:, :, 0])))).float()
        return {"logits": out[..., : self.classes], "nodes": out[..., self.classes :]}

    def _tokens(self, cells: Tensor, codes: Tensor, marks: Tensor, answers: Tensor) -> Tensor:
        """[b, r, t, d] in float32 whatever the precision: layers add to it."""
        b, r, c, _ = cells.shape
        x = self.cell(cells.reshape(b, r, c // PAIR, PAIR * CHANNELS)).float() + self.mark(marks)[:, None]
        for place in range(PAIR):
            of_pair = codes[:, :, place::PAIR]
            x = x + (of_pair > 0)[..., None] * self.code(of_pair + place * self.codes)
        return torch.cat([x, answers[:, :, None].float()], dim=2)


class Whole(nn.Module):
    """The network as a graph: the arguments of `forward` by name → its outputs, and "key.LAYER" and "value.LAYER" on the way, where
    the graph can be cut in two."""

    def __init__(self, inner: TwoWay) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, arrays: dict[str, Tensor]) -> dict[str, Tensor]:
        """All in one pass."""
        known = {name: arrays[name] for name in ("known_cells", "known_codes", "index", "value", "marks", "regression")}
        asked = {name: arrays[name] for name in ("cells", "codes", "marks", "regression")}
        memories = self.inner.remember(**known)
        parts = {f"{word}.{i}": part for i, memory in enumerate(memories) for word, part in zip(("key", "value"), memory, strict=True)}
        return {**self.inner.answer(**asked, memories=memories), **parts}


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

"""Recurrent networks over tokens. B rows, T steps, D input width, H width a direction; padding stands at the end of a row.

Training with dropout walks the steps itself, since the fused kernels know no dropout on the recurrent connections;
otherwise the fused kernels run on the same weights, and are what is exported.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from mainstem.nn import pooling

KERNELS = {"rnn": nn.RNN, "lstm": nn.LSTM, "gru": nn.GRU}


class Direction(nn.Module):
    """One layer in one direction. `dropout` is variational: one mask a sequence (Gal & Ghahramani 2016, arXiv:1512.05287)."""

    def __init__(self, kind: str, inputs: int, width: int, dropout: float) -> None:
        super().__init__()
        self.kind, self.dropout = kind, dropout
        self.kernel = KERNELS[kind](inputs, width, batch_first=True)

    def forward(self, x_BTD: Tensor) -> Tensor:
        """[B, T, D] → [B, T, H]."""
        if not (self.training and self.dropout):
            return self.kernel(x_BTD)[0]
        return self.walk(x_BTD, mask(x_BTD, x_BTD.shape[2], self.dropout), mask(x_BTD, self.kernel.hidden_size, self.dropout))

    def walk(self, x_BTD: Tensor, input_B1D: Tensor, recurrent_B1H: Tensor) -> Tensor:
        """Step by step: inputs and the state that the gates see are multiplied by their masks, the same in every step."""
        weight_ih, weight_hh, bias_ih, bias_hh = self.kernel.all_weights[0]
        projected = functional.linear(x_BTD * input_B1D, weight_ih, bias_ih)  # of all steps at once
        kept_BH = recurrent_B1H.squeeze(1)
        h_BH = c_BH = torch.zeros_like(projected[:, 0, : self.kernel.hidden_size])
        outputs = []
        for x in projected.unbind(1):
            h_BH, c_BH = self._cell(x, functional.linear(h_BH * kept_BH, weight_hh, bias_hh), h_BH, c_BH)
            outputs.append(h_BH)
        return torch.stack(outputs, 1)

    def _cell(self, x: Tensor, r: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        """One step as torch.nn defines it: x of the input, r of the last state, [B, gates·H] each."""
        if self.kind == "rnn":
            return (x + r).tanh(), c
        if self.kind == "lstm":
            i, f, g, o = (x + r).chunk(4, 1)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            return o.sigmoid() * c.tanh(), c
        (x_reset, x_update, x_new), (r_reset, r_update, r_new) = x.chunk(3, 1), r.chunk(3, 1)
        update = (x_update + r_update).sigmoid()
        new = (x_new + (x_reset + r_reset).sigmoid() * r_new).tanh()
        return (1 - update) * new + update * h, c


def mask(like_BTD: Tensor, width: int, dropout: float) -> Tensor:
    """[B, 1, width]: 0 with probability `dropout`, else 1/(1 - dropout)."""
    return functional.dropout(like_BTD.new_ones(like_BTD.shape[0], 1, width), dropout)


def reverse(x_BTD: Tensor, lengths_B: Tensor) -> Tensor:
    """The first `length` steps of each row in reverse order, the padding behind them where it was."""
    steps_1T = torch.arange(x_BTD.shape[1], device=x_BTD.device).unsqueeze(0)
    back_BT = lengths_B.unsqueeze(1) - 1 - steps_1T
    index_BT = torch.where(back_BT >= 0, back_BT, steps_1T)
    return x_BTD.gather(1, index_BT.unsqueeze(-1).expand(-1, -1, x_BTD.shape[2]))


class Recurrent(nn.Module):
    """Token embeddings through `layers` of one or two directions."""

    def __init__(self, kind: str, vocabulary: int, dim: int, width: int, layers: int, bidirectional: bool, dropout: float) -> None:
        super().__init__()
        self.dropout, self.width = dropout, width
        self.embedding = nn.Embedding(vocabulary, dim)
        directions = 2 if bidirectional else 1
        self.layers = nn.ModuleList(
            nn.ModuleList(Direction(kind, dim if i == 0 else directions * width, width, dropout) for _ in range(directions))
            for i in range(layers)
        )

    def forward(self, ids_BT: Tensor, mask_BT: Tensor) -> dict[str, Tensor]:
        """sequence [B, T, directions·H], and its mean, maximum and last state [B, directions·H] over the real steps."""
        lengths_B = mask_BT.sum(1)
        x_BTD = self.embedding(ids_BT)
        for forth, *back in self.layers:
            parts = [forth(x_BTD)] + [reverse(direction(reverse(x_BTD, lengths_B)), lengths_B) for direction in back]
            x_BTD = torch.cat(parts, 2)
        if self.training and self.dropout:
            x_BTD = x_BTD * mask(x_BTD, x_BTD.shape[2], self.dropout)
        last = torch.cat([pooling.last(x_BTD[..., : self.width], mask_BT), x_BTD[:, 0, self.width :]], 1)  # where each direction ends
        return {"sequence": x_BTD, "mean": pooling.mean(x_BTD, mask_BT), "max": pooling.maximum(x_BTD, mask_BT), "last": last}

"""One vector a row from a sequence with padding. B rows, T steps, D width; masks are int64 [B, T], 1 where a step is real."""

from __future__ import annotations

from torch import Tensor


def mean(sequence_BTD: Tensor, mask_BT: Tensor) -> Tensor:
    """The mean of the real steps [B, D]; zero for a row without any."""
    weight_BT1 = mask_BT.unsqueeze(-1).to(sequence_BTD.dtype)
    return (sequence_BTD * weight_BT1).sum(1) / weight_BT1.sum(1).clamp(min=1)


def maximum(sequence_BTD: Tensor, mask_BT: Tensor) -> Tensor:
    """The largest value of each channel over the real steps [B, D]; zero for a row without any."""
    empty_B1 = (mask_BT.sum(1, keepdim=True) == 0).to(sequence_BTD.dtype)
    hidden_BT1 = (mask_BT == 0).unsqueeze(-1)
    return sequence_BTD.masked_fill(hidden_BT1, -1e30).amax(1) * (1 - empty_B1)


def last(sequence_BTD: Tensor, mask_BT: Tensor) -> Tensor:
    """The last real step [B, D]; the first step for a row without any."""
    index_B11 = (mask_BT.sum(1) - 1).clamp(min=0).view(-1, 1, 1)
    return sequence_BTD.gather(1, index_B11.expand(-1, 1, sequence_BTD.shape[2])).squeeze(1)

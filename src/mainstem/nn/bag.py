"""A bag of hashed features: the weighted sum of their embeddings."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class Bag(nn.Module):
    """An embedding table [buckets, dim], summed by weight (fastText, Joulin et al. 2017, arXiv:1607.01759).

    Its gradient is sparse: a step touches only the rows that occur in the batch.
    """

    def __init__(self, buckets: int, dim: int, dropout: float, std: float) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.empty(buckets, dim))
        self.dropout = dropout
        nn.init.normal_(self.table, std=std)

    def forward(self, ids_BT: Tensor, weights_BT: Tensor) -> Tensor:
        """[B, dim]. Padding has weight 0. Dropout is on channels: on the n-grams it taught less."""
        if torch.jit.is_tracing() or torch.onnx.is_in_onnx_export():
            bag_BD = (weights_BT.unsqueeze(1) @ self.table[ids_BT]).squeeze(1)
        else:
            bag_BD = functional.embedding_bag(ids_BT, self.table, mode="sum", per_sample_weights=weights_BT, sparse=True)
        return functional.dropout(bag_BD, self.dropout, self.training)

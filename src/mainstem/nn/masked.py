"""What a transformers network makes of masked tokens (Devlin et al. 2018, arXiv:1810.04805).

B rows, T tokens, N masked ones, D channels, V tokens of the vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from mainstem.nn.decoder import MOST_LOGITS


def nats(module: Any, ids_BT: Tensor, mask_BT: Tensor, wanted_BT: Tensor) -> Tensor:
    """Nats of the tokens that are wanted (-100 elsewhere), in the order of rows and places [N].

    Where the family keeps its head apart, the product with the vocabulary is computed for these tokens alone.
    """
    at_BT = wanted_BT >= 0
    wanted_N = wanted_BT[at_BT]
    head = getattr(module, "cls", None) or getattr(module, "lm_head", None)
    if head is None:
        return _nats(module(input_ids=ids_BT, attention_mask=mask_BT).logits[at_BT], wanted_N)
    hidden_ND = module.base_model(input_ids=ids_BT, attention_mask=mask_BT).last_hidden_state[at_BT]
    most = max(1, MOST_LOGITS // module.config.vocab_size)
    parts = [_nats(head(x_ND), y_N) for x_ND, y_N in zip(hidden_ND.split(most), wanted_N.split(most), strict=True)]
    return torch.cat(parts)


def _nats(logits_NV: Tensor, wanted_N: Tensor) -> Tensor:
    return functional.cross_entropy(logits_NV.float(), wanted_N, reduction="none")

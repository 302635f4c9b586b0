"""transformers' own decoders (causal language models): features of a text, the likelihood of its tokens, one step with a cache.

Rows are padded on the right; B rows, T tokens, P tokens of the past, D channels, V tokens of the vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from mainstem.nn import pooling

MOST_LOGITS = 1 << 25  # numbers of one product with the vocabulary: longer batches are taken in parts


def is_decoder(module: nn.Module) -> bool:
    """Whether a transformers module has the head of a causal language model."""
    can_generate = getattr(module, "can_generate", None)
    return bool(can_generate and can_generate())


def encode(module: Any, ids_BT: Tensor, mask_BT: Tensor) -> dict[str, Tensor]:
    """last (the last real token) and mean [B, D], sequence [B, T, D] of the last layer."""
    seen_BP = mask_BT[:, :0]
    sequence_BTD = module.base_model(
        input_ids=ids_BT, attention_mask=causal_mask(seen_BP, mask_BT), position_ids=places(seen_BP, mask_BT)
    ).last_hidden_state
    last_BD, mean_BD = pooling.last(sequence_BTD, mask_BT), pooling.mean(sequence_BTD, mask_BT)
    return {"last": last_BD, "mean": mean_BD, "sequence": sequence_BTD}


def places(seen_BP: Tensor, mask_BT: Tensor) -> Tensor:
    """The position of each new token, int64 [B, T]: how many real tokens stand before it."""
    return (seen_BP.sum(1, keepdim=True) + mask_BT.cumsum(1) - 1).clamp(min=0).long()


def causal_mask(seen_BP: Tensor, mask_BT: Tensor) -> Tensor:
    """What is added to the attention of T new tokens on P + T: 0 or the lowest number, float32 [B, 1, T, P + T].

    seen_BP, mask_BT: 1 for real tokens of the past and of the new ones. Without a branch, so that it can be traced.
    """
    rows, new = mask_BT.shape
    order = torch.arange(new, device=mask_BT.device)
    own_BTT = (order[None, :] <= order[:, None])[None] & (mask_BT > 0)[:, None, :]
    past_BTP = (seen_BP > 0)[:, None, :].expand(rows, new, seen_BP.shape[1])
    allowed = torch.cat([past_BTP, own_BTT], 2)[:, None]
    return (~allowed).float() * torch.finfo(torch.float32).min


def likelihood(module: Any, ids_BT: Tensor, learned_BT: Tensor) -> tuple[Tensor, Tensor]:
    """Nats of the tokens that are marked in `learned_BT`, each given those before it [B], and how many those are [B].

    The first token has none before it and must not be marked. Right padding needs no mask: no real token looks to its right.
    """
    parts = [
        _nats(module, ids_BT[rows], learned_BT[rows])
        for rows in torch.arange(len(ids_BT)).split(max(1, MOST_LOGITS // (ids_BT.shape[1] * module.config.vocab_size)))
    ]
    return torch.cat(parts), learned_BT[:, 1:].sum(1)


def _nats(module: Any, ids_BT: Tensor, learned_BT: Tensor) -> Tensor:
    logits_BTV = module(input_ids=ids_BT[:, :-1]).logits
    wanted_BT = ids_BT[:, 1:].where(learned_BT[:, 1:] > 0, -100)
    return functional.cross_entropy(logits_BTV.transpose(1, 2), wanted_BT, ignore_index=-100, reduction="none").sum(1)


def weights(module: nn.Module) -> dict[str, Tensor]:
    """The module's own weights by name, on the host: without adapters, and a tied one under its first name alone."""
    held: dict[str, Tensor] = {}
    known: set[tuple[int, tuple[int, ...]]] = set()
    for name, tensor in module.state_dict().items():
        key = (tensor.data_ptr(), tuple(tensor.shape))
        if ".lora_" not in name and key not in known:
            held[name] = tensor.detach().cpu()
            known.add(key)
    return held

"""transformers' own decoders (causal language models): features of a text, the likelihood of its tokens, one step with a cache.

Rows are padded on the right; B rows, T tokens, P tokens of the past, D channels, V tokens of the vocabulary.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

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


def ended(ids_BT: Tensor, mask_BT: Tensor, start_B: Tensor, end: int) -> tuple[Tensor, Tensor]:
    """The texts with the token `end` behind each [B, T + 1], and which of their tokens are learned: from `start_B` to the end."""
    place_BU = torch.arange(ids_BT.shape[1] + 1, device=ids_BT.device)[None]
    length_B1 = mask_BT.sum(1, keepdim=True)
    ids_BU = functional.pad(ids_BT, (0, 1), value=end).where(place_BU < length_B1, end)
    return ids_BU, ((place_BU >= start_B[:, None]) & (place_BU <= length_B1)).long()


def windows(ids_BT: Tensor, learned_BT: Tensor, longest: int) -> Iterator[tuple[Tensor, Tensor]]:
    """The texts in stretches that predict `longest` tokens each; the last token of one begins the next."""
    for start in range(0, max(1, ids_BT.shape[1] - 1), longest):
        yield ids_BT[:, start : start + longest + 1], learned_BT[:, start : start + longest + 1]


def drawn(ids_BT: Tensor, learned_BT: Tensor, longest: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """One such stretch of each text, at a place drawn among those that hold a learned token with half the stretch before it."""
    size = min(longest + 1, ids_BT.shape[1])
    length_B = [int(n) for n in (learned_BT * torch.arange(ids_BT.shape[1])).amax(1) + 1]
    first_B = learned_BT.argmax(1).tolist()
    last_B = [max(0, length - size) for length in length_B]
    starts = [int(rng.integers(min(max(0, first - size // 2), last), last + 1)) for first, last in zip(first_B, last_B, strict=True)]
    rows_BS = torch.tensor(starts)[:, None] + torch.arange(size)
    return ids_BT.gather(1, rows_BS), learned_BT.gather(1, rows_BS)


def likelihood(module: Any, ids_BT: Tensor, learned_BT: Tensor) -> tuple[Tensor, Tensor]:
    """Nats of the tokens that are marked in `learned_BT`, each given those before it [B], and how many those are [B].

    The first token has none before it and must not be marked. Padding on the right needs no mask: no real token looks there.
    Rows without a mark are not computed; parts of a batch whose logits are too many together are computed again for their gradients.
    """
    tokens_B = learned_BT[:, 1:].sum(1)
    rows = tokens_B.nonzero()[:, 0]
    rows = rows if len(rows) else tokens_B[:1] * 0  # 0 nats, but of the network's making
    parts = rows.split(max(1, MOST_LOGITS // (ids_BT.shape[1] * module.config.vocab_size)))
    again = len(parts) > 1 and torch.is_grad_enabled()
    found = []
    for part in parts:
        given = (module, ids_BT[part], learned_BT[part])
        found.append(checkpoint(_nats, *given, use_reentrant=False) if again else _nats(*given))
    nats_B = found[0].new_zeros(len(ids_BT)).index_copy(0, rows, torch.cat(found))
    return nats_B, tokens_B


def _nats(module: Any, ids_BT: Tensor, learned_BT: Tensor) -> Tensor:
    read_BT = ids_BT[:, :-1]
    logits_BTV = module(input_ids=read_BT, attention_mask=torch.ones_like(read_BT), use_cache=False).logits
    wanted_BT = ids_BT[:, 1:].where(learned_BT[:, 1:] > 0, -100)
    return functional.cross_entropy(logits_BTV.transpose(1, 2).float(), wanted_BT, ignore_index=-100, reduction="none").sum(1)


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


class Decoder(nn.Module):
    """A causal language model as a graph with a cache: a dict of tensors in, logits, nats and the grown cache out.

    In: ids, mask int64 [B, T]; at int64 [B, A], the places (in 0..T-1) whose next token is asked about; named int64 [B, N],
    N <= A, tokens that may follow there; past.mask int64 [B, P], past.LAYER.key and past.LAYER.value [B, heads, P, channels].
    Out: logits [B, A, V]; nats [B, N] of the named tokens; past.* with P + T in place of P.
    """

    def __init__(self, module: Any) -> None:
        super().__init__()
        self.module = module
        # a keyword that transformers renamed
        self.taken = "cache" if "cache" in inspect.signature(module.forward).parameters else "past_key_values"

    def forward(self, arrays: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """One pass."""
        from transformers.cache_utils import DynamicCache

        seen_BP, mask_BT, at_BA, named_BN = arrays["past.mask"], arrays["mask"], arrays["at"], arrays["named"]
        cache = DynamicCache()
        for i in range(self.module.config.num_hidden_layers):
            cache.layers.append(_layer(arrays[f"past.{i}.key"], arrays[f"past.{i}.value"]))

        def only_asked(head: nn.Module, given: tuple[Tensor]) -> tuple[Tensor]:
            return (given[0].gather(1, at_BA[:, :, None].expand(-1, -1, given[0].shape[2])),)

        # The family's own forward makes the logits (some scale them), but of the places asked about alone.
        hook = self.module.get_output_embeddings().register_forward_pre_hook(only_asked)
        try:
            logits_BAV = self.module(
                input_ids=arrays["ids"],
                attention_mask=causal_mask(seen_BP, mask_BT),
                position_ids=places(seen_BP, mask_BT),
                use_cache=True,
                **{self.taken: cache},
            ).logits
        finally:
            hook.remove()
        likely_BNV = logits_BAV[:, : named_BN.shape[1]].log_softmax(2)
        grown = {f"past.{i}.{name}": part for i, layer in enumerate(cache.layers) for name, part in _parts(layer)}
        return {
            "logits": logits_BAV,
            "nats": -likely_BNV.gather(2, named_BN[:, :, None])[:, :, 0],
            "past.mask": torch.cat([seen_BP, mask_BT], 1),
            **grown,
        }

    def sizes(self) -> list[tuple[int, int, int]]:
        """By layer: heads of the cache, channels of a key, channels of a value; as a pass over one token shows them."""
        training = self.module.training
        self.module.eval()
        with torch.no_grad():
            answer = self.module(
                input_ids=torch.zeros(1, 1, dtype=torch.long), attention_mask=torch.ones(1, 1, dtype=torch.long), use_cache=True
            )
        self.module.train(training)
        cache = answer["cache" if "cache" in answer else "past_key_values"]
        return [(layer.keys.shape[1], layer.keys.shape[3], layer.values.shape[3]) for layer in cache.layers]


def _layer(keys: Tensor, values: Tensor) -> Any:
    from transformers.cache_utils import DynamicLayer

    layer: Any = DynamicLayer()
    layer.keys, layer.values = keys, values
    layer.dtype, layer.device, layer.is_initialized = keys.dtype, keys.device, True
    return layer


def _parts(layer: Any) -> tuple[tuple[str, Tensor], tuple[str, Tensor]]:
    return ("key", layer.keys), ("value", layer.values)

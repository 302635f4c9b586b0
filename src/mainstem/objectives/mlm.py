"""`mlm`: predict masked words from the text around them (BERT, Devlin et al. 2018, arXiv:1810.04805, with whole words masked)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from mainstem.contracts import Array, Batch, Ref
from mainstem.data.tokens import Tokens
from mainstem.errors import MainstemError
from mainstem.objectives._texts import TextObjective
from mainstem.objectives._tokenizer import named, special

MASKS = ("[MASK]", "<mask>", "<|mask|>")
_MASKED, _REPLACED = 0.8, 0.9  # of the chosen tokens: shown as the mask, or (up to here) as any token; the rest as they are
_NONE = -100
_HELD_OUT = 8  # seed of the masks of held-out windows


class Masked(TextObjective):
    """A window is one text, or a part of one; `share` of its words are to be predicted."""

    title, suggested = "mlm", "bert"
    defaults: ClassVar[Mapping[str, Any]] = {**TextObjective.defaults, "share": 0.15}

    def check(self) -> None:
        """Find the tokens that masking needs. Raises MainstemError where the tokenizer has no mask."""
        mask = named(self.tokenizer, MASKS)
        if mask is None:
            raise MainstemError(
                f"the tokenizer of '{self.ref.text}' has no token that masks another",
                do="Go on from an encoder, or from scratch: --backbone bert.",
            )
        self.mask = mask
        shown = self.tokenizer.encode("a")
        first = shown.special_tokens_mask.index(0)
        last = len(shown.ids) - shown.special_tokens_mask[::-1].index(0)
        self.before, self.after = shown.ids[:first], shown.ids[last:]
        self.ordinary = np.setdiff1d(np.arange(self.tokenizer.get_vocab_size()), list(special(self.tokenizer)))

    def around(self) -> int:
        """Those that the tokenizer puts around a text."""
        return len(self.before) + len(self.after)

    def build(self, plugin: Any, ref: Ref) -> Any:
        """transformers' module with the head that predicts masked tokens."""
        if not hasattr(plugin, "masked"):
            raise MainstemError(f"the backbone '{ref.text}' predicts no masked tokens", do="For example --backbone bert, or hf:FOLDER.")
        return plugin.masked(ref)

    def batch(self, tokens: Tokens, indices: Array, rng: np.random.Generator | None) -> Batch:
        """Windows padded to the longest, with words masked; "wanted" holds the tokens to predict, -100 elsewhere (int64 [rows, tokens])."""
        windows = tokens.take(indices)
        lengths = np.array([len(ids) for ids, _ in windows])
        width = int(lengths.max(initial=0))
        real = np.arange(width) < lengths[:, None]
        ids = np.full(real.shape, self.pad, np.int64)
        begins = np.zeros(real.shape, bool)
        ids[real] = np.concatenate([one for one, _ in windows])
        begins[real] = np.concatenate([one for _, one in windows])
        begins[:, :1] = True
        drawn = rng.random((3, *real.shape)) if rng is not None else _held_out(indices, lengths, width)
        chosen = real & self._words(begins, real, drawn[0])
        other = self.ordinary[(drawn[2] * len(self.ordinary)).astype(np.int64)]
        shown = np.where(chosen & (drawn[1] < _MASKED), self.mask, ids)
        shown = np.where(chosen & (drawn[1] >= _MASKED) & (drawn[1] < _REPLACED), other, shown)
        return self._framed(shown, real, np.where(chosen, ids, _NONE), lengths)

    def _words(self, begins: Array, real: Array, drawn: Array) -> Array:
        """Which tokens are of a chosen word: each word with probability `share`, and at least one in every row."""
        first = np.maximum.accumulate(np.where(begins, np.arange(begins.shape[1]), 0), axis=1)
        value = np.take_along_axis(drawn, first, axis=1)
        least = np.where(real, value, 2.0).min(1, keepdims=True)
        return np.asarray(value <= np.maximum(self.settings["share"], least))

    def _framed(self, shown: Array, real: Array, wanted: Array, lengths: Array) -> Batch:
        """The batch, with the tokenizer's own tokens around each text."""
        rows, start = len(shown), len(self.before)
        ids = np.full((rows, shown.shape[1] + self.around()), self.pad, np.int64)
        target = np.full(ids.shape, _NONE, np.int64)
        ids[:, :start] = self.before
        ids[:, start : start + shown.shape[1]] = np.where(real, shown, self.pad)
        target[:, start : start + shown.shape[1]] = wanted
        ends = (start + lengths)[:, None] + np.arange(len(self.after))
        np.put_along_axis(ids, ends, np.array(self.after, np.int64)[None, :].repeat(rows, 0), axis=1)
        mask = (np.arange(ids.shape[1]) < (lengths + self.around())[:, None]).astype(np.int64)
        return Batch({"text": {"ids": ids, "mask": mask}}, np.arange(rows), rows, ("text",), {"wanted": target})

    def forward(self, networks: Mapping[str, Any], batch: Any) -> dict[str, Any]:
        """ "nats" of the tokens to predict."""
        from mainstem.nn import masked

        arrays = batch.inputs["text"]
        return {"nats": masked.nats(networks["backbone"], arrays["ids"], arrays["mask"], batch.target["wanted"])}

    def loss(self, output: Mapping[str, Any], batch: Any) -> Any:
        """Their mean."""
        return output["nats"].mean()

    def size(self, batch: Any) -> float:
        """How many tokens are to be predicted."""
        return float((batch.target["wanted"] >= 0).sum())

    def tokenizer_config(self) -> dict[str, Any]:
        """With the names of BERT's special tokens."""
        names = {"pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]"}
        return {**super().tokenizer_config(), **names}


def _held_out(indices: Array, lengths: Array, width: int) -> Array:
    """Numbers that depend on each window alone, float64 [3, rows, width]."""
    drawn = np.zeros((3, len(indices), width))
    for row, (index, length) in enumerate(zip(indices.tolist(), lengths.tolist(), strict=True)):
        drawn[:, row, :length] = np.random.default_rng((_HELD_OUT, index)).random((3, length))
    return drawn


plugin = Masked

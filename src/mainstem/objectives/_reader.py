"""How a backbone of texts reads them: its tokenizer, what stands around a text, how long it may be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from tokenizers import Tokenizer

from mainstem import registry
from mainstem.contracts import Array, Arrays, Info, Material, Ref, State
from mainstem.data.texts import Texts
from mainstem.errors import MainstemError
from mainstem.modalities import text as modality
from mainstem.objectives import _tokenizer

_SPECIAL = {"pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]"}


class Reader:
    """Texts → ids → arrays, just as `train` hands them to the same backbone.

    ref, info: the backbone with its tokenizer; room: tokens of a text, prefix included, at most; prefix: how many of them each text
    begins with. Raises MainstemError for a backbone that reads no tokens.
    """

    def __init__(self, ref: Ref, texts: Texts, material: Material, held_out: float, length: int) -> None:
        plugin = registry.load("backbones", ref.family).plugin
        asked: Info = plugin.describe(ref)
        if asked.modality != "text" or asked.processor.get("form") != "tokens":
            raise MainstemError(f"the backbone '{ref.text}' reads no tokens", do="For example --backbone bert.")
        self.data = _tokenizer.data(asked, texts, material, held_out)
        self.tokenizer = _tokenizer.opened(self.data)
        state = State({"vocab_size": self.tokenizer.get_vocab_size()}, files={_tokenizer.FILE: self.data})
        self.ref = replace(ref, state=state)
        self.info: Info = plugin.describe(self.ref)
        processor = self.info.processor
        self.pad, self.words = int(processor.get("pad", 0)), str(processor.get("prefix", ""))
        self.before, self.after = _around(self.tokenizer, {**processor, "prefix": ""}, state)
        self.prefix = len(_ids(self.tokenizer, self.words.rstrip()))
        self.room = (length or int(processor["max_length"])) - len(self.before) - len(self.after)
        if self.room <= self.prefix:
            raise MainstemError(f"{length} tokens hold no text", where="settings.length", do="Ask for more.")

    def tokenise(self, texts: Sequence[str]) -> list[tuple[Array, Array]]:
        """The ids of each text (int64 [n], n at most `room`), and False for each, as token files keep a mark."""
        found = self.tokenizer.encode_batch_fast([self.words + text for text in texts], add_special_tokens=False)
        cut = [np.array(one.ids[: self.room], np.int64) for one in found]
        return [(ids, np.zeros(len(ids), bool)) for ids in cut]

    def config(self) -> dict[str, object]:
        """tokenizer_config.json of a tokenizer of our own, as transformers' AutoTokenizer reads it."""
        named = {key: token for key, token in _SPECIAL.items() if self.tokenizer.token_to_id(token) is not None}
        return {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": int(self.info.processor["max_length"]), **named}

    def arrays(self, ids: Sequence[Array]) -> Arrays:
        """Ids of some texts → "ids" and "mask" (int64 [rows, tokens]), with what the tokenizer puts around a text."""
        return modality.padded([[*self.before, *one.tolist(), *self.after] for one in ids], self.pad)


def _ids(tokenizer: Tokenizer, text: str) -> list[int]:
    return list(tokenizer.encode(text, add_special_tokens=False).ids) if text else []


def _around(tokenizer: Tokenizer, processor: dict[str, object], state: State) -> tuple[list[int], list[int]]:
    """The ids that the modality puts before and after those of a text."""
    whole, bare = modality.plugin.tokens(["a"], processor, state)[0], _ids(tokenizer, "a")
    first = next(i for i in range(len(whole)) if whole[i : i + len(bare)] == bare)
    return whole[:first], whole[first + len(bare) :]

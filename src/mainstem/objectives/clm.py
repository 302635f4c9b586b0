"""`clm`: predict each token from those before it (GPT, Radford et al. 2018), in windows that texts run on through."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from mainstem.contracts import Array, Batch, Info, Ref
from mainstem.data.tokens import Tokens
from mainstem.errors import MainstemError
from mainstem.objectives._texts import TextObjective


class Causal(TextObjective):
    """Texts are laid end to end with the end-of-text token between them, so that no place of a window is padding."""

    title, suggested = "clm", "gpt"

    def check(self) -> None:
        """Raises MainstemError for a backbone that sees both sides of a token."""
        if "end" not in self.info.processor:
            raise MainstemError(
                f"the backbone '{self.ref.text}' sees both sides of a token, so it has nothing to predict",
                do="Take a decoder, for example --backbone gpt, or another objective: --objective mlm.",
            )
        begin = int(self.info.processor["begin"])
        self.begin = -1 if begin in self.info.processor["end"] else begin  # else the end of the text before begins this one

    def end(self, info: Info) -> int:
        """The backbone's own end-of-text token."""
        return int(info.processor["end"][0])

    def build(self, plugin: Any, ref: Ref) -> Any:
        """transformers' module with its language-model head."""
        return plugin.build(ref)

    def batch(self, tokens: Tokens, indices: Array, rng: np.random.Generator | None) -> Batch:
        """Windows with the token that follows each; "learned" is 1 for tokens to predict (int64 [rows, tokens])."""
        windows = [ids for ids, _ in tokens.take(indices, more=1)]
        lengths = np.array([len(ids) for ids in windows])
        real = np.arange(max(2, lengths.max(initial=0))) < lengths[:, None]
        ids = np.full(real.shape, self.pad, np.int64)
        ids[real] = np.concatenate(windows)
        learned = real.astype(np.int64)
        learned[:, 0] = 0
        arrays = {"ids": ids, "mask": real.astype(np.int64)}
        return Batch({"text": arrays}, np.arange(len(ids)), len(ids), ("text",), {"learned": learned})

    def forward(self, networks: Mapping[str, Any], batch: Any) -> dict[str, Any]:
        """ "nats" and how many tokens they are of, by row."""
        from mainstem.nn import decoder

        nats, counts = decoder.likelihood(networks["backbone"], batch.inputs["text"]["ids"], batch.target["learned"])
        return {"nats": nats, "counts": counts}

    def loss(self, output: Mapping[str, Any], batch: Any) -> Any:
        """The mean over tokens."""
        return output["nats"].sum() / output["counts"].sum().clamp(min=1)

    def size(self, batch: Any) -> float:
        """How many tokens are to be predicted."""
        return float(batch.target["learned"].sum())

    def tokenizer_config(self) -> dict[str, Any]:
        """With the one special token."""
        end = self.tokenizer.id_to_token(self.end(self.info))
        return {**super().tokenizer_config(), "bos_token": end, "eos_token": end, "pad_token": end}


plugin = Causal

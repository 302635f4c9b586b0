"""`rnn`, `lstm` and `gru`: one network over tokens, three kinds of cell."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mainstem.backbones import _own, _tokens
from mainstem.contracts import Feature, Info, Ref

DEFAULTS = {
    "vocab_size": 8000,
    "max_length": 256,
    "dim": 128,
    "width": 128,
    "layers": 1,
    "bidirectional": True,
    "dropout": 0.3,
    "pooling": "max",
}
POOLINGS = ("mean", "last", "max")


class Recurrent:
    """A family by its kind of cell: "rnn" (tanh), "lstm", "gru"."""

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def describe(self, ref: Ref) -> Info:
        """What it is. Raises MainstemError for an unknown setting."""
        s = self._settings(ref)
        width = s["width"] * (2 if s["bidirectional"] else 1)
        return Info(
            modality="text",
            inputs=_tokens.ports(),
            features={"sequence": Feature(width, ("row", "pad:tokens")), **{name: Feature(width) for name in POOLINGS}},
            pooled=s["pooling"],
            processor=_tokens.processor(ref, s),
            extra="train",
            pretrained=ref.folder is not None,
            summary=f"{self.kind.upper()} over tokens, trained from scratch",
        )

    def build(self, ref: Ref) -> Any:
        """nn.Module, random until ref.folder has weights."""
        _own.need_torch(self.kind)
        from mainstem.nn.recurrent import Recurrent as Network

        s = self._settings(ref)
        network = Network(self.kind, s["vocab_size"], s["dim"], s["width"], s["layers"], s["bidirectional"], s["dropout"])
        return _own.load(network, ref)

    def forward(self, module: Any, arrays: Mapping[str, Any]) -> dict[str, Any]:
        """ids, mask [row, tokens] → mean, last, max [row, width], sequence [row, tokens, width]."""
        features: dict[str, Any] = module(arrays["ids"], arrays["mask"])
        return features

    def save(self, module: Any, ref: Ref) -> dict[str, bytes | Path]:
        """config.json, model.safetensors, tokenizer.json."""
        return _own.save(module, ref, self._settings(ref)) | _tokens.tokenizer(ref)

    def _settings(self, ref: Ref) -> dict[str, Any]:
        s = _own.settings(ref, DEFAULTS, {"pooling": POOLINGS})
        return s | {"vocab_size": _tokens.vocabulary(ref, s)}

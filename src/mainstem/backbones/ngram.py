"""`ngram`: hashed word and character n-grams, averaged by weight: fastText-like, any language, trains in seconds."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mainstem.backbones import _own
from mainstem.contracts import Feature, Info, Port, Ref

DEFAULTS = {"buckets": 2**17, "dim": 64, "dropout": 0.5, "std": 0.05}


class Ngram:
    """One embedding a bucket; a text is the weighted sum of those of its n-grams."""

    def describe(self, ref: Ref) -> Info:
        """What it is. Raises MainstemError for an unknown setting."""
        settings = _own.settings(ref, DEFAULTS)
        axes = ("row", "pad:ngrams")
        return Info(
            modality="text",
            inputs=(Port("ids", "int64", axes), Port("weights", "float32", axes)),
            features={"mean": Feature(settings["dim"])},
            pooled="mean",
            processor={"form": "ngrams", "buckets": settings["buckets"]},
            parameters=settings["buckets"] * settings["dim"],
            extra="train",
            summary="hashed word and character n-grams",
        )

    def build(self, ref: Ref) -> Any:
        """nn.Module, random until ref.folder has weights."""
        _own.need_torch("ngram")
        from mainstem.nn.bag import Bag

        return _own.load(Bag(**_own.settings(ref, DEFAULTS)), ref)

    def forward(self, module: Any, arrays: Mapping[str, Any]) -> dict[str, Any]:
        """ids, weights [row, ngrams] → mean [row, dim]."""
        return {"mean": module(arrays["ids"], arrays["weights"])}

    def save(self, module: Any, ref: Ref) -> dict[str, bytes | Path]:
        """config.json with settings, model.safetensors."""
        return _own.save(module, ref, _own.settings(ref, DEFAULTS))


plugin = Ngram()

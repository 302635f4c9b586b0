"""`mlp`: a multi-layer perceptron over table columns."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mainstem.backbones import _own, _table
from mainstem.choices import ACTIVATIONS, INITS, NORMS
from mainstem.contracts import Feature, Info, Ref

DEFAULTS = {
    "depth": 2,
    "width": 128,
    "activation": "relu",
    "norm": "none",
    "dropout": 0.1,
    "init": "default",
    "numbers": "piecewise",  # how a number enters: plain, piecewise, periodic
    "dim": 8,  # channels a number, unless plain
}
CHOICES = {
    "activation": ACTIVATIONS,
    "norm": NORMS,
    "init": INITS,
    "numbers": ("plain", "piecewise", "periodic"),
}


class Mlp:
    """Numbers and category embeddings through layers of one width."""

    def describe(self, ref: Ref) -> Info:
        """What it is. Raises MainstemError for an unknown setting."""
        settings = _own.settings(ref, DEFAULTS, CHOICES)
        return Info(
            modality="table",
            inputs=_table.columns(ref).ports(),
            features={"hidden": Feature(settings["width"])},
            pooled="hidden",
            processor={"scaling": "standard"},
            extra="train",
            summary="multi-layer perceptron",
        )

    def build(self, ref: Ref) -> Any:
        """nn.Module, random until ref.folder has weights."""
        _own.need_torch("mlp")
        from mainstem.nn.table import MLP, Embed

        s, columns = _own.settings(ref, DEFAULTS, CHOICES), _table.columns(ref)
        embed = Embed(columns.numbers, columns.categories, s["numbers"], s["dim"])
        return _own.load(MLP(embed, s["depth"], s["width"], s["activation"], s["norm"], s["dropout"], s["init"]), ref)

    def forward(self, module: Any, arrays: Mapping[str, Any]) -> dict[str, Any]:
        """numbers [row, F], categories [row, C] → hidden [row, width]."""
        return {"hidden": module(arrays)}

    def save(self, module: Any, ref: Ref) -> dict[str, bytes | Path]:
        """config.json with settings and columns, model.safetensors."""
        return _own.save(module, ref, _own.settings(ref, DEFAULTS, CHOICES), columns=_table.columns(ref).json())


plugin = Mlp()

"""`linear` over table columns: the network whose head is the linear model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mainstem.backbones import _members, _own, _table
from mainstem.backbones._mixture import Mixture
from mainstem.contracts import Feature, Info, Ref


class Linear:
    """Columns expanded as a linear model reads them; it has no weights of its own, so one number gives y = w·x + b after the head."""

    def describe(self, ref: Ref) -> Info:
        """What it is; the widths are known once the processor is fitted. Raises MainstemError for an unknown setting."""
        _own.settings(ref, {})
        columns = _table.columns(ref)
        width = columns.numbers + len(columns.gaps) + sum(n - 2 for n in columns.categories)
        return Info(
            modality="table",
            inputs=columns.ports(),
            features={"values": Feature(width)},
            pooled="values",
            processor={"scaling": "standard"},
            parameters=0,
            extra="train",
            summary="linear model by gradient descent",
        )

    def build(self, ref: Ref) -> Any:
        """nn.Module without weights."""
        _own.need_torch("linear")
        from mainstem.nn.table import Expand

        columns = _table.columns(ref)
        return Expand(columns.numbers, columns.categories, columns.gaps)

    def forward(self, module: Any, arrays: Mapping[str, Any]) -> dict[str, Any]:
        """numbers [row, F], categories [row, C] → values [row, width]."""
        return {"values": module(arrays)}

    def save(self, module: Any, ref: Ref) -> dict[str, bytes | Path]:
        """config.json with the columns, and an empty model.safetensors."""
        return _own.save(module, ref, {}, columns=_table.columns(ref).json())


plugin = Linear()
predictor = Mixture("linear", (_members.Linear(),), "linear model in closed form")

"""`tables`: the in-context table model, on tables that are made up.

A step sees tables of one shape; how they are made stands in _tables.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from mainstem.backbones import _own
from mainstem.backbones._cells import CODES, MARK, Scale
from mainstem.contracts import Array, Batch, Feature, GraphSpec, Material, Objective, Port, Ref, State, Stream
from mainstem.objectives import _tables
from mainstem.objectives._settings import checked
from mainstem.objectives._streams import Made

_LEVEL = 2.0  # taken off the loss over nodes, so that figures of both kinds are of one size
_HELD_OUT = (64, 128, 48, 8)  # tables, context rows, asked rows, columns; and their seed
_INPUTS = (
    Port("cells", "float32", ("tables", "asked", "columns", "3")),
    Port("codes", "int64", ("tables", "asked", "columns")),
    Port("known_cells", "float32", ("tables", "known", "columns", "3")),
    Port("known_codes", "int64", ("tables", "known", "columns")),
    Port("index", "int64", ("tables", "known")),
    Port("value", "float32", ("tables", "known", "2")),
    Port("marks", "float32", ("tables", "pairs", str(MARK))),
    Port("regression", "float32", ("tables",)),
)
_OUTPUTS = (Port("logits", "float32", ("tables", "asked", "10")), Port("nodes", "float32", ("tables", "asked", "64")))


class Tables(Objective):
    """Predict the answers of rows from other rows of the same table, by class or as a distribution over values."""

    defaults: ClassVar[Mapping[str, Any]] = {
        "width": 96,
        "layers": 5,
        "heads": 3,
        "cells": 14000,  # a step: tables × rows × tokens of a row
        "context": (24, 160),
        "asked": 32,
        "columns": (2, 12),
        "regression": 0.35,
    }

    def __init__(self, settings: Mapping[str, Any] | None = None) -> None:
        super().__init__(checked("tables", self.defaults, settings))
        self.ref = Ref("incontext", "incontext")

    def open(self, material: Material) -> None:
        """The folder to go on from, where there is one."""
        self.ref = material.backbone or self.ref

    def networks(self, features: Mapping[str, Feature], target: State, settings: Mapping[str, Any]) -> dict[str, Any]:
        """{"backbone": TwoWay}, with the weights of the folder to go on from."""
        from mainstem.nn.twoway import TwoWay

        shape = (self.settings[name] for name in ("width", "layers", "heads"))
        return {"backbone": _own.load(TwoWay(*shape, codes=CODES, mark=MARK), self.ref)}

    def stream(self, length: int) -> Stream:
        """Endless made tables."""
        return Made(self.make, self._looked_at, length)

    def held_out(self) -> Stream:
        """Sixty-four made tables of eight columns."""
        return Made(self.make, self._looked_at, 1)

    def _looked_at(self) -> Batch:
        return self.make(np.random.default_rng(_HELD_OUT), _HELD_OUT)

    def artifact(self, networks: Mapping[str, Any]) -> dict[str, bytes]:
        """config.json and model.safetensors."""
        config = {"mainstem": "incontext", **{name: self.settings[name] for name in ("width", "layers", "heads")}}
        return _own.save_bare(networks["backbone"], config)

    def graphs(self, networks: Mapping[str, Any], specs: Mapping[str, GraphSpec], state: State) -> dict[str, GraphSpec]:
        """{"network": the whole pass}, over any number of tables, rows and columns."""
        from mainstem.nn.twoway import Whole

        heads = str(self.settings["heads"])
        each = str(self.settings["width"] // self.settings["heads"])
        memory = [
            Port(f"{word}.{i}", "float32", ("tokens", heads, "known", each))
            for i in range(self.settings["layers"])
            for word in ("key", "value")
        ]
        return {"network": GraphSpec(_INPUTS, (*_OUTPUTS, *memory), Whole(networks["backbone"]))}

    def make(self, rng: np.random.Generator, shape: tuple[int, int, int, int] | None = None) -> Batch:
        """Some tables of one shape (tables, context rows, asked rows, columns; drawn where it is not given)."""
        many, known, asked, columns = shape or self._shape(rng)
        parts = [self._encoded(rng, known, asked, columns) for _ in range(many)]
        arrays = {name: np.stack([part[name] for part in parts]) for name in parts[0]}
        target = {name: arrays.pop(name) for name in ("classes", "truth", "truth_value")}
        return Batch({"table": arrays}, np.arange(many), many, ("table",), target)

    def _shape(self, rng: np.random.Generator) -> tuple[int, int, int, int]:
        low, high = self.settings["context"]
        known = int(np.exp(rng.uniform(np.log(low), np.log(high))))
        few, most = self.settings["columns"]
        columns = int(np.exp(rng.uniform(np.log(few), np.log(most + 1))))
        asked = self.settings["asked"]
        tokens = (columns + 1) // 2 + 1
        return max(1, self.settings["cells"] // ((known + asked) * tokens)), known, asked, columns

    def _encoded(self, rng: np.random.Generator, known: int, asked: int, columns: int) -> dict[str, Array]:
        regression = bool(rng.random() < self.settings["regression"])
        made = _tables.table(rng, known + asked, columns, regression, known)
        even = columns + columns % 2
        cells = np.zeros((known + asked, even, 3), np.float32)
        codes = np.zeros((known + asked, even), np.int64)
        cells[:, :columns] = Scale.of(made.numbers[:known]).channels(made.numbers)
        cells[:, :columns][:, made.categories] = 0.0
        for j in np.flatnonzero(made.categories):
            names = np.concatenate([[0], 1 + rng.permutation(CODES - 1)])
            codes[:, j] = names[made.codes[:, j]]
            cells[:, j, 2] = made.codes[:, j] == 0
        value = np.zeros((known, 2), np.float32)
        truth = np.zeros(asked, np.float32)
        index = np.zeros(known, np.int64)
        classes = np.zeros(asked, np.int64)
        if regression:
            scale = Scale.of(made.answer[:known, None])
            channels = scale.channels(made.answer[:, None])[:, 0, :2]
            value, truth = channels[:known], channels[known:, 0]
        else:
            index, classes = made.answer[:known].astype(np.int64), made.answer[known:].astype(np.int64)
        return {
            "cells": cells[known:],
            "codes": codes[known:],
            "known_cells": cells[:known],
            "known_codes": codes[:known],
            "marks": rng.standard_normal((even // 2, MARK)).astype(np.float32),
            "index": index,
            "value": value,
            "regression": np.array(regression, np.float32),
            "classes": np.array(made.classes),
            "truth": classes,
            "truth_value": truth,
        }

    def forward(self, networks: Mapping[str, Any], batch: Any) -> dict[str, Any]:
        """ "logits" and "nodes" of the asked rows."""
        output: dict[str, Any] = networks["backbone"](**batch.inputs["table"])
        return output

    def loss(self, output: Mapping[str, Any], batch: Any) -> Any:
        """Mean over tables of the cross-entropy of the asked rows: over classes that the table has, or over nodes."""
        import torch
        from torch.nn import functional

        from mainstem.nn import twoway

        regression, target = batch.inputs["table"]["regression"], batch.target
        logits = output["logits"]
        possible = torch.arange(logits.shape[-1]) < target["classes"].clamp(min=1)[:, None]
        logits = logits.masked_fill(~possible[:, None], -1e9)
        of_class = functional.cross_entropy(logits.flatten(0, 1), target["truth"].flatten(), reduction="none").view_as(target["truth"])
        mass = twoway.spread(target["truth_value"], twoway.nodes())
        of_value = -(mass * output["nodes"].log_softmax(-1)).sum(-1)
        return torch.where(regression > 0, of_value.mean(1) - _LEVEL, of_class.mean(1)).mean()


plugin = Tables

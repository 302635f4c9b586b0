"""`statistics_series`: numbers that describe a window (size, change, repetition, spectrum), and trees on them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from mainstem.backbones._members import Boosting, RandomForest
from mainstem.backbones._mixture import Mixture
from mainstem.contracts import Array, Arrays, GraphSpec, Info, Ref, State

_TABLE, _OWN = "table.numbers", "series.statistics"


class Statistics:
    """A table's predictor over the statistics of windows. Settings: those of `trees`."""

    def __init__(self) -> None:
        self.trees = Mixture("statistics_series", (Boosting(), RandomForest()), "boosted trees and a forest on statistics of a window")

    def describe(self, ref: Ref) -> Info:
        """What it is. Raises MainstemError for an unknown setting."""
        return replace(self.trees.describe(ref), modality="series", processor={"statistics": True, "scaling": "data"})

    def fit(
        self, arrays: Arrays, target: Arrays, kinds: Mapping[str, Any], weights: Array | None, settings: Mapping[str, Any], seed: int
    ) -> State:
        """As `trees` on a table of the statistics."""
        return self.trees.fit({"numbers": arrays["statistics"]}, target, kinds, weights, settings, seed)

    def run(self, state: State, arrays: Arrays) -> dict[str, Array]:
        """As `trees`."""
        return self.trees.run(state, {"numbers": arrays["statistics"]})

    def graphs(self, state: State) -> dict[str, GraphSpec]:
        """The graph of `trees`, its input under the name that the series have it by."""
        import onnx

        spec = self.trees.graphs(state)["head"]
        model = onnx.load_from_string(spec.proto)
        for node in model.graph.node:
            for i, name in enumerate(node.input):
                if name == _TABLE:
                    node.input[i] = _OWN
        model.graph.input[0].name = _OWN
        ports = tuple(replace(port, name=_OWN) for port in spec.inputs)
        return {"head": replace(spec, inputs=ports, proto=model.SerializeToString())}


predictor = Statistics()

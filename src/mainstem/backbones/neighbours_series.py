"""`neighbours_series`: how far the latest step of a series departs from simple forecasts, against how far it used to.

Residuals over several spans (modalities/_recent.py) make a row of a table, and the score is its distance to the nearest rows that were
learned from.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from mainstem.backbones.neighbours import Neighbours
from mainstem.contracts import Array, Arrays, GraphSpec, Info, Ref, State


class NeighboursOfSeries(Neighbours):
    """The predictor of tables over the residuals of windows. Settings: those of `neighbours`."""

    def describe(self, ref: Ref) -> Info:
        """What it is. Raises MainstemError for an unknown setting."""
        return replace(super().describe(ref), modality="series", processor={"recent": True, "scaling": "data"})

    def fit(
        self, arrays: Arrays, target: Arrays, kinds: Mapping[str, Any], weights: Array | None, settings: Mapping[str, Any], seed: int
    ) -> State:
        """As of a table of the residuals."""
        return super().fit({"numbers": arrays["recent"]}, target, kinds, weights, settings, seed)

    def run(self, state: State, arrays: Arrays) -> dict[str, Array]:
        """{"score": float64 [n, 1]}."""
        return super().run(state, {"numbers": arrays["recent"]})

    def graphs(self, state: State) -> dict[str, GraphSpec]:
        """{"head": ONNX}."""
        return {"head": self.graph(state, {"table.numbers": "series.recent"})}


predictor = NeighboursOfSeries()

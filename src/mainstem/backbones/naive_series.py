"""`naive_series`: the last season again and again, with normal quantiles whose deviation is that of the seasonal differences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mainstem.backbones import _forecast
from mainstem.backbones._graph import Graph
from mainstem.contracts import Array, Arrays, State


class Naive(_forecast.Forecaster):
    """Nothing is learned."""

    name = "naive_series"
    summary = "the last season again (seasonal naive)"

    def learn(
        self, arrays: Arrays, answers: Arrays, times: Array | None, settings: Mapping[str, Any], levels: Sequence[float], seed: int
    ) -> tuple[dict[str, Array], Array]:
        """The offsets of the seasonal naive."""
        return {}, _forecast.normal(levels, arrays["naive"].shape[1], settings["season"])

    def shift(self, state: State, arrays: Arrays) -> Array:
        """0."""
        return np.zeros_like(arrays["naive"])

    def nodes(self, state: State, graph: Graph) -> str:
        """0."""
        return graph.constant(np.zeros((1, state.json["horizon"])))


predictor = Naive()

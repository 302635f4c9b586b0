"""`linear_series`: each step ahead linear in the seasonal differences of the history, by ridge regression over all windows.

What is learned is the distance from the seasonal naive, so that a strong penalty leaves that. Closed-form linear forecasts hold
their own against deep networks (Toner & Darlow 2024, arXiv:2403.14587).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mainstem.backbones import _forecast
from mainstem.backbones._graph import Graph
from mainstem.contracts import Array, Arrays, State

_SEASONS = 2  # of differences that are read
_FEWEST = 12  # differences
_STRENGTHS = np.logspace(4, -4, 17)  # of the penalty, in units of the mean variance of a difference
_LARGEST = 20.0  # of a difference, in units of the spread


class Linear(_forecast.Forecaster):
    """Setting l2: the penalty; 0: chosen by the last windows."""

    name = "linear_series"
    summary = "linear in seasonal differences, closed form"
    processor: Mapping[str, Any] = {"fill": "season"}
    read = ("values",)
    defaults: Mapping[str, Any] = {"l2": 0.0}
    limits: Mapping[str, tuple[float, float]] = {"l2": (0.0, 1e9)}

    def learn(
        self, arrays: Arrays, answers: Arrays, times: Array | None, settings: Mapping[str, Any], levels: Sequence[float], seed: int
    ) -> tuple[dict[str, Array], Array]:
        """Weights [k, H], and which steps their differences are of [k, 2]."""
        places = _places(arrays["values"].shape[1], settings["season"])
        x = _differences(arrays, places)
        y, known = _forecast.target(arrays, answers)
        learned, held = _forecast.held_out(times, len(x), y.shape[1])
        strengths = np.array([settings["l2"]]) if settings["l2"] else _STRENGTHS
        fallback = _forecast.normal(levels, y.shape[1], settings["season"])
        chosen, offsets = strengths[0], fallback
        if len(learned) > 1 and len(held):
            paths = _ridge(x[learned], y[learned], known[learned], strengths)
            residuals = [y[held] - x[held] @ weights for weights in paths]
            errors = [np.abs(r[known[held]]).mean() if known[held].any() else np.inf for r in residuals]
            best = int(np.argmin(errors))
            chosen, offsets = strengths[best], _forecast.offsets(residuals[best], known[held], levels, fallback)
        (weights,) = _ridge(x, y, known, np.array([chosen]))
        return {"weights": weights, "places": places}, offsets

    def shift(self, state: State, arrays: Arrays) -> Array:
        """[n, H]."""
        return np.asarray(_differences(arrays, state.arrays["places"]) @ state.arrays["weights"])

    def nodes(self, state: State, graph: Graph) -> str:
        """Gather, subtract, divide, one matrix product."""
        first = graph.add("Squeeze", graph.add("Gather", f"{_forecast.INPUT}.values", np.array([0]), axis=2), np.array([2]))
        now, before = (graph.add("Gather", first, state.arrays["places"][:, side], axis=1) for side in (0, 1))
        difference = graph.add("Div", graph.add("Sub", now, before), f"{_forecast.INPUT}.spread")
        clipped = graph.add("Clip", difference, np.array(-_LARGEST), np.array(_LARGEST))
        return graph.add("MatMul", clipped, state.arrays["weights"])


def _places(length: int, season: int) -> Array:
    """int64 [k, 2]: the steps whose values are subtracted, the latest first: a step and the one a season before, as far as there are."""
    many = min(max(_SEASONS * season, _FEWEST), max(1, length - season))
    now = length - 1 - np.arange(many)
    return np.column_stack([now, np.maximum(now - season, 0)]).astype(np.int64)


def _differences(arrays: Arrays, places: Array) -> Array:
    """[n, k] in units of the spread."""
    first = np.asarray(arrays["values"], np.float64)[:, :, 0]
    return np.clip((first[:, places[:, 0]] - first[:, places[:, 1]]) / arrays["spread"], -_LARGEST, _LARGEST)


def _ridge(x: Array, y: Array, known: Array, strengths: Array) -> list[Array]:
    """Weights [k, H] for each strength, without an intercept; a step that is missing in a window counts there as right."""
    values, vectors = np.linalg.eigh(x.T @ x / len(x))
    values = np.maximum(values, 0.0)
    unit = float(values.mean()) or 1.0
    turned = vectors.T @ (x.T @ np.where(known, y, 0.0) / len(x))
    return [vectors @ (turned / (values + strength * unit + 1e-12)[:, None]) for strength in strengths]


predictor = Linear()

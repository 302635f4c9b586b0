"""`trees_series`: gradient-boosted trees on lags, the calendar and covariates of each step ahead; one model for all steps.

What is learned is the distance from the seasonal naive in units of its spread; quantiles are those of residuals on later windows.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mainstem.backbones import _forecast, _forest
from mainstem.backbones._forest import Forest
from mainstem.backbones._graph import Graph
from mainstem.contracts import Array, Arrays, State
from mainstem.errors import MissingExtra

_ROWS = 60_000  # steps to learn from at most
_COUNTS = (25, 50, 100, 200, 300)  # of iterations that are tried


class Trees(_forecast.Forecaster):
    """Settings: iterations (0: chosen by the last windows), learning_rate, leaves, min_leaf."""

    name = "trees_series"
    summary = "gradient-boosted trees on lags"
    processor: Mapping[str, Any] = {"steps": True, "calendar": "horizon"}
    read = ("steps",)
    defaults: Mapping[str, Any] = {"iterations": 0, "learning_rate": 0.05, "leaves": 15, "min_leaf": 20}
    limits: Mapping[str, tuple[float, float]] = {
        "iterations": (0, 5000),
        "learning_rate": (1e-4, 1),
        "leaves": (2, 1000),
        "min_leaf": (1, 100_000),
    }

    def learn(
        self, arrays: Arrays, answers: Arrays, times: Array | None, settings: Mapping[str, Any], levels: Sequence[float], seed: int
    ) -> tuple[dict[str, Array], Array]:
        """The trees, and the offsets."""
        x = arrays["steps"]
        y, known = _forecast.target(arrays, answers)
        horizon, season = y.shape[1], settings["season"]
        learned, held = _forecast.held_out(times, len(x), horizon)
        rng = np.random.default_rng(seed)
        fallback = _forecast.normal(levels, horizon, season)
        count, offsets = settings["iterations"] or _COUNTS[0], fallback
        if known[learned].any() and known[held].any():
            model = _booster(settings, seed)
            found: list[tuple[float, int, Array]] = []
            rows = _rows(x[learned], y[learned], known[learned], rng)
            for iterations in (settings["iterations"],) if settings["iterations"] else _COUNTS:
                _boost(model, iterations, *rows)
                residuals = y[held] - _predicted(model, x[held])
                found.append((float(np.abs(residuals[known[held]]).mean()), iterations, residuals))
                if len(found) > 1 and found[-1][0] > found[-2][0]:
                    break
            _, count, residuals = min(found, key=lambda each: each[0])
            offsets = _forecast.offsets(residuals, known[held], levels, fallback)
        model = _booster(settings, seed)
        _boost(model, count, *_rows(x, y, known, rng))
        return {**_forest.boosted(model).arrays(), "baseline": np.ravel(model._baseline_prediction).astype(np.float64)}, offsets

    def shift(self, state: State, arrays: Arrays) -> Array:
        """[n, H]."""
        x = np.asarray(arrays["steps"], np.float64)
        answer = Forest.of(state.arrays).run(x.reshape(-1, x.shape[2]), 1) + state.arrays["baseline"]
        return np.asarray(answer.reshape(x.shape[:2]))

    def nodes(self, state: State, graph: Graph) -> str:
        """All steps one below the other, the trees, the steps side by side again."""
        from onnx import TensorProto

        horizon, width = state.json["shapes"]["steps"]
        flat = graph.add("Reshape", f"{_forecast.INPUT}.steps", np.array([-1, width]))
        graph.nodes.append(_forest.node(Forest.of(state.arrays), flat, "trees", 1))
        answer = graph.add("Add", graph.add("Cast", "trees", to=TensorProto.DOUBLE), state.arrays["baseline"])
        return graph.add("Reshape", answer, np.array([-1, horizon]))


def _booster(settings: Mapping[str, Any], seed: int) -> Any:
    try:
        from sklearn.ensemble import HistGradientBoostingRegressor
    except ImportError as error:
        raise MissingExtra("the predictor 'trees_series'", "tables", "scikit-learn") from error
    return HistGradientBoostingRegressor(
        loss="absolute_error",
        learning_rate=settings["learning_rate"],
        max_leaf_nodes=int(settings["leaves"]),
        min_samples_leaf=int(settings["min_leaf"]),
        early_stopping=False,
        warm_start=True,
        random_state=seed,
    )


def _boost(model: Any, iterations: int, x: Array, y: Array) -> None:
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # bins of constant columns
        model.set_params(max_iter=int(iterations)).fit(x, y)


def _rows(x: Array, y: Array, known: Array, rng: np.random.Generator) -> tuple[Array, Array]:
    """(features [rows, k], shift [rows]) of the known steps, a random part where there are very many."""
    rows, answers = x[known], y[known]
    if len(rows) > _ROWS:
        chosen = np.sort(rng.choice(len(rows), _ROWS, replace=False))
        rows, answers = rows[chosen], answers[chosen]
    return rows, answers


def _predicted(model: Any, x: Array) -> Array:
    return np.asarray(model.predict(x.reshape(-1, x.shape[2])).reshape(x.shape[:2]))


predictor = Trees()

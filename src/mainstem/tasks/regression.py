"""`regression`: a number."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from mainstem.choices import QUANTILES
from mainstem.contracts import Array, Arrays, Batch, Feature, Prediction, State, Task
from mainstem.errors import MainstemError
from mainstem.modalities.number import plugin as number
from mainstem.tasks import _settings

COVERAGE = 0.9  # share of new rows whose answer lies between low and high
# In scaled units. Runtimes agree to about 1e-6, so an interval may not be narrower, and `differ` has a unit to measure in.
NARROWEST = 1e-3


class Regression(Task):
    """A number, learned in the scaled units of its answer. Settings: loss (mse, mae, huber), delta, and those of the head.

    State: the scale of the answer, and "interval" in scaled units: half the width of the 90 % interval of `calibrate`, or how far it
    reaches beyond the quantiles that the output holds.
    """

    target = "number"
    metrics = ("r2", "rmse", "mae", "mape")
    compared_by = ("rmse", -1)
    tolerance = 1e-2  # of the interval's width, or of the value where that is more

    def __init__(self, settings: Mapping[str, Any] | None = None) -> None:
        own = {"loss": "mse", "delta": 1.0}
        super().__init__(_settings.complete("regression", settings, own, {"loss": ("mse", "mae", "huber")}))

    def head(self, features: Mapping[str, Feature], target: State) -> Any:
        """{"INPUT.feature": float [row, width]} → {"value": float32 [row, 1]} in scaled units."""
        from mainstem.nn.heads import Head

        return Head(features, "value", 1, self.settings)

    def loss(self, output: Mapping[str, Any], batch: Any) -> Any:
        """The loss of batch.target["value"] (float32 [row] or [row, 1]) in scaled units."""
        from mainstem.nn.losses import regression

        return regression(self.settings["loss"], output["value"], batch.target["value"], batch.weights, self.settings["delta"])

    def calibrate(self, outputs: Arrays, targets: Arrays, state: State) -> State:
        """The 90 % quantile of validation residuals, corrected for their number: split-conformal intervals (Lei et al. 2018,
        arXiv:1604.04173), or around quantiles (Romano et al. 2019, arXiv:1905.03222). They hold for any model as long as new rows come
        from where the validation rows came from.

        Below 9 rows no finite interval has that coverage, and none is stored.
        """
        low, high = _reach(outputs)
        truth = _flat(targets["value"])
        residuals = np.sort(np.maximum(low - truth, truth - high))
        residuals = residuals[np.isfinite(residuals)]
        rank = math.ceil((len(residuals) + 1) * COVERAGE)
        if rank > len(residuals):
            return state
        return replace(state, json={**state.json, "interval": float(residuals[rank - 1])})

    def decode(self, output: Arrays, batch: Batch, state: State) -> list[Prediction | MainstemError]:
        """Scaled values [row, 1] → numbers in the answer's own units, with their interval where one was fitted or "quantiles" [row,
        choices.QUANTILES] are among the outputs."""
        value, more = _flat(output["value"]), state.json.get("interval")
        known = more is not None or "quantiles" in output
        low, high = _reach(output)
        low, high = np.minimum(low - (more or 0.0), value - NARROWEST), np.maximum(high + (more or 0.0), value + NARROWEST)
        levels = np.asarray(output["quantiles"]).T if "quantiles" in output else ()
        rows = np.reshape(_unscale(np.concatenate([value, low, high, *levels]), state), (-1, len(value))).T.tolist()
        return [
            Prediction(v, low=a if known else None, high=b if known else None, more=_named(q))
            if math.isfinite(v)
            else MainstemError("the model's output is not a number", do="Look for extreme values in this row.")
            for v, a, b, *q in rows
        ]

    def differ(self, a: Prediction, b: Prediction) -> float:
        """The difference as a share of the interval's width, or of the value where that is more."""
        if a.low is None or a.high is None:
            return super().differ(a, b)
        if b.low is None or b.high is None:
            return math.inf
        largest = max(abs(a.value - b.value), abs(a.low - b.low), abs(a.high - b.high))
        return float(largest / max(a.high - a.low, abs(a.value)))


def _reach(output: Arrays) -> tuple[Array, Array]:
    """The outer quantiles of each row, which hold 90 % between them; the value itself where there are none."""
    if "quantiles" in output:
        return np.asarray(output["quantiles"][:, 0], np.float64), np.asarray(output["quantiles"][:, -1], np.float64)
    value = _flat(output["value"])
    return value, value


def _named(quantiles: list[float]) -> dict[str, Any]:
    return {"quantiles": {f"{level:g}": q for level, q in zip(QUANTILES, quantiles, strict=True)}} if quantiles else {}


def _flat(values: Array) -> Array:
    return np.asarray(values, np.float64).reshape(-1)


def _unscale(scaled: Array, state: State) -> list[float]:
    """Scaled units → the answer's own, by the modality that scaled them."""
    values = number.decode({"value": scaled}, {}, {"answer": True}, state)
    return [float(v) if v is not None else math.nan for v in values]


plugin = Regression

"""Figures of forecasts, from sums by window: MASE, weighted quantile loss, coverage; and the seasonal naive to stand beside them."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import NormalDist

import numpy as np

from mainstem.contracts import Array, Prediction, Value
from mainstem.modalities import _lags
from mainstem.modalities.series import Outcome

LEVELS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)  # those that the loss is the mean of
_COVERED = (0.1, 0.9)  # the interval whose coverage is told


def statistics(predictions: Sequence[Prediction], outcomes: Sequence[Outcome]) -> Array:
    """By window, float64 [n, 6]: absolute error over the seasonal naive's of the history (0 where that is 0 or unknown), and
    whether it is known; quantile loss summed over steps, mean over levels; size of the truth summed; steps inside the 80 % interval, steps.

    Steps whose truth is missing count nowhere. NaN without quantiles.
    """
    return np.array([_of_window(p, o) for p, o in zip(predictions, outcomes, strict=True)], np.float64).reshape(-1, 6)


def _of_window(prediction: Prediction, outcome: Outcome) -> list[float]:
    known = ~np.isnan(outcome.values)
    truth = outcome.values[known]
    error = np.abs(truth - np.asarray(prediction.value, np.float64)[known]).mean() if len(truth) else 0.0
    season = outcome.window.layout.season
    scale = float(_lags.scale(outcome.window.values[None, :, 0], season)[0])
    scaled = bool(scale > 0 and len(truth))
    quantiles = {float(level): np.asarray(q, np.float64)[known] for level, q in dict(prediction.more.get("quantiles", {})).items()}
    losses = [2 * np.maximum(level * (truth - q), (level - 1) * (truth - q)).sum() for level, q in quantiles.items() if level in LEVELS]
    low, high = (quantiles.get(level) for level in _COVERED)
    inside = float("nan") if low is None or high is None else float(((truth >= low) & (truth <= high)).sum())
    loss = float(np.mean(losses)) if losses else float("nan")
    return [error / scale if scaled else 0.0, float(scaled), loss, float(np.abs(truth).sum()), inside, float(len(truth))]


class Forecasts:
    """Figures of forecasts. Statistics: those above.

    mase: mean absolute scaled error, each window in units of the seasonal naive's error in its history (Hyndman & Koehler 2006).
    weighted_quantile_loss: 2 · quantile loss over the levels, by the summed size of the truth. coverage: of the 80 % interval.
    """

    names = ("mase", "weighted_quantile_loss", "coverage")

    def rows(self, answers: object) -> Array:
        """[n, 6]."""
        return np.asarray(answers.scores)  # type: ignore[attr-defined]

    def figures(self, stats: Array, counts: Array) -> dict[str, Array]:
        """Every figure for resamples that draw row i counts[:, i] times."""
        sums = counts @ stats
        pairs = {"mase": (0, 1), "weighted_quantile_loss": (2, 3), "coverage": (4, 5)}
        return {
            name: np.divide(sums[:, top], sums[:, bottom], out=np.full(len(sums), np.nan), where=sums[:, bottom] != 0)
            for name, (top, bottom) in pairs.items()
        }


def seasonal_naive(outcome: Outcome) -> Prediction:
    """The last season again and again, with normal quantiles: their deviation is that of the seasonal differences, times √k in the
    k-th season ahead (Hyndman & Athanasopoulos 2021, section 5.5)."""
    window, horizon = outcome.window, len(outcome.values)
    season = window.layout.season
    found = _lags.naive(window.values[None, :, 0], season, horizon)
    deviation = found["spread"][0, 0] * np.sqrt(np.arange(horizon) // season + 1)
    point: Value = found["naive"][0]
    quantiles = {f"{level:g}": (point + NormalDist().inv_cdf(level) * deviation).tolist() for level in LEVELS}
    return Prediction(point.tolist(), more={"quantiles": quantiles})

"""How the latest step of a window departs from what came before: residuals of simple forecasts, over several spans.

Letters of shapes: n windows, L steps, C channels, m the season.
"""

from __future__ import annotations

import numpy as np

from mainstem.contracts import Array
from mainstem.modalities import _lags

SPANS = (1, 4, 16, 64)  # steps that a residual is averaged over


def of(values: Array, season: int) -> Array:
    """float64 [n, k] of values [n, L, C] with NaN where missing. For each channel and span, of the last steps: the mean error of
    the seasonal naive, the size of the error of the last value, the distance from the window's median; rounded, so that no other
    processor's last digit shows.
    """
    filled = _lags.filled(values, season)
    found = [column for c in range(values.shape[2]) for column in _channel(filled[:, :, c], season)]
    missing = np.isnan(values[:, -SPANS[2] :]).mean(axis=(1, 2))
    return np.round(np.column_stack([*found, missing]), 6)


def _channel(x: Array, season: int) -> list[Array]:
    length = x.shape[1]
    season = min(season, length - 1)
    change = np.abs(np.diff(x, axis=1)) if length > 1 else np.zeros((len(x), 1))
    seasonal = x[:, season:] - x[:, : length - season] if season else np.zeros((len(x), 1))
    level = x - np.median(x, axis=1, keepdims=True)
    found = []
    for span in SPANS:
        found += [seasonal[:, -span:].mean(axis=1), np.sqrt(change[:, -span:].mean(axis=1)), level[:, -span:].mean(axis=1)]
    return [*found, np.sqrt(np.abs(seasonal[:, -SPANS[2] :]).mean(axis=1)), x[:, -1]]

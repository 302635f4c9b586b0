"""What the history of a series says of the steps ahead: the seasonal naive, its spread, and lags for trees.

Letters of shapes: n windows, L steps of history, H steps ahead, C channels, m the season.
"""

from __future__ import annotations

import numpy as np

from mainstem.contracts import Array

_RECENT = 6  # seasonal differences that trees are given
_SEASONS = 4  # seasons back that trees are given
_LEAST = 1e-6  # of a spread, in units of the window


def carried(values: Array) -> Array:
    """[n, L]: each missing value as the last known one before it; NaN before the first."""
    place = np.where(np.isnan(values), -1, np.arange(values.shape[1]))
    last = np.maximum.accumulate(place, axis=1)
    return np.where(last >= 0, np.take_along_axis(values, np.maximum(last, 0), axis=1), np.nan)


def filled(values: Array, season: int) -> Array:
    """[n, L, C] without NaN: a season before where that is known, else the last value before, else the first after, else 0."""
    n, length, channels = values.shape
    flat = values.transpose(0, 2, 1).reshape(n * channels, length).copy()
    if np.isnan(flat).any():
        for start in range(season, length, season):
            now, before = flat[:, start : start + season], flat[:, start - season : start]
            flat[:, start : start + season] = np.where(np.isnan(now), before[:, : now.shape[1]], now)
        flat = carried(flat)
        flat = carried(flat[:, ::-1])[:, ::-1]
        flat = np.nan_to_num(flat, nan=0.0)
    return flat.reshape(n, channels, length).transpose(0, 2, 1)


def naive(values: Array, season: int, horizon: int) -> dict[str, Array]:
    """ "naive" [n, H]: values [n, L] (NaN where missing) of the last season again and again; "spread" [n, 1]: root mean square of the
    seasonal differences, at least a millionth.

    Where the value of the last season is missing it is that of the season before, and so on; else the last value known.
    """
    n, length = values.shape
    season = min(season, length)
    seasons = length // season
    shaped = values[:, length - seasons * season :].reshape(n, seasons, season).transpose(0, 2, 1).reshape(n * season, seasons)
    latest = carried(shaped)[:, -1].reshape(n, season)
    last = np.nan_to_num(carried(values)[:, -1:], nan=0.0)
    latest = np.where(np.isnan(latest), last, latest)
    return {"naive": latest[:, np.arange(horizon) % season], "spread": spread(values, season)[:, None]}


def spread(values: Array, season: int) -> Array:
    """float64 [n]: root mean square of values - those a season before; of a window too short for that, of its deviation (1)."""
    difference, count = _differences(values, season)
    found = np.maximum(np.sqrt((difference**2).sum(axis=1) / np.maximum(count, 1)), _LEAST)
    return np.where(count > 0, found, 1.0).astype(np.float32).astype(np.float64)  # as units are rounded


def scale(values: Array, season: int) -> Array:
    """float64 [n]: mean size of the seasonal differences, by which MASE measures (Hyndman & Koehler 2006); NaN where there are none."""
    difference, count = _differences(values, season)
    return np.where(count > 0, np.abs(difference).sum(axis=1) / np.maximum(count, 1), np.nan)


def _differences(values: Array, season: int) -> tuple[Array, Array]:
    """[n, L - m] values less those a season before, 0 where either is missing, and how many are not, [n]."""
    season = min(season, values.shape[1])
    difference = values[:, season:] - values[:, : values.shape[1] - season]
    return np.nan_to_num(difference, nan=0.0), (~np.isnan(difference)).sum(axis=1)


def steps(values: Array, naive: Array, spread: Array, season: int, ahead: Array) -> Array:
    """Features of each step ahead, float64 [n, H, k], in units of the spread, as distances from the seasonal naive.

    values [n, L, C] filled; ahead [n, H, a]: what is known of the steps (calendar, covariates). First come the number of the step,
    the same step of seasons before, the last value, means of the last season and half of it, and the last seasonal
    differences; then `ahead`; then the last value of every other channel.
    """
    n, length, _ = values.shape
    horizon, first = naive.shape[1], values[:, :, 0]
    step = np.arange(horizon)
    number = np.broadcast_to(step.astype(np.float64)[None, :, None], (n, horizon, 1))
    lags = [length - season * (i + 2) + step % season for i in range(_SEASONS - 1)]
    aligned = [first[:, np.maximum(lag, 0)] - naive if lag.min() >= 0 else np.zeros_like(naive) for lag in lags]
    recent = [first[:, -1:], first[:, -season:].mean(axis=1, keepdims=True), first[:, -max(1, season // 2) :].mean(axis=1, keepdims=True)]
    level = [value - naive for value in recent]
    change = [
        np.repeat(first[:, [-1 - j]] - first[:, [-1 - j - season]], horizon, axis=1) if j + season < length else np.zeros_like(naive)
        for j in range(_RECENT)
    ]
    drift = [np.repeat(_drift(first, season)[:, None], horizon, axis=1)]
    shaped = np.stack([*aligned, *level, *change, *drift], axis=2) / spread[:, :, None]
    others = np.repeat(values[:, -1:, 1:], horizon, axis=1)
    return np.concatenate([number, np.clip(np.round(shaped, 6), -1e6, 1e6), ahead, others], axis=2)


def _drift(first: Array, season: int) -> Array:
    """float64 [n]: mean of the last season less that of the one before."""
    if first.shape[1] < 2 * season:
        return np.zeros(len(first))
    return np.asarray(first[:, -season:].mean(axis=1) - first[:, -2 * season : -season].mean(axis=1))

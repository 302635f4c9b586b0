"""Numbers that describe a window, for models of tables: size, shape, change, repetition, spectrum, of every channel.

Letters of shapes: n windows, L steps, C channels, k numbers a channel.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from mainstem.contracts import Array
from mainstem.modalities import _lags

_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
_LAGS = (1, 2, 4, 8, 16)
_BANDS = 8  # of the spectrum, each twice as wide as the one before
_PARTS = 4  # of a window, whose means are told


def of(values: Array) -> Array:
    """float64 [n, C·k] of values [n, L, C] with NaN where missing; rounded, so that no other processor's last digit shows."""
    filled = _lags.filled(values, 1)
    found = [_channel(filled[:, :, c], np.isnan(values[:, :, c])) for c in range(values.shape[2])]
    between = _between(filled)
    return np.round(np.concatenate([*found, between], axis=1), 6)


def _channel(x: Array, missing: Array) -> Array:
    """[n, k] of one channel [n, L] without gaps."""
    middle = x - x.mean(axis=1, keepdims=True)
    size = np.maximum(np.sqrt((middle**2).mean(axis=1)), 1e-9)
    change = np.diff(x, axis=1) if x.shape[1] > 1 else np.zeros((len(x), 1))
    shape = middle / size[:, None]
    found = [x.mean(axis=1), size, x.min(axis=1), x.max(axis=1), (shape**3).mean(axis=1), (shape**4).mean(axis=1)]
    found += list(np.quantile(x, _QUANTILES, axis=1))
    found += [
        np.abs(change).mean(axis=1),
        change.std(axis=1),
        np.abs(change).max(axis=1),
        (np.diff(np.sign(middle), axis=1) != 0).mean(axis=1),
    ]
    found += [x.argmax(axis=1) / x.shape[1], x.argmin(axis=1) / x.shape[1], missing.mean(axis=1)]
    found += [(shape[:, lag:] * shape[:, :-lag]).mean(axis=1) if lag < x.shape[1] else np.zeros(len(x)) for lag in _LAGS]
    found += [part.mean(axis=1) if part.shape[1] else np.zeros(len(x)) for part in np.array_split(x, _PARTS, axis=1)]
    return np.column_stack([*found, _spectrum(shape)])


def _spectrum(shape: Array) -> Array:
    """[n, bands]: share of the power in bands of doubling frequency."""
    power = np.abs(np.fft.rfft(shape, axis=1))[:, 1:] ** 2
    total = np.maximum(power.sum(axis=1), 1e-12)
    edges = np.unique(np.geomspace(1, max(2, power.shape[1]), _BANDS + 1).astype(int))
    bands = [power[:, a - 1 : b - 1].sum(axis=1) / total for a, b in pairwise(edges.tolist())]
    return np.column_stack(bands) if bands else np.zeros((len(shape), 0))


def _between(x: Array) -> Array:
    """[n, pairs]: how the channels of [n, L, C] go together, of neighbours only where they are many."""
    middle = x - x.mean(axis=1, keepdims=True)
    size = np.maximum(np.sqrt((middle**2).mean(axis=1)), 1e-9)
    shape = middle / size[:, None]
    channels = x.shape[2]
    pairs = [(a, b) for a in range(channels) for b in range(a + 1, channels) if channels <= 8 or b == a + 1]
    return np.column_stack([(shape[:, :, a] * shape[:, :, b]).mean(axis=1) for a, b in pairs]) if pairs else np.zeros((len(x), 0))

"""Values as 8-bit integers with one fixed scale, and weights as 7-bit ones. numpy alone.

A few channels of a transformer reach ten times as far as all others (Dettmers et al. 2022, arXiv:2208.07339). One scale over all of
them would leave the others a handful of steps. So the scale fits most channels, and what a channel has beyond it goes to further
columns of its own, which meet the same weights again: piece after piece, nothing is cut off (compare Zhao et al. 2019, arXiv:1901.09504).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mainstem.contracts import Array

STEPS = 255
WEIGHT = 64  # the largest weight: 255 · 64 · 2 fits into 16 bits, so that no kernel that adds pairs in them saturates
MARGIN = 1.3  # of what the samples reach, for what they did not show
ATTENDED = 1.8  # the same behind attention: words at random attend evenly, so means of values are small
PICTURED = 2.5  # the same of convolutions: made pictures excite the later channels less than pictures of things
FURTHER = 0.075  # columns at most, as a share of the channels


@dataclass(frozen=True)
class Window:
    """Value = scale · (integer − zero), integers 0..255; `further`: (channel, piece) of each further column, pieces counted up and down."""

    scale: float
    zero: int
    further: tuple[tuple[int, int], ...] = ()

    def quantise(self, x_TK: Array) -> Array:
        """float [T, K] → integers less their zero, int32 [T, K + further]; their sum over a channel's columns is the value in steps."""
        steps = np.rint(x_TK / np.float32(self.scale)).astype(np.int64) + self.zero
        columns = [np.clip(steps, 0, STEPS) - self.zero]
        columns += [(np.clip(steps[:, k] - STEPS * piece, 0, STEPS) - self.rest(piece))[:, None] for k, piece in self.further]
        return np.concatenate(columns, 1).astype(np.int32)

    def rest(self, piece: int) -> int:
        """The integer that means nothing in a further column."""
        return 0 if piece > 0 else STEPS

    def expand(self, weights_KN: Array) -> Array:
        """The weights of all columns, float [K + further, N]."""
        return np.concatenate([weights_KN, weights_KN[[k for k, _ in self.further]]]) if self.further else weights_KN

    def constant(self, weights_KN: Array) -> Array:
        """What a product that takes `zero` off every column is short of, [N]. weights: those of all columns, as they are computed with."""
        rests = np.array([self.zero - self.rest(piece) for _, piece in self.further], np.float64)
        return self.scale * (rests @ weights_KN[len(weights_KN) - len(rests) :])


def fit(
    low_K: Array, high_K: Array, margin: float = MARGIN, further: float = FURTHER, within: tuple[float, float] = (-np.inf, np.inf)
) -> Window:
    """The finest window over channels that reach from low to high, with at most this share of further columns; none beyond `within`."""
    low = np.maximum(np.minimum(low_K, 0) * margin, min(within[0], 0))
    high = np.minimum(np.maximum(high_K, 0) * margin, max(within[1], 0))
    whole = max(float(high.max() - low.min()), 1e-6) * 1.01
    zeros = np.arange(0, STEPS + 1, 15)
    for width in np.geomspace(whole / 40, whole, 120):
        columns = np.array([sum(pieces.sum() for pieces in _pieces(low, high, width / STEPS, int(zero))) for zero in zeros])
        if columns.min() <= further * len(low):
            return _placed(low, high, float(np.float32(width / STEPS)), int(zeros[columns.argmin()]))
    return _placed(low, high, float(np.float32(whole / STEPS)), int(np.rint(-low.min() / whole * STEPS)))


def _pieces(low: Array, high: Array, scale: float, zero: int) -> tuple[Array, Array]:
    """How many further columns each channel needs above and below the window, int [K]."""
    above, below = high / scale - (STEPS - zero), -low / scale - zero
    up, down = (np.ceil(np.maximum(beyond, 0) / STEPS - 1e-3).astype(int) for beyond in (above, below))
    return up, down


def _placed(low: Array, high: Array, scale: float, zero: int) -> Window:
    up, down = _pieces(low, high, scale, zero)
    pieces = [(int(k), piece) for k in np.flatnonzero(up + down) for piece in (*range(1, up[k] + 1), *range(-1, -down[k] - 1, -1))]
    return Window(scale, zero, tuple(pieces))


def rounded(weights: Array, axis: int | tuple[int, ...], most: int = WEIGHT) -> tuple[Array, Array]:
    """Weights as int8 up to ±most, and their scales: one each along all axes but `axis`."""
    scales = np.maximum(np.abs(weights).max(axis, keepdims=True) / most, np.finfo(np.float32).tiny * 1e3).astype(np.float32)
    return np.clip(np.rint(weights / scales), -most, most).astype(np.int8), scales


def rounded_for(x_TK: Array, weights_KN: Array, most: int = WEIGHT, block: int = 64) -> tuple[Array, Array]:
    """The same for a matrix that meets these inputs: what one row's rounding loses, the rows after it make good as far as they can
    (Frantar et al. 2022, arXiv:2210.17323). Returns int8 [K, N] and scales [1, N]."""
    scales = rounded(weights_KN, 0, most)[1].astype(np.float64)
    left, integers = weights_KN.astype(np.float64), np.zeros(weights_KN.shape, np.int8)
    x = x_TK.astype(np.float64)
    together = x.T @ x / len(x)
    together[np.diag_indices_from(together)] += 0.01 * np.trace(together) / len(together) + 1e-12
    factor_KK = np.linalg.cholesky(np.linalg.inv(together)).T
    for start in range(0, len(left), block):
        stop = min(start + block, len(left))
        errors = np.zeros((stop - start, left.shape[1]))
        for k in range(start, stop):
            integers[k] = np.clip(np.rint(left[k] / scales[0]), -most, most)
            errors[k - start] = (left[k] - integers[k] * scales[0]) / factor_KK[k, k]
            left[k + 1 : stop] -= np.outer(factor_KK[k, k + 1 : stop], errors[k - start])
        left[stop:] -= factor_KK[start:stop, stop:].T @ errors
    return integers, scales.astype(np.float32)

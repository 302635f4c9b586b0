"""Temperature scaling (Guo et al. 2017, arXiv:1706.04599): one number that logits are divided by, fitted on validation outputs."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from mainstem.contracts import Array

LOWEST, HIGHEST = 0.05, 20.0


def softmax(logits: Array, temperature: float = 1.0) -> Array:
    """Logits [row, k] → probabilities float64 [row, k]; -inf is probability 0."""
    z = np.asarray(logits, np.float64) / temperature
    z = np.exp(z - z.max(axis=1, keepdims=True))
    return np.asarray(z / z.sum(axis=1, keepdims=True))


def sigmoid(logits: Array, temperature: float = 1.0) -> Array:
    """Logits → probabilities, float64 of the same shape, without overflow."""
    z = np.asarray(logits, np.float64) / temperature
    small = np.exp(-np.abs(z))
    return np.asarray(np.where(z >= 0, 1.0, small) / (1.0 + small))


def fit_softmax(logits: Array, index: Array) -> float:
    """The temperature under which logits [row, k] give the labels index [row] the least cross-entropy.

    Labels are smoothed by one in n + 2 (Platt 1999), so that a small validation part without errors does not ask for
    certainty. Never worse than 1 on these rows.
    """
    z, index = np.asarray(logits, np.float64), np.asarray(index)
    rows = (index >= 0) & ~np.isnan(z).any(axis=1) & (z.max(axis=1, initial=-np.inf) < np.inf)
    z, index = z[rows], index[rows]
    if not len(z) or z.shape[1] < 2:
        return 1.0
    z = np.maximum(z - z.max(axis=1, keepdims=True), -100.0)
    picked, smooth = z[np.arange(len(z)), index], 1.0 / (len(z) + 2)
    wanted = float(np.mean((1 - smooth) * picked + smooth * z.mean(axis=1)))

    def slope(beta: float) -> float:
        return float(np.mean((softmax(z * beta) * z).sum(axis=1))) - wanted

    def cost(beta: float) -> float:
        return float(np.mean(np.log(np.exp(z * beta).sum(axis=1)) - beta * picked))

    return _fit(slope, cost)


def fit_sigmoid(logits: Array, hot: Array) -> float:
    """The same for independent labels: logits and hot (0 or 1) of one shape."""
    z, y = np.asarray(logits, np.float64).ravel(), np.asarray(hot, np.float64).ravel()
    y, z = y[np.isfinite(z)], z[np.isfinite(z)]
    if not len(z):
        return 1.0
    smooth = 1.0 / (len(z) + 2)
    wanted = float(np.mean(z * (y * (1 - smooth) + smooth / 2)))

    def slope(beta: float) -> float:
        return float(np.mean(z * sigmoid(z * beta))) - wanted

    def cost(beta: float) -> float:
        return float(np.mean(np.logaddexp(0.0, beta * z) - beta * y * z))

    return _fit(slope, cost)


def _fit(slope: Callable[[float], float], cost: Callable[[float], float]) -> float:
    """Cross-entropy is convex in 1/temperature: halve the interval (on a log scale) in which its slope changes sign."""
    low, high = np.log(1 / HIGHEST), np.log(1 / LOWEST)
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if slope(float(np.exp(middle))) < 0 else (low, middle)
    beta = float(np.exp((low + high) / 2))
    return 1 / beta if cost(beta) < cost(1.0) else 1.0

"""How well one column alone tells the answer: an exact copy in other units, or a simple predictor's score on held-out rows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mainstem.contracts import Value

_BINS, _FINE_BINS = 64, 512


@np.errstate(over="ignore", invalid="ignore", divide="ignore")
def is_affine_copy(values: NDArray[np.float64], targets: NDArray[np.float64]) -> bool:
    """Whether targets = a·values + b in every row (float64 [n] both), up to the rounding that their decimals show.

    False for numbers whose squares float64 cannot hold.
    """
    scale = np.abs(targets).max()
    x, y = values - values.mean(), targets - targets.mean()
    if not x.any() or not y.any():
        return False
    a = (x @ y) / (x @ x)
    left = np.abs(y - a * x).max()
    rounding = 0.5001 * (_unit(targets) + abs(a) * _unit(values))
    spread = y.std()
    return bool(left <= 1e-9 * scale or (left <= rounding and rounding < 0.05 * spread))


def _unit(values: NDArray[np.float64]) -> float:
    """The decimal place that values are rounded to, 0 beyond nine."""
    for digits in range(-3, 10):
        unit = 10.0**-digits
        if np.allclose(values, np.round(values / unit) * unit, rtol=1e-12, atol=unit * 1e-6):
            return unit
    return 0.0


def score(cells: Sequence[Value], answers: Sequence[Value], train: Sequence[int], held: Sequence[int]) -> float:
    """ROC-AUC (mean of one against rest) or R² of one column, fitted on `train`, on `held`; 0 where it cannot be told."""
    if isinstance(answers[0], float):
        return _r2(cells, np.array(answers, np.float64), np.asarray(train), np.asarray(held))
    codes, bins = _binned(cells, train)
    classes = sorted({str(answers[i]) for i in train})
    numbers = {name: k for k, name in enumerate(classes)}
    counts = np.zeros((bins, len(classes)))
    np.add.at(counts, (codes[np.asarray(train)], np.array([numbers[str(answers[i])] for i in train])), 1)
    prior = counts.sum(0) / counts.sum()
    shares = (counts + prior) / (counts.sum(1, keepdims=True) + 1)
    truth = np.array([numbers.get(str(answers[i]), -1) for i in held])
    areas = [_auc(shares[codes[held], k], truth == k) for k in range(len(classes)) if 0 < (truth == k).sum() < len(truth)]
    return float(np.mean(areas)) if areas else 0.0


def _r2(cells: Sequence[Value], y: NDArray[np.float64], train: NDArray[np.int64], held: NDArray[np.int64]) -> float:
    """By the mean answer of each value; between numbers, by the line from one fine bin's means to the next's."""
    if _are_numbers(cells):
        x = np.array([np.nan if cell is None else cell for cell in cells], np.float64)
        fitted = train[~np.isnan(x[train])]
        if len(fitted) < 2:
            return 0.0
        order = fitted[np.argsort(x[fitted], kind="stable")]
        _, value = np.unique(x[order], return_inverse=True)
        pieces = value if value[-1] < _FINE_BINS else np.arange(len(order)) * _FINE_BINS // len(order)
        count = np.maximum(np.bincount(pieces), 1)
        predicted = np.interp(x[held], np.bincount(pieces, x[order]) / count, np.bincount(pieces, y[order]) / count)
        predicted = np.where(np.isnan(x[held]), y[train].mean(), predicted)
    else:
        codes, bins = _binned(cells, train.tolist())
        count = np.bincount(codes[train], minlength=bins)
        means = np.bincount(codes[train], y[train], minlength=bins) / np.maximum(count, 1)
        predicted = np.where(count > 0, means, y[train].mean())[codes[held]]
    total = ((y[held] - y[held].mean()) ** 2).sum()
    return float(1 - ((y[held] - predicted) ** 2).sum() / total) if total > 0 else 0.0


def _binned(cells: Sequence[Value], train: Sequence[int]) -> tuple[NDArray[np.int64], int]:
    """int64 [n]: the bin of each cell by the train rows' quantiles or values (0: missing or unseen), and the number of bins."""
    if _are_numbers(cells):
        x = np.array([np.nan if cell is None else cell for cell in cells], np.float64)
        known = x[train][~np.isnan(x[train])]
        edges = np.unique(np.quantile(known, np.linspace(0, 1, _BINS + 1)[1:-1])) if len(known) else np.zeros(0)
        return np.where(np.isnan(x), 0, 1 + np.searchsorted(edges, x, side="left")), len(edges) + 2
    seen = {value: k for k, value in enumerate(sorted({str(cells[i]) for i in train if cells[i] is not None}), 1)}
    return np.array([0 if cell is None else seen.get(str(cell), 0) for cell in cells], np.int64), len(seen) + 1


def _are_numbers(cells: Sequence[Value]) -> bool:
    return all(cell is None or isinstance(cell, float) for cell in cells)


def _auc(scores: NDArray[np.float64], positive: NDArray[np.bool_]) -> float:
    """The area under the ROC curve, ties counted half (Mann and Whitney 1947)."""
    _, ranks, counts = np.unique(scores, return_inverse=True, return_counts=True)
    middle = np.cumsum(counts) - (counts - 1) / 2
    n = positive.sum()
    return float((middle[ranks][positive].sum() - n * (n + 1) / 2) / (n * (len(scores) - n)))

"""Whether stated probabilities come true: reliability bins and the expected calibration error (Guo et al. 2017, arXiv:1706.04599)."""

from __future__ import annotations

from typing import Any

import numpy as np

from mainstem.contracts import Array

# Equal in width, as in the paper: figures compare with published ones, and a bin's sum is a sum over rows, which keeps
# the bootstrap cheap.
BINS = 15


def bin_of(confidence: Array) -> Array:
    """The bin (0 to 14) of each confidence in [0, 1]; bin i holds i/15 < confidence ≤ (i + 1)/15."""
    return np.asarray(np.clip(np.ceil(confidence * BINS) - 1, 0, BINS - 1).astype(np.int64))


def reliability(confidence: Array, correct: Array) -> list[dict[str, Any]]:
    """The bins that hold rows: {"low", "high", "rows", "confidence", "accuracy"}, the last two as means.

    confidence: float [n], the probability of the predicted label; correct: bool [n].
    """
    bins = bin_of(confidence)
    return [
        {
            "low": int(i) / BINS,
            "high": (int(i) + 1) / BINS,
            "rows": int((bins == i).sum()),
            "confidence": float(confidence[bins == i].mean()),
            "accuracy": float(correct[bins == i].mean()),
        }
        for i in np.unique(bins)
    ]


def ece(confidence: Array, correct: Array) -> float:
    """Expected calibration error: |accuracy − confidence| of the bins, weighted by their rows."""
    bins = reliability(confidence, correct)
    return float(sum(b["rows"] * abs(b["accuracy"] - b["confidence"]) for b in bins) / max(len(confidence), 1))

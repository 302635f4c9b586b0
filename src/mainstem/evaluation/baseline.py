"""The trivial baseline: what an answer that ignores the inputs would reach."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from mainstem.contracts import Prediction, Value


def constant(kind: str, targets: Sequence[Value], labels: Sequence[str] = (), *, middle: str = "mean") -> Prediction:
    """The best answer that is the same for every row, fitted on `targets` (at least one).

    category: the most frequent label (the first by name of equals), class frequencies as probabilities. labels: those
    that at least half of the rows have, or the most frequent one. number: the mean, or the median where `middle` says so.
    """
    if kind == "number":
        values = np.asarray(targets, np.float64)
        return Prediction(float(np.median(values) if middle == "median" else values.mean()))
    counts = Counter(targets) if kind == "category" else Counter(label for row in targets for label in row)
    names = sorted({*labels, *counts}, key=str)
    scores = {name: counts[name] / len(targets) for name in names}
    best = max(names, key=lambda name: scores[name], default=None)
    if kind == "category":
        return Prediction(best, scores[best], scores)
    chosen = [name for name in names if scores[name] >= 0.5]
    return Prediction(chosen or [name for name in names if name == best], scores=scores)

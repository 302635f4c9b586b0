"""Which of several candidates to take, from their losses on the same held-out rows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mainstem.contracts import Array, Prediction, Value
from mainstem.errors import MainstemError

_LEAST = 1e-12


def losses(predictions: Sequence[Prediction | MainstemError], targets: Sequence[Value]) -> Array | None:
    """The loss of each row: minus the logarithm of the true label's score, or the squared error of a number.

    None where an answer is neither, so that rows have no loss of their own (labels, boxes), or where a row has no answer.
    """
    found = []
    for prediction, target in zip(predictions, targets, strict=True):
        if isinstance(prediction, MainstemError):
            return None
        if isinstance(target, str) and prediction.scores:
            found.append(-np.log(max(prediction.scores.get(target, 0.0), _LEAST)))
        elif isinstance(target, float) and isinstance(prediction.value, float):
            found.append((prediction.value - target) ** 2)
        else:
            return None
    return np.array(found, np.float64)


def simplest(candidates: Sequence[Array | None], best: int) -> int:
    """The first candidate that is no worse than the `best` one by more than a standard error of their paired difference.

    Candidates stand in the order of their complexity: the one-standard-error rule (Breiman et al., 1984, section 3.4.3),
    paired by row, since all of them answered the same rows.
    """
    reference = candidates[best]
    if reference is None:
        return best
    for place, own in enumerate(candidates[:best]):
        if own is None or own.shape != reference.shape or len(own) < 2:
            continue
        difference = own - reference
        if difference.mean() <= difference.std(ddof=1) / np.sqrt(len(difference)):
            return place
    return best

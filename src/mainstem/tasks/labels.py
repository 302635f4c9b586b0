"""`labels`: any number of labels at once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from mainstem.contracts import Array, Arrays, Batch, Feature, Prediction, Runner, State, Task
from mainstem.errors import MainstemError
from mainstem.tasks import _settings, _temperature

PRIOR = 10  # positives that the fitted threshold of a label must bring before it weighs as much as the threshold it is shrunk to


class Labels(Task):
    """A probability and a threshold for every label. Settings: label_smoothing, and those of the head (tasks/_settings.py).

    State: labels, and the temperature and thresholds (by label, 0.5 until fitted) of `calibrate`.
    """

    target = "labels"
    metrics = (
        "f1_micro",
        "f1_macro",
        "precision_micro",
        "precision_macro",
        "recall_micro",
        "recall_macro",
        "average_precision",
        "exact_match",
    )
    compared_by = ("average_precision", 1)
    tolerance = 1e-3  # as of classification: half of what the tolerance of calls lets through on logits of 20

    def __init__(self, settings: Mapping[str, Any] | None = None) -> None:
        own = {"loss": "binary-cross-entropy", "label_smoothing": 0.0}
        super().__init__(_settings.complete("labels", settings, own, {"loss": ("binary-cross-entropy",)}))

    def head(self, features: Mapping[str, Feature], target: State) -> Any:
        """{"INPUT.feature": float [row, width]} → {"logits": float32 [row, labels]}."""
        from mainstem.nn.heads import Head

        return Head(features, "logits", len(target.json["values"]), self.settings)

    def loss(self, output: Mapping[str, Any], batch: Any) -> Any:
        """Binary cross-entropy in nats of batch.target["hot"] (0 or 1, [row, labels])."""
        from mainstem.nn.losses import binary_cross_entropy

        return binary_cross_entropy(output["logits"], batch.target["hot"], batch.weights, self.settings["label_smoothing"])

    def fit_state(self, batches: Iterator[Batch], target: State, runner: Runner | None) -> State:
        """The labels, in the order of the logits."""
        return State({"labels": list(target.json["values"])})

    def calibrate(self, outputs: Arrays, targets: Arrays, state: State) -> State:
        """On validation logits: one temperature, and by label the threshold of the best F1.

        Thresholds of rare labels are noise, so each is shrunk towards the one that is best for all labels together, and
        that one towards 0.5, the more the fewer positives there are.
        """
        logits, hot = np.asarray(outputs["logits"], np.float64), np.asarray(targets["hot"]) > 0.5
        temperature = _temperature.fit_sigmoid(logits, hot)
        scores = _temperature.sigmoid(np.nan_to_num(logits), temperature)
        common = _threshold(scores.ravel(), hot.ravel(), 0.5)
        thresholds = [_threshold(scores[:, k], hot[:, k], common) for k in range(hot.shape[1])]
        return replace(state, json={**state.json, "temperature": temperature, "thresholds": thresholds})

    def decode(self, output: Arrays, batch: Batch, state: State) -> list[Prediction | MainstemError]:
        """Logits [row, labels] → the labels that reach their threshold, and the probability of every label."""
        logits, labels = np.asarray(output["logits"], np.float64), list(state.json["labels"])
        bad = np.asarray(np.isnan(logits).any(axis=1)).tolist()
        scores = _temperature.sigmoid(np.nan_to_num(logits), state.json.get("temperature", 1.0))
        chosen = np.greater_equal(scores, state.json.get("thresholds", 0.5)).tolist()
        return [
            MainstemError("the model's output is not a number", do="Look for extreme values in this row.")
            if wrong
            else Prediction(
                [label for label, yes in zip(labels, row, strict=True) if yes],
                scores=dict(zip(labels, probabilities, strict=True)),
            )
            for wrong, row, probabilities in zip(bad, chosen, scores.tolist(), strict=True)
        ]


def _threshold(scores: Array, hot: Array, prior: float) -> float:
    """The threshold (scores >= it are chosen) of the best F1, midway between two scores, shrunk towards `prior`."""
    positives = int(hot.sum())
    if not positives:
        return prior
    order = np.argsort(-scores, kind="stable")
    ranked, hits = scores[order], np.cumsum(hot[order])
    ends = np.flatnonzero(np.append(ranked[:-1] > ranked[1:], True))  # a threshold cannot part equal scores
    f1 = 2 * hits[ends] / (ends + 1 + positives)
    best = int(ends[f1.argmax()])
    below = ranked[best + 1] if best + 1 < len(ranked) else 0.0
    share = positives / (positives + PRIOR)
    return float(share * (ranked[best] + below) / 2 + (1 - share) * prior)


plugin = Labels

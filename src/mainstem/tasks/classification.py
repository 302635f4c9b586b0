"""`classification`: one label of several."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from mainstem.contracts import Array, Arrays, Batch, Feature, Prediction, Runner, State, Task
from mainstem.errors import MainstemError
from mainstem.tasks import _settings, _temperature


class Classification(Task):
    """Softmax over the labels. Settings: label_smoothing, and those of the head (tasks/_settings.py).

    State: labels, and the temperature of `calibrate`.
    """

    target = "category"
    metrics = (
        "accuracy",
        "balanced_accuracy",
        "precision_micro",
        "precision_macro",
        "recall_micro",
        "recall_macro",
        "f1_micro",
        "f1_macro",
        "roc_auc",
        "average_precision",
        "cross_entropy",
        "brier",
        "ece",
    )
    compared_by = ("cross_entropy", -1)
    # What the tolerance of calls lets through: logits up to 20 in size may differ by 2e-3, a probability by half of that.
    tolerance = 1e-3

    def __init__(self, settings: Mapping[str, Any] | None = None) -> None:
        own = {"loss": "cross-entropy", "label_smoothing": 0.0}
        super().__init__(_settings.complete("classification", settings, own, {"loss": ("cross-entropy",)}))

    def head(self, features: Mapping[str, Feature], target: State) -> Any:
        """{"INPUT.feature": float [row, width]} → {"logits": float32 [row, labels]}."""
        from mainstem.nn.heads import Head

        return Head(features, "logits", len(target.json["values"]), self.settings)

    def loss(self, output: Mapping[str, Any], batch: Any) -> Any:
        """Cross-entropy in nats of batch.target["index"] (int64 [row])."""
        from mainstem.nn.losses import cross_entropy

        return cross_entropy(output["logits"], batch.target["index"], batch.weights, self.settings["label_smoothing"])

    def fit_state(self, batches: Iterator[Batch], target: State, runner: Runner | None) -> State:
        """The labels, in the order of the logits."""
        return State({"labels": list(target.json["values"])})

    def calibrate(self, outputs: Arrays, targets: Arrays, state: State) -> State:
        """The temperature that suits validation logits (Guo et al. 2017)."""
        temperature = _temperature.fit_softmax(outputs["logits"], targets["index"])
        return replace(state, json={**state.json, "temperature": temperature})

    def decode(self, output: Arrays, batch: Batch, state: State) -> list[Prediction | MainstemError]:
        """Logits [row, labels] → the likeliest label, its probability, and those of all; NaN → an error."""
        logits, labels = np.asarray(output["logits"], np.float64), list(state.json["labels"])
        good = finite(logits)
        probabilities = _temperature.softmax(np.where(good[:, None], logits, 0.0), state.json.get("temperature", 1.0))
        return classified(probabilities, labels, good)


def finite(logits: Array) -> Array:
    """Which rows of logits [row, k] have probabilities: no NaN, no +inf, and not all of them -inf."""
    top = logits.max(axis=1, initial=-np.inf)
    return np.asarray(np.isfinite(top) & ~np.isnan(logits).any(axis=1))


def classified(probabilities: Array, labels: Sequence[str], good: Array) -> list[Prediction | MainstemError]:
    """Probabilities float64 [row, k] → predictions; rows that are not `good` are errors."""
    best = probabilities.argmax(axis=1).tolist()
    return [
        Prediction(labels[i], row[i], dict(zip(labels, row, strict=True)))
        if fine
        else MainstemError("the model's output is not a number", do="Look for extreme values in this row.")
        for i, row, fine in zip(best, probabilities.tolist(), good.tolist(), strict=True)
    ]


plugin = Classification

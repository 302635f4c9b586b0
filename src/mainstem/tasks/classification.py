"""`classification`: one label of several."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np

from mainstem.contracts import Array, Arrays, Batch, Call, Emit, Feature, Prediction, Runner, State, Task
from mainstem.errors import MainstemError
from mainstem.tasks import _settings, _temperature


class Classification(Task):
    """Softmax over the labels. Settings: label_smoothing, abstain, and those of the head (tasks/_settings.py).

    State: labels, and the temperature of `calibrate`. An answer whose calibrated score is below `abstain` (of the setting, or of the
    option, whichever is more) is told with "abstained"; label and scores stay what they are.
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
    options: ClassVar[Mapping[str, Any]] = {"abstain": 0.0}
    # What the tolerance of calls lets through: logits up to 20 in size may differ by 2e-3, a probability by half of that.
    tolerance = 1e-3

    def __init__(self, settings: Mapping[str, Any] | None = None) -> None:
        own = {"loss": "cross-entropy", "label_smoothing": 0.0, "abstain": 0.0}
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

    def predict(
        self, batch: Batch, state: State, options: Mapping[str, Any], rngs: Sequence[np.random.Generator]
    ) -> Generator[Call | tuple[Call, ...] | Emit, Any, list[Prediction | MainstemError]]:
        """As every single pass goes; what is below the threshold says so. Raises MainstemError for a threshold that is no share."""
        asked = options.get("abstain", 0.0)
        if not 0 <= asked <= 1:
            raise MainstemError(f"'abstain' is a score from 0 to 1, not {asked!r}")
        answers = yield from super().predict(batch, state, options, rngs)
        least = max(asked, self.settings["abstain"])
        return [abstained(answer, least) for answer in answers]

    def decode(self, output: Arrays, batch: Batch, state: State) -> list[Prediction | MainstemError]:
        """Logits [row, labels] → the likeliest label, its probability, and those of all; NaN → an error."""
        logits, labels = np.asarray(output["logits"], np.float64), list(state.json["labels"])
        good = finite(logits)
        if not good.all():
            logits = np.where(good[:, None], logits, 0.0)
        probabilities = _temperature.softmax(logits, state.json.get("temperature", 1.0))
        return classified(probabilities, labels, good)


def abstained(answer: Prediction | MainstemError, least: float) -> Prediction | MainstemError:
    """The answer, with "abstained" where its score is below `least`."""
    if isinstance(answer, MainstemError) or answer.score is None or answer.score >= least:
        return answer
    return replace(answer, more={**answer.more, "abstained": True})


def finite(logits: Array) -> Array:
    """Which rows of logits [row, k] have probabilities: no NaN, no +inf, and not all of them -inf."""
    if np.isfinite(logits).all() and logits.shape[1]:
        return np.ones(len(logits), bool)
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

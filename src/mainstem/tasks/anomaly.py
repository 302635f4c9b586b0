"""`anomaly`: how unusual a row, a step of a series or a picture is; an alarm above a threshold that ordinary ones pass at a stated rate.

Pictures and texts are told by the features of a pretrained backbone: the mean distance to the nearest of those learned from (Bergman,
Cohen & Hoshen 2020, arXiv:2002.10445). Rows and series have predictors (backbones/neighbours.py).
"""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np

from mainstem.contracts import (
    Array,
    Arrays,
    Batch,
    Call,
    Emit,
    Example,
    Feature,
    GraphSpec,
    Port,
    Prediction,
    Runner,
    State,
    Table,
    Task,
    Value,
)
from mainstem.errors import MainstemError

KEPT = 2000  # features that a model holds to measure distances from
NEAREST = 5
ALARM, USUAL = "anomaly", "normal"
ORDINARY = frozenset({"0", "no", "n", "false", "f", "normal", "ok", "good", "inlier", "否", "无", "正常"})


class Anomaly(Task):
    """Learned from ordinary rows alone. Settings: false_alarms, the share of ordinary rows that may raise one; normal, the label of those.

    Labels are optional: rows labelled otherwise are kept out of what is learned from, and judge the alarms. State: threshold,
    "rate" (share of false alarms at it, and the 95 % interval of that share), "rows" it was measured on; of features also "center"
    [width], "spread" [1] and "bank" [rows, width], those that were learned from.
    """

    target = None
    judged_by = "category"
    backbones: ClassVar[Mapping[str, str]] = {"table": "neighbours", "series": "neighbours_series"}
    metrics = ("average_precision", "roc_auc", "false_alarm_rate", "events_found", "delay")
    compared_by = ("average_precision", 1)
    tolerance = 1e-3  # of the score, as a share of itself

    def __init__(self, settings: Mapping[str, Any] | None = None) -> None:
        super().__init__({"false_alarms": 0.01, "normal": "", **(settings or {})})
        where = "settings of the task 'anomaly'"
        if unknown := [name for name in self.settings if name not in ("false_alarms", "normal")]:
            raise MainstemError(f"unknown setting '{unknown[0]}'", where=where, do="Known: false_alarms, normal.")
        rate = self.settings["false_alarms"]
        if isinstance(rate, bool) or not isinstance(rate, float | int) or not 0 < rate < 1:
            raise MainstemError(f"'false_alarms' is a share between 0 and 1, not {rate!r}", where=where)

    def examples(self, table: Table) -> list[Example]:
        """Rows; labels are not looked at."""
        return super().examples(replace(table, target=None))

    def ordinary(self, answers: Sequence[Value]) -> Array:
        """bool [n]: which labels are those of ordinary rows: the one that settings name, a usual word for it, else the commonest.

        Raises MainstemError where the label that settings name does not occur.
        """
        words, counts = np.unique([str(answer) for answer in answers], return_counts=True)
        named = str(self.settings["normal"])
        if named and named not in words:
            raise MainstemError(f"no row has the label '{named}', which is to be the normal one", do=f"Labels: {', '.join(words[:5])}.")
        known = [word for word in words.tolist() if word.casefold() in ORDINARY]
        normal = named or (known[0] if known else str(words[counts.argmax()]))
        return np.array([str(answer) == normal for answer in answers], bool)

    def networks(self, features: Mapping[str, Feature], target: State, settings: Mapping[str, Any]) -> dict[str, Any]:
        """{"head": distances between features}: nothing in it is learned. Raises MainstemError for more than one input."""
        from mainstem.nn.nearest import Nearest

        if len(features) != 1:
            raise MainstemError("anomalies are told by the features of one input", do="Choose it with --input COLUMN.")
        return {"head": Nearest(next(iter(features)), NEAREST)}

    def fit_state(self, batches: Iterator[Batch], target: State, runner: Runner | None) -> State:
        """The features that distances are measured from, standardised."""
        found = []
        for batch in batches:
            arrays = batch.direct()
            for name, inputs in batch.by_backbone():
                answer = runner(Call(f"backbone.{name}", inputs)) if runner else {}
                arrays.update({f"{name}.{key}": np.asarray(value) for key, value in answer.items()})
            found.append(next(iter(arrays.values())))
        features = np.concatenate(found).astype(np.float64)
        center = features.mean(axis=0)
        spread = max(float(np.sqrt(((features - center) ** 2).mean())), 1e-12)
        chosen = np.sort(np.random.default_rng(0).permutation(len(features))[:KEPT])
        bank = (features[chosen] - center) / spread
        arrays = {"center": center, "spread": np.array([spread]), "bank": bank}
        return State({}, {name: array.astype(np.float32) for name, array in arrays.items()})

    def graphs(self, networks: Mapping[str, Any], specs: Mapping[str, GraphSpec], state: State) -> dict[str, GraphSpec]:
        """The backbone, and "head" from its features and those of the state to "score" [row, 1]."""
        head, width = networks["head"], str(state.arrays["bank"].shape[1])
        inputs = (
            Port(head.feature, "float32", ("row", width)),
            Port("center", "float32", (width,)),
            Port("spread", "float32", ("1",)),
            Port("bank", "float32", ("shared", width)),
        )
        return {**specs, "head": GraphSpec(inputs, (Port("score", "float32", ("row", "1")),), head)}

    def predict(
        self, batch: Batch, state: State, options: Mapping[str, Any], rngs: Sequence[np.random.Generator]
    ) -> Generator[Call | tuple[Call, ...] | Emit, Any, list[Prediction | MainstemError]]:
        """As every single pass goes, with the features of the state beside those of the batch."""
        held = {name: state.arrays[name] for name in ("center", "spread", "bank") if name in state.arrays}
        inner = super().predict(batch, state, options, rngs)
        call = next(inner)
        while True:
            if isinstance(call, Call) and call.graph == "head":
                call = replace(call, inputs={**call.inputs, **held})
            try:
                call = inner.send((yield call))
            except StopIteration as ended:
                return list(ended.value)

    def calibrate(self, outputs: Arrays, targets: Arrays, state: State) -> State:
        """The threshold that the stated share of held-out ordinary scores exceeds, at most, in expectation; and, from the rank of that
        score, the 95 % interval of the share of all ordinary rows that exceed it (a beta distribution)."""
        from scipy.stats import beta  # type: ignore[import-untyped]

        scores = np.sort(np.asarray(outputs["score"], np.float64).reshape(-1))
        scores = scores[np.isfinite(scores)]
        n = len(scores)
        if not n:
            return state
        above = min(max(0, math.floor(self.settings["false_alarms"] * (n + 1)) - 1), n - 1)  # held-out rows above the threshold
        spread = beta(above + 1, n - above)
        rate = {"value": float(spread.mean()), "low": float(spread.ppf(0.025)), "high": float(spread.ppf(0.975))}
        return replace(state, json={**state.json, "threshold": float(scores[n - 1 - above]), "rate": rate, "rows": n})

    def told(self, state: State) -> list[str]:
        """What a person should know of the threshold."""
        rate, asked = state.json.get("rate"), self.settings["false_alarms"]
        if rate is None:
            return ["there are no held-out rows to set a threshold by: no alarm is ever raised"]
        rows, needed = state.json["rows"], math.ceil(1 / asked) - 1
        span = f"95 % interval {rate['low']:.2%} to {rate['high']:.2%}, from {rows:,} held out"
        more = f"; for the {asked:.2%} asked for, {needed:,} are needed" if rows < needed else ""
        return [f"of ordinary rows {rate['value']:.2%} raise an alarm ({span}{more})"]

    def decode(self, output: Arrays, batch: Batch, state: State) -> list[Prediction | MainstemError]:
        """Scores [row, 1] → "anomaly" above the threshold, else "normal", with the score; of a step of a series with its time."""
        threshold = state.json.get("threshold", math.inf)
        scores = np.asarray(output["score"], np.float64).reshape(-1)
        about: Mapping[str, Any] = batch.meta.get("series") or {}
        names, times = about.get("name", [""] * len(scores)), about.get("last", [None] * len(scores))
        return [
            Prediction(ALARM if score > threshold else USUAL, score, more=_about(name, time))
            if math.isfinite(score)
            else MainstemError("the model's output is not a number", do="Look for extreme values in this row.")
            for score, name, time in zip(scores.tolist(), names, times, strict=True)
        ]

    def differ(self, a: Prediction, b: Prediction) -> float:
        """The difference of the scores, as a share of the score."""
        if a.more.get("series") != b.more.get("series") or a.more.get("time") != b.more.get("time"):
            return math.inf
        first, second = float(a.score or 0.0), float(b.score or 0.0)
        return abs(first - second) / max(abs(first), 1.0)


def _about(name: str, time: Any) -> dict[str, Any]:
    return {**({"series": name} if name else {}), **({"time": time} if time is not None else {})}


plugin = Anomaly

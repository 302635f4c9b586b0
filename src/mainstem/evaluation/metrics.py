"""Figures of quality by name, equal to scikit-learn's.

Figures that share their statistics form a family: `rows` keeps statistics by example (float64 [n, s]), `figures` makes
every figure of the family for many resamples at once. A resample is not a list of rows but `counts` [b, n], how often
each row was drawn: sums and sorts are then done once, not once a resample.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from mainstem import registry
from mainstem.contracts import Array, Prediction, Value
from mainstem.errors import MainstemError, suggest
from mainstem.evaluation import alarms, calibration, forecasts

Figures = dict[str, Array]  # name → [b], or by class [b, classes]; NaN where it is undefined


@dataclass(frozen=True)
class Answers:
    """Predictions and targets as arrays.

    true, chosen: class numbers int [n] (category), bool [n, classes] (labels), float64 [n] (number).
    scores: float64 [n, classes], NaN where the model gives none; of forecasts their statistics (forecasts.py).
    """

    true: Array
    chosen: Array
    scores: Array = field(default_factory=lambda: np.zeros((0, 0)))
    classes: tuple[str, ...] = ()


class Family(Protocol):
    """Figures with common statistics."""

    @property
    def names(self) -> tuple[str, ...]:
        """Of its overall figures."""

    def rows(self, answers: Answers) -> Array:
        """Statistics by example, float64 [n, s]."""

    def figures(self, stats: Array, counts: Array) -> Figures:
        """Every figure for resamples that draw row i counts[:, i] times."""


def answers(kind: str, predictions: Sequence[Prediction], targets: Sequence[Value], labels: Sequence[str]) -> Answers:
    """Arrays of a kind of answer: "category", "labels", "number", "series", "anomaly", or "text" (its predictions say all that is counted).

    Classes beyond `labels` that occur get score 0.
    """
    if kind == "text":
        told = np.array([[p.more[name] for name in ("nats", "tokens", "bytes")] for p in predictions], np.float64).reshape(-1, 3)
        return Answers(np.zeros(len(told)), np.zeros(len(told)), told)
    if kind == "series":
        return Answers(np.zeros(len(targets)), np.zeros(len(targets)), forecasts.statistics(predictions, targets))
    if kind == "anomaly":
        ordinary = registry.load("tasks", "anomaly").plugin().ordinary(targets)
        return Answers(np.zeros(len(targets)), np.zeros(len(targets)), alarms.statistics(predictions, ordinary))
    if kind == "number":
        values = np.array([p.value for p in predictions], np.float64)
        return Answers(np.array(targets, np.float64).reshape(-1), values.reshape(-1))
    if kind == "category":
        true, chosen = [[t] for t in targets], [[p.value] for p in predictions]
    else:
        true, chosen = [list(t) for t in targets], [list(p.value) for p in predictions]
    known = set(labels)
    classes = (*labels, *sorted({c for each in (*true, *chosen) for c in each} - known, key=str))
    scores = np.array([[p.scores.get(c, 0.0 if p.scores and c not in known else np.nan) for c in classes] for p in predictions])
    scores = scores.reshape(len(predictions), len(classes))
    number = {c: i for i, c in enumerate(classes)}
    if kind == "category":
        codes = [np.array([number[each[0]] for each in side], np.int64) for side in (true, chosen)]
    else:
        codes = [_hot(side, number) for side in (true, chosen)]
    return Answers(codes[0], codes[1], scores, classes)


def _hot(sets: Sequence[Sequence[str]], number: Mapping[str, int]) -> Array:
    hot = np.zeros((len(sets), len(number)), bool)
    for row, labels in enumerate(sets):
        hot[row, [number[label] for label in labels]] = True
    return hot


# --- shared arithmetic ------------------------------------------------------------------------------------------------


def _divide(a: Array, b: Array) -> Array:
    """a / b, NaN where b is 0."""
    return np.asarray(np.divide(a, b, out=np.full(np.broadcast_shapes(a.shape, b.shape), np.nan), where=b != 0))


def _mean(values: Array, where: Array) -> Array:
    """The mean along the last axis over the classes `where`, an undefined one counting 0; NaN where there are none."""
    return _divide(np.where(where, np.nan_to_num(values), 0.0).sum(-1), where.sum(-1))


def _by_group(counts: Array, group: Array, groups: int) -> Array:
    """Sums of counts [b, n] by group number [n] → [b, groups]."""
    sums = np.zeros((len(counts), groups))
    order = np.argsort(group, kind="stable")
    present, starts = np.unique(group[order], return_index=True)
    sums[:, present] = np.add.reduceat(counts[:, order], starts, axis=1)
    return sums


def _precision_recall(hits: Array, chosen: Array, true: Array) -> Figures:
    """From [b, classes] sums: precision, recall and F1 by class (NaN where undefined), micro, and macro.

    Macro averages are over the classes that occur in truth or prediction, an undefined precision or recall counting 0.
    """
    figures: Figures = {}
    for name, top, bottom in (("precision", hits, chosen), ("recall", hits, true), ("f1", 2 * hits, chosen + true)):
        figures[name] = _divide(top, bottom)
        figures[f"{name}_micro"] = np.nan_to_num(_divide(top.sum(-1), bottom.sum(-1)))
        figures[f"{name}_macro"] = _mean(figures[name], chosen + true > 0)
    return figures


_AVERAGES = tuple(f"{name}_{how}" for name in ("precision", "recall", "f1") for how in ("micro", "macro"))

# --- families ---------------------------------------------------------------------------------------------------------


class Confusion:
    """What follows from predicted and true labels. Statistics: true and predicted class number."""

    names = ("accuracy", "balanced_accuracy", *_AVERAGES)

    def rows(self, answers: Answers) -> Array:
        """[n, 2]."""
        return np.column_stack([answers.true, answers.chosen]).astype(np.float64)

    def figures(self, stats: Array, counts: Array) -> Figures:
        """Accuracy, balanced accuracy (the mean recall of the classes that occur), and precision, recall, F1."""
        true, chosen = stats.astype(np.int64).T
        classes = int(stats.max()) + 1
        hits = _by_group(counts * (true == chosen), true, classes)
        occur = _by_group(counts, true, classes)
        figures = _precision_recall(hits, _by_group(counts, chosen, classes), occur)
        figures["accuracy"] = _divide(hits.sum(1), counts.sum(1))
        figures["balanced_accuracy"] = _mean(figures["recall"], occur > 0)
        return figures


class LabelSets:
    """The same for several labels a row. Statistics: true and chosen labels as 0 and 1."""

    names = (*_AVERAGES, "exact_match")

    def rows(self, answers: Answers) -> Array:
        """[n, 2·classes]."""
        return np.hstack([answers.true, answers.chosen]).astype(np.float64)

    def figures(self, stats: Array, counts: Array) -> Figures:
        """Precision, recall, F1, and the share of rows with exactly the right labels."""
        true, chosen = np.hsplit(stats, 2)
        figures = _precision_recall(counts @ (true * chosen), counts @ chosen, counts @ true)
        figures["exact_match"] = _divide(counts @ (true == chosen).all(axis=1), counts.sum(1))
        return figures


class Ranks:
    """What follows from the order of scores, one class against the rest. Statistics: scores, then truth as 0 and 1.

    Each figure is the mean over the classes with rows inside and outside; of two classes it is the second's, as in
    scikit-learn. Equal scores count half (area under the ROC curve) or enter together (average precision).
    """

    names = ("roc_auc", "average_precision")

    def rows(self, answers: Answers) -> Array:
        """[n, 2·classes]; [n, 2] for a choice of two."""
        if answers.true.ndim == 2:
            return np.hstack([answers.scores, answers.true])
        hot = answers.true[:, None] == np.arange(len(answers.classes))
        return np.hstack([answers.scores[:, 1:], hot[:, 1:]]) if len(answers.classes) == 2 else np.hstack([answers.scores, hot])

    def figures(self, stats: Array, counts: Array) -> Figures:
        """Means over classes; NaN where the model gives no scores."""
        scores, hot = np.hsplit(stats, 2)
        missing = np.full((2, len(counts)), np.nan)
        if not scores.size or np.isnan(scores).any():
            return dict(zip(self.names, missing, strict=True))
        sums, defined = np.zeros((2, len(counts))), np.zeros(len(counts))
        drawn = np.ascontiguousarray(counts.T, np.int32)
        for k in range(scores.shape[1]):
            each = _ranked(scores[:, k], hot[:, k], drawn)
            defined += ~np.isnan(each[0])
            sums += np.nan_to_num(each)
        return dict(zip(self.names, _divide(sums, defined), strict=True))


def _ranked(scores: Array, hot: Array, drawn: Array) -> Array:
    """[2, b]: area under the ROC curve and average precision of one class; NaN where all or none of the rows are in it.

    drawn: counts as int32 [n, b]. Only one running sum goes over all rows; the rest reads the rows inside the class.
    """
    order = np.argsort(-scores, kind="stable")
    last = np.append(np.flatnonzero(np.diff(scores[order])), len(order) - 1)  # of every group of equal scores
    ranks = np.flatnonzero(hot[order])
    if not len(ranks):
        return np.full((2, drawn.shape[1]), np.nan)
    group = np.searchsorted(last, ranks)
    ends, starts = last[group], np.append(-1, last)[group] + 1
    above = np.cumsum(drawn[order], axis=0, dtype=np.int32)
    inside = drawn[order[ranks]]
    hits = np.cumsum(inside, axis=0, dtype=np.int32)
    first, final = np.searchsorted(group, group, "left"), np.searchsorted(group, group, "right") - 1
    above_end, hits_end = above[ends], hits[final]  # counted through the end of the group of equal scores
    others_end = above_end - hits_end
    others_start = above[starts] - drawn[order[starts]] - (hits[first] - inside[first])
    positives, others = hits[-1].astype(np.float64), (above[-1] - hits[-1]).astype(np.float64)
    area = (inside * (others - (others_end + others_start) / 2)).sum(0)
    precision = (inside * (hits_end / np.maximum(above_end, 1))).sum(0)
    both = np.where(others > 0, positives, 0.0)
    return np.stack([_divide(area, both * others), _divide(precision, both)])


class Probabilities:
    """Proper scores of the probabilities. Statistics: cross-entropy and Brier score of each row."""

    names = ("cross_entropy", "brier")

    def rows(self, answers: Answers) -> Array:
        """[n, 2]: nats, a probability of 0 counting as 2.2e-16; squared error over the classes, halved for a choice of two."""
        p, index = answers.scores, answers.true
        picked = np.take_along_axis(p, index[:, None], axis=1)[:, 0] if p.size else np.full(len(index), np.nan)
        hot = index[:, None] == np.arange(p.shape[1])
        brier = ((p - hot) ** 2).sum(axis=1) / (2 if p.shape[1] == 2 else 1)
        return np.column_stack([-np.log(np.clip(picked, np.finfo(np.float64).eps, 1.0)), brier])

    def figures(self, stats: Array, counts: Array) -> Figures:
        """Means."""
        return dict(zip(self.names, _divide(counts @ stats, counts.sum(1, keepdims=True)).T, strict=True))


class Calibration:
    """Expected calibration error (evaluation/calibration.py). Statistics: bin, and probability of the prediction less its truth."""

    names = ("ece",)

    def rows(self, answers: Answers) -> Array:
        """[n, 2]."""
        if not answers.scores.size or np.isnan(answers.scores).any():
            return np.full((len(answers.true), 2), np.nan)
        confidence = np.take_along_axis(answers.scores, answers.chosen[:, None], axis=1)[:, 0]
        return np.column_stack([calibration.bin_of(confidence), confidence - (answers.chosen == answers.true)])

    def figures(self, stats: Array, counts: Array) -> Figures:
        """Σ over bins of |Σ over its rows| / rows."""
        if np.isnan(stats).any():
            return {"ece": np.full(len(counts), np.nan)}
        gaps = _by_group(counts * stats[:, 1], stats[:, 0].astype(np.int64), calibration.BINS)
        return {"ece": _divide(np.abs(gaps).sum(1), counts.sum(1))}


class Errors:
    """Figures of numbers. Statistics: true and predicted value."""

    names = ("r2", "rmse", "mae", "mape")

    def rows(self, answers: Answers) -> Array:
        """[n, 2]."""
        return np.column_stack([answers.true, answers.chosen])

    def figures(self, stats: Array, counts: Array) -> Figures:
        """R² (undefined where the truth is constant), errors in the answer's units, MAPE as a share (undefined where a truth is 0)."""
        true, error = stats[:, 0], stats[:, 1] - stats[:, 0]
        size, centred = np.abs(error), true - true.mean()
        share = np.divide(size, np.abs(true), out=np.zeros_like(size), where=true != 0)
        sums = counts @ np.column_stack([np.ones_like(size), size, error**2, share, true == 0, centred, centred**2])
        rows, absolute, squared, shares, zeros, first, second = sums.T
        spread = second - _divide(first**2, rows)
        spread[spread <= 1e-15 * second] = 0.0  # what rounding leaves of a constant
        mape = np.where(zeros > 0, np.nan, _divide(shares, rows))
        return {"r2": 1 - _divide(squared, spread), "rmse": np.sqrt(_divide(squared, rows)), "mae": _divide(absolute, rows), "mape": mape}


class Likelihood:
    """Of texts whose predictions say how likely they are. Statistics: nats, tokens, bytes."""

    names = ("bits_per_byte", "perplexity")

    def rows(self, answers: Answers) -> Array:
        """[n, 3]."""
        return answers.scores

    def figures(self, stats: Array, counts: Array) -> Figures:
        """Σ bits / Σ bytes, which no tokenizer changes, and e to the power of Σ nats / Σ tokens."""
        nats, tokens, size = (counts @ stats).T
        with np.errstate(over="ignore"):
            return {"bits_per_byte": _divide(nats / np.log(2), size), "perplexity": np.exp(_divide(nats, tokens))}


FAMILIES: Mapping[str, tuple[Family, ...]] = {
    "category": (Confusion(), Ranks(), Probabilities(), Calibration()),
    "labels": (LabelSets(), Ranks()),
    "number": (Errors(),),
    "series": (forecasts.Forecasts(),),
    "anomaly": (alarms.Order(Ranks()), alarms.Alarms()),
    "text": (Likelihood(),),
}

# --- by name ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Figure:
    """One figure by name: the contract's Metric."""

    kind: str
    name: str
    labels: tuple[str, ...] = ()

    @property
    def family(self) -> Family:
        """The family that makes it. Raises MainstemError where the kind of answer has no such figure."""
        known = {name: family for family in FAMILIES.get(self.kind, ()) for name in family.names}
        if self.name not in known:
            raise MainstemError(f"no metric of a {self.kind} answer is named '{self.name}'", do=suggest(self.name, known))
        return known[self.name]

    def rows(self, predictions: Sequence[Prediction], targets: Sequence[Value]) -> Array:
        """Statistics by example, float64 [n, s]."""
        return self.family.rows(answers(self.kind, predictions, targets, self.labels))

    def reduce(self, stats: Array) -> float:
        """The figure of these examples; NaN where it is undefined."""
        return float(self.family.figures(stats, np.ones((1, len(stats))))[self.name][0]) if len(stats) else float("nan")


def kind_of(task: str) -> tuple[str, tuple[str, ...]]:
    """What kind of answer a task gives ("" where there are no figures for it), and the names of its metrics."""
    plugin = registry.load("tasks", task).plugin
    kind = plugin.target or registry.ALIASES.get(task, task)
    return (kind, plugin.metrics) if kind in FAMILIES and plugin.metrics else ("", ())


def metrics(task: str, labels: Sequence[str] = ()) -> dict[str, Figure]:
    """The metrics of a task by name. Raises MainstemError for an unknown task."""
    kind, names = kind_of(task)
    return {name: Figure(kind, name, tuple(labels)) for name in names}

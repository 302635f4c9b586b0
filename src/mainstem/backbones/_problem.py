"""What a predictor is fitted to, whatever the task: rows, answers as one matrix, weights, folds, and the loss of scores.

Letters of shapes: n rows, s scores. `kind` says what a score is: "value" (a number, in the units of the target), "margin" (the log
odds of yes, for each column: two classes, or several labels), "softmax" (the logit of a class).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mainstem.contracts import Array, Arrays

_FOLDS = 4
_ENOUGH = 1000  # held-out rows to choose by
_PHANTOM = 1e-3  # weight of a row that stands for an answer which does not occur among the rows


@dataclass(frozen=True)
class Problem:
    """`y` [n, s] float64: values, or 1 and 0; `weights` [n], their mean 1; `sizes`: codes of each category; `groups` [n] or None."""

    arrays: Arrays
    kind: str
    y: Array
    weights: Array
    sizes: tuple[int, ...]
    groups: Array | None = None

    @classmethod
    def of(cls, arrays: Arrays, target: Arrays, kinds: Mapping[str, Any], weights: Array | None) -> Problem:
        """From what Predictor.fit is given; kinds["groups"] (int [n]) is optional: rows of a group then share a fold."""
        if "value" in target:
            kind, y = "value", np.asarray(target["value"], np.float64).reshape(-1, 1)
        elif "hot" in target:
            kind, y = "margin", np.asarray(target["hot"], np.float64)
        else:
            hot = np.eye(kinds["outputs"])[target["index"]]
            kind, y = ("margin", hot[:, 1:]) if kinds["outputs"] == 2 else ("softmax", hot)
        weights = np.ones(len(y)) if weights is None else np.asarray(weights, np.float64) / np.mean(weights)
        sizes = tuple(kinds["categories"]) if "categories" in arrays else ()
        return cls(arrays, kind, y, weights, sizes, kinds.get("groups"))

    def take(self, rows: Array) -> Problem:
        """These rows only."""
        arrays = {name: array[rows] for name, array in self.arrays.items()}
        groups = None if self.groups is None else self.groups[rows]
        return replace(self, arrays=arrays, y=self.y[rows], weights=self.weights[rows], groups=groups)

    def folds(self, seed: int) -> list[tuple[Array, Array]]:
        """(training rows, held-out rows) of up to four folds: by group where there are groups, else stratified by the answer.

        Where there are many rows, the first folds hold out enough of them to choose by.
        """
        rng = np.random.default_rng(seed)
        if self.groups is None:
            order = np.lexsort((rng.random(len(self.y)), *self.y.T))
            fold = np.empty(len(self.y), int)
            fold[order] = np.arange(len(self.y)) % _FOLDS
        else:
            _, group = np.unique(self.groups, return_inverse=True)
            fold = (rng.permutation(group.max() + 1) % _FOLDS)[group]
        used = min(_FOLDS, -(-_ENOUGH * _FOLDS // len(self.y)))
        parts = [(np.flatnonzero(fold != i), np.flatnonzero(fold == i)) for i in range(used)]
        return [(train, held) for train, held in parts if len(train) and len(held)]

    def loss(self, scores: Array) -> float:
        """Mean weighted loss of scores [n, s]: squared error; log-loss in nats."""
        if self.kind == "value":
            rows = ((scores - self.y) ** 2).sum(axis=1)
        elif self.kind == "margin":
            rows = (np.logaddexp(0.0, scores) - self.y * scores).sum(axis=1)
        else:
            rows = np.logaddexp.reduce(scores, axis=1) - (scores * self.y).sum(axis=1)
        return float(np.average(rows, weights=self.weights))

    def labelled(self, x: Array) -> list[tuple[Array, Array, Array]]:
        """(x, classes int [n], weights) for each model that tells classes apart: one a column of margins, one for a softmax.

        A class that does not occur gets one row of almost no weight, so that every model knows every class.
        """
        columns = self.y.T.astype(int) if self.kind == "margin" else [self.y.argmax(axis=1)]
        classes = 2 if self.kind == "margin" else self.y.shape[1]
        result = []
        for labels in columns:
            lacking = np.setdiff1d(np.arange(classes), labels)
            rows = np.concatenate([np.arange(len(x)), np.zeros(len(lacking), int)])
            weights = np.concatenate([self.weights, np.full(len(lacking), _PHANTOM)])
            result.append((x[rows], np.concatenate([labels, lacking]), weights))
        return result

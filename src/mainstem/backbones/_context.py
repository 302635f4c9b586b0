"""What an in-context answer is given from: rows as cells and codes, and how each member of the ensemble sees them. numpy only.

Letters of shapes: n rows kept, s rows that a member sees, r rows to answer, c columns (the last one blank), w columns as a member sees
them (even), m members, k classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from mainstem.backbones._cells import CODES, KNOTS, MARK, Scale
from mainstem.backbones._problem import Problem
from mainstem.contracts import Array, Arrays

MOST_COLUMNS = 100
MOST_GROUPS = 10  # classes that the network tells apart
_MEMORY = 64_000  # tokens of all members together that the network keeps
_KNOWN = 2  # code of a category's first known value (modalities/category.py)


@dataclass(frozen=True)
class Context:
    """Rows, and members that see them. `chosen`: the columns kept, numbers first; `tables` [categories, codes]: code by category."""

    chosen: Array  # int64 [c - 1]
    center: Array  # float64 [numbers]
    spread: Array
    knots: Array  # float64 [numbers, KNOTS]
    tables: Array  # int64 [categories, codes]
    cells: Array  # float32 [n, c, 3]
    codes: Array  # int64 [n, c]
    rows: Array  # int64 [m, s]: of the rows kept
    columns: Array  # int64 [m, w]
    names: Array  # int64 [m, w, CODES]: what a member calls a code
    marks: Array  # float32 [m, w/2, MARK]
    groups: Array  # int64 [m, k]: which class of the network's a class is
    index: Array  # int64 [m, s]
    value: Array  # float32 [m, s, 2]
    answer: Array  # float64 [2]: center and spread of a number that is the answer

    @classmethod
    def of(cls, problem: Problem, members: int, most: int, seed: int) -> Context:
        """From the rows of a problem: as many of them for each member as the context and the memory hold."""
        rng = np.random.default_rng(seed)
        numbers = problem.arrays.get("numbers", np.zeros((len(problem.y), 0)))
        categories = problem.arrays.get("categories", np.zeros((len(problem.y), 0), np.int64))
        scale = Scale.of(numbers)
        tables = _tables(categories, problem.sizes)
        chosen = _telling(problem, scale.channels(numbers)[:, :, 1], categories)
        wide = len(chosen) + len(chosen) % 2
        answers = 1 if problem.kind != "margin" else problem.y.shape[1]
        fitting = max(1, _MEMORY // max(1, answers * min(most, len(problem.y)) * (wide // 2 + 1)))
        members = answers * min(members, max(2, fitting))
        size = min(most, len(problem.y), max(32, _MEMORY // (members * (wide // 2 + 1))))
        of_answer = np.arange(members) * answers // members  # which column of the answers a member looks at
        picked = np.stack([_drawn(problem, a, size, rng) for a in of_answer])
        kept, rows = np.unique(picked, return_inverse=True)
        rows = rows.reshape(picked.shape)
        columns = np.stack([_padded(rng.permutation(len(chosen)), wide) for _ in range(members)])
        names = np.stack([[np.concatenate([[0], 1 + rng.permutation(CODES - 1)]) for _ in range(wide)] for _ in range(members)])
        of_y = Scale.of(problem.y[:, :1])
        if problem.kind == "value":
            classes, groups = np.zeros(len(problem.y), np.int64), np.zeros((members, 1), np.int64)
            answer, value = np.concatenate([of_y.center, of_y.spread]), of_y.channels(problem.y[:, :1])[:, 0, :2]
        else:
            many = 2 if problem.kind == "margin" else problem.y.shape[1]
            groups = np.stack([rng.permutation(many) % MOST_GROUPS for _ in range(members)])
            answer, value = np.array([0.0, 1.0]), np.zeros((len(problem.y), 2), np.float32)
        index = np.zeros(picked.shape, np.int64)
        if problem.kind != "value":
            labels = problem.y.astype(np.int64) if problem.kind == "margin" else problem.y.argmax(axis=1)[:, None]
            for m, a in enumerate(of_answer):
                index[m] = groups[m][labels[picked[m], a]]
        made = cls(
            chosen, scale.center, scale.spread, scale.knots, tables, np.zeros((0, 0, 3)), np.zeros((0, 0)), rows, columns, names,
            rng.standard_normal((members, wide // 2, MARK)).astype(np.float32), groups, index, value[picked], answer,
        )  # fmt: skip
        cells, codes = made.read({name: array[kept] for name, array in problem.arrays.items()})
        return cls(**{**made.arrays(), "cells": cells, "codes": codes})

    def arrays(self) -> dict[str, Array]:
        """The arrays by name, for a State."""
        return {f.name: getattr(self, f.name) for f in fields(self)}

    @classmethod
    def from_state(cls, arrays: Arrays) -> Context:
        """The context whose `arrays` lie in a State."""
        return cls(**{f.name: arrays[f.name] for f in fields(cls)})

    def read(self, arrays: Arrays) -> tuple[Array, Array]:
        """Encoded rows → cells float32 [r, c, 3] and codes int64 [r, c] of the columns chosen, a blank one last."""
        numbers, categories = arrays.get("numbers"), arrays.get("categories")
        parts, codes = [], []
        if numbers is not None:
            parts.append(Scale(self.center, self.spread, self.knots).channels(numbers))
            codes.append(np.zeros(numbers.shape, np.int64))
        if categories is not None:
            known = np.stack([table[column] for table, column in zip(self.tables, categories.T, strict=True)], axis=1)
            blank = np.zeros((*known.shape, 3), np.float32)
            blank[..., 2] = known == 0
            parts.append(blank)
            codes.append(known)
        rows = len(parts[0])
        cells = np.concatenate([np.concatenate(parts, axis=1)[:, self.chosen], np.zeros((rows, 1, 3), np.float32)], axis=1)
        return cells, np.concatenate([np.concatenate(codes, axis=1)[:, self.chosen], np.zeros((rows, 1), np.int64)], axis=1)

    def seen(self, cells: Array, codes: Array) -> tuple[Array, Array]:
        """As each member sees them: cells [m, r, w, 3] and codes [m, r, w]."""
        member, place = np.arange(len(self.columns))[:, None, None], np.arange(self.columns.shape[1])
        turned = codes[:, self.columns].transpose(1, 0, 2)
        return cells[:, self.columns].transpose(1, 0, 2, 3), self.names[member, place, turned]

    def feed(self, arrays: Arrays, *, regression: bool) -> dict[str, Array]:
        """What the network takes to answer encoded rows."""
        cells, codes = self.seen(*self.read(arrays))
        known_cells, known_codes = self.seen(self.cells, self.codes)
        member = np.arange(len(self.rows))[:, None]
        return {
            "cells": cells,
            "codes": codes,
            "known_cells": known_cells[member, self.rows],
            "known_codes": known_codes[member, self.rows],
            "index": self.index,
            "value": self.value,
            "marks": self.marks,
            "regression": np.full(len(self.rows), regression, np.float32),
        }


def _tables(categories: Array, sizes: Sequence[int]) -> Array:
    """For each category column its codes by value [categories, most values]: 0 missing, the most frequent 1 and up, the last the others."""
    tables = np.full((len(sizes), max(sizes, default=0)), CODES - 1, np.int64)
    for i, size in enumerate(sizes):
        count = np.bincount(categories[:, i], minlength=size)[_KNOWN:]
        frequent = np.argsort(-count, kind="stable")[: CODES - 2]
        tables[i, _KNOWN + frequent] = 1 + np.arange(len(frequent))
        tables[i, 0] = 0
    return tables


def _telling(problem: Problem, ranks: Array, categories: Array) -> Array:
    """The columns to keep, in order: all, or those that explain most of the answers' variance, each by itself."""
    width = ranks.shape[1] + categories.shape[1]
    if width <= MOST_COLUMNS:
        return np.arange(width)
    y = (problem.y - problem.y.mean(axis=0)) / np.maximum(problem.y.std(axis=0), 1e-12)
    x = (ranks - ranks.mean(axis=0)) / np.maximum(ranks.std(axis=0), 1e-12)
    told = list(np.square(x.T @ y / len(y)).max(axis=1))
    for column in categories.T:
        count = np.bincount(column)
        total = np.stack([np.bincount(column, each) for each in y.T])
        told.append(float((np.square(total) / np.maximum(count, 1)).sum(axis=1).max() / len(y)))
    return np.sort(np.argsort(-np.array(told), kind="stable")[:MOST_COLUMNS])


def _drawn(problem: Problem, answer: int, size: int, rng: np.random.Generator) -> Array:
    """Rows for one member, drawn in proportion to their weights and spread evenly over the answers (systematic sampling)."""
    y = problem.y.argmax(axis=1) if problem.kind == "softmax" else problem.y[:, answer]
    order = np.lexsort((rng.random(len(y)), y))
    reached = np.cumsum(problem.weights[order]) / problem.weights.sum() * size
    at = np.searchsorted(reached, np.arange(size) + rng.uniform(0.01, 0.99), side="right")
    return np.asarray(order[np.minimum(at, len(y) - 1)])


def _padded(order: Array, wide: int) -> Array:
    return np.concatenate([order, np.full(wide - len(order), len(order))])

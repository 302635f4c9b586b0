"""What an in-context answer is given from: rows as cells and codes, and how each member of the ensemble sees them. numpy only.

Letters of shapes: n rows kept, s rows that a member sees, r rows to answer, c columns (the last one blank), w columns as a member sees
them (even), m members, k classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

from mainstem.backbones._cells import CODES, MARK, Scale
from mainstem.backbones._problem import Problem
from mainstem.contracts import Array, Arrays

Random = np.random.Generator
MOST_COLUMNS = 100
MOST_GROUPS = 10  # classes that the network tells apart
_MEMORY = 64_000  # tokens of all members together that the network keeps
_KNOWN = 2  # code of a category's first known value (modalities/category.py)


@dataclass(frozen=True)
class Reader:
    """How encoded rows become cells and codes. `chosen`: the columns that are kept, of the numbers and then the categories."""

    chosen: Array  # int64 [c - 1]
    center: Array  # float64 [numbers]
    spread: Array  # float64 [numbers]
    knots: Array  # float64 [numbers, KNOTS]
    tables: Array  # int64 [categories, values]: the code of a value

    @classmethod
    def of(cls, problem: Problem) -> Reader:
        """From the rows of a problem."""
        numbers = problem.arrays.get("numbers", np.zeros((len(problem.y), 0)))
        categories = problem.arrays.get("categories", np.zeros((len(problem.y), 0), np.int64))
        scale = Scale.of(numbers)
        chosen = _telling(problem, scale.channels(numbers)[:, :, 1], categories)
        return cls(chosen, scale.center, scale.spread, scale.knots, _tables(categories, problem.sizes))

    def read(self, arrays: Arrays) -> tuple[Array, Array]:
        """{"numbers" [r, …], "categories" [r, …]} → cells float32 [r, c, 3] and codes int64 [r, c], a blank column last."""
        cells, codes = [], []
        if "numbers" in arrays:
            cells.append(Scale(self.center, self.spread, self.knots).channels(arrays["numbers"]))
            codes.append(np.zeros(arrays["numbers"].shape, np.int64))
        if "categories" in arrays:
            known = np.stack([table[column] for table, column in zip(self.tables, arrays["categories"].T, strict=True)], axis=1)
            cells.append((known == 0)[:, :, None] * np.array([0.0, 0.0, 1.0], np.float32))
            codes.append(known)
        cell, code = np.concatenate(cells, axis=1)[:, self.chosen], np.concatenate(codes, axis=1)[:, self.chosen]
        return np.pad(cell, ((0, 0), (0, 1), (0, 0))), np.pad(code, ((0, 0), (0, 1)))


@dataclass(frozen=True)
class Context:
    """Rows, and members that see them."""

    reader: Reader
    cells: Array  # float32 [n, c, 3]
    codes: Array  # int64 [n, c]
    rows: Array  # int64 [m, s]
    columns: Array  # int64 [m, w]
    names: Array  # int64 [m, w, CODES]: what a member calls a code
    marks: Array  # float32 [m, w/2, MARK]
    groups: Array  # int64 [m, k]: which class of the network's a class is
    index: Array  # int64 [m, s]: answers that are classes
    value: Array  # float32 [m, s, 2]: answers that are numbers
    answer: Array  # float64 [2]: center and spread of such numbers

    @classmethod
    def of(cls, problem: Problem, members: int, most: int, seed: int) -> Context:
        """As many rows for each of `members` as `most` and the memory allow; with several labels, so many members for each."""
        rng, reader = np.random.default_rng(seed), Reader.of(problem)
        width = len(reader.chosen)
        wide = width + width % 2
        labels = problem.y.shape[1] if problem.kind == "margin" else 1
        members, size = _sizes(len(problem.y), wide // 2 + 1, labels, members, most)
        answers = [_answers(problem, member * labels // members, rng) for member in range(members)]
        picked = np.stack([_drawn(order, problem.weights, size, rng) for order, _, _ in answers])
        kept, rows = np.unique(picked, return_inverse=True)
        cells, codes = reader.read({name: array[kept] for name, array in problem.arrays.items()})
        scale = Scale.of(problem.y[:, :1])
        value = scale.channels(problem.y[:, :1])[:, 0, :2]
        return cls(
            reader,
            cells,
            codes,
            rows.reshape(picked.shape),
            np.stack([np.append(rng.permutation(width), [width] * (wide - width)).astype(np.int64) for _ in range(members)]),
            np.stack([[np.append(0, 1 + rng.permutation(CODES - 1)) for _ in range(wide)] for _ in range(members)]),
            rng.standard_normal((members, wide // 2, MARK)).astype(np.float32),
            np.stack([groups for _, groups, _ in answers]),
            np.stack([classes[at] for at, (_, _, classes) in zip(picked, answers, strict=True)]),
            value[picked],
            np.append(scale.center, scale.spread),
        )

    def arrays(self) -> dict[str, Array]:
        """The arrays by name, for a State."""
        return {**vars(self.reader), **{name: array for name, array in vars(self).items() if name != "reader"}}

    @classmethod
    def from_state(cls, arrays: Arrays) -> Context:
        """The context whose `arrays` lie in a State."""
        reader = Reader(**{f.name: arrays[f.name] for f in fields(Reader)})
        return cls(reader, **{f.name: arrays[f.name] for f in fields(cls) if f.name != "reader"})

    def seen(self, cells: Array, codes: Array) -> tuple[Array, Array]:
        """As each member sees them: cells [m, r, w, 3] and codes [m, r, w]."""
        member, place = np.arange(len(self.columns))[:, None, None], np.arange(self.columns.shape[1])
        turned = codes[:, self.columns].transpose(1, 0, 2)
        return cells[:, self.columns].transpose(1, 0, 2, 3), self.names[member, place, turned]

    def feed(self, arrays: Arrays, *, regression: bool) -> dict[str, Array]:
        """What the network takes to answer encoded rows."""
        cells, codes = self.seen(*self.reader.read(arrays))
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


def _sizes(rows: int, tokens: int, labels: int, members: int, most: int) -> tuple[int, int]:
    """How many members there are in all, and how many rows each sees: rather fewer members than fewer rows, but two at least."""
    rows = min(rows, most)
    members = labels * min(members, max(2, _MEMORY // (labels * rows * tokens)))
    return members, min(rows, max(32, _MEMORY // (members * tokens)))


def _answers(problem: Problem, label: int, rng: Random) -> tuple[Array, Array, Array]:
    """→ the rows ordered by their answer, ties in any order; the network's class for each class, and for each row."""
    if problem.kind == "value":
        y, groups = problem.y[:, 0], np.zeros(1, np.int64)
        classes = np.zeros(len(y), np.int64)
    else:
        y = (problem.y[:, label] if problem.kind == "margin" else problem.y.argmax(axis=1)).astype(np.int64)
        groups = rng.permutation(2 if problem.kind == "margin" else problem.y.shape[1]) % MOST_GROUPS
        classes = groups[y]
    return np.lexsort((rng.random(len(y)), y)), groups, classes


def _drawn(order: Array, weights: Array, size: int, rng: Random) -> Array:
    """Rows in proportion to their weights, evenly over `order` (systematic sampling): all of them where there are `size`."""
    reached = np.cumsum(weights[order]) / weights.sum() * size
    at = np.searchsorted(reached, np.arange(size) + rng.uniform(0.01, 0.99), side="right")
    return np.asarray(order[np.minimum(at, len(order) - 1)])


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

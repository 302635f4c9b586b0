"""The design matrix of a predictor: numbers as they are, each category through a small table that also lies in the ONNX graph.

Letters of shapes: n rows, F numbers, C categories, w columns that a category becomes, s scores.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mainstem.contracts import Array, Arrays

_PRIOR = 10.0  # the mean of a category counts as much as that of all rows once it has so many rows


@dataclass(frozen=True)
class Design:
    """How many numbers there are, and a float64 table [codes, w] for each category column."""

    numbers: int
    tables: tuple[Array, ...]

    def matrix(self, arrays: Arrays) -> Array:
        """{"numbers" [n, F], "categories" [n, C]} → float64 [n, F + Σw], NaN where a number is missing."""
        parts = [np.asarray(arrays["numbers"], np.float64)] if self.numbers else []
        parts += [table[arrays["categories"][:, i]] for i, table in enumerate(self.tables)]
        return np.concatenate(parts, axis=1)

    def arrays(self) -> dict[str, Array]:
        """The tables by name, for a State."""
        return {f"table.{i}": table for i, table in enumerate(self.tables)}

    @classmethod
    def of(cls, arrays: Arrays, numbers: int) -> Design:
        """The design whose `arrays` lie in a State."""
        return cls(numbers, tuple(arrays[f"table.{i}"] for i in range(sum(name.startswith("table.") for name in arrays))))

    def nodes(self, name: str) -> tuple[list[Any], list[Any]]:
        """ONNX nodes and initializers that make `name` [n, F + Σw] of table.numbers and table.categories."""
        from onnx import helper, numpy_helper

        nodes, constants, parts = [], [], ["table.numbers"] if self.numbers else []
        for i, table in enumerate(self.tables):
            column, codes, values, out = (f"{name}.{word}.{i}" for word in ("column", "codes", "table", "part"))
            constants += [numpy_helper.from_array(np.array(i, np.int64), column), numpy_helper.from_array(table, values)]
            nodes.append(helper.make_node("Gather", ["table.categories", column], [codes], axis=1))
            nodes.append(helper.make_node("Gather", [values, codes], [out], axis=0))
            parts.append(out)
        return [*nodes, helper.make_node("Concat", parts, [name], axis=1)], constants


def one_hot(arrays: Arrays, sizes: Sequence[int]) -> Design:
    """A column for each code that occurs; a code that does not is all zeros."""
    codes = arrays.get("categories", np.zeros((0, 0), np.int64))
    tables = [np.eye(size)[:, np.bincount(codes[:, i], minlength=size) > 0] for i, size in enumerate(sizes)]
    return Design(_numbers(arrays), tuple(tables))


def ordered(arrays: Arrays, sizes: Sequence[int], y: Array, weights: Array) -> Design:
    """One column a category: its codes ordered by the answer, so that one split parts them as well as any subset would.

    y [n, s]: mean answers by code, along their first principal component (Coppersmith et al. 1999); unseen codes are 0.
    Codes with fewer rows than the prior counts share one mean: that of a code with a row or two would give the row's own
    answer away, and trees would follow it (the leak of target encoding).
    """
    codes = arrays.get("categories", np.zeros((0, 0), np.int64))
    centred = y - np.average(y, axis=0, weights=weights)
    tables = []
    for i, size in enumerate(sizes):
        count = np.bincount(codes[:, i], weights, size)
        total = np.column_stack([np.bincount(codes[:, i], weights * column, size) for column in centred.T])
        rare = (count > 0) & (np.bincount(codes[:, i], minlength=size) < _PRIOR)
        count[rare], total[rare] = count[rare].sum(), total[rare].sum(axis=0)
        mean = total / (count + _PRIOR)[:, None]
        count = np.where(rare, count / max(1, rare.sum()), count)  # their share of the rows, for the component below
        _, axes = np.linalg.eigh((mean * count[:, None]).T @ mean)
        axis = axes[:, -1] * np.sign(axes[np.abs(axes[:, -1]).argmax(), -1])
        tables.append((mean @ axis)[:, None])
    return Design(_numbers(arrays), tuple(tables))


def _numbers(arrays: Arrays) -> int:
    return int(arrays["numbers"].shape[1]) if "numbers" in arrays else 0

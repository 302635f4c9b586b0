"""Examples of an objective as the loop draws them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from mainstem.contracts import Array, Batch

Take = Callable[[Array, np.random.Generator | None], Batch]


class Made:
    """Examples that are made as they are needed, a batch at a time, without an end: the same held-out ones whatever the stage.

    make(rng): a batch; held_out(): the one that is looked at.
    """

    rows: int | None = None
    lengths: Any = None

    def __init__(self, make: Callable[[np.random.Generator], Batch], held_out: Callable[[], Batch], length: int) -> None:
        self._make, self._held_out, self.length = make, held_out, length

    def __len__(self) -> int:
        return self.length

    def take(self, indices: Array, rng: np.random.Generator | None = None) -> Batch:
        """The batch of a step."""
        return self._held_out() if rng is None else self._make(rng)


class Passes:
    """`rows` examples to learn from, each once a pass; `length` batches lie between two looks at held-out ones."""

    def __init__(self, take: Take, rows: int, length: int, lengths: Any = None) -> None:
        self._take, self.length = take, length
        self.rows: int | None = rows
        self.lengths = lengths

    def __len__(self) -> int:
        return self.length

    def take(self, indices: Array, rng: np.random.Generator | None = None) -> Batch:
        """Some examples."""
        return self._take(indices, rng)


class Looked:
    """Of `rows` held-out examples at most so many, spread over all of them, the same in every run."""

    def __init__(self, take: Take, rows: int, most: int, lengths: Any = None) -> None:
        self._take = take
        self.chosen = np.unique(np.linspace(0, rows - 1, min(rows, max(1, most))).round().astype(np.int64))
        self.rows: int | None = len(self.chosen)
        self.lengths = None if lengths is None else lengths[self.chosen]

    def __len__(self) -> int:
        return len(self.chosen)

    def take(self, indices: Array, rng: np.random.Generator | None = None) -> Batch:
        """Some examples, always the same for the same indices."""
        return self._take(self.chosen[indices], None)

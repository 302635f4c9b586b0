"""What a run of a graph costs, learned from what runs took: seconds = fixed + each × cells.

A cell is one step of one row (a token of a text), or one row where a graph has no lengths. The fixed part is what calls
save when they run as one, and the rest is what padding costs: so both batching and admission follow from it, on any machine.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from mainstem.contracts import Port

NEWEST = 0.2  # weight of the newest run of a size
SHARE = 0.03  # of a run's seconds that the fixed part may be: larger batches would save less than that
AROUND = 5e-4  # seconds that a run costs beside the graph: its message, its turn, what is counted of it
LONGEST = 0.05  # seconds that a run should not take, so that others get their turn
REFIT = 8  # runs between two fits
REACH = 2.0  # times the largest run that was seen: a larger one is not made, since the fit says little of it and the memory it takes stays


class Cost:
    """The cost of one graph. Until two sizes were seen, calls are neither merged nor divided."""

    def __init__(self) -> None:
        self.fixed, self.each, self.runs, self.largest = 0.0, 0.0, 0, 0.0
        self._seen: dict[int, tuple[float, float]] = {}  # by size class: cells and seconds, newest first in weight

    @property
    def known(self) -> bool:
        """Whether it tells the two parts apart."""
        return len(self._seen) > 1

    def seconds(self, cells: float) -> float:
        """What a run of so many cells takes."""
        return self.fixed + self.each * cells

    def cells(self, seconds: float) -> float:
        """How many cells a run of so many seconds has, as far as that is known."""
        return min(max(1.0, (seconds - self.fixed) / max(self.each, 1e-9)), REACH * max(1.0, self.largest))

    def budget(self) -> float:
        """Seconds that a merged run should take at most."""
        return min(LONGEST, (self.fixed + AROUND) / SHARE)

    def add(self, cells: float, seconds: float) -> None:
        """One run."""
        self.largest = max(self.largest, cells)
        size = round(2 * math.log2(max(cells, 1)))
        before = self._seen.get(size)
        weight = NEWEST if before else 1.0
        held = before or (0.0, 0.0)
        self._seen[size] = (held[0] + weight * (cells - held[0]), held[1] + weight * (seconds - held[1]))
        self.runs += 1
        if before is None or self.runs % REFIT == 0:
            self._fit()

    def _fit(self) -> None:
        """Least squares of the relative error over the size classes; neither part is below zero."""
        points = [(x, max(y, 1e-7)) for x, y in self._seen.values()]
        if len(points) == 1:
            self.fixed, self.each = 0.0, points[0][1] / max(points[0][0], 1)
            return
        w, wx, wy, wxx, wxy = (
            sum(1 / y**2 for _, y in points),
            sum(x / y**2 for x, y in points),
            sum(1 / y for _, y in points),
            sum(x * x / y**2 for x, y in points),
            sum(x / y for x, y in points),
        )
        spread = w * wxx - wx * wx
        each = (w * wxy - wx * wy) / spread if spread > 1e-12 * w * wxx else 0.0
        fixed = (wy - each * wx) / w
        if fixed < 0:
            fixed, each = 0.0, wxy / wxx
        elif each < 0:
            fixed, each = wy / w, 0.0
        self.fixed, self.each = fixed, each


def caches(outputs: Mapping[str, Port]) -> frozenset[str]:
    """Axes of what only grows from call to call: what is padded there is not computed again."""
    return frozenset(axis.partition("+")[0] for port in outputs.values() for axis in port.axes if "+" in axis)


def steps(inputs: Mapping[str, Port], lengths: Mapping[str, int], left_out: frozenset[str]) -> int:
    """Cells of one row: the largest product of lengths along one input."""
    most = 1
    for port in inputs.values():
        size = 1
        for axis in port.axes:
            if axis in lengths and axis not in left_out:
                size *= lengths[axis]
        most = max(most, size)
    return most

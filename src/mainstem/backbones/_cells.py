"""A table as the in-context network reads it: three numbers for each cell, by what the context rows show. numpy only.

Letters of shapes: n context rows, r rows, c columns.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mainstem.contracts import Array

CODES = 32  # 0: no value; 1 … 30: values of a category; 31: all that are rarer
MARK = 16  # width of the random vector that tells one pair of columns from another
KNOTS = 17
REACH = 6.0  # standard deviations


@dataclass(frozen=True)
class Scale:
    """What numbers are measured by: `center` [c], `spread` [c], and the quantiles `knots` [c, KNOTS] of the context rows."""

    center: Array
    spread: Array
    knots: Array

    @classmethod
    def of(cls, x: Array) -> Scale:
        """From the context rows x float64 [n, c], NaN where missing; a column without any number is 0 throughout."""
        count = (~np.isnan(x)).sum(axis=0)
        ordered = np.sort(x, axis=0)  # NaN last
        place = np.linspace(0.0, 1.0, KNOTS)[:, None] * np.maximum(count - 1, 0)
        low = np.floor(place).astype(np.int64)
        high = np.minimum(low + 1, np.maximum(count - 1, 0))
        share = place - low
        knots = np.take_along_axis(ordered, low, 0) * (1.0 - share) + np.take_along_axis(ordered, high, 0) * share
        knots = np.where(count, knots, 0.0)
        known = np.where(np.isnan(x), 0.0, x)
        center = known.sum(axis=0) / np.maximum(count, 1)
        spread = np.sqrt((np.where(np.isnan(x), 0.0, x - center) ** 2).sum(axis=0) / np.maximum(count, 1))
        spread = np.where(spread > 1e-9 * np.maximum(np.abs(center), 1e-9), spread, 1.0)
        return cls(center, spread, knots.T)

    def steps(self) -> tuple[Array, Array]:
        """Between the knots [c, KNOTS - 1], and what is too little to be one [c, 1]."""
        return np.diff(self.knots, axis=1), 1e-6 * self.spread[:, None]

    def channels(self, x: Array) -> Array:
        """Numbers x [r, c] → float32 [r, c, 3]: standardised, rank from -1 to 1, whether missing."""
        missing = np.isnan(x)
        filled = np.where(missing, self.center, x)
        standard = np.clip((filled - self.center) / self.spread, -REACH, REACH)
        steps, tiny = self.steps()
        ramps = np.clip((filled[..., None] - self.knots[:, :-1]) / np.maximum(steps, tiny) + (steps < tiny), 0.0, 1.0)
        rank = 2.0 * ramps.mean(axis=-1) - 1.0
        stacked = np.stack([np.where(missing, 0.0, standard), np.where(missing, 0.0, rank), missing], axis=-1)
        return stacked.astype(np.float32)

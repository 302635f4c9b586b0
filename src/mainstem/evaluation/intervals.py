"""95 % percentile bootstrap intervals (Efron & Tibshirani 1993, chapter 13), by row, or by group where rows belong together."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence

import numpy as np

from mainstem.contracts import Array
from mainstem.evaluation.metrics import Answers, Family, Figures

LEVEL = 95.0
LEAST = 100  # resamples, however many rows there are
CELLS = 400_000_000  # statistics × resamples that a family may take: some seconds
_BLOCK = 1 << 19  # counts at a time: they stay in the cache


def resamples_for(stats: Array, asked: int) -> int:
    """How many resamples statistics of this size allow."""
    return min(asked, max(LEAST, CELLS // max(stats.size, 1)))


def draw(rows: int, groups: Sequence[Hashable] | None, resamples: int, seed: int) -> Iterator[Array]:
    """Blocks of counts, float64 [b, rows]: how often each row is drawn, with replacement; rows of a group are drawn together."""
    rng = np.random.default_rng(seed)
    member = np.arange(rows) if groups is None else _numbered(groups)
    units = int(member.max()) + 1
    size = max(1, _BLOCK // rows)
    for start in range(0, resamples, size):
        block = min(size, resamples - start)
        drawn = rng.integers(0, units, (block, units)) + np.arange(block)[:, None] * units
        counts = np.bincount(drawn.ravel(), minlength=block * units).reshape(block, units).astype(np.float64)
        yield counts if groups is None else counts[:, member]


def _numbered(groups: Sequence[Hashable]) -> Array:
    number: dict[Hashable, int] = {}
    return np.array([number.setdefault(group, len(number)) for group in groups])


def bootstrap(
    families: Sequence[Family], answers: Answers, groups: Sequence[Hashable] | None = None, resamples: int = 1000, seed: int = 0
) -> dict[str, tuple[Array, Array, Array, int]]:
    """Every figure of the families: name → (value, low, high, resamples), arrays [] or by class [classes], NaN where undefined.

    A resample in which a figure is undefined (a class was not drawn) is left out. With a single row, or group, there is
    nothing to resample and bounds are NaN. Large data take fewer resamples, at least 100.
    """
    rows = len(answers.true)
    every = [family.rows(answers) for family in families]
    wanted = [resamples_for(stats, resamples) for stats in every]
    values = [family.figures(stats, np.ones((1, rows))) for family, stats in zip(families, every, strict=True)]
    blocks: list[list[Figures]] = [[] for _ in families]
    alone = rows < 2 or (groups is not None and len(set(groups)) < 2)
    done = 0
    for counts in () if alone else draw(rows, groups, max(wanted, default=0), seed):
        for family, stats, most, kept in zip(families, every, wanted, blocks, strict=True):
            if done < most:
                kept.append(family.figures(stats, counts[: most - done]))
        done += len(counts)
    result = {}
    for value, kept, most in zip(values, blocks, wanted, strict=True):
        for name, figure in value.items():
            samples = np.concatenate([block[name] for block in kept]) if kept else np.full_like(figure, np.nan)
            result[name] = (figure[0], *_bounds(samples, figure[0]), most)
    return result


def _bounds(samples: Array, value: Array) -> tuple[Array, Array]:
    """The percentiles of samples [r, …] along the first axis, each interval stretched to hold its own value."""
    flat, own = samples.reshape(len(samples), -1), value.reshape(-1)
    low, high = np.full(own.shape, np.nan), np.full(own.shape, np.nan)
    for i in range(len(own)):
        known = flat[~np.isnan(flat[:, i]), i]
        if len(known) and not np.isnan(own[i]):
            bounds = np.percentile(known, [(100 - LEVEL) / 2, (100 + LEVEL) / 2])
            low[i], high[i] = min(bounds[0], own[i]), max(bounds[1], own[i])
    return low.reshape(value.shape), high.reshape(value.shape)

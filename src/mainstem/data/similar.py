"""Rows of one part that are nearly rows of another: texts by their shingles, rows of numbers by their neighbours. numpy only."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Pairs = list[tuple[int, int]]  # (index among the others, index among the train rows)

_ALIKE = 0.6  # share of shingles in common; two texts of ten words that differ in one have about 0.7
_BANDS, _BAND = 16, 4  # finds 96 % of the pairs at 0.65, 98 % at 0.7, one of ten thousand at 0.05
_LONGEST = 1000  # characters compared
_MATCHES = 20  # train rows looked at for one row and band
_WIDE = re.compile("[\u3040-\u30ff\u4e00-\u9fff\uac00-\ud7a3]")
_MOST_ROWS, _MOST_OTHERS, _MOST_VALUES = 20_000, 1000, 30


def plain_text(text: str) -> str:
    """A text without what copies differ in: case and spacing."""
    return " ".join(text.casefold().split())


def is_long(text: str) -> bool:
    """Whether two people would hardly write this text twice: 30 characters, or 12 where scripts need fewer."""
    return len(text) >= 30 or (len(text) >= 12 and len(_WIDE.findall(text)) >= 12)


def near_texts(train: Sequence[str], others: Sequence[str], seed: int = 0) -> Pairs:
    """Texts of `others` that are nearly a text of `train`, each with the nearest found. Texts too short to tell are skipped.

    MinHash over character shingles with locality-sensitive banding (Broder 1997; Indyk and Motwani 1998).
    """
    here = [(i, text) for i, text in enumerate(map(plain_text, train)) if is_long(text)]
    there = [(i, text) for i, text in enumerate(map(plain_text, others)) if is_long(text)]
    if not here or not there:
        return []
    texts = [text[:_LONGEST] for _, text in (*here, *there)]
    sample = "".join(texts[:: max(1, len(texts) // 200)])
    width = 2 if len(_WIDE.findall(sample)) > 0.3 * len(sample) else 5
    signatures = _signatures(texts, width, np.random.default_rng(seed))
    left, right = signatures[: len(here)], signatures[len(here) :]
    a, b = _candidates(left, right)
    alike = np.zeros(len(a))
    for start in range(0, len(a), 50_000):
        block = slice(start, start + 50_000)
        alike[block] = (left[a[block]] == right[b[block]]).mean(1)
    best: dict[int, tuple[float, int]] = {}
    for k in np.flatnonzero(alike >= _ALIKE - 0.1).tolist():  # the signatures only estimate the share
        i, j = int(b[k]), int(a[k])
        share = _share(texts[len(here) + i], texts[j], width)
        if share >= _ALIKE:
            best[i] = max(best.get(i, (0.0, 0)), (share, -j))
    return [(there[i][0], here[-j][0]) for i, (_, j) in sorted(best.items())]


def _share(a: str, b: str, width: int) -> float:
    """The share of shingles in common (Jaccard)."""
    one, two = ({text[i : i + width] for i in range(len(text) - width + 1)} for text in (a, b))
    return len(one & two) / len(one | two)


def _signatures(texts: Sequence[str], width: int, rng: np.random.Generator) -> NDArray[np.uint32]:
    """uint32 [n, 64]: the least hash of each text's shingles, under 64 hash functions. Texts are at least `width` long."""
    codes = np.frombuffer("".join(texts).encode("utf-32-le", "surrogatepass"), np.uint32)
    lengths = np.array([len(text) for text in texts])
    ends = np.cumsum(lengths)
    shingle = np.zeros(len(codes) - width + 1, np.uint32)
    for j in range(width):
        shingle = shingle * np.uint32(0x01000193) + codes[j : len(codes) - width + 1 + j]
    inside = np.ones(len(shingle), bool)  # not those that run from one text into the next
    for j in range(1, width):
        inside[ends[:-1] - j] = False
    shingle = _mixed(shingle[inside])
    starts = np.concatenate([[0], np.cumsum(lengths - width + 1)[:-1]])
    result = np.empty((len(texts), _BANDS * _BAND), np.uint32)
    for k, (factor, term) in enumerate(rng.integers(1, 2**32, (_BANDS * _BAND, 2), np.uint32)):
        result[:, k] = np.minimum.reduceat(shingle * (factor | np.uint32(1)) ^ term, starts)
    return result


def _mixed(x: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """Every bit of the result depends on every bit of x."""
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        x = (x ^ (x >> np.uint32(shift))) * np.uint32(factor)
    return x ^ (x >> np.uint32(16))


def _candidates(left: NDArray[np.uint32], right: NDArray[np.uint32]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pairs (row of left, row of right) that agree in a whole band."""
    found = []
    for band in range(_BANDS):
        columns = slice(band * _BAND, (band + 1) * _BAND)
        a, b = (np.ascontiguousarray(side[:, columns]).view(f"V{4 * _BAND}").ravel() for side in (left, right))
        _, keys = np.unique(np.concatenate([a, b]), return_inverse=True)
        a, b = keys[: len(left)], keys[len(left) :]
        order = np.argsort(a, kind="stable")
        first, last = (np.searchsorted(a[order], b, side) for side in ("left", "right"))
        for step in range(_MATCHES):
            rows = np.flatnonzero(first + step < last)
            found.append(np.stack([order[first[rows] + step], rows]))
    pairs = np.unique(np.concatenate(found, axis=1), axis=1)
    return pairs[0], pairs[1]


def near_rows(columns: Mapping[str, Sequence[Any]], train: NDArray[np.int64], others: NDArray[np.int64], seed: int = 0) -> Pairs:
    """Rows of numbers and categories in `others` that nearly equal one in `train` (both row indices); pairs of such indices.

    A row is near where its nearest neighbour is ten times nearer than its fifth, and no number differs by more than a
    twentieth of a standard deviation. By chance that grows rarer the smaller the
    ratio, in every dimension; so rows count only where ratios below 0.1 are more than three times as many as from 0.1 to 0.2.
    """
    rng = np.random.default_rng(seed)
    train = np.sort(rng.permutation(train)[:_MOST_ROWS])
    others = np.sort(rng.permutation(others)[:_MOST_OTHERS])
    points = _points(columns, np.concatenate([train, others]))
    if len(train) < 20 or not points.shape[1]:
        return []
    here, there = points[: len(train)], points[len(train) :]
    lengths = (here**2).sum(1)
    pairs, next_up = [], 0
    for start in range(0, len(there), 250):
        block = there[start : start + 250]
        squares = lengths - 2 * block @ here.T + (block**2).sum(1)[:, None]
        nearest = np.argpartition(squares, 4, axis=1)[:, :5]
        exact = np.sqrt(((block[:, None] - here[nearest]) ** 2).sum(2))
        ratio = exact.min(1) / np.maximum(exact.max(1), 1e-300)
        first = here[nearest[np.arange(len(block)), exact.argmin(1)]]
        near = (ratio < 0.1) & (exact.min(1) > 0) & (np.abs(block - first).max(1) < 0.05)
        next_up += int(((ratio >= 0.1) & (ratio < 0.2)).sum())
        pairs += [(int(others[start + i]), int(train[nearest[i, exact[i].argmin()]])) for i in np.flatnonzero(near)]
    return pairs if len(pairs) > 3 * next_up + 2 else []


def _points(columns: Mapping[str, Sequence[Any]], rows: NDArray[np.int64]) -> NDArray[np.float64]:
    """float64 [len(rows), d]: numbers in units of their standard deviation, a column for each of a category's common values."""
    made = []
    for cells in columns.values():
        picked = [cells[int(i)] for i in rows]
        if all(cell is None or isinstance(cell, float) for cell in picked):
            values = np.array([np.nan if cell is None else cell for cell in picked], np.float64)
            known = values[~np.isnan(values)]
            with np.errstate(over="ignore", invalid="ignore"):  # numbers whose squares are beyond float64 lie all at 0
                if len(known) and known.std() > 0:
                    made.append(np.nan_to_num((values - known.mean()) / known.std(), nan=0.0))
        else:
            names, codes, counts = np.unique([str(cell) for cell in picked], return_inverse=True, return_counts=True)
            made += [(codes == code).astype(np.float64) for code in np.argsort(-counts, kind="stable")[:_MOST_VALUES][: len(names) - 1]]
    return np.stack(made, axis=1) if made else np.zeros((len(rows), 0))

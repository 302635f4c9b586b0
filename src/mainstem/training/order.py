"""The order of samples: a function of seed, epoch and index, so that every resumption goes on in the same order. No torch."""

from __future__ import annotations

import numpy as np

from mainstem.contracts import Array

NEAR = 16  # batches whose rows are sorted by length: enough to spare the padding, few enough to stay random


def order(seed: int, epoch: int, n: int) -> Array:
    """A permutation of 0 … n-1 (int64 [n]), drawn by Philox (Salmon et al., 2011) keyed by (seed, epoch)."""
    key = np.array([seed % 2**64, epoch], np.uint64)
    drawn: Array = np.random.Generator(np.random.Philox(key=key)).permutation(n)
    return drawn


def steps(n: int, size: int) -> int:
    """How many batches() an epoch of `n` rows has."""
    return max(1, -(-n // size) - (n % size == 1 and n > size > 1)) if n else 0


def batches(seed: int, epoch: int, n: int, size: int, lengths: Array | None = None) -> list[Array]:
    """order() in batches of `size` (int64 [size] each, the last one what is left).

    A last batch of one row joins the one before it: batch norm cannot normalise a single row. With `lengths` (int [n]) each
    batch holds rows of like length: NEAR batches at a time are sorted by it, and then the batches are shuffled.
    """
    if not n:
        return []
    cuts = [size * i for i in range(1, steps(n, size))]
    drawn = order(seed, epoch, n)
    if lengths is None or len(cuts) == 0:
        return np.split(drawn, cuts)
    pools = np.split(drawn, range(NEAR * size, n, NEAR * size))
    made = np.split(np.concatenate([pool[np.argsort(lengths[pool], kind="stable")] for pool in pools]), cuts)
    return [made[i] for i in order(seed + 1, epoch, len(made))]

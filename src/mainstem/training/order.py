"""The order of samples: a function of seed, epoch and index, so that every resumption goes on in the same order. No torch."""

from __future__ import annotations

import numpy as np

from mainstem.contracts import Array


def order(seed: int, epoch: int, n: int) -> Array:
    """A permutation of 0 … n-1 (int64 [n]), drawn by Philox (Salmon et al., 2011) keyed by (seed, epoch)."""
    key = np.array([seed % 2**64, epoch], np.uint64)
    drawn: Array = np.random.Generator(np.random.Philox(key=key)).permutation(n)
    return drawn


def steps(n: int, size: int) -> int:
    """How many batches() an epoch of `n` rows has."""
    return max(1, -(-n // size) - (n % size == 1 and n > size > 1)) if n else 0


def batches(seed: int, epoch: int, n: int, size: int) -> list[Array]:
    """order() in batches of `size` (int64 [size] each, the last one what is left).

    A last batch of one row joins the one before it: batch norm cannot normalise a single row.
    """
    cuts = [size * i for i in range(1, steps(n, size))]
    return np.split(order(seed, epoch, n), cuts) if n else []

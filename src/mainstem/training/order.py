"""The order of samples: a function of seed, epoch and index, so that every resumption goes on in the same order. No torch."""

from __future__ import annotations

from typing import Any

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


_ROUNDS = 6  # of the Feistel network


def permuted(seed: int, epoch: int, indices: Array, n: int) -> Array:
    """What stands at `indices` (int64 [m], each below n) of a permutation of 0 … n-1, without the others: memory does not grow with n.

    A Feistel network over the next power of four, walked until the value is below n (Black and Rogaway, 2002); its keys are drawn
    by Philox of (seed, epoch).
    """
    half = max(1, ((n - 1).bit_length() + 1) // 2)
    low = np.uint64(2**half - 1)
    keys = np.random.Philox(key=np.array([seed % 2**64, epoch], np.uint64)).random_raw(_ROUNDS)
    values = np.asarray(indices, np.uint64)
    outside = np.ones(len(values), bool)
    while outside.any():
        left, right = values[outside] >> np.uint64(half), values[outside] & low
        for key in keys:
            left, right = right, left ^ (_scattered(right ^ key) & low)
        values[outside] = left << np.uint64(half) | right
        outside = values >= n
    return values.astype(np.int64)


def _scattered(values: Array) -> Array:
    """uint64 → uint64, every bit of which depends on every bit (the finaliser of SplitMix64, Steele et al. 2014)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def stretch(seed: int, first: int, count: int, n: int, size: int, lengths: Any = None) -> list[Array]:
    """Batches `first` … first+count-1 of endless passes over `n` rows, each pass in an order of its own (int64 [size] each).

    Every row comes once a pass. With `lengths` (looked up by lengths[indices]) batches hold rows of like length, as in `batches`.
    No more than NEAR batches are laid out at a time, so that n may be any number.
    """
    per_pass = -(-n // size)
    made: list[Array] = []
    number = first
    while number < first + count:
        epoch, place = divmod(number, per_pass)
        pool, start = divmod(place, NEAR)
        batches = _pool(seed, epoch, pool, n, size, lengths)[start:]
        made += batches
        number += len(batches)
    return made[:count]


def _pool(seed: int, epoch: int, pool: int, n: int, size: int, lengths: Any) -> list[Array]:
    """Batches pool·NEAR … of a pass."""
    rows = permuted(seed, epoch, np.arange(pool * NEAR * size, min(n, (pool + 1) * NEAR * size)), n)
    if lengths is None:
        return np.split(rows, range(size, len(rows), size))
    made = np.split(rows[np.argsort(lengths[rows], kind="stable")], range(size, len(rows), size))
    return [made[i] for i in order(seed + pool + 1, epoch, len(made))]

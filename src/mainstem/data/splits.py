"""Rows → train, valid and test parts, and folds: stratified, by group or by time, equal rows on one side. Order from the seed alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mainstem.contracts import Value
from mainstem.errors import MainstemError

Indices = NDArray[np.int64]


def split(
    n: int,
    *,
    target: Sequence[Value] | None = None,
    groups: Sequence[Any] | None = None,
    times: Sequence[float | None] | None = None,
    hashes: Sequence[str] | None = None,
    valid: float = 0.15,
    test: float = 0.15,
    seed: int = 0,
    stratify: bool = True,
    keep_together: bool = False,
) -> dict[str, Indices]:
    """The rows 0..n-1 in the parts "train", "valid" and "test", each in ascending order.

    target: answers; with `stratify`, every part gets its share of each class, and train at least one row of it.
    groups: rows of one group stay in one part; the sizes are met as nearly as whole groups allow.
    times: the last rows are test, those before them valid; rows of one time stay together.
    hashes: with `keep_together`, rows of one hash stay in one part.
    valid, test: shares of the rows; a part is empty only where its share is 0.

    Raises MainstemError where there are too few rows, groups or times for the parts asked for.
    """
    if times is not None:
        return _by_time(n, times, groups, valid, test)
    blocks = _blocks(n, groups, hashes if keep_together else None)
    classes = _classes(n, target) if stratify and target is not None else np.zeros(n, np.int64)
    shares = {name: share for name, share in (("test", test), ("valid", valid)) if share}
    _check_enough(int(blocks.max(initial=-1)) + 1, len(shares) + 1, "groups" if groups is not None else "different rows")
    taken = _learnable(_deal(blocks, classes, list(shares.values()), np.random.default_rng(seed)), classes, blocks)
    parts = {name: np.flatnonzero(taken == i) for i, name in enumerate(shares, 1)}
    empty = np.zeros(0, np.int64)
    return {"train": np.flatnonzero(taken == 0), "valid": parts.get("valid", empty), "test": parts.get("test", empty)}


def folds(
    indices: Sequence[int] | Indices,
    k: int,
    target: Sequence[Value] | None = None,
    groups: Sequence[Any] | None = None,
    hashes: Sequence[str] | None = None,
    seed: int = 0,
) -> list[tuple[Indices, Indices]]:
    """k pairs (train, valid) of the rows `indices`; every row is in one valid part, but for classes that train would then lack.

    target, groups and hashes run over all rows of the data, not over `indices` alone: stratified by target, rows of one
    group, and of one hash, together. Hand in `hashes` only where equal rows are to be kept together.

    Raises MainstemError where there are fewer rows or groups than folds.
    """
    chosen = np.asarray(indices, np.int64)
    pick = [int(i) for i in chosen]

    def of(values: Sequence[Any] | None) -> list[Any] | None:
        return None if values is None else [values[i] for i in pick]

    blocks = _blocks(len(pick), of(groups), of(hashes))
    classes = np.zeros(len(pick), np.int64) if target is None else _classes(len(pick), of(target) or [])
    _check_enough(int(blocks.max(initial=-1)) + 1, k, "groups" if groups is not None else "different rows")
    taken = _deal(blocks, classes, [1 / k] * (k - 1), np.random.default_rng(seed))
    result = []
    for fold in range(k):
        asked = (taken == fold) & np.isin(classes, classes[taken != fold])
        result.append((chosen[~asked], chosen[asked]))
    return result


def record(parts: Mapping[str, Sequence[int] | Indices], hashes: Sequence[str]) -> dict[str, list[str]]:
    """What split.json holds: the row hashes of every part, in the part's order."""
    return {name: [hashes[int(i)] for i in rows] for name, rows in parts.items()}


# --- by time ----------------------------------------------------------------------------------------------------------------


def _by_time(n: int, times: Sequence[float | None], groups: Sequence[Any] | None, valid: float, test: float) -> dict[str, Indices]:
    if groups is not None:
        raise MainstemError("rows are split by group or by time, not by both", do="Leave out --group or --time.")
    gaps = [i for i, time in enumerate(times) if time is None]
    if gaps:
        raise MainstemError(f"{len(gaps):,} rows have no time, such as row {gaps[0] + 1}", do="Fill it in, or leave these rows out.")
    moments, counts = np.unique(np.asarray(times, np.float64), return_counts=True)
    _check_enough(len(moments), 1 + bool(test) + bool(valid), "different times")
    before = np.concatenate([[0], np.cumsum(counts)])[:-1]  # rows earlier than each moment
    first = len(moments)
    start_test = _nearest(before, n * (1 - test), 2, first - 1) if test else first
    start_valid = _nearest(before, n * (1 - test - valid), 1, start_test - 1) if valid else start_test
    moment = np.searchsorted(moments, np.asarray(times, np.float64))
    return {
        "train": np.flatnonzero(moment < start_valid),
        "valid": np.flatnonzero((moment >= start_valid) & (moment < start_test)),
        "test": np.flatnonzero(moment >= start_test),
    }


def _nearest(before: NDArray[Any], rows: float, low: int, high: int) -> int:
    """The moment in low..high with the number of earlier rows nearest to `rows`."""
    return low + int(np.abs(before[low : high + 1] - rows).argmin())


# --- at random --------------------------------------------------------------------------------------------------------------


def _check_enough(found: int, needed: int, what: str) -> None:
    if found < needed:
        raise MainstemError(
            f"{found} {what} are too few for {needed} parts", do="Give more rows, or a part of its own with --valid and --test."
        )


def _blocks(n: int, groups: Sequence[Any] | None, hashes: Sequence[str] | None) -> Indices:
    """int64 [n]: the block of each row; rows that share a group or a hash, also by way of others, share a block."""
    block = np.arange(n)
    if groups is not None:
        block = _numbered([str(group) if group is not None else ("", i) for i, group in enumerate(groups)])
    if hashes is not None:
        same = _numbered(hashes)
        block = _joined(block, same) if groups is not None else same
    return block


def _numbered(keys: Sequence[Any]) -> Indices:
    """Keys as numbers 0.. in the order in which they first come."""
    seen: dict[Any, int] = {}
    return np.array([seen.setdefault(key, len(seen)) for key in keys], np.int64)


def _joined(a: Indices, b: Indices) -> Indices:
    """The finest blocks that are unions of blocks of `a` and of `b`: the least label spreads until none changes."""
    label = a.copy()
    while True:
        before = label
        for side in (a, b):
            least = np.full(int(side.max()) + 1, len(label), np.int64)
            np.minimum.at(least, side, label)
            label = least[side]
        if np.array_equal(before, label):
            return _numbered(label.tolist())


def _classes(n: int, target: Sequence[Value]) -> Indices:
    """Class numbers to stratify by; answers that are numbers or sets of labels are not stratified."""
    if any(not isinstance(value, str) for value in target):
        return np.zeros(n, np.int64)
    return _numbered(target)


def _deal(blocks: Indices, classes: Indices, shares: Sequence[float], rng: np.random.Generator) -> Indices:
    """int64 [n]: the part of each row: 0 the rest (train), i the i-th of `shares`. Whole blocks go to one part.

    Blocks are dealt class by class in random order, the largest first where sizes differ, each to the part that lacks most
    of that class; the first of a class goes to part 0.
    """
    n, count = len(blocks), int(blocks.max(initial=-1)) + 1
    wanted = [1 - sum(shares), *shares]
    sizes = np.bincount(blocks, minlength=count)
    main = _main_class(blocks, classes, count)
    order = rng.permutation(count)
    order = order[np.lexsort((-sizes[order], main[order]))]
    part, held = np.zeros(count, np.int64), [0.0] * len(wanted)
    for members in np.split(order, np.flatnonzero(np.diff(main[order])) + 1):
        part[members] = _deal_class(sizes[members].tolist(), wanted, held, n)
    for i in np.flatnonzero(np.bincount(part, minlength=len(wanted)) == 0):  # no part is left empty
        fullest = np.bincount(part, minlength=len(wanted)).argmax()
        candidates = order[part[order] == fullest]
        part[candidates[sizes[candidates].argmin()]] = i
    return part[blocks]


def _deal_class(sizes: Sequence[int], wanted: Sequence[float], held: list[float], n: int) -> list[int]:
    """The parts of one class's blocks; `held`, the rows that each part has so far, is brought up to date.

    A part's lack counts within the class first; by how much it lacks over all decides where the class says nothing.
    """
    lack = [share * sum(sizes) for share in wanted]
    dealt: list[int] = []
    for size in sizes:
        best = max(range(len(wanted)), key=lambda p: (min(lack[p], size), wanted[p] * n - held[p])) if dealt else 0
        dealt.append(best)
        lack[best] -= size
        held[best] += size
    return dealt


def _learnable(taken: Indices, classes: Indices, blocks: Indices) -> Indices:
    """The parts with every class in part 0: the smallest block of a class that lacks there is moved, unless its part would be empty."""
    taken = taken.copy()
    for missing in np.setdiff1d(classes, classes[taken == 0]):
        holding = np.unique(blocks[classes == missing])
        least = np.flatnonzero(blocks == holding[np.bincount(blocks)[holding].argmin()])
        if (taken == taken[least[0]]).sum() > len(least):
            taken[least] = 0
    return taken


def _main_class(blocks: Indices, classes: Indices, count: int) -> Indices:
    """The class that most rows of each block have."""
    width = int(classes.max(initial=0)) + 1
    pairs, counts = np.unique(blocks * width + classes, return_counts=True)
    order = np.lexsort((counts, pairs // width))
    main = np.zeros(count, np.int64)
    main[pairs[order] // width] = pairs[order] % width
    return main

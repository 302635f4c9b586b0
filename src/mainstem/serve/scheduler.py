"""Merges the graph calls of many requests: one thread runs the graphs, the requests' own threads do everything else.

A request waits inside `inference.drive` for the answer of its call. Calls of one graph that wait at the same time run
as one, identical ones once; whoever makes a merged call fail is found by running its parts alone.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Hashable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np

from mainstem.contracts import Array, Arrays, GraphSpec, Port
from mainstem.runtimes._calls import Function, GraphRunner, by_name
from mainstem.runtimes._join import join, lengths_of, rows_of, shared, split, trim

GATHER = 0.002  # seconds that a call waits for others, where others are on their way
MOST_ROWS = 256  # of one merged call
PADDING = 16  # steps of padding that a row may bring to a merged call, or half of what is no padding
HASHED = 1 << 20  # bytes of an array that is hashed to find identical calls; larger ones are compared where all else is equal

Answer = dict[str, Array]


@dataclass
class _Waiting:
    """One call that waits: the graph's function, what is asked, and where the answer goes."""

    key: Hashable  # calls of equal keys may be merged
    function: Function
    inputs: Mapping[str, Port]
    outputs: Mapping[str, Port]
    arrays: Arrays
    wanted: tuple[str, ...]
    rows: int
    answer: Future[Answer] = field(default_factory=Future)


class Scheduler:
    """Shared by all models of a server. `runner` wraps a model's Runner; `request` is held while one may call it."""

    def __init__(self, gather: float = GATHER, most_rows: int = MOST_ROWS) -> None:
        self.gather, self.most_rows = gather, most_rows
        self.calls = self.runs = 0  # asked for, and run
        self._active = 0
        self._waiting: list[_Waiting] = []
        self._changed = threading.Condition()
        threading.Thread(target=self._work, name="graphs", daemon=True).start()

    @contextmanager
    def request(self) -> Iterator[None]:
        """Held by a thread while it may make calls: nobody is waited for who cannot call."""
        with self._changed:
            self._active += 1
        try:
            yield
        finally:
            with self._changed:
                self._active -= 1
                self._changed.notify()

    def runner(self, own: GraphRunner) -> GraphRunner:
        """The same Runner, with its graph calls merged with those of others that hold the same function."""
        return GraphRunner({name: self._through(own.functions[name], spec) for name, spec in own.specs.items()}, own.specs)

    def _through(self, function: Function, spec: GraphSpec) -> Function:
        inputs, outputs = by_name(spec.inputs), by_name(spec.outputs)

        def call(arrays: Arrays, wanted: tuple[str, ...]) -> Answer:
            same = tuple(sorted((name, id(array)) for name, array in shared(arrays, inputs).items()))
            key = (function, spec.inputs, spec.outputs, wanted, tuple(sorted(arrays)), same)
            waiting = _Waiting(key, function, inputs, outputs, arrays, wanted, rows_of(arrays, inputs))
            with self._changed:
                self._waiting.append(waiting)
                self._changed.notify()
            return waiting.answer.result()

        return call

    # the thread that runs graphs

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting)
                deadline = time.monotonic() + self.gather
                while not self._complete() and (left := deadline - time.monotonic()) > 0:
                    self._changed.wait(left)
                taken, self._waiting = self._waiting, []
            for group in grouped(taken, self.most_rows):
                self._answer(group)

    def _complete(self) -> bool:
        """Whether waiting longer brings nothing: everyone who may call is waiting already, or the batch is full."""
        return len(self._waiting) >= self._active or sum(w.rows for w in self._waiting) >= self.most_rows

    def _answer(self, group: Sequence[_Waiting]) -> None:
        distinct = _distinct(group)
        self.calls, self.runs = self.calls + len(group), self.runs + 1
        first = group[0]
        try:
            parts = [same[0].arrays for same in distinct]
            counts = [same[0].rows for same in distinct]
            answers = split(first.function(join(parts, first.inputs), first.wanted), first.outputs, counts)
        except Exception as error:  # whatever a graph raises must reach its own request, and no other
            if len(distinct) > 1:
                for same in distinct:
                    self._answer(same)
            else:
                for waiting in group:
                    waiting.answer.set_exception(error)
            return
        own = [lengths_of(arrays, first.inputs) for arrays in parts]
        joined = {axis: max(lengths[axis] for lengths in own) for axis in own[0]}
        for same, arrays, lengths in zip(distinct, answers, own, strict=True):
            trimmed = trim(arrays, first.outputs, lengths, joined) if lengths != joined else arrays
            for waiting in same:
                waiting.answer.set_result(trimmed)


def grouped(taken: Sequence[_Waiting], most_rows: int) -> list[list[_Waiting]]:
    """Calls that run together: of equal keys, in the order they came, at most `most_rows` rows unless one alone has more, and
    little padding: a token that is written does not wait for a long prompt that is read."""
    groups: dict[Hashable, list[list[_Waiting]]] = {}
    for waiting in taken:
        mine = groups.setdefault(waiting.key, [])
        fitting = next((group for group in mine if _fit([*group, waiting], most_rows)), None)
        fitting.append(waiting) if fitting else mine.append([waiting])
    return [group for mine in groups.values() for group in mine]


def _fit(group: Sequence[_Waiting], most_rows: int) -> bool:
    """Whether these calls may run as one. What is padded in a cache is not computed again, and does not count."""
    rows = sum(waiting.rows for waiting in group)
    if rows > most_rows:
        return False
    caches = {axis.partition("+")[0] for port in group[0].outputs.values() for axis in port.axes if "+" in axis}
    lengths = [(waiting.rows, lengths_of(waiting.arrays, waiting.inputs)) for waiting in group]
    for axis in lengths[0][1].keys() - caches:
        own = sum(each * sizes[axis] for each, sizes in lengths)
        if rows * max(sizes[axis] for _, sizes in lengths) - own > max(PADDING * rows, own // 2):
            return False
    return True


def _distinct(group: Sequence[_Waiting]) -> list[list[_Waiting]]:
    """The calls by what they hand in: identical ones together."""
    if len(group) == 1:
        return [list(group)]
    found: dict[bytes, list[list[_Waiting]]] = {}
    for waiting in group:
        digest = hashlib.blake2b()
        for name in sorted(waiting.arrays):
            array = waiting.arrays[name]
            digest.update(f"{name} {array.dtype} {array.shape} ".encode() + (array.tobytes() if array.nbytes <= HASHED else b""))
        alike = found.setdefault(digest.digest(), [])
        same = next((each for each in alike if _large_equal(each[0], waiting)), None)
        same.append(waiting) if same else alike.append([waiting])
    return [same for alike in found.values() for same in alike]


def _large_equal(a: _Waiting, b: _Waiting) -> bool:
    """Whether the arrays that are too large to be hashed at every call (caches) are equal, in calls that are alike else."""
    return all(x is b.arrays[name] or np.array_equal(x, b.arrays[name]) for name, x in a.arrays.items() if x.nbytes > HASHED)

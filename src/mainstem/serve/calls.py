"""Calls on their way to an engine: what is asked, of which graph, for whom, and what comes back."""

from __future__ import annotations

import asyncio
import hashlib
import weakref
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from mainstem.contracts import Array, Arrays, Call, Kept, Port
from mainstem.runtimes._calls import by_name, filled
from mainstem.runtimes._join import common, rows_of
from mainstem.serve.costs import Cost, caches, steps
from mainstem.serve.engine import Answered, Part, Ports

if TYPE_CHECKING:
    from mainstem.serve.line import Line

PLAIN = 4096  # bytes of an array that is compared as it is
HASHED = 1 << 20  # bytes of an array that is hashed to find identical calls; larger ones must be the same object


class Shared:
    """One graph of an engine, whichever models ask it. `number` is what the engine knows it by; a new engine gives another."""

    def __init__(self, line: Line, number: int, ports: Ports) -> None:
        self.line, self.number = line, number
        self.inputs, self.outputs = by_name(ports[0]), by_name(ports[1])
        self.cost, self.caches = Cost(), caches(self.outputs)
        named = [*self.inputs.values(), *self.outputs.values()]
        self.divisible = all("row" in port.axes for port in self.outputs.values()) and not any(
            axis in ("row>row", "own") or "+" in axis for port in named for axis in port.axes
        )
        told = {axis for port in self.outputs.values() for axis in port.axes}
        lengths = {axis for port in self.inputs.values() if "row" in port.axes for axis in port.axes if axis.startswith("pad:")}
        alone = {axis for port in self.inputs.values() if "row" not in port.axes for axis in port.axes}
        self.trimmed = sorted(lengths - told - alone)  # axes whose padding no answer shows
        self.padded = {
            name: axes
            for name, port in self.inputs.items()
            if (axes := [(place, axis) for place, axis in enumerate(port.axes) if axis.startswith("pad:")])
        }
        self.common = common(self.inputs)


@dataclass(eq=False)
class Graph:
    """A graph as one model calls it. `rows`: inputs that have one value in every row of this model's calls."""

    name: str
    shared: Shared
    rows: Mapping[str, int] = field(default_factory=dict)

    def handed(self, call: Call) -> Hashable:
        """What a call hands in, by the arrays themselves: equal for calls that are one, as long as their arrays are held."""
        given = ((name, id(value)) for name, value in call.inputs.items())
        return (self.shared, *self.rows.items(), call.outputs, call.keep, *given)


@dataclass(frozen=True)
class _Shape:
    shape: tuple[int, ...]


class Held(Kept):
    """A cache that stayed in its engine: a handle, and the rows that were picked of it. The engine frees it with the last of these."""

    __slots__ = ("__weakref__", "handle", "life", "line", "picked", "root", "shapes")

    def __init__(
        self,
        line: Line,
        handle: int,
        shapes: Mapping[str, Any],
        ports: Mapping[str, Port],
        picked: Array | None = None,
        root: Held | None = None,
    ) -> None:
        super().__init__({}, ports)
        self.line, self.handle, self.shapes, self.picked, self.root = line, handle, shapes, picked, root
        self.life: int = line.life if root is None else root.life
        if root is None:
            weakref.finalize(self, line.free, handle, line.life).atexit = False

    def take(self, rows: Array) -> Held:
        """The same cache for `rows` (int [n])."""
        rows = np.asarray(rows, np.int64)
        shapes = {name: _Shape(_with_rows(held.shape, self.ports[name].axes, len(rows))) for name, held in self.shapes.items()}
        picked = rows if self.picked is None else self.picked[rows]
        return Held(self.line, self.handle, shapes, self.ports, picked, self.root or self)


def _with_rows(shape: tuple[int, ...], axes: Sequence[str], rows: int) -> tuple[int, ...]:
    return tuple(rows if axis == "row" else size for size, axis in zip(shape, axes, strict=True))


def _cut(array: Array, axes: Sequence[str], rows: Array, sizes: Mapping[str, int]) -> Array:
    """These rows of an input, up to these lengths."""
    for place, axis in enumerate(axes):
        if axis in sizes:
            array = array[(slice(None),) * place + (slice(sizes[axis]),)]
    return np.take(array, rows, axes.index("row")) if "row" in axes else array


class Asked:
    """One call that waits or runs. Identical calls are one, with several waiters."""

    __slots__ = (
        *("arrays", "cells", "count", "deaths", "due", "flow", "graph", "held", "keep", "key", "lengths", "same"),
        *("seconds", "since", "state", "steps", "waiters", "wanted"),
    )

    def __init__(self, graph: Graph, arrays: dict[str, Array], held: Sequence[Held], wanted: tuple[str, ...], keep: tuple[str, ...]):
        self.graph, self.arrays, self.held, self.wanted, self.keep = graph, arrays, held, wanted, keep
        known: dict[str, Any] = dict(arrays)
        for each in held:
            known.update({name: shape for name, shape in each.shapes.items() if name in graph.shared.inputs})
        inputs = graph.shared.inputs
        self.count = rows_of(known, inputs)
        self.lengths = {axis: known[name].shape[at] for name, axes in graph.shared.padded.items() if name in known for at, axis in axes}
        self.steps = steps(inputs, self.lengths, graph.shared.caches)
        self.cells = self.count * self.steps
        same = tuple([(name, id(arrays[name])) for name in graph.shared.common if name in arrays])
        self.key: Hashable = (graph.shared, wanted, keep, tuple(sorted(known)), same)
        self.same: Hashable = None
        self.seconds = graph.shared.cost.seconds(self.cells)
        self.waiters: list[asyncio.Future[dict[str, Any]]] = []
        self.flow, self.due, self.since, self.state, self.deaths = "", 0.0, 0.0, "", 0

    @classmethod
    def of(cls, graph: Graph, call: Call) -> Asked:
        """A task's call of a graph. Raises KeyError where it lacks an input."""
        held = [value for value in call.inputs.values() if isinstance(value, Held)]
        given = {name: value for name, value in call.inputs.items() if not isinstance(value, Held)}
        ports = graph.shared.inputs
        elsewhere = {name for each in held for name in each.shapes} | set(graph.rows)
        arrays = filled(call.graph, given, {name: port for name, port in ports.items() if name not in elsewhere})
        wanted = tuple(
            name
            for name in graph.shared.outputs
            if not call.outputs or name in call.outputs or any(name == k or name.startswith(f"{k}.") for k in call.keep)
        )
        return cls(graph, arrays, held, wanted, call.keep)

    @property
    def alive(self) -> bool:
        """Whether anybody waits for it."""
        return any(not waiter.done() for waiter in self.waiters)

    def digest(self, most: int = HASHED) -> Hashable:
        """Equal for identical calls. Arrays above `most` bytes are identical where they are the same object."""
        told: list[Hashable] = [*self.graph.rows.items()]
        for name, array in sorted(self.arrays.items()):
            data: Hashable = id(array)
            if array.nbytes <= min(most, PLAIN):
                data = array.tobytes()
            elif array.nbytes <= most:
                data = hashlib.blake2b(array.tobytes(), digest_size=16).digest()
            told.append((name, array.dtype.str, array.shape, data))
        told += ((each.handle, None if each.picked is None else each.picked.tobytes()) for each in self.held)
        return tuple(told)

    def part(self) -> Part:
        """What the engine is handed."""
        arrays: Arrays = self.arrays
        if rows := self.graph.rows:
            ports = self.graph.shared.inputs
            arrays = {**arrays, **{name: np.full(self.count, value, ports[name].dtype) for name, value in rows.items()}}
        return Part(arrays, [(each.handle, each.picked) for each in self.held])

    def divided(self, cells: float) -> tuple[Array, list[Asked]]:
        """The same call in parts of about so many cells, shortest rows first and without the padding that they do not need; and the order
        of the rows in them."""
        ports, axes = self.graph.shared.inputs, self.graph.shared.trimmed
        own = {axis: self._own_lengths(axis) for axis in axes if axis in self.lengths}
        needed = np.maximum.reduce([np.ones(self.count, np.int64), *own.values()])
        order = np.argsort(needed, kind="stable")
        fixed = self.steps if not own else 0  # steps of a row whatever its length
        parts, start = [], 0
        for end in range(1, self.count + 1):
            widest = fixed or int(needed[order[min(end, self.count - 1)]])
            if end == self.count or (end + 1 - start) * widest > cells:
                rows = order[start:end]
                sizes = {axis: max(1, int(lengths[rows].max())) for axis, lengths in own.items()}
                cut = {name: _cut(array, ports[name].axes, rows, sizes) for name, array in self.arrays.items()}
                parts.append(Asked(self.graph, cut, (), self.wanted, ()))
                start = end
        return order, parts

    def _own_lengths(self, axis: str) -> Array:
        """How long each row is along an axis without what padded it (int64 [rows])."""
        longest = np.zeros(self.count, np.int64)
        for name, array in self.arrays.items():
            port = self.graph.shared.inputs[name]
            if axis in port.axes and "row" in port.axes:
                real = np.moveaxis(array != port.pad, (port.axes.index("row"), port.axes.index(axis)), (0, 1))
                real = real.reshape(*real.shape[:2], -1).any(2)
                longest = np.maximum(longest, np.where(real.any(1), real.shape[1] - real[:, ::-1].argmax(1), 0))
        return longest

    def joined(self, order: Array, answers: Sequence[Mapping[str, Array]]) -> dict[str, Any]:
        """The answers of its parts as one."""
        ports = self.graph.shared.outputs
        back = np.argsort(order)
        axes = {name: ports[name].axes.index("row") for name in self.wanted}
        return {name: np.take(np.concatenate([answer[name] for answer in answers], axis), back, axis) for name, axis in axes.items()}

    def deliver(self, answered: Answered) -> None:
        """Hand the answer to everyone who waits for it."""
        outputs = self.graph.shared.outputs
        result: dict[str, Any] = dict(answered.arrays)
        for name, (handle, shapes) in answered.kept.items():
            ports = {each: outputs[each] for each in shapes}
            result[name] = Held(self.graph.shared.line, handle, {each: _Shape(shape) for each, shape in shapes.items()}, ports)
        self.state = "done"
        for waiter in self.waiters:
            if not waiter.done():
                waiter.set_result(result)

    def fail(self, error: BaseException) -> None:
        """Tell everyone who waits that it failed."""
        self.state = "done"
        for waiter in self.waiters:
            if not waiter.done():
                waiter.set_exception(error)

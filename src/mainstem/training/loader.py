"""Encoded examples to draw batches from: encoded once where that fits into memory, again at each visit where it augments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mainstem.contracts import Array, Arrays, Batch, Example, Port, Task
from mainstem.inference import CHUNK, Processors

STORED_BYTES = 2 << 30  # encoded data larger than this is encoded again at each visit


@dataclass(frozen=True)
class _Ragged:
    """Rows of differing lengths, laid end to end: row i is values[starts[i]:starts[i+1]]."""

    values: Array
    starts: Array
    pad: float

    def take(self, rows: Array) -> Array:
        lengths = self.starts[rows + 1] - self.starts[rows]
        width = int(lengths.max(initial=0))
        within = np.arange(width) < lengths[:, None]
        result = np.full((len(rows), width, *self.values.shape[1:]), self.pad, self.values.dtype)
        result[within] = self.values[(self.starts[rows][:, None] + np.arange(width))[within]]
        return result


class Encoded:
    """Examples as a task's batches; `take` gives any of them as one Batch."""

    def __init__(
        self,
        task: Task,
        processors: Processors,
        examples: Sequence[Example],
        ports: Mapping[str, Mapping[str, Port]],
        *,
        weights: Array | None = None,
        augmented: bool = False,
        features: Mapping[str, Arrays] | None = None,
    ) -> None:
        """ports: by input name, those of its graph. features: by input name, what a frozen backbone made of the examples:
        these stand in for the input, which then goes to the head as it is."""
        self.task, self.processors, self.examples, self.weights = task, processors, list(examples), weights
        self.features = dict(features or {})
        self.ports = ports
        lengths = self._live().lengths(self.examples)
        self.lengths = lengths if lengths.any() else None  # of the texts that are read, int64 [n]
        self._stored: dict[str, dict[str, Array | _Ragged]] | None = None
        self._target: dict[str, Array] = {}
        self._backbones: tuple[str, ...] = ()
        self._meta: Mapping[str, Any] = {}
        if not augmented:
            self._store()

    def __len__(self) -> int:
        return len(self.examples)

    def take(self, indices: Array, rng: np.random.Generator | None = None) -> Batch:
        """The examples at `indices` (int [n]) as one batch, padded to the longest of them."""
        if self._stored is None:
            batch = self.task.encode([self.examples[i] for i in indices], self._live(), rng)
        else:
            batch = self._assemble(self._stored, indices)
        kept = {name: {key: array[indices] for key, array in arrays.items()} for name, arrays in self.features.items()}
        return replace(
            batch,
            inputs={**batch.inputs, **kept},
            backbones=tuple(name for name in batch.backbones if name not in kept),
            weights=None if self.weights is None else self.weights[indices],
        )

    def _live(self) -> Processors:
        return replace(self.processors, inputs=tuple(each for each in self.processors.inputs if each.name not in self.features))

    def _store(self) -> None:
        parts: list[Batch] = []
        size = 0
        for start in range(0, len(self.examples), CHUNK):
            part = self.task.encode(self.examples[start : start + CHUNK], self._live())
            size += sum(array.nbytes for arrays in part.inputs.values() for array in arrays.values())
            if size > STORED_BYTES or len(part.owner) != part.examples or (parts and part.meta != parts[0].meta):
                return  # too much to keep, rows that are not examples, or what is known of some examples alone
            parts.append(part)
        if not parts:
            return
        self._stored = {
            name: {key: self._pack(self.ports.get(name, {}).get(key), [part.inputs[name][key] for part in parts]) for key in arrays}
            for name, arrays in parts[0].inputs.items()
        }
        self._target = {key: _stacked([part.target[key] for part in parts]) for key in parts[0].target}
        self._backbones, self._meta = parts[0].backbones, parts[0].meta

    @staticmethod
    def _pack(port: Port | None, arrays: list[Array]) -> Array | _Ragged:
        if port is None or len(port.axes) < 2 or not port.axes[1].startswith("pad:"):
            return _stacked(arrays)
        lengths = [_row_lengths(array, port.pad) for array in arrays]
        values = [row[:n] for array, ns in zip(arrays, lengths, strict=True) for row, n in zip(array, ns, strict=True)]
        return _Ragged(np.concatenate(values), np.concatenate([[0], np.cumsum(np.concatenate(lengths))]), port.pad)

    def _assemble(self, stored: Mapping[str, Mapping[str, Array | _Ragged]], indices: Array) -> Batch:
        inputs: dict[str, dict[str, Array]] = {}
        for name, arrays in stored.items():
            taken = {key: a.take(indices) if isinstance(a, _Ragged) else a[indices] for key, a in arrays.items()}
            inputs[name] = _even(taken, {key: a.pad for key, a in arrays.items() if isinstance(a, _Ragged)})
        target = {name: array[indices] for name, array in self._target.items()}
        return Batch(inputs, np.arange(len(indices)), len(indices), self._backbones, target, meta=self._meta)


def _stacked(arrays: Sequence[Array]) -> Array:
    """Rows one after the other; where their lengths differ (tokens, boxes) grown to the longest with zeros, which a mask tells apart."""
    sizes = {array.shape[1:] for array in arrays}
    if len(sizes) > 1:
        longest = [max(lengths) for lengths in zip(*sizes, strict=True)]
        arrays = [np.pad(a, [(0, 0), *((0, n - m) for n, m in zip(longest, a.shape[1:], strict=True))]) for a in arrays]
    return np.concatenate(arrays)


def _row_lengths(array: Array, pad: float) -> Array:
    """How far each row of [rows, length, …] goes before nothing but padding is left."""
    used = (array != pad).reshape(*array.shape[:2], -1).any(-1)
    return np.where(used.any(1), array.shape[1] - np.argmax(used[:, ::-1], axis=1), 0)


def _even(arrays: dict[str, Array], pads: Mapping[str, float]) -> dict[str, Array]:
    """Ragged arrays of one input at one length, at least 1."""
    width = max((arrays[key].shape[1] for key in pads), default=0) or 1
    for key, pad in pads.items():
        grow = [(0, 0), (0, width - arrays[key].shape[1]), *[(0, 0)] * (arrays[key].ndim - 2)]
        arrays[key] = np.pad(arrays[key], grow, constant_values=pad)
    return arrays

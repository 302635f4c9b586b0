"""Linear heads in numpy: a graph that only standardises its inputs, puts them side by side and multiplies them is not worth a session.

Heads of many tasks over the same features are one product. Whatever is not exactly of this form stays with ONNX Runtime.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from mainstem.contracts import Array, Arrays
from mainstem.runtimes._protobuf import Node, fields, read_node, read_tensor, text

_MOST_NODES = 64  # of a graph that is looked at
_SETS = 64  # sets of heads whose weights are kept side by side
_FLOAT = 1


class Linear:
    """y = x · weight + bias in float32: x [row, in] are the `inputs` side by side, y [row, out] is the `output`."""

    def __init__(self, inputs: Sequence[str], output: str, weight: Array, bias: Array) -> None:
        self.inputs, self.output, self.weight, self.bias = tuple(inputs), output, weight, bias

    def __call__(self, arrays: Arrays, wanted: tuple[str, ...]) -> dict[str, Array]:
        """The output."""
        return {name: self._side_by_side(arrays) @ self.weight + self.bias for name in wanted}

    def taken(self, inputs: Mapping[str, Any]) -> dict[str, Array]:
        """What it reads of a call's inputs. Raises KeyError where one is missing."""
        return {name: np.asarray(inputs[name], np.float32) for name in self.inputs}

    @property
    def stack_key(self) -> Hashable:
        """Calls of heads with equal keys may be answered by `stacked`."""
        return "linear", self.inputs, len(self.weight)

    def stacked(self, calls: Sequence[tuple[Linear, Arrays]]) -> list[dict[str, Array]]:
        """The answers of calls of several heads: one product for all heads that are asked about the same rows, or about any."""
        asked: dict[tuple[int, ...], list[int]] = {}
        for i, (_, arrays) in enumerate(calls):
            asked.setdefault(tuple(id(arrays[name]) for name in self.inputs), []).append(i)
        together: dict[tuple[Linear, ...], list[list[int]]] = {}
        for mine in asked.values():
            together.setdefault(tuple(calls[i][0] for i in mine), []).append(mine)
        answers: list[dict[str, Array]] = [{}] * len(calls)
        for heads, parts in together.items():
            weight, bias, ends = _joined(heads)
            rows = [self._side_by_side(calls[mine[0]][1]) for mine in parts]
            output = (rows[0] if len(rows) == 1 else np.concatenate(rows)) @ weight + bias
            at = 0
            for mine, part in zip(parts, rows, strict=True):
                for i, head, end in zip(mine, heads, ends, strict=True):
                    answers[i] = {head.output: output[at : at + len(part), end - len(head.bias) : end]}
                at += len(part)
        return answers

    def _side_by_side(self, arrays: Arrays) -> Array:
        if len(self.inputs) == 1:
            return arrays[self.inputs[0]]
        return np.concatenate([arrays[name] for name in self.inputs], 1)


@lru_cache(maxsize=_SETS)
def _joined(heads: tuple[Linear, ...]) -> tuple[Array, Array, list[int]]:
    """Weights and biases of several heads side by side, and where each ends."""
    ends = np.cumsum([len(head.bias) for head in heads]).tolist()
    return np.concatenate([head.weight for head in heads], 1), np.concatenate([head.bias for head in heads]), ends


def read(data: bytes) -> Linear | None:
    """The linear head that an ONNX model is; None for any other model, and for what is none."""
    try:
        return _read(memoryview(data))
    except (ValueError, KeyError, IndexError, StopIteration, TypeError):
        return None


@dataclass(frozen=True)
class _Part:
    """Some columns of x: factor · input + shift."""

    name: str
    factor: Array
    shift: Array


def _read(model: memoryview) -> Linear | None:
    [graph] = [value for number, value in fields(model) if number == 7 and isinstance(value, memoryview)]
    found: dict[int, list[memoryview]] = {1: [], 5: [], 11: [], 12: []}
    for number, value in fields(graph):
        if number in found and isinstance(value, memoryview):
            found[number].append(value)
        if len(found[1]) > _MOST_NODES:
            return None
    known = dict(_values(value) for value in found[5])
    widths = {name: shape[1] for name, shape in map(_input, found[11]) if name not in known and len(shape) == 2}
    if sum(widths.values()) * 4 > len(graph):  # their weights alone would take more
        return None
    parts = {name: [_Part(name, np.ones(width), np.zeros(width))] for name, width in widths.items()}
    [(output, _)] = map(_input, found[12])
    for node in map(read_node, found[1]):
        attributes = _attributes(node)
        if node.domain:
            return None
        if node.operator == "Constant":
            known[node.outputs[0]] = attributes["value"]
        elif node.operator == "BatchNormalization" and not attributes.get("training_mode", 0):
            [part] = parts[node.inputs[0]]
            scale, bias, mean, variance = (known[name].astype(np.float64) for name in node.inputs[1:])
            factor = scale / np.sqrt(variance + attributes.get("epsilon", 1e-5))
            [name] = node.outputs
            parts[name] = [_Part(part.name, part.factor * factor, (part.shift - mean) * factor + bias)]
        elif node.operator == "Concat" and attributes["axis"] == 1:
            parts[node.outputs[0]] = [part for name in node.inputs for part in parts[name]]
        elif node.operator == "Gemm" and node.outputs == (output,):
            weight, bias = (known[name] for name in node.inputs[1:])
            return _head(parts[node.inputs[0]], weight, bias, attributes, output, set(widths))
        else:
            return None
    return None


def _head(
    parts: Sequence[_Part], weight: Array, bias: Array, attributes: Mapping[str, Any], output: str, inputs: set[str]
) -> Linear | None:
    """The product with what is done to its inputs put into its weights."""
    plain = attributes.get("alpha", 1.0) == 1.0 and attributes.get("beta", 1.0) == 1.0 and not attributes.get("transA", 0)
    weight = (weight.T if attributes.get("transB", 0) else weight).astype(np.float64)  # [in, out]
    factor, shift = (np.concatenate([getattr(part, name) for part in parts]) for name in ("factor", "shift"))
    names = [part.name for part in parts]
    if not plain or len(factor) != len(weight) or bias.shape != weight.shape[1:] or len(set(names)) != len(names) or set(names) != inputs:
        return None
    folded = np.ascontiguousarray(weight * factor[:, None], np.float32), (bias + shift @ weight).astype(np.float32)
    return Linear(names, output, *folded) if all(np.isfinite(each).all() for each in folded) else None


# --- the messages of onnx.proto ----------------------------------------------------------------------------------------


def _attributes(node: Node) -> dict[str, Any]:
    """Numbers and float32 tensors by name."""
    return dict(map(_attribute, node.attributes))


def _attribute(data: memoryview) -> tuple[str, Any]:
    """A number or a tensor by name."""
    name: str = ""
    held: Any = None
    for number, value in fields(data):
        if number == 1 and isinstance(value, memoryview):
            name = text(value)
        elif number in (2, 3):
            held = value
        elif number == 5 and isinstance(value, memoryview):
            held = _values(value)[1]
    return name, held


def _values(data: memoryview) -> tuple[str, Array]:
    """A float32 tensor by name; raises ValueError where it is of another type, or lies elsewhere."""
    tensor = read_tensor(data)
    if tensor.kind != _FLOAT:
        raise ValueError("not float32")
    return tensor.name, np.frombuffer(tensor.data, "<f4").reshape(tensor.shape)


def _input(data: memoryview) -> tuple[str, list[int]]:
    """Name and shape of an input or output: 0 for a size that differs from call to call."""
    name, shape = "", []
    for number, value in fields(data):
        if number == 1 and isinstance(value, memoryview):
            name = text(value)
        elif number == 2:
            for size in _under(value, 1, 2):
                shape += [next((int(n) for k, n in fields(size) if k == 1 and isinstance(n, int)), 0)]
    return name, shape


def _under(message: Any, *path: int) -> list[memoryview]:
    """The dimensions in a type: the fields 1 of what lies at the end of a path of fields."""
    for step in path:
        message = next(value for number, value in fields(message) if number == step)
    return [value for number, value in fields(message) if number == 1 and isinstance(value, memoryview)]

"""Puts low-rank branches (LoRA, Hu et al. 2021, arXiv:2106.09685) into a written graph, and stacks the adapters that they take.

A linear layer's y becomes y + (x · down) · up, where each row has the pair that the input "adapter" names: x [rows, …, in],
down [bank, in, rank], up [bank, rank, out]. Layers that read the same x share one product with their downs side by side. The graph
itself stays as it was written, so that models with and without adapters of one backbone are one file, byte for byte.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mainstem.artifact import Adapter
from mainstem.contracts import ADAPTER, Array
from mainstem.errors import MainstemError
from mainstem.runtimes._protobuf import field, fields, head, varints

Sizes = Mapping[str, tuple[int, int]]  # layer → in, out

_NAME = "lora"  # begins the names of what is added
ROWS = f"{_NAME}.{ADAPTER.name}"  # the added input: the place in the banks that each row takes, or all rows
_MODEL_GRAPH, _NODE, _TENSOR, _INPUT = 7, 1, 5, 11  # fields of onnx.proto3
_FLOAT, _INT64 = 1, 7
_AGAIN = re.compile(r"_\d+$")


@dataclass(frozen=True)
class Group:
    """Layers that read the same x: one bank of their downs side by side, and one of ups for each."""

    name: str
    layers: tuple[str, ...]

    def up(self, layer: str) -> str:
        """The input that holds the ups of a layer."""
        return f"{self.name}.up.{self.layers.index(layer)}"

    @property
    def down(self) -> str:
        """The input that holds the downs."""
        return f"{self.name}.down"


@dataclass(frozen=True)
class _Node:
    """What is read of a node."""

    name: str
    operator: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    @property
    def layer(self) -> str:
        """The path of the module that it was traced in: the exporter names nodes "/encoder/layers/layers.0/query/MatMul"."""
        path: list[str] = []
        for part in self.name.split("/")[1:-1]:
            if path and part.startswith(f"{path[-1]}."):
                path.pop()
            path.append(part)
        return ".".join(path)


def sizes_of(adapter: Adapter) -> dict[str, tuple[int, int]]:
    """The widths of the layers that an adapter adapts."""
    return {name: (down.shape[1], up.shape[0]) for name, (down, up, _) in adapter.layers.items()}


def branch(data: bytes, sizes: Sizes, where: str = "") -> tuple[bytes, tuple[Group, ...]]:
    """The ONNX model with a branch at each of these layers, and the groups whose banks are its further inputs.

    Raises MainstemError where the graph has no such layer, of these widths.
    """
    model = list(fields(memoryview(data)))
    graph = list(fields(next(value for number, value in model if number == _MODEL_GRAPH and isinstance(value, memoryview))))
    nodes = [_read_node(value) for number, value in graph if number == _NODE and isinstance(value, memoryview)]
    shapes = dict(_read_shape(value) for number, value in graph if number == _TENSOR and isinstance(value, memoryview))
    ends = _ends(nodes, sizes, shapes, where)
    groups = _groups(ends)
    parts: list[bytes | memoryview] = []
    for made in _common(groups, sizes):
        parts += _pieces(_NODE, made)
    branched: set[str] = set()
    for number, value in graph:
        y = _read_node(value).outputs[0] if number == _NODE and isinstance(value, memoryview) else ""
        if not isinstance(value, memoryview) or y not in ends:
            parts += _pieces(number, value)
            continue
        layer, x = ends[y]
        parts += _pieces(_NODE, _renamed(value, y))
        for made in _branch(groups[x], layer, x, sizes, y, new=x not in branched):
            parts += _pieces(_NODE, made)
        branched.add(x)
    for number, made in _declared(tuple(dict.fromkeys(groups.values())), sizes):
        parts += _pieces(number, made)
    rest = [piece for number, value in model if number != _MODEL_GRAPH for piece in _pieces(number, value)]
    made = b"".join([*rest, head(_MODEL_GRAPH, sum(map(len, parts))), *parts])
    return made, tuple(dict.fromkeys(groups.values()))


def stack(groups: Sequence[Group], sizes: Sizes, adapters: Sequence[Adapter]) -> dict[str, Array]:
    """The banks of the groups: place 0 holds no adapter, the others these, padded with zeros to the largest rank of their layer."""
    banks: dict[str, Array] = {}
    for group in groups:
        ranks = [max((len(a.layers[layer][0]) for a in adapters if layer in a.layers), default=0) for layer in group.layers]
        starts = np.cumsum([0, *ranks])
        down = np.zeros((len(adapters) + 1, sizes[group.layers[0]][0], starts[-1]), np.float32)
        banks[group.down] = down
        for layer, start in zip(group.layers, starts, strict=False):
            up = banks[group.up(layer)] = np.zeros((len(adapters) + 1, starts[-1], sizes[layer][1]), np.float32)
            for place, adapter in enumerate(adapters, 1):
                if layer in adapter.layers:
                    a, b, scale = adapter.layers[layer]
                    down[place, :, start : start + len(a)] = a.T
                    up[place, start : start + len(a)] = b.T * np.float32(scale)
    return banks


# --- finding the layers -----------------------------------------------------------------------------------------------


def _ends(nodes: Sequence[_Node], sizes: Sizes, shapes: Mapping[str, tuple[int, ...]], where: str) -> dict[str, tuple[str, str]]:
    """The output of each layer → the layer and what it reads: of its product, or of the sum with its bias."""
    sums = {name: node for node in nodes if node.operator == "Add" for name in node.inputs}
    products = [node for node in nodes if node.operator in ("MatMul", "Gemm")]
    same = {node.outputs[0]: node.inputs[0] for node in nodes if node.operator == "Identity"}  # equal weights are kept once
    weights = {node.layer: same.get(node.inputs[1], node.inputs[1]) for node in products}
    ends: dict[str, tuple[str, str]] = {}
    found: dict[str, set[str]] = {layer: set() for layer in sizes}
    for node in products:
        again = _AGAIN.sub("", node.layer)  # a further call of the same layer, where it has the same weights
        weight = same.get(node.inputs[1], node.inputs[1])
        path = f".{again if weights.get(again) == weight else node.layer}"
        for layer in (layer for layer in sizes if path.endswith(f".{layer}")):
            found[layer].add(path)
            if sorted(shapes.get(weight, sizes[layer])) != sorted(sizes[layer]):
                raise MainstemError(f"the adapter is of another model: its layer '{layer}' has other widths", where=where)
            after = sums.get(node.outputs[0])
            end = after if after and after.layer == node.layer else node
            ends[end.outputs[0]] = (layer, node.inputs[0])
    for layer, paths in found.items():
        if len(paths) != 1:
            told = "several layers" if paths else "no layer"
            raise MainstemError(f"the adapter is of another model: the graph has {told} named '{layer}'", where=where)
    return ends


def _groups(ends: Mapping[str, tuple[str, str]]) -> dict[str, Group]:
    """What layers read → the group of those that read it."""
    readers: dict[str, list[str]] = {}
    for layer, x in ends.values():
        if layer not in readers.setdefault(x, []):
            readers[x].append(layer)
    names = {layers: f"{_NAME}.{i}" for i, layers in enumerate(dict.fromkeys(map(tuple, readers.values())))}
    return {x: Group(names[tuple(layers)], tuple(layers)) for x, layers in readers.items()}


def _read_node(data: memoryview) -> _Node:
    read: dict[int, list[str]] = {1: [], 2: [], 3: [], 4: []}
    for number, value in fields(data):
        if number in read and isinstance(value, memoryview):
            read[number].append(bytes(value).decode())
    return _Node("".join(read[3]), "".join(read[4]), tuple(read[1]), tuple(read[2]))


def _read_shape(data: memoryview) -> tuple[str, tuple[int, ...]]:
    """Name and shape of an initialiser."""
    name, shape = "", []
    for number, value in fields(data):
        if number == 1:
            shape += varints(value) if isinstance(value, memoryview) else [int(value)]
        elif number == 8 and isinstance(value, memoryview):
            name = bytes(value).decode()
    return name, tuple(shape)


# --- writing the branches ---------------------------------------------------------------------------------------------


def _common(groups: Mapping[str, Group], sizes: Sizes) -> list[bytes]:
    """Nodes that come once: the pairs of the rows, and the shape [rows, -1, in] of each width."""
    rows = f"{_NAME}.rows"
    made = [_node("Shape", [ROWS], rows)]
    for width in sorted({sizes[group.layers[0]][0] for group in groups.values()}):
        made.append(_node("Concat", [rows, f"{_NAME}.tail.{width}"], f"{_NAME}.shape.{width}", axis=0))
    for group in dict.fromkeys(groups.values()):
        for bank in (group.down, *map(group.up, group.layers)):
            made.append(_node("Gather", [bank, ROWS], f"{bank}.rows"))
    return made


def _branch(group: Group, layer: str, x: str, sizes: Sizes, y: str, *, new: bool) -> list[bytes]:
    """Nodes that add the low-rank product of a layer to its own; `new`: the group's first, which makes what the others share."""
    low = f"{_NAME}.low.{x}"
    made = []
    if new:
        made.append(_node("Reshape", [x, f"{_NAME}.shape.{sizes[layer][0]}"], f"{_NAME}.x.{x}"))
        made.append(_node("MatMul", [f"{_NAME}.x.{x}", f"{group.down}.rows"], low))
    added, shape = f"{_NAME}.added.{y}", f"{_NAME}.shape.{y}"
    made.append(_node("MatMul", [low, f"{group.up(layer)}.rows"], f"{added}.flat"))
    made.append(_node("Shape", [_own(y)], shape))
    made.append(_node("Reshape", [f"{added}.flat", shape], added))
    made.append(_node("Add", [_own(y), added], y))
    return made


def _declared(groups: Sequence[Group], sizes: Sizes) -> list[tuple[int, bytes]]:
    """(field, message) of the further inputs and constants of the graph."""
    made = [(_INPUT, _value(ROWS, _INT64, ["rows"]))]
    for width in sorted({sizes[group.layers[0]][0] for group in groups}):
        data = np.array([-1, width], "<i8").tobytes()
        made.append((_TENSOR, field(1, 2) + field(2, _INT64) + field(8, f"{_NAME}.tail.{width}") + field(9, data)))
    for group in groups:
        rank = f"{group.name}.rank"
        made.append((_INPUT, _value(group.down, _FLOAT, ["bank", sizes[group.layers[0]][0], rank])))
        made += [(_INPUT, _value(group.up(layer), _FLOAT, ["bank", rank, sizes[layer][1]])) for layer in group.layers]
    return made


def _node(operator: str, inputs: Sequence[str], output: str, axis: int | None = None) -> bytes:
    attribute = b"" if axis is None else field(5, field(1, "axis") + field(3, axis) + field(20, 2))
    return b"".join(field(1, name) for name in inputs) + field(2, output) + field(3, f"{output}.node") + field(4, operator) + attribute


def _value(name: str, kind: int, shape: Sequence[int | str]) -> bytes:
    """A ValueInfoProto; a size that is a word differs from call to call."""
    sizes = b"".join(field(1, field(1, size) if isinstance(size, int) else field(2, size)) for size in shape)
    return field(1, name) + field(2, field(1, field(1, kind) + field(2, sizes)))


def _renamed(data: memoryview, output: str) -> bytes:
    """The node with its output under another name, so that the sum may have it."""
    named = ((number, _own(output).encode() if number == 2 else value) for number, value in fields(data))
    return b"".join(piece for number, value in named for piece in _pieces(number, value))


def _own(y: str) -> str:
    return f"{_NAME}.own.{y}"


def _pieces(number: int, value: int | float | bytes | memoryview) -> list[bytes | memoryview]:
    """A field in pieces: weights are copied once, when all are joined."""
    if isinstance(value, float):
        raise ValueError("a number where no model has one")
    return [field(number, value)] if isinstance(value, int) else [head(number, len(value)), value]

"""8-bit integers: products of the backbone in them, tables of embeddings kept in them; attention and norms stay as they are.

Every scale is fixed, so an answer depends neither on what else is in a batch nor on padding. Weights have 7 bits, so that no
processor saturates and all compute the same integers. What is left in floating point is written so that it is added in one order on
every x86 processor: the sums of a softmax are taken by the product with the values (one further column of ones).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from mainstem.compress import _windows
from mainstem.compress._graph import CONTRIB, Graph
from mainstem.contracts import Array, Arrays

VERSION = 1
LEAST = 1 << 12  # numbers in a matrix, below which it stays as it is
LEAST_KEPT = 1 << 12  # of one that only keeps its weights in 8 bits: what the first, small ones lose goes through the whole network
LEAST_PICTURE = 1 << 14  # of a convolution: the early ones have few weights and large pictures, and moving those costs more than is won
ROWS, ROWS_EACH = 2048, 48  # rows of a value at most, and of each sample, by which weights are rounded
_TABLE_MOST = 127  # integers of a table meet no other integers, so they have all 8 bits


def compress(graph: bytes, samples: Iterable[Arrays]) -> bytes | None:
    """The graph in 8-bit integers, or None where it has nothing that gains. samples: inputs that show the ranges of its values."""
    made = Graph(graph)
    linear = [node for node in made.nodes if _matrix(made, node) is not None]
    tables = [node for node in made.nodes if _is_table(made, node)]
    if not linear:
        return None
    samples = list(samples)
    _padding(made, samples[:1])
    for node in tables:
        _table(made, node)
    for node in made.nodes:
        if node.op_type == "Conv" and node not in linear:
            _kept(made, node)
    for node in [node for node in made.nodes if node.op_type == "ReduceSum"]:
        _pooling(made, node)
    attended = {name for node in made.nodes if node.op_type == "Softmax" for name in _attention(made, node)}
    seen = _seen(made, {node.input[0]: 1 if node.op_type == "Conv" else -1 for node in linear}, samples)
    windows: dict[str, _windows.Window] = {}
    quantised: dict[str, str] = {}
    for node in linear:
        name = node.input[0]
        if name not in windows:
            plain = _windows.PICTURED if node.op_type == "Conv" else _windows.MARGIN
            margin = _windows.ATTENDED if name in attended else plain
            windows[name] = _windows.fit(seen[name].low, seen[name].high, margin, within=_clipped(made, name))
        _linear(made, node, seen[name], windows[name], quantised)
    return made.written()


def _clipped(made: Graph, name: str) -> tuple[float, float]:
    """Between what a value lies whatever the input, where a Clip with constant ends makes it."""
    clip = next((node for node in made.nodes if name in node.output and node.op_type == "Clip"), None)
    ends = [made.value(end) if end else None for end in ([*clip.input, "", ""][1:3] if clip is not None else ["", ""])]
    low, high = (float(end) if end is not None else far for end, far in zip(ends, (-np.inf, np.inf), strict=True))
    return low, high


def _matrix(made: Graph, node: Any) -> Array | None:
    """The weights [K, N] of a product with a constant matrix that is large enough, else None."""
    attributes = {a.name: made.onnx.helper.get_attribute_value(a) for a in node.attribute}
    if node.op_type == "MatMul":
        weights = made.constants.get(node.input[1])
    elif node.op_type == "Gemm" and not attributes.get("transA") and attributes.get("alpha", 1.0) == attributes.get("beta", 1.0) == 1.0:
        weights = made.constants.get(node.input[1])
        weights = weights.T if weights is not None and attributes.get("transB") else weights
    elif node.op_type == "Conv" and _is_pointwise(attributes, made.constants.get(node.input[1])):
        weights = made.constants[node.input[1]][:, :, 0, 0].T if made.constants[node.input[1]].size >= LEAST_PICTURE else None
    else:
        return None
    return weights if weights is not None and weights.ndim == 2 and weights.size >= LEAST and weights.dtype == np.float32 else None


def _is_pointwise(attributes: Mapping[str, Any], weights: Array | None) -> bool:
    """Whether a convolution is a product at every place of a picture."""
    ones = all(set(attributes.get(name, [1])) == {1} for name in ("strides", "dilations")) and attributes.get("group", 1) == 1
    return weights is not None and weights.shape[2:] == (1, 1) and ones and not any(attributes.get("pads", [0]))


def _is_table(made: Graph, node: Any) -> bool:
    table = made.constants.get(node.input[0]) if node.op_type == "Gather" else None
    return table is not None and table.ndim == 2 and table.size >= LEAST and table.dtype == np.float32 and not node.attribute


def _table(made: Graph, node: Any) -> None:
    """A table of embeddings in int8 with a scale each row, widened after the rows are taken."""
    integers, scales = _windows.rounded(made.constants[node.input[0]], 1, _TABLE_MOST)
    nodes: list[Any] = []
    rows = made.node(nodes, "Cast", [made.node(nodes, "Gather", [made.constant(integers), node.input[1]])], to=1)
    factors = made.node(nodes, "Gather", [made.constant(scales), node.input[1]])
    made.node(nodes, "Mul", [rows, factors], node.output[0])
    made.replace(node, nodes)


def _padding(made: Graph, samples: list[Arrays]) -> None:
    """Zeros that are put around a picture of fixed size go into the convolution after it, which then needs no copy of the picture."""
    if not made.is_fixed():
        return
    users = {id(node): made.only_user(node.output[0], "Conv") for node in made.nodes if node.op_type == "Pad"}
    pads = [node for node in made.nodes if users.get(id(node)) is not None and users[id(node)].input[0] == node.output[0]]
    values = next(iter(made.values([node.input[1] for node in pads], samples)), {}) if pads else {}
    for node in pads:
        around, value = values[node.input[1]].tolist(), made.value(node.input[2]) if len(node.input) > 2 else np.zeros(())
        mode = next((a.s for a in node.attribute if a.name == "mode"), b"constant")
        convolution = users[id(node)]
        own = next((a for a in convolution.attribute if a.name == "pads"), None)
        kinds = {a.name for a in convolution.attribute}
        plain = mode == b"constant" and value is not None and not np.any(value) and len(around) == 8 and min(around) >= 0
        if not plain or around[:2] + around[4:6] != [0, 0, 0, 0] or own is None or "auto_pad" in kinds:
            continue
        own.ints[:] = [a + b for a, b in zip(own.ints, around[2:4] + around[6:], strict=True)]
        convolution.input[0] = node.input[0]
        made.replace(node)


def _kept(made: Graph, node: Any) -> None:
    """A convolution that computes as it did, its weights kept in int8 with a scale each channel and widened once, when it is loaded."""
    weights = made.constants.get(node.input[1])
    if weights is None or weights.size < LEAST_KEPT or weights.dtype != np.float32:
        return
    integers, scales = _windows.rounded(weights, tuple(range(1, weights.ndim)), _TABLE_MOST)
    nodes: list[Any] = []
    wide = made.node(nodes, "Mul", [made.node(nodes, "Cast", [made.constant(integers)], to=1), made.constant(scales)])
    changed = made.onnx.NodeProto()
    changed.CopyFrom(node)
    changed.input[1] = wide
    made.replace(node, [*nodes, changed])


@dataclass(frozen=True)
class _Seen:
    """A value as the samples show it: the reach of its channels, float [K], and some of its rows, float [T, K]."""

    low: Array
    high: Array
    rows: Array


def _seen(made: Graph, wanted: Mapping[str, int], samples: Iterable[Arrays]) -> dict[str, _Seen]:
    """The values with these names, and the axis of their channels; as many rows of each sample."""
    found: dict[str, list[_Seen]] = {name: [] for name in wanted}
    for values in made.values(list(wanted), samples):
        for name, value in values.items():
            rows = np.moveaxis(value, wanted[name], -1)
            rows = rows.reshape(-1, rows.shape[-1])
            found[name].append(_Seen(rows.min(0), rows.max(0), _some(rows, ROWS_EACH)))
    return {name: _together(parts) for name, parts in found.items()}


def _together(parts: list[_Seen]) -> _Seen:
    rows = np.concatenate([each.rows for each in parts])
    return _Seen(np.min([each.low for each in parts], 0), np.max([each.high for each in parts], 0), _some(rows, ROWS))


def _some(rows: Array, most: int) -> Array:
    """At most so many rows, evenly."""
    return np.take(rows, np.linspace(0, len(rows) - 1, min(most, len(rows))).astype(int), axis=0)


def _linear(made: Graph, node: Any, seen: _Seen, window: _windows.Window, quantised: dict[str, str]) -> None:
    """One product, with the bias that is added to it: fixed scales, int8 × uint8 in 32 bits, float out."""
    weights, name = _matrix(made, node), node.input[0]
    assert weights is not None
    nodes: list[Any] = []
    output, picture = node.output[0], node.op_type == "Conv"
    bias = np.zeros(weights.shape[1])
    if node.op_type != "MatMul" and len(node.input) == 3:
        bias = made.constants[node.input[2]]
    elif adding := made.only_user(output, "Add"):
        added = made.constants.get(next((i for i in adding.input if i != output), ""))
        if added is not None and added.shape == bias.shape:
            bias, output = added, adding.output[0]
            made.replace(adding)
    if name not in quantised:
        quantised[name] = _quantise(made, nodes, name, window, 1 if picture else -1)
        if picture:
            quantised[name] = made.node(nodes, "Transpose", [quantised[name]], perm=[0, 2, 3, 1])
    steps = window.quantise(seen.rows)
    w_KN, scales = _windows.rounded_for(steps * window.scale, window.expand(weights))
    computed = w_KN * scales.astype(np.float64)
    missed = seen.rows.mean(0, dtype=np.float64) @ weights - window.scale * (steps.mean(0) @ computed)
    total = (bias + window.constant(computed) + missed).astype(np.float32)
    w, scale, each, zero = map(made.constant, (w_KN, np.float32(window.scale), scales[0], np.uint8(window.zero)))
    inputs = [quantised[name], w, scale, each, zero, "", made.constant(total)]
    result = made.node(nodes, "MatMulIntegerToFloat", inputs, "" if picture else output, CONTRIB)
    if picture:
        made.node(nodes, "Transpose", [result], output, perm=[0, 3, 1, 2])
    made.replace(node, nodes)


def _quantise(made: Graph, nodes: list[Any], name: str, window: _windows.Window, axis: int) -> str:
    """The value as integers, the further columns behind the channels on `axis`."""
    scale, zero = made.constant(np.float32(window.scale)), made.constant(np.uint8(window.zero))
    integers = made.node(nodes, "QuantizeLinear", [name, scale, zero])
    if window.further:
        channels = made.constant(np.array([k for k, _ in window.further], np.int64))
        pieces = np.array([_windows.STEPS * piece * window.scale for _, piece in window.further], np.float32)
        shifts = made.constant(pieces if axis < 0 else pieces[:, None, None])
        beyond = made.node(nodes, "Sub", [made.node(nodes, "Gather", [name, channels], axis=axis), shifts])
        integers = made.node(nodes, "Concat", [integers, made.node(nodes, "QuantizeLinear", [beyond, scale, zero])], axis=axis)
    return integers


def _attention(made: Graph, softmax: Any) -> list[str]:
    """softmax(S) V as exp(S − max) [V, 1], the last column being the sums; rows without any key are 0, as the guard that goes has it.

    Returns the names that the result has, with those of its other shapes.
    """
    axis = next((a.i for a in softmax.attribute if a.name == "axis"), -1)
    guard = [made.users.get(softmax.output[0], []), softmax.output[0]]
    dropped = []
    if sorted(node.op_type for node in guard[0]) == ["IsNaN", "Where"]:
        dropped = sorted(guard[0], key=lambda node: node.op_type)
        if list(dropped[1].input[::2]) != [dropped[0].output[0], softmax.output[0]] or len(made.users.get(dropped[0].output[0], [])) != 1:
            return []
        guard[1] = dropped[1].output[0]
    product = made.only_user(guard[1], "MatMul")
    if product is None or product.input[0] != guard[1] or product.input[1] in made.constants or axis != -1:
        return []
    nodes: list[Any] = []
    scores, values = softmax.input[0], product.input[1]
    last = made.constant(np.array([-1], np.int64))
    least = made.constant(np.float32(-1e30))
    most = made.node(nodes, "Max", [made.node(nodes, "ReduceMax", [scores, last], keepdims=1), least])
    raised = made.node(nodes, "Exp", [made.node(nodes, "Sub", [scores, most])])
    first, second = (made.constant(np.array([i], np.int64)) for i in (0, 1))
    column = made.node(nodes, "Slice", [values, first, second, last])
    ones = made.node(nodes, "Add", [made.node(nodes, "Mul", [column, made.constant(np.float32(0))]), made.constant(np.float32(1))])
    both = made.node(nodes, "MatMul", [raised, made.node(nodes, "Concat", [values, ones], axis=-1)])
    end = made.constant(np.array([np.iinfo(np.int64).max], np.int64))
    sums = made.node(nodes, "Slice", [both, last, end, last])
    sums = made.node(nodes, "Max", [sums, made.constant(np.float32(1e-30))])
    made.node(nodes, "Div", [made.node(nodes, "Slice", [both, first, last, last]), sums], product.output[0])
    for node in (softmax, *dropped):
        made.replace(node)
    made.replace(product, nodes)
    names = [product.output[0]]
    while moved := _moved(made, names[-1]):
        names.append(moved.output[0])
    return names


def _moved(made: Graph, name: str) -> Any:
    """The one node that gives a value another shape, beside those that ask for its shape."""
    moving = [node for node in made.users.get(name, []) if node.op_type != "Shape"]
    return moving[0] if len(moving) == 1 and moving[0].op_type in ("Transpose", "Reshape") else None


def _pooling(made: Graph, node: Any) -> None:
    """A sum over the tokens of [row, tokens, width] as a product with ones, which adds in one order whatever the number of rows."""
    masked = next((n for n in made.nodes if node.input[0] in n.output and n.op_type == "Mul"), None)
    axes = _axes(made, node)
    keeps = next((a.i for a in node.attribute if a.name == "keepdims"), 1)
    if masked is None or axes != [1] or keeps:
        return
    nodes: list[Any] = []
    value, last = node.input[0], made.constant(np.array([-1], np.int64))
    first, second = (made.constant(np.array([i], np.int64)) for i in (0, 1))
    column = made.node(nodes, "Slice", [value, first, second, last])
    ones = made.node(nodes, "Add", [made.node(nodes, "Mul", [column, made.constant(np.float32(0))]), made.constant(np.float32(1))])
    summed = made.node(nodes, "MatMul", [made.node(nodes, "Transpose", [ones], perm=[0, 2, 1]), value])
    made.node(nodes, "Squeeze", [summed, second], node.output[0])
    made.replace(node, nodes)


def _axes(made: Graph, node: Any) -> list[int]:
    """The constant axes of a reduction; none where they are computed."""
    array = made.value(node.input[1]) if len(node.input) > 1 else None
    return [] if array is None else [int(axis) for axis in np.ravel(array)]

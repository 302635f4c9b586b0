"""`incontext`: a network pretrained on made tables answers rows from the training rows it is shown, in one pass; nothing is fitted.

How that of the package was pretrained stands in pretraining/tables.yaml; a folder that `mainstem pretrain --objective tables` left is
another. What is kept are training rows. Settings: members (passes that see columns,
classes and, where there are many, rows in their own way, and whose answers are averaged), context (rows that a member sees at most).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mainstem import pretrained
from mainstem.backbones._cells import REACH, Scale
from mainstem.backbones._context import Context, Reader
from mainstem.backbones._graph import Graph
from mainstem.backbones._problem import Problem
from mainstem.choices import QUANTILES
from mainstem.contracts import Array, Arrays, GraphSpec, Info, Port, Ref, State
from mainstem.errors import MainstemError, suggest
from mainstem.pretrained import Network

_DEFAULTS = {"members": 8, "context": 1000, "folder": ""}
_LIMITS = {"members": (1, 64), "context": (2, 10_000)}
_AT_ONCE = 512  # rows answered in one pass
_TOKENS = 8192  # of the members that pass together: more take gigabytes
_BEND = 3.0


class InContext:
    """The predictor."""

    def describe(self, ref: Ref) -> Info:
        """What it is. Raises MainstemError for an unknown setting."""
        _settings(ref.settings)
        return Info(
            modality="table",
            processor={"scaling": "none"},
            extra="tables",
            licence="Apache-2.0",
            holds_rows=True,
            summary="a network pretrained on made tables reads the training rows and answers in one pass",
        )

    def fit(
        self, arrays: Arrays, target: Arrays, kinds: Mapping[str, Any], weights: Array | None, settings: Mapping[str, Any], seed: int
    ) -> State:
        """Keeps rows, and draws how the members see them. kinds: see Predictor. Raises MainstemError for an unknown setting."""
        given = _settings(settings)
        problem = Problem.of(arrays, target, kinds, weights)
        context = Context.of(problem, given["members"], given["context"], seed)
        widths = {name: array.shape[1] for name, array in arrays.items()}
        network = pretrained.of_folder(Path(given["folder"])) if given["folder"] else pretrained.shipped("tables")
        json = {"outputs": kinds["outputs"], "kind": problem.kind, "task": kinds["task"], "widths": widths, "network": network.id}
        json["note"] = _told(context, len(problem.y), sum(widths.values()))
        return State(json, context.arrays(), {pretrained.CONFIG: network.config, pretrained.GRAPH: network.graph})

    def run(self, state: State, arrays: Arrays) -> dict[str, Array]:
        """{"logits": float64 [n, k]}, or {"value" [n, 1], "quantiles" [n, levels]} in units of the target."""
        rows = len(next(iter(arrays.values())))
        starts = range(0, max(1, rows), _AT_ONCE)
        parts = [_answered(state, {name: a[i : i + _AT_ONCE] for name, a in arrays.items()}) for i in starts]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def graphs(self, state: State) -> dict[str, GraphSpec]:
        """{"head": the network and what is made of its answers, "head.shared": what it needs of the rows kept}."""
        context = Context.from_state(state.arrays)
        network = Network(state.files[pretrained.CONFIG], state.files[pretrained.GRAPH])
        return {"head": _head(context, state.json, network), "head.shared": _remembered(context, state.json, network)}


predictor = InContext()


def _told(context: Context, rows: int, columns: int) -> str:
    """A sentence for people on what is left out of the table, "" where nothing is."""
    members, seen, chosen = *context.rows.shape, len(context.reader.chosen)
    notes = [f"{members} passes see {seen:,} of {rows:,} rows each, and their answers are averaged"] if seen < rows else []
    notes += [f"the {chosen} columns that tell most by themselves are read, of {columns}"] if chosen < columns else []
    return f"In-context: {'; '.join(notes)}." if notes else ""


def _settings(given: Mapping[str, Any]) -> dict[str, Any]:
    for name, value in given.items():
        if name not in _DEFAULTS:
            raise MainstemError(f"the predictor 'incontext' has no setting '{name}'", do=suggest(name, _DEFAULTS))
        if name == "folder":  # of the reference
            continue
        low, high = _LIMITS[name]
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise MainstemError(
                f"expected a whole number from {low} to {high}, found {value!r}", where=f"predictor 'incontext' setting '{name}'"
            )
    return {**_DEFAULTS, **given}


# --- in numpy ---------------------------------------------------------------------------------------------------------


def _answered(state: State, arrays: Arrays) -> dict[str, Array]:
    context, kind = Context.from_state(state.arrays), state.json["kind"]
    feed = context.feed(arrays, regression=kind == "value")
    logits, nodes = _passed(state, feed)
    if kind == "value":
        mass = np.exp(_log_softmax(nodes)).mean(axis=0)
        center, spread = context.answer
        ramps = np.clip((np.array(QUANTILES)[:, None] - _before(mass)[:, None]) / np.maximum(_between(mass)[:, None], 1e-12), 0.0, 1.0)
        at = places()
        quantiles = at[0] + ramps @ np.diff(at)
        return {"value": center + spread * (mass @ at)[:, None], "quantiles": center + spread * quantiles}
    groups = context.groups
    told = _log_softmax(logits[:, :, : groups.max() + 1])
    by_class = np.take_along_axis(told, np.broadcast_to(groups[:, None], (*told.shape[:2], groups.shape[1])), axis=2)
    if kind == "softmax" or state.json["task"] == "classification":
        return {"logits": by_class.mean(axis=0)}
    margins = by_class[:, :, 1] - by_class[:, :, 0]
    return {"logits": margins.reshape(state.json["outputs"], -1, margins.shape[1]).mean(axis=1).T}


def _passed(state: State, feed: Mapping[str, Array]) -> Iterator[Array]:
    """Logits and nodes float64 [m, r, …] of all members."""
    session = pretrained.session(state.files[pretrained.GRAPH])
    members, rows, columns = feed["codes"].shape
    together = max(1, _TOKENS // ((rows + feed["known_codes"].shape[1]) * (columns // 2 + 1)))
    starts = range(0, members, together)
    parts = [session.run(["logits", "nodes"], {name: each[i : i + together] for name, each in feed.items()}) for i in starts]
    return (np.concatenate(part).astype(np.float64) for part in zip(*parts, strict=True))


def _log_softmax(x: Array) -> Array:
    x = x - x.max(axis=-1, keepdims=True)
    return np.asarray(x - np.log(np.exp(x).sum(axis=-1, keepdims=True)))


def places(count: int = 64) -> Array:
    """The values, in standard deviations, that the distribution of an answer has its mass on (nn/twoway.py)."""
    return np.asarray((REACH * np.sinh(_BEND * np.linspace(-1.0, 1.0, count)) / np.sinh(_BEND)).astype(np.float32), np.float64)


def _before(mass: Array) -> Array:
    """How much of the distribution lies before each node but the last, where a node's mass is spread evenly around it."""
    return np.asarray(np.cumsum(mass, axis=-1) - mass / 2)[..., :-1]


def _between(mass: Array) -> Array:
    return np.asarray((mass[..., :-1] + mass[..., 1:]) / 2)


# --- in ONNX ----------------------------------------------------------------------------------------------------------


def _memory(network: Network) -> list[Port]:
    """What the network keeps of the context rows, layer by layer."""
    shape = network.shape
    axes = ("shared", str(shape["heads"]), "shared", str(shape["width"] // shape["heads"]))
    return [Port(f"{word}.{i}", "float32", axes) for i in range(shape["layers"]) for word in ("key", "value")]


def _of_tables(graph: Graph, context: Context, json: Mapping[str, Any]) -> dict[str, str]:
    regression = np.full(len(context.rows), json["kind"] == "value", np.float32)
    return {"marks": graph.constant(context.marks), "regression": graph.constant(regression)}


def _remembered(context: Context, json: Mapping[str, Any], network: Network) -> GraphSpec:
    graph, memory = Graph(), _memory(network)
    known = _seen(graph, context, graph.constant(context.cells), graph.constant(context.codes))
    cells, codes = (graph.add("GatherND", each, context.rows[:, :, None], batch_dims=1) for each in known)
    inputs = {"known_cells": cells, "known_codes": codes, "index": graph.constant(context.index), "value": graph.constant(context.value)}
    names = graph.insert(network.graph, {**inputs, **_of_tables(graph, context, json)}, [port.name for port in memory])
    for port, name in zip(memory, names, strict=True):
        graph.add("Identity", name, name=port.name)
    return graph.finish([], memory)


def _head(context: Context, json: Mapping[str, Any], network: Network) -> GraphSpec:
    graph, memory = Graph(), _memory(network)
    cells, codes = _seen(graph, context, *_read(graph, context.reader, json["widths"]))
    asked = {"cells": cells, "codes": codes, **_of_tables(graph, context, json), **{port.name: port.name for port in memory}}
    logits, nodes = graph.insert(network.graph, asked, ["logits", "nodes"])
    outputs = _values(graph, context, nodes) if json["kind"] == "value" else _logits(graph, context, json, logits)
    dtypes = {"numbers": "float64", "categories": "int64"}
    inputs = [Port(f"table.{name}", dtypes[name], ("row", str(width))) for name, width in json["widths"].items()]
    return graph.finish(inputs, outputs, memory)


def _read(graph: Graph, reader: Reader, widths: Mapping[str, int]) -> tuple[str, str]:
    """Reader.read: cells [r, c, 3] float32 and codes [r, c]."""
    cells, codes = [], []
    last = np.array([-1])
    if "numbers" in widths:
        x = "table.numbers"
        missing = graph.add("IsNaN", x)
        zero = np.zeros(1)
        filled = graph.add("Where", missing, reader.center, x)
        standard = graph.add("Div", graph.add("Sub", filled, reader.center), reader.spread)
        standard = graph.add("Clip", standard, np.array(-REACH), np.array(REACH))
        steps, tiny = Scale(reader.center, reader.spread, reader.knots).steps()
        apart = graph.add("Sub", graph.add("Unsqueeze", filled, last), reader.knots[:, :-1])
        ramps = graph.add("Add", graph.add("Div", apart, np.maximum(steps, tiny)), (steps < tiny).astype(np.float64))
        ramps = graph.add("Clip", ramps, np.array(0.0), np.array(1.0))
        mean = graph.add("ReduceMean", ramps, last, keepdims=0)
        rank = graph.add("Sub", graph.add("Mul", mean, np.array([2.0])), np.array([1.0]))
        channels = [graph.add("Where", missing, zero, standard), graph.add("Where", missing, zero, rank), graph.cast(missing, "float64")]
        stacked = graph.add("Concat", *(graph.add("Unsqueeze", each, last) for each in channels), axis=2)
        cells.append(graph.cast(stacked, "float32"))
        codes.append(graph.add("Mul", graph.cast(missing, "int64"), np.array([0])))
    if "categories" in widths:
        offset = np.arange(len(reader.tables)) * reader.tables.shape[1]
        known = graph.add("Gather", reader.tables.reshape(-1), graph.add("Add", "table.categories", offset))
        none = graph.add("Unsqueeze", graph.cast(graph.add("Equal", known, np.array([0])), "float32"), last)
        cells.append(graph.add("Mul", none, np.array([0.0, 0.0, 1.0], np.float32)))
        codes.append(known)
    blank = np.append(reader.chosen, sum(widths.values()))  # the column after the last
    return _with_blank(graph, cells, blank, [0, 0, 0, 0, 1, 0]), _with_blank(graph, codes, blank, [0, 0, 0, 1])


def _with_blank(graph: Graph, parts: list[str], columns: Array, pads: list[int]) -> str:
    joined = graph.add("Concat", *parts, axis=1)
    return graph.add("Gather", graph.add("Pad", joined, np.array(pads)), columns, axis=1)


def _seen(graph: Graph, context: Context, cells: str, codes: str) -> tuple[str, str]:
    """Context.seen: cells [m, r, w, 3] and codes [m, r, w]."""
    turned = graph.add("Transpose", graph.add("Gather", cells, context.columns, axis=1), perm=[1, 0, 2, 3])
    names = context.names
    offset = (np.arange(names.shape[0] * names.shape[1]) * names.shape[2]).reshape(names.shape[0], 1, names.shape[1])
    place = graph.add("Transpose", graph.add("Gather", codes, context.columns, axis=1), perm=[1, 0, 2])
    return turned, graph.add("Gather", names.reshape(-1), graph.add("Add", place, offset))


def _logits(graph: Graph, context: Context, json: Mapping[str, Any], logits: str) -> list[Port]:
    groups = context.groups
    used = graph.add("Gather", graph.cast(logits, "float64"), np.arange(groups.max() + 1), axis=2)
    told = graph.add("Transpose", graph.add("LogSoftmax", used, axis=2), perm=[0, 2, 1])  # [m, groups, r]
    by_class = graph.add("GatherND", told, groups[:, :, None], batch_dims=1)  # [m, k, r]
    if json["task"] == "classification":
        mean = graph.add("ReduceMean", by_class, np.array([0]), keepdims=0)
        graph.add("Transpose", mean, perm=[1, 0], name="logits")
    else:
        yes, no = (graph.add("Gather", by_class, np.array(i), axis=1) for i in (1, 0))  # [m, r]
        split = graph.add("Reshape", graph.add("Sub", yes, no), np.array([json["outputs"], len(groups) // json["outputs"], -1]))
        mean = graph.add("ReduceMean", split, np.array([1]), keepdims=0)
        graph.add("Transpose", mean, perm=[1, 0], name="logits")
    return [Port("logits", "float64", ("row", str(json["outputs"])))]


def _values(graph: Graph, context: Context, nodes: str) -> list[Port]:
    center, spread = context.answer
    at = places()
    chances = graph.add("Softmax", graph.cast(nodes, "float64"), axis=2)
    mass = graph.add("ReduceMean", chances, np.array([0]), keepdims=0)
    mean = graph.add("MatMul", mass, at[:, None])
    graph.add("Add", graph.add("Mul", mean, np.array([spread])), np.array([center]), name="value")
    # _before and _between as products with fixed matrices
    count = len(at)
    before = (np.tri(count).T - np.eye(count) / 2)[:, :-1]
    between = (np.eye(count) + np.eye(count, k=-1))[:, :-1] / 2
    last = np.array([1])
    reached = graph.add("Unsqueeze", graph.add("MatMul", mass, before), last)
    size = graph.add("Unsqueeze", graph.add("Max", graph.add("MatMul", mass, between), np.array([1e-12])), last)
    ramps = graph.add("Div", graph.add("Sub", np.array(QUANTILES)[:, None], reached), size)
    ramps = graph.add("Clip", ramps, np.array(0.0), np.array(1.0))
    quantiles = graph.add("Add", graph.add("MatMul", ramps, np.diff(at)), np.array([at[0]]))
    graph.add("Add", graph.add("Mul", quantiles, np.array([spread])), np.array([center]), name="quantiles")
    return [Port("value", "float64", ("row", "1")), Port("quantiles", "float64", ("row", str(len(QUANTILES))))]

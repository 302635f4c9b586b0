"""`neighbours`: how far a row lies from the nearest rows that were learned from, in standardised and decorrelated numbers.

Distances to the k-th neighbour tell outliers (Ramaswamy, Rastogi & Shim 2000); decorrelated, they are those of Mahalanobis. A model
holds rows that it learned from, standardised.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from mainstem.backbones._design import Design
from mainstem.backbones._graph import Graph
from mainstem.contracts import Array, Arrays, GraphSpec, Info, Port, Ref, State
from mainstem.errors import MainstemError, suggest

DEFAULTS = {"neighbours": 5, "rows": 2000}
_LIMITS = {"neighbours": (1, 1000), "rows": (10, 100_000)}
_LEAST = 1e-3  # share of the largest variance below which a direction counts no more than that: rounding, and constants
_FAR = 1e6  # standard deviations from which on a number is just far


class Neighbours:
    """Settings: neighbours, whose mean distance is the score; rows that are kept."""

    def describe(self, ref: Ref) -> Info:
        """What it is. Raises MainstemError for an unknown setting."""
        _settings(ref.settings)
        summary = "distance to the nearest rows learned from"
        return Info(modality="table", processor={"scaling": "none"}, extra="tables", summary=summary, holds_rows=True)

    def fit(
        self, arrays: Arrays, target: Arrays, kinds: Mapping[str, Any], weights: Array | None, settings: Mapping[str, Any], seed: int
    ) -> State:
        """The rows that are kept, and how rows are standardised and turned. Raises MainstemError for a task that is not `anomaly`."""
        if kinds["task"] != "anomaly":
            raise MainstemError("'neighbours' tells how unusual a row is", do="Take it with --task anomaly.")
        asked = _settings(settings)
        sizes = tuple(kinds["categories"]) if "categories" in arrays else ()
        numbers = int(arrays["numbers"].shape[1]) if "numbers" in arrays else 0
        design = Design(numbers, tuple(np.eye(size) for size in sizes))  # a value that was never seen is far from all
        x = design.matrix(arrays)
        known = ~np.isnan(x)
        count = np.maximum(known.sum(axis=0), 1)
        center = np.where(known, x, 0.0).sum(axis=0) / count
        scale = np.sqrt((np.where(known, x - center, 0.0) ** 2).sum(axis=0) / count)
        scale = np.where(scale > 1e-12 * np.maximum(1.0, np.abs(center)), scale, 1.0)
        z = _standard(x, center, scale)
        values, vectors = np.linalg.eigh(z.T @ z / len(z))
        turn = vectors / np.sqrt(np.maximum(values, _LEAST * max(values.max(initial=0.0), 1e-12)))
        chosen = np.sort(np.random.default_rng(seed).permutation(len(z))[: asked["rows"]])
        bank = z[chosen] @ turn
        widths = {name: int(array.shape[1]) for name, array in arrays.items()}
        fitted = {**design.arrays(), "center": center, "scale": scale, "turn": turn, "bank": bank}
        return State({"widths": widths, "numbers": design.numbers, "neighbours": min(asked["neighbours"], len(bank))}, fitted)

    def run(self, state: State, arrays: Arrays) -> dict[str, Array]:
        """{"score": float64 [n, 1]}: mean distance to the nearest rows."""
        a = state.arrays
        z = _standard(Design.of(a, state.json["numbers"]).matrix(arrays), a["center"], a["scale"]) @ a["turn"]
        square = (z**2).sum(axis=1, keepdims=True) - 2 * z @ a["bank"].T + (a["bank"] ** 2).sum(axis=1)
        nearest = np.sort(square, axis=1)[:, : state.json["neighbours"]]
        return {"score": np.sqrt(np.maximum(nearest, 0.0)).mean(axis=1, keepdims=True)}

    def graphs(self, state: State) -> dict[str, GraphSpec]:
        """{"head": ONNX}."""
        return {"head": self.graph(state, {})}

    def graph(self, state: State, names: Mapping[str, str]) -> GraphSpec:
        """The graph; `names`: of inputs that have others ("table.numbers" → its name)."""
        a, graph = state.arrays, Graph()
        nodes, constants = Design.of(a, state.json["numbers"]).nodes("x")
        for node in nodes:
            for i, given in enumerate(node.input):
                node.input[i] = names.get(given, given)
        graph.nodes += nodes
        graph.constants += constants
        scaled = graph.add("Div", graph.add("Sub", "x", a["center"]), a["scale"])
        known = graph.add("Where", graph.add("IsNaN", "x"), np.zeros(1), scaled)
        z = graph.add("MatMul", graph.add("Clip", known, np.array(-_FAR), np.array(_FAR)), a["turn"])
        own = graph.add("ReduceSum", graph.add("Mul", z, z), np.array([1]), keepdims=1)
        cross = graph.add("MatMul", z, -2 * a["bank"].T)
        square = graph.add("Sum", own, cross, (a["bank"] ** 2).sum(axis=1)[None])
        graph.add("TopK", square, np.array([state.json["neighbours"]]), name="nearest", largest=0, axis=1)
        graph.nodes[-1].output.append("places")
        distance = graph.add("Sqrt", graph.add("Max", "nearest", np.zeros(1)))
        graph.add("ReduceMean", distance, np.array([1]), name="score", keepdims=1)
        kinds = {"numbers": "float64", "categories": "int64"}
        widths = {f"table.{key}": (kinds[key], width) for key, width in state.json["widths"].items()}
        inputs = [Port(names.get(key, key), kind, ("row", str(width))) for key, (kind, width) in widths.items()]
        return graph.finish(inputs, (Port("score", "float64", ("row", "1")),))


def _settings(given: Mapping[str, Any]) -> dict[str, Any]:
    for name, value in given.items():
        if name not in DEFAULTS:
            raise MainstemError(f"the predictor 'neighbours' has no setting '{name}'", do=suggest(name, DEFAULTS))
        low, high = _LIMITS[name]
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            where = f"predictor 'neighbours' setting '{name}'"
            raise MainstemError(f"expected a whole number from {low} to {high}, found {value!r}", where=where)
    return {**DEFAULTS, **given}


def _standard(x: Array, center: Array, scale: Array) -> Array:
    """Standardised, 0 (the mean) where missing."""
    return np.clip(np.where(np.isnan(x), 0.0, (x - center) / scale), -_FAR, _FAR)


predictor = Neighbours()

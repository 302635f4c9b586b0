"""A predictor made of members (see _members.py) whose scores are added with weights learned from rows that they had not seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np

from mainstem.backbones._members import Member
from mainstem.backbones._problem import Problem
from mainstem.contracts import Array, Arrays, GraphSpec, Info, Port, Ref, State
from mainstem.errors import MainstemError, MissingExtra, suggest

_MANY = 50_000  # rows from which on threads pay
_STEPS = 10  # weights are tenths before they are averaged
_LIMITS: dict[str, tuple[Any, float, float]] = {
    "l2": (int | float, 0, 1e9),
    "iterations": (int, 1, 10_000),
    "learning_rate": (int | float, 1e-4, 1),
    "leaves": (int, 2, 10_000),
    "min_leaf": (int, 1, 1_000_000),
    "features": (int | float, 0.01, 1),
    "trees": (int, 1, 10_000),
}
_BINARY = np.array([[-0.5, 0.5]])  # one margin → the logits of two classes


class Mixture:
    """One predictor: its members, and what they are called together."""

    def __init__(self, name: str, members: Sequence[Member], summary: str) -> None:
        self.name, self.members, self.summary = name, members, summary
        self.defaults = {key: value for member in members for key, value in member.defaults.items()}

    def describe(self, ref: Ref) -> Info:
        """What it is. Raises MainstemError for an unknown setting."""
        self._settings(ref.settings)
        return Info(modality="table", processor={"scaling": "none"}, extra="tables", summary=self.summary)

    def fit(
        self, arrays: Arrays, target: Arrays, kinds: Mapping[str, Any], weights: Array | None, settings: Mapping[str, Any], seed: int
    ) -> State:
        """Chooses each member's settings on folds, weighs the members by their held-out scores, then fits them on all rows.

        kinds: {"task", "outputs": k, "categories": [codes of each]}, and optionally "groups" int [n], whose rows share a fold.
        Raises MainstemError for an unknown setting, MissingExtra without scikit-learn.
        """
        try:
            import sklearn  # noqa: F401
        except ImportError as error:
            raise MissingExtra(f"the predictor '{self.name}'", "tables", "scikit-learn") from error
        from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

        given = self._settings(settings)
        problem = Problem.of(arrays, target, kinds, weights)
        # Threads that wait for each other cost small tables more than they save, tenfold on a busy machine.
        with threadpool_limits(1 if len(problem.y) < _MANY else None):
            return self._fit(problem, kinds, given, seed)

    def _fit(self, problem: Problem, kinds: Mapping[str, Any], given: Mapping[str, Any], seed: int) -> State:
        folds = problem.folds(seed)
        tuned = [member.tune(problem, folds, given, seed) for member in self.members]
        held = np.concatenate([rows for _, rows in folds]) if folds else np.arange(len(problem.y))
        shares = _shares(problem.take(held), [scores[held] for _, scores in tuned])
        chosen: dict[str, Any] = {}
        fitted: dict[str, Array] = {}
        for member, (choice, _), share in zip(self.members, tuned, shares, strict=True):
            if share > 0:
                chosen[member.name] = {"share": share, **choice}
                fitted.update({f"{member.name}.{key}": array for key, array in member.fit(problem, choice, given, seed).items()})
        widths = {name: array.shape[1] for name, array in problem.arrays.items()}
        return State(
            {"outputs": kinds["outputs"], "task": kinds["task"], "kind": problem.kind, "widths": widths, "members": chosen}, fitted
        )

    def run(self, state: State, arrays: Arrays) -> dict[str, Array]:
        """{"logits" or "value": float64 [n, k]}."""
        parts = [
            fitted["share"] * member.run(_part(state, member), arrays, state.json["kind"])
            for member in self.members
            if (fitted := state.json["members"].get(member.name))
        ]
        scores = np.sum(parts, axis=0)
        return {_output(state): scores @ _BINARY if _binary(state) else scores}

    def graphs(self, state: State) -> dict[str, GraphSpec]:
        """{"head": ONNX from table.numbers (float64) and table.categories (int64) to the same as `run`}."""
        from onnx import TensorProto, checker, helper, numpy_helper

        nodes: list[Any] = []
        constants: list[Any] = []
        weighted = []
        for member in self.members:
            if member.name in state.json["members"]:
                more, values = member.nodes(_part(state, member), member.name, state.json["kind"])
                share = numpy_helper.from_array(np.array([state.json["members"][member.name]["share"]]), f"{member.name}.share")
                weighted.append(f"{member.name}.weighted")
                nodes += [*more, helper.make_node("Mul", [member.name, share.name], [weighted[-1]])]
                constants += [*values, share]
        output, outputs = _output(state), state.json["outputs"]
        nodes.append(helper.make_node("Sum", weighted, ["scores" if _binary(state) else output]))
        if _binary(state):
            constants.append(numpy_helper.from_array(_BINARY, "binary"))
            nodes.append(helper.make_node("MatMul", ["scores", "binary"], [output]))
        kinds = {"numbers": ("float64", TensorProto.DOUBLE), "categories": ("int64", TensorProto.INT64)}
        widths = state.json["widths"]
        ports = tuple(Port(f"table.{name}", kinds[name][0], ("row", str(width))) for name, width in widths.items())
        inputs = [helper.make_tensor_value_info(f"table.{name}", kinds[name][1], ["row", width]) for name, width in widths.items()]
        result = helper.make_tensor_value_info(output, TensorProto.DOUBLE, ["row", outputs])
        model = helper.make_model(
            helper.make_graph(nodes, self.name, inputs, [result], constants),
            opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)],
            ir_version=8,
        )
        checker.check_model(model)
        return {"head": GraphSpec(ports, (Port(output, "float64", ("row", str(outputs))),), proto=model.SerializeToString())}

    def _settings(self, given: Mapping[str, Any]) -> dict[str, Any]:
        for name, value in given.items():
            if name not in self.defaults:
                raise MainstemError(f"the predictor '{self.name}' has no setting '{name}'", do=suggest(name, self.defaults))
            kind, low, high = _LIMITS[name]
            if isinstance(value, bool) or not isinstance(value, kind) or not low <= value <= high:
                noun = "a whole number" if kind is int else "a number"
                where = f"predictor '{self.name}' setting '{name}'"
                raise MainstemError(f"expected {noun} from {low:g} to {high:g}, found {value!r}", where=where)
        return {**self.defaults, **given}


def _part(state: State, member: Member) -> Arrays:
    """The arrays of one member."""
    prefix = f"{member.name}."
    return {name.removeprefix(prefix): array for name, array in state.arrays.items() if name.startswith(prefix)}


def _output(state: State) -> str:
    return "value" if state.json["kind"] == "value" else "logits"


def _binary(state: State) -> bool:
    return bool(state.json["kind"] == "margin" and state.json["task"] == "classification")


def _shares(problem: Problem, scores: Sequence[Array]) -> list[float]:
    """Weights of the members, that sum to 1: their mean under the likelihood of the held-out rows, all weights equally likely before.

    Few rows leave them near equal, many rows single out the best. Below 1 in 50 a member is left out.
    """
    grid = np.array([g for g in product(range(_STEPS + 1), repeat=len(scores)) if sum(g) == _STEPS]) / _STEPS
    loss = np.array([problem.loss(np.tensordot(point, scores, axes=1)) for point in grid])
    rows = len(problem.y)
    evidence = -0.5 * rows * np.log(np.maximum(loss, 1e-300)) if problem.kind == "value" else -rows * loss
    shares = np.average(grid, axis=0, weights=np.exp(evidence - evidence.max()))
    shares = np.where(shares < 0.02, 0.0, shares)
    return [float(share) for share in shares / shares.sum()]

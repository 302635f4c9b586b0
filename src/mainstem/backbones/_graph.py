"""Writing an ONNX graph by hand: nodes and constants in the order in which they are asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mainstem.contracts import Array, GraphSpec, Port

_OPSET = 18


class Graph:
    """Nodes that grow; every value has a name, and `add` answers with that of what it added."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def constant(self, array: Any) -> str:
        """The name of a constant."""
        from onnx import numpy_helper

        name = f"constant.{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def add(self, operation: str, *inputs: str | Array, name: str = "", **attributes: Any) -> str:
        """A node with one output; arrays among the inputs become constants. `name`: of the output."""
        from onnx import helper

        name = name or f"step.{len(self.nodes)}"
        names = [each if isinstance(each, str) else self.constant(each) for each in inputs]
        self.nodes.append(helper.make_node(operation, names, [name], **attributes))
        return name

    def cast(self, value: str, dtype: str) -> str:
        """The value as float32, float64 or int64."""
        return self.add("Cast", value, to=_type(dtype))

    def insert(self, data: bytes, inputs: Mapping[str, str], outputs: Sequence[str]) -> list[str]:
        """The part of another graph between these tensors of it; `inputs`: its name → ours. → Our names of the outputs."""
        import onnx
        from onnx import utils

        part = utils.Extractor(onnx.load_from_string(data)).extract_model(list(inputs), list(outputs))
        prefix = f"part.{len(self.nodes)}."
        graph = onnx.compose.add_prefix(part, prefix).graph
        for theirs, ours in inputs.items():
            self.add("Identity", ours, name=prefix + theirs)
        self.nodes += graph.node
        self.constants += graph.initializer
        return [prefix + name for name in outputs]

    def finish(self, inputs: Sequence[Port], outputs: Sequence[Port], shared: Sequence[Port] = ()) -> GraphSpec:
        """The whole graph between these ports. `shared`: inputs that come from the graph "NAME.shared"."""
        from onnx import checker, helper

        def told(port: Port) -> Any:
            axes = [int(axis) if axis.isdigit() else None if axis == "shared" else axis for axis in port.axes]
            return helper.make_tensor_value_info(port.name, _type(port.dtype), axes)

        model = helper.make_model(
            helper.make_graph(self.nodes, "graph", [told(p) for p in (*inputs, *shared)], [told(p) for p in outputs], self.constants),
            opset_imports=[helper.make_opsetid("", _OPSET), helper.make_opsetid("ai.onnx.ml", 3)],
            ir_version=8,
        )
        checker.check_model(model)
        return GraphSpec(tuple(inputs), tuple(outputs), proto=model.SerializeToString(deterministic=True))


def _type(dtype: str) -> int:
    from onnx import helper

    return int(helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))

"""ONNX graphs of predictors, node by node."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from mainstem.contracts import Array, GraphSpec, Port


class Nodes:
    """A graph that is being made: `add` puts a node and answers the name of its output."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def constant(self, array: Array) -> str:
        """A constant by its value."""
        from onnx import numpy_helper

        self.constants.append(numpy_helper.from_array(np.asarray(array), f"c{len(self.constants)}"))
        return str(self.constants[-1].name)

    def add(self, operation: str, *inputs: str | Array, name: str = "", domain: str = "", **attributes: Any) -> str:
        """A node on names and constants; `name`: of its output."""
        from onnx import helper

        names = [each if isinstance(each, str) else self.constant(each) for each in inputs]
        output = name or f"n{len(self.nodes)}"
        self.nodes.append(helper.make_node(operation, names, [output], domain=domain, **attributes))
        return output

    def model(self, inputs: Sequence[Port], outputs: Sequence[Port]) -> GraphSpec:
        """The finished graph, checked."""
        from onnx import checker, helper

        def info(port: Port) -> Any:
            shape = [int(axis) if axis.isdigit() else axis for axis in port.axes]
            return helper.make_tensor_value_info(port.name, helper.np_dtype_to_tensor_dtype(np.dtype(port.dtype)), shape)

        graph = helper.make_graph(self.nodes, "head", [info(p) for p in inputs], [info(p) for p in outputs], self.constants)
        opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
        made = helper.make_model(graph, opset_imports=opsets, ir_version=8)
        checker.check_model(made)
        return GraphSpec(tuple(inputs), tuple(outputs), proto=made.SerializeToString())

"""An ONNX graph that is being rewritten: who uses what, constants in, nodes out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import onnxruntime

from mainstem.contracts import Array, Arrays
from mainstem.runtimes.onnx import function

_OWN = "int8."  # begins the names of what is made here
CONTRIB = "com.microsoft"  # operators of ONNX Runtime beside the standard's


class Graph:
    """The nodes of a graph in order; `replace` puts others in the place of one. Names that begin with "int8." are made here."""

    def __init__(self, data: bytes) -> None:
        import onnx

        self.onnx = onnx
        self.model = onnx.load_from_string(data)
        self.nodes: list[Any] = list(self.model.graph.node)
        self.constants: dict[str, Array] = {t.name: onnx.numpy_helper.to_array(t) for t in self.model.graph.initializer}
        self.users: dict[str, list[Any]] = {}
        for node in self.nodes:
            for name in node.input:
                self.users.setdefault(name, []).append(node)
        self.outputs = [output.name for output in self.model.graph.output]
        self.inputs = [given.name for given in self.model.graph.input]
        self._instead: dict[int, list[Any]] = {}
        own = [name for name in (*self.constants, *(o for node in self.nodes for o in node.output)) if name.startswith(_OWN)]
        self._count = max((int(name.removeprefix(_OWN)) for name in own), default=0)

    def only_user(self, name: str, kind: str) -> Any:
        """The one node that uses a value, where there is one alone and it is of this kind; else None."""
        users = self.users.get(name, [])
        return users[0] if len(users) == 1 and users[0].op_type == kind and name not in self.outputs else None

    def value(self, name: str) -> Array | None:
        """The value of a constant, be it kept or made by a node; None for what is computed."""
        node = next((n for n in self.nodes if name in n.output and n.op_type == "Constant"), None)
        if node is None:
            return self.constants.get(name)
        array: Array = self.onnx.numpy_helper.to_array(node.attribute[0].t)
        return array

    def is_fixed(self) -> bool:
        """Whether every axis of the inputs but the first has one size."""
        return all(d.dim_value > 0 for given in self.model.graph.input for d in list(given.type.tensor_type.shape.dim)[1:])

    def constant(self, value: Any) -> str:
        """A new constant; its name."""
        name = self._name()
        self.constants[name] = np.ascontiguousarray(value) if np.ndim(value) else np.asarray(value)
        return name

    def node(self, made: list[Any], kind: str, inputs: Sequence[str], output: str = "", domain: str = "", **attributes: Any) -> str:
        """Append a node to `made`; the name of its one output."""
        output = output or self._name()
        made.append(self.onnx.helper.make_node(kind, list(inputs), [output], name=f"{output}.{kind}", domain=domain, **attributes))
        return output

    def replace(self, node: Any, made: Iterable[Any] = ()) -> None:
        """Put nodes, or nothing, in the place of one."""
        self._instead[id(node)] = list(made)

    def values(self, names: Sequence[str], samples: Iterable[Arrays]) -> Iterable[Mapping[str, Array]]:
        """What the graph as it was read computes inside for each sample, on one thread."""
        tapped = self.onnx.ModelProto()
        tapped.CopyFrom(self.model)
        kept = {output.name for output in tapped.graph.output}
        tapped.graph.output.extend(self.onnx.helper.make_empty_tensor_value_info(name) for name in names if name not in kept)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = 1, 3
        session = onnxruntime.InferenceSession(tapped.SerializeToString(), options, providers=["CPUExecutionProvider"])
        run = function(session)
        return (run({name: arrays[name] for name in self.inputs if name in arrays}, tuple(names)) for arrays in samples)

    def written(self) -> bytes:
        """The graph as it is now."""
        graph = self.model.graph
        used = set(self.outputs)
        nodes: list[Any] = []
        rewritten = [new for node in self.nodes for new in self._instead.get(id(node), [node])]
        for node in reversed(rewritten):
            if used & set(node.output):  # else nothing needs it any more
                nodes.insert(0, node)
                used |= set(node.input)
        del graph.node[:], graph.initializer[:], graph.value_info[:]
        graph.node.extend(nodes)
        graph.initializer.extend(self.onnx.numpy_helper.from_array(array, name) for name, array in self.constants.items() if name in used)
        if not any(each.domain == CONTRIB for each in self.model.opset_import):
            self.model.opset_import.append(self.onnx.helper.make_opsetid(CONTRIB, 1))
        data: bytes = self.model.SerializeToString(deterministic=True)
        return data

    def _name(self) -> str:
        self._count += 1
        return f"{_OWN}{self._count}"

"""ONNX: graphs are written from the trained networks and read by ONNX Runtime, without PyTorch.

The writer traces a module on the inputs of a recorded call (TorchScript exporter: ten times faster here than the
torch.export one and equal in its answers, which the seal checks for every graph that ships).
"""

from __future__ import annotations

import hashlib
import io
import warnings
from collections.abc import Mapping
from functools import cache as kept
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from mainstem.contracts import Array, Arrays, GraphSpec
from mainstem.errors import MainstemError
from mainstem.runtimes._calls import Function, GraphRunner, threads
from mainstem.runtimes._protobuf import has_external_data

OPSET = 18
SHARED = ".shared"  # ends the name of the graph without inputs whose outputs are further inputs of another
_LARGE = 256  # numbers, from which on half of them is worth a node
_TAKEN = "in."  # before an input that has the name of an output (a cache goes in and out): ONNX wants them apart


def write(spec: GraphSpec, inputs: Arrays) -> bytes:
    """The graph as ONNX: `spec.proto` as it is, or `spec.module` traced on `inputs` (those of one recorded call)."""
    if spec.proto:
        return spec.proto
    import onnx
    import torch

    names = [port.name for port in spec.inputs]
    outputs = [port.name for port in spec.outputs]
    tensors = tuple(torch.from_numpy(np.ascontiguousarray(inputs[name])) for name in names)
    taken = [_TAKEN + name if name in outputs else name for name in names]
    ports = zip((*taken, *outputs), (*spec.inputs, *spec.outputs), strict=True)
    axes = {name: _dynamic(port.axes) for name, port in ports}
    buffer = io.BytesIO()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # the tracer's notes on constants; what is wrong with a graph the seal finds
        torch.onnx.export(
            _Positional(spec.module, names, outputs).eval(),
            tensors,
            buffer,  # type: ignore[arg-type]  # the newer exporter's type; this one writes to streams
            dynamo=False,
            input_names=taken,
            output_names=outputs,
            dynamic_axes={name: axis for name, axis in axes.items() if axis},
            opset_version=OPSET,
        )
    model = onnx.load_from_string(buffer.getvalue())
    del model.metadata_props[:]
    for node in model.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    data: bytes = model.SerializeToString(deterministic=True)
    return data


def halved(data: bytes) -> bytes:
    """The same graph with its weights kept in float16, half the size; they are widened again when it is loaded."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    model = onnx.load_from_string(data)
    graph = model.graph
    casts = []
    for i, tensor in enumerate(graph.initializer):
        array, name = numpy_helper.to_array(tensor), tensor.name
        if array.dtype == np.float32 and array.size >= _LARGE:
            graph.initializer[i].CopyFrom(numpy_helper.from_array(array.astype(np.float16), f"{name}.half"))
            casts.append(helper.make_node("Cast", [f"{name}.half"], [name], to=TensorProto.FLOAT))
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    small: bytes = model.SerializeToString(deterministic=True)
    return small


def _dynamic(axes: tuple[str, ...]) -> dict[int, str]:
    """The axes whose size differs from call to call, named."""
    return {i: axis.replace(">", "_").replace("+", "_").replace(":", "_") for i, axis in enumerate(axes) if not axis.isdigit()}


def _Positional(module: Any, names: list[str], outputs: list[str]) -> Any:
    """The module as the exporter takes it: tensors in order → tensors in order."""
    import torch

    class Positional(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = module

        def forward(self, *tensors: Any) -> Any:
            answer = self.inner(dict(zip(names, tensors, strict=True)))
            return tuple(answer[name] for name in outputs)

    training = module.training
    wrapped = Positional()
    wrapped.train(training)
    return wrapped


def session(data: bytes, where: str = "", *, once: bool = False) -> onnxruntime.InferenceSession:
    """A session for one graph; `once`: it runs a single time, so nothing is computed beforehand.

    Raises MainstemError where it holds external data or is not a graph.
    """
    try:
        if has_external_data(data):
            raise MainstemError(
                "this graph keeps tensors outside its file, which is refused", where=where, do="Export it as a single file."
            )
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = threads()
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # a thread that waits leaves its core to others
        left_out = ["ConstantFolding"] if once else []
        made = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"], disabled_optimizers=left_out)
        made._model_bytes = None  # else it holds the file's bytes as well as its weights for as long as it lives
        return made
    except MainstemError:
        raise
    except Exception as error:  # the runtime's own exceptions have no common base
        reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
        raise MainstemError(f"this is not a graph that ONNX Runtime can read: {reason}", where=where) from None


def function(made: onnxruntime.InferenceSession) -> Function:
    """A session as a function on arrays."""

    taken = {i.name.removeprefix(_TAKEN): i.name for i in made.get_inputs()}

    def run(arrays: Arrays, wanted: tuple[str, ...]) -> dict[str, Array]:
        feed = {taken[name]: np.ascontiguousarray(array) for name, array in arrays.items() if name in taken}
        return dict(zip(wanted, made.run(list(wanted), feed), strict=True))

    return run


def runner(folder: Path | str, specs: Mapping[str, GraphSpec], cache: dict[str, Function] | None = None) -> GraphRunner:
    """A Runner over the graphs of a model folder. Graphs of equal bytes share one session through `cache`.

    By bytes, not by `weights_id`: that is what a folder says of itself, and one that claims another model's id must not answer for it.
    """
    paths = {name: Path(folder) / "onnx" / f"{name}.onnx" for name in specs}
    made = functions({name: path.read_bytes() for name, path in paths.items()}, {name: str(path) for name, path in paths.items()}, cache)
    return GraphRunner(made, specs)


def functions(
    graphs: Mapping[str, bytes], where: Mapping[str, str] | None = None, cache: dict[str, Function] | None = None
) -> dict[str, Function]:
    """A function for each graph but those "NAME.shared", whose outputs become further inputs of NAME. `where`: files, for messages."""
    where, cache = where or {}, {} if cache is None else cache
    made = {}
    for name in (name for name in graphs if not name.endswith(SHARED)):
        shared = f"{name}{SHARED}"
        key = hashlib.sha256(graphs[name] + graphs.get(shared, b"")).hexdigest()
        if key not in cache:
            alone = function(session(graphs[name], where.get(name, "")))
            cache[key] = _with_shared(alone, graphs[shared], where.get(shared, "")) if shared in graphs else alone
        made[name] = cache[key]
    return made


def _with_shared(inner: Function, data: bytes, where: str) -> Function:
    """A function whose further inputs are the outputs of a graph that has none itself: run at the first call, and kept."""

    @kept
    def computed() -> dict[str, Array]:
        made = session(data, where, once=True)
        return dict(zip([output.name for output in made.get_outputs()], made.run(None, {}), strict=True))

    return lambda arrays, wanted: inner({**computed(), **arrays}, wanted)

"""ONNX: graphs are written from the trained networks and read by ONNX Runtime, without PyTorch.

The writer traces a module on the inputs of a recorded call (TorchScript exporter: ten times faster here than the
torch.export one and equal in its answers, which the seal checks for every graph that ships).
"""

from __future__ import annotations

import hashlib
import io
import itertools
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache as kept
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from mainstem.artifact import Adapter, inside, read_adapter
from mainstem.contracts import ADAPTER, Array, Arrays, GraphSpec
from mainstem.errors import MainstemError, out_of_memory
from mainstem.runtimes import _attention, _lowrank, _widths
from mainstem.runtimes import _linear as linear
from mainstem.runtimes._calls import Bound, Function, GraphRunner, threads
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

    inner = [port for port in spec.inputs if port.name != ADAPTER.name]
    names = [port.name for port in inner]
    outputs = [port.name for port in spec.outputs]
    tensors = tuple(torch.from_numpy(np.ascontiguousarray(inputs[name])) for name in names)
    taken = [_TAKEN + name if name in outputs else name for name in names]
    ports = zip((*taken, *outputs), (*inner, *spec.outputs), strict=True)
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
    _attention.simplify(model.graph)
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
    with _told(where):
        _refuse_external(data, where)
        return _widths.session(data, threads(), ["ConstantFolding"] if once else [])


@contextmanager
def _told(where: str) -> Iterator[None]:
    """What the runtime raises about a graph, as a MainstemError; a lack of memory says nothing about it."""
    try:
        yield
    except MainstemError:
        raise
    except Exception as error:  # the runtime's own exceptions have no common base
        if out_of_memory(error):
            raise
        reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
        raise MainstemError(f"this is not a graph that ONNX Runtime can read: {reason}", where=where) from None


def _refuse_external(data: bytes, where: str) -> None:
    if has_external_data(data):
        raise MainstemError("this graph keeps tensors outside its file, which is refused", where=where, do="Export it as a single file.")


def function(made: onnxruntime.InferenceSession | _widths.Sessions) -> Function:
    """A session as a function on arrays; of several widths, each run takes the one that its context allows."""
    sessions = made if isinstance(made, Mapping) else {threads(): made}
    taken = {i.name.removeprefix(_TAKEN): i.name for i in _widths.chosen(sessions).get_inputs()}

    def run(arrays: Arrays, wanted: tuple[str, ...]) -> dict[str, Array]:
        feed = {taken[name]: np.ascontiguousarray(array) for name, array in arrays.items() if name in taken}
        return dict(zip(wanted, _widths.chosen(sessions).run(list(wanted), feed), strict=True))

    return run


@dataclass(frozen=True)
class _Loaded:
    """A session, and the adapters beside it. Never changed: a call that runs goes on with the one that it began with."""

    run: Function
    sizes: Mapping[str, tuple[int, int]]
    groups: tuple[_lowrank.Group, ...]
    adapters: Mapping[int, Adapter]
    banks: Arrays
    without: Arrays  # banks that hold none

    def holding(self, adapters: Mapping[int, Adapter]) -> _Loaded:
        """The same session beside these adapters."""
        return replace(self, adapters=adapters, banks=_lowrank.stack(self.groups, self.sizes, list(adapters.values())))

    def places(self, rows: Array) -> Array:
        """The places in the banks of these adapters; one for all rows where they have the same."""
        numbers = rows.tolist()
        if gone := set(numbers) - self.adapters.keys() - {0}:
            raise MainstemError(f"the adapter {min(gone)} is no longer loaded", do="Ask again.")
        place = {number: i for i, number in enumerate(self.adapters, 1)} | {0: 0}
        distinct = set(numbers)
        return np.array([place[number] for number in (distinct if len(distinct) == 1 else numbers)], np.int64)


class Graph:
    """A graph in memory as a function that all models of equal bytes share; adapters come to it and go while it runs.

    Its input "adapter" [row] says which of them a row takes, 0 for none.
    """

    def __init__(self, data: bytes, where: str = "", adapter: Adapter | None = None, widths: Sequence[int] = ()) -> None:
        """widths: of its sessions; none: one with a thread a core.

        Raises MainstemError where the bytes are no graph, or have no place for the adapter.
        """
        self.where, self.widths = where, widths or (threads(),)
        self._changing = threading.Lock()
        self._numbers = itertools.count(1)  # never given twice: a call that waits must not meet another's adapter
        self._loaded = self._load(data, _lowrank.sizes_of(adapter) if adapter else {})

    def __call__(self, arrays: Arrays, wanted: tuple[str, ...]) -> dict[str, Array]:
        """The wanted outputs."""
        loaded = self._loaded
        if not loaded.groups:
            return loaded.run(arrays, wanted)
        rows = arrays.get(ADAPTER.name, _NONE)
        banks, places = (loaded.banks, loaded.places(rows)) if rows.any() else (loaded.without, _NONE)
        return loaded.run({**arrays, **banks, _lowrank.ROWS: places}, wanted)

    def add(self, adapter: Adapter, data: bytes) -> int:
        """The number under which rows may take the adapter from now on. data: the graph's bytes, read again where a layer is new to it."""
        with self._changing:
            loaded, sizes = self._loaded, _lowrank.sizes_of(adapter)
            if not sizes.items() <= loaded.sizes.items():
                loaded = self._load(data, {**loaded.sizes, **sizes})
            number = next(self._numbers)
            self._loaded = loaded.holding({**self._loaded.adapters, number: adapter})
            return number

    def remove(self, number: int) -> None:
        """Give up an adapter; calls that wait for it fail, those that run end as they began."""
        with self._changing:
            self._loaded = self._loaded.holding({n: adapter for n, adapter in self._loaded.adapters.items() if n != number})

    def _load(self, data: bytes, sizes: Mapping[str, tuple[int, int]]) -> _Loaded:
        groups: tuple[_lowrank.Group, ...] = ()
        if sizes:
            try:
                data, groups = _lowrank.branch(data, sizes, self.where)
            except (ValueError, IndexError, StopIteration) as error:
                raise MainstemError(f"this is not a graph that can be adapted: {error}", where=self.where) from error
        with _told(self.where):
            _refuse_external(data, self.where)
            run = function(_widths.sessions(data, self.widths))
        return _Loaded(run, sizes, groups, {}, {}, _lowrank.stack(groups, sizes, []))


_NONE = np.zeros(1, np.int64)  # no adapter, in all rows


def runner(
    folder: Path | str, specs: Mapping[str, GraphSpec], cache: dict[str, Function] | None = None, widths: Sequence[int] = ()
) -> GraphRunner:
    """A Runner over the graphs of a model folder. Graphs of equal bytes share their sessions through `cache`. widths: as in `Graph`.

    By bytes, not by `weights_id`: that is what a folder says of itself, and one that claims another model's id must not answer for it.
    """
    folder = Path(folder)
    paths = {name: folder / "onnx" / f"{name}.onnx" for name in specs}
    adapters = {name: _adapter(folder, spec) for name, spec in specs.items() if spec.adapter}
    graphs = {name: path.read_bytes() for name, path in paths.items()}
    return GraphRunner(functions(graphs, {name: str(path) for name, path in paths.items()}, cache, adapters, widths), specs)


def _adapter(folder: Path, spec: GraphSpec) -> Adapter:
    adapter = read_adapter(inside(folder, f"adapters/{spec.adapter}"))
    if spec.adapter_id and adapter.adapter_id != spec.adapter_id:  # "": whoever asks has not told which it is to be
        raise MainstemError(f"the adapter '{spec.adapter}' is another one than the model was made with", where=str(folder))
    return adapter


def functions(
    graphs: Mapping[str, bytes],
    where: Mapping[str, str] | None = None,
    cache: dict[str, Function] | None = None,
    adapters: Mapping[str, Adapter] | None = None,
    widths: Sequence[int] = (),
) -> dict[str, Function]:
    """A function for each graph but those "NAME.shared", whose outputs become further inputs of NAME. `where`: files, for messages.

    A graph with an adapter is `Bound` to it: the Graph itself is shared with the models that have another, or none.
    """
    where, cache, adapters = where or {}, {} if cache is None else cache, adapters or {}
    made: dict[str, Function] = {}
    for name in (name for name in graphs if not name.endswith(SHARED)):
        shared, adapter, data = f"{name}{SHARED}", adapters.get(name), graphs[name]
        digest = hashlib.sha256(data)
        digest.update(graphs.get(shared, b""))
        key = digest.hexdigest()
        if key not in cache:
            whole = None if adapter or shared in graphs else linear.read(data)
            alone = whole or Graph(data, where.get(name, ""), adapter, widths)
            cache[key] = _with_shared(alone, graphs[shared], where.get(shared, "")) if shared in graphs else alone
        made[name] = _bound(cache[key], adapter, data) if adapter else cache[key]
    return made


def _bound(graph: Any, adapter: Adapter, data: bytes) -> Bound:
    number = graph.add(adapter, data)
    return Bound(graph, {ADAPTER.name: number}, lambda: graph.remove(number))


def _with_shared(inner: Function, data: bytes, where: str) -> Function:
    """A function whose further inputs are the outputs of a graph that has none itself: run at the first call, and kept."""

    @kept
    def computed() -> dict[str, Array]:
        made = session(data, where, once=True)
        return dict(zip([output.name for output in made.get_outputs()], made.run(None, {}), strict=True))

    return lambda arrays, wanted: inner({**computed(), **arrays}, wanted)

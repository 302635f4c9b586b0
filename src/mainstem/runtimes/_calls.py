"""What every runtime shares: a call is checked against the graph's ports, Kepts are unpacked and packed, dtypes are cast."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from typing import Any

import numpy as np

from mainstem.contracts import Array, Arrays, Call, GraphSpec, Kept, Port
from mainstem.runtimes._join import rows_of

CORES: ContextVar[int] = ContextVar("cores", default=0)  # that runs which are started in this context may use; 0: all
Function = Callable[[Arrays, tuple[str, ...]], dict[str, Array]]  # (inputs, wanted outputs) → outputs


def threads() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Bound:
    """A shared function as one model calls it: with `rows`, inputs that hold one value of the model's own in every row.

    Calls of different models may be joined by their `function` once each has its rows. `close` gives up what the model has beside it.
    """

    def __init__(self, function: Function, rows: Mapping[str, int], close: Callable[[], None] = lambda: None) -> None:
        self.function, self.rows, self.close = function, dict(rows), close

    def __call__(self, arrays: Arrays, wanted: tuple[str, ...]) -> dict[str, Array]:
        """Run the function on these arrays and the rows."""
        filled = {name: np.full(len(arrays[name]) if name in arrays else 1, value, np.int64) for name, value in self.rows.items()}
        return self.function({**arrays, **filled}, wanted)


class GraphRunner:
    """A Runner over functions by graph name: a torch module, a predictor's own library, an ONNX session."""

    def __init__(self, functions: Mapping[str, Function], specs: Mapping[str, GraphSpec]) -> None:
        self.functions, self.specs = dict(functions), dict(specs)

    def __call__(self, call: Call) -> dict[str, Array | Kept]:
        """Run one call."""
        spec = self.specs[call.graph]
        names = tuple(port.name for port in spec.outputs)
        wanted = tuple(n for n in names if not call.outputs or n in call.outputs or _kept_as(n, call.keep))
        outputs = self.functions[call.graph](prepare(call, spec), wanted)
        return pack(call, spec, outputs)


def prepare(call: Call, spec: GraphSpec) -> dict[str, Array]:
    """The arrays of a call as the graph takes them: Kepts unpacked, dtypes cast, optional inputs filled in."""
    arrays: dict[str, Array] = {}
    for name, value in call.inputs.items():
        arrays.update(value.arrays if isinstance(value, Kept) else {name: value})
    return filled(call.graph, arrays, by_name(spec.inputs))


def filled(graph: str, given: Mapping[str, Any], ports: Mapping[str, Port]) -> dict[str, Array]:
    """Arrays cast to the dtypes of these ports, and optional ones filled in. Raises KeyError where another is missing."""
    arrays = {name: np.asarray(array, dtype=ports[name].dtype) for name, array in given.items() if name in ports}
    missing = [port for port in ports.values() if port.name not in arrays]
    if missing:
        rows = rows_of(arrays, ports)
        for port in missing:
            if not port.optional:
                raise KeyError(f"graph '{graph}' needs the input '{port.name}', the call has {sorted(given)}")
            arrays[port.name] = np.zeros([_empty(axis, rows) for axis in port.axes], port.dtype)
    return arrays


def pack(call: Call, spec: GraphSpec, outputs: Arrays) -> dict[str, Array | Kept]:
    """The answer of a call: wanted outputs as arrays, what it keeps as Kepts."""
    ports = by_name(spec.outputs)
    kept: dict[str, dict[str, Array]] = {}
    answer: dict[str, Array | Kept] = {}
    for name, array in outputs.items():
        if keep := _kept_as(name, call.keep):
            kept.setdefault(keep, {})[name] = array
        else:
            answer[name] = array
    for keep, arrays in kept.items():
        answer[keep] = Kept(arrays, {name: ports[name] for name in arrays})
    return answer


def _kept_as(name: str, keep: tuple[str, ...]) -> str:
    return next((k for k in keep if name == k or name.startswith(f"{k}.")), "")


def _empty(axis: str, rows: int) -> int:
    if axis in ("row", "row>row"):
        return rows
    return int(axis) if axis.isdigit() else 0


def by_name(ports: Sequence[Port]) -> dict[str, Port]:
    """One side of a graph by name. Inputs and outputs are two sides: a cache has the same name on both, and other axes."""
    return {port.name: port for port in ports}

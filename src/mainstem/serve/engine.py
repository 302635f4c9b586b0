"""An engine: holds the graphs of the models over one backbone and runs them. In a process of its own, or in that of the front.

`python -m mainstem.serve.engine FD` answers messages over the socket FD until its other side is closed. It imports as little
as an engine needs: neither HTTP nor what reads and encodes inputs.

    open  {"model", "folder", "graphs": {name: Ports}}        → {"graphs": {name: [number, {input: value of each row}]}}
    run   {"graph": number, "wanted", "keep", "cores", "parts"} → {"parts", "seconds"}
    close {"model"} · free {"handles"}                          (no answer)
"""

from __future__ import annotations

import itertools
import os
import queue
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mainstem import files
from mainstem.contracts import Array, Arrays, GraphSpec, Port
from mainstem.errors import MainstemError, out_of_memory
from mainstem.runtimes._calls import CORES, Function, by_name
from mainstem.runtimes._join import join, lengths_of, rows_of, split, trim
from mainstem.serve import channel

BEAT = 1.0  # seconds between two signs of life
AHEAD = 1  # runs that are handed over before a lane is free: none idles while the front reads an answer
Ports = tuple[tuple[Port, ...], tuple[Port, ...], str]  # inputs, outputs, and the adapter that the graph runs with, "" for none


@dataclass(frozen=True)
class Part:
    """One call of a merged run: its arrays, and the caches that it takes up, each with the rows picked of it (None: all)."""

    arrays: Arrays
    held: Sequence[tuple[int, Array | None]] = ()


@dataclass(frozen=True)
class Answered:
    """What one part is answered: arrays, and by the name of a keep the handle and the shapes of what stays here."""

    arrays: dict[str, Array]
    kept: dict[str, tuple[int, dict[str, tuple[int, ...]]]] = field(default_factory=dict)


@dataclass(frozen=True)
class _Graph:
    function: Function
    inputs: Mapping[str, Port]
    outputs: Mapping[str, Port]


class Engine:
    """Thread-safe. Equal graphs with equal ports have one number, whichever models they came with."""

    def __init__(self) -> None:
        self._sessions: dict[str, Function] = {}
        self._graphs: dict[int, _Graph] = {}
        self._numbers: dict[Any, int] = {}
        self._next = itertools.count()
        self._kept: dict[int, dict[str, tuple[Array, Port]]] = {}
        self._handles = itertools.count(1)
        self._lock = threading.Lock()
        self._models: dict[int, set[int]] = {}  # the numbers of the graphs of each model
        self._closing: dict[int, list[Any]] = {}  # and what it has beside them: adapters

    def open(self, model: int, folder: Path, graphs: Mapping[str, Ports]) -> dict[str, tuple[int, dict[str, int]]]:
        """The graphs of a model folder by name: number, and the inputs that have one value in every row of this model's calls.

        Verify the folder first. Raises MainstemError where a graph cannot be read.
        """
        from mainstem.runtimes import _widths, onnx

        specs = {name: _spec(*ports) for name, ports in graphs.items()}
        with self._lock:
            try:
                functions = onnx.runner(folder, specs, self._sessions, _widths.widths()).functions
            except (OSError, KeyError, ValueError) as error:
                raise MainstemError(f"a graph cannot be read ({type(error).__name__}: {error})", where=str(folder)) from error
            opened: dict[str, tuple[int, dict[str, int]]] = {}
            for name, ports in graphs.items():
                if name not in functions:  # a graph without inputs whose outputs another takes: it is a part of that one
                    continue
                shared = getattr(functions[name], "function", functions[name])
                number = self._numbers.setdefault((id(shared), ports[:2]), next(self._next))
                self._graphs.setdefault(number, _Graph(shared, by_name(ports[0]), by_name(ports[1])))
                opened[name] = number, dict(getattr(functions[name], "rows", {}))
            self._models[model] = {number for number, _ in opened.values()}
            self._closing[model] = [each.close for each in functions.values() if hasattr(each, "close")]
            return opened

    def close(self, model: int) -> None:
        """Let go of what no other model uses."""
        with self._lock:
            for close in self._closing.pop(model, []):
                close()
            mine = self._models.pop(model, set())
            for number in mine - set().union(*self._models.values()):
                gone = self._graphs.pop(number)
                self._numbers = {key: n for key, n in self._numbers.items() if n != number}
                if all(graph.function is not gone.function for graph in self._graphs.values()):
                    self._sessions = {key: f for key, f in self._sessions.items() if f is not gone.function}

    def run(self, number: int, parts: Sequence[Part], wanted: tuple[str, ...], keep: tuple[str, ...], cores: int = 0) -> list[Answered]:
        """Run these calls as one and part the answer again: each is answered as it would be alone. cores: that it may use, 0 for all."""
        CORES.set(cores)
        graph = self._graphs[number]
        given = [self._taken_up(part) for part in parts]
        counts = [rows_of(arrays, graph.inputs) for arrays in given]
        answers = split(graph.function(join(given, graph.inputs), wanted), graph.outputs, counts)
        own = [lengths_of(arrays, graph.inputs) for arrays in given]
        joined = {axis: max(lengths[axis] for lengths in own) for axis in own[0]}
        trimmed = [
            trim(answer, graph.outputs, lengths, joined) if lengths != joined else answer
            for answer, lengths in zip(answers, own, strict=True)
        ]
        return [self._kept_back(answer, graph.outputs, keep, lone=len(parts) == 1) for answer in trimmed]

    def _taken_up(self, part: Part) -> dict[str, Array]:
        arrays = dict(part.arrays)
        for handle, picked in part.held:
            for name, (array, port) in self._kept[handle].items():
                if picked is not None and "row" in port.axes:
                    array = np.take(array, picked, axis=port.axes.index("row"))
                arrays[name] = array
        return arrays

    def _kept_back(self, answer: Arrays, ports: Mapping[str, Port], keep: tuple[str, ...], *, lone: bool) -> Answered:
        if not keep:
            return Answered(dict(answer))
        arrays, kept = {}, {}
        staying: dict[str, dict[str, tuple[Array, Port]]] = {}
        for name, array in answer.items():
            stays = next((k for k in keep if name == k or name.startswith(f"{k}.")), "")
            if stays:
                own = array if lone else array.copy()  # a view of a joined array would hold all of it
                staying.setdefault(stays, {})[name] = own, ports[name]
            else:
                arrays[name] = array
        for name, held in staying.items():
            handle = next(self._handles)
            self._kept[handle] = held
            kept[name] = handle, {each: array.shape for each, (array, _) in held.items()}
        return Answered(arrays, kept)

    def free(self, handles: Sequence[int]) -> None:
        """Let go of what was kept."""
        for handle in handles:
            self._kept.pop(handle, None)


def _spec(inputs: tuple[Port, ...], outputs: tuple[Port, ...], adapter: str) -> GraphSpec:
    return GraphSpec(inputs, outputs, adapter=adapter)


# --- the process --------------------------------------------------------------------------------------------------------


def pack_run(
    number: int, parts: Sequence[Part], wanted: Sequence[str], keep: Sequence[str], cores: int
) -> tuple[dict[str, Any], list[Array]]:
    """A run as a message's header and arrays."""
    arrays: list[Array] = []
    listed = []
    for part in parts:
        names = {name: len(arrays) + i for i, name in enumerate(part.arrays)}
        arrays += part.arrays.values()
        held = []
        for handle, picked in part.held:
            held.append((handle, None if picked is None else len(arrays)))
            arrays += [] if picked is None else [picked]
        listed.append((names, held))
    return {"do": "run", "graph": number, "wanted": wanted, "keep": keep, "cores": cores, "parts": listed}, arrays


def unpack_run(told: Mapping[str, Any], arrays: Sequence[Array]) -> tuple[int, list[Part], tuple[str, ...], tuple[str, ...], int]:
    """The inverse of `pack_run`."""
    parts = [
        Part({name: arrays[i] for name, i in names.items()}, [(handle, None if i is None else arrays[i]) for handle, i in held])
        for names, held in told["parts"]
    ]
    return told["graph"], parts, tuple(told["wanted"]), tuple(told["keep"]), told["cores"]


def pack_answers(answers: Sequence[Answered]) -> tuple[dict[str, Any], list[Array]]:
    """Answers as a message's header and arrays."""
    arrays: list[Array] = []
    listed = []
    for answer in answers:
        listed.append(({name: len(arrays) + i for i, name in enumerate(answer.arrays)}, answer.kept))
        arrays += answer.arrays.values()
    return {"parts": listed}, arrays


def unpack_answers(told: Mapping[str, Any], arrays: Sequence[Array]) -> list[Answered]:
    """The inverse of `pack_answers`."""
    return [
        Answered(
            {name: arrays[i] for name, i in names.items()},
            {name: (handle, {each: tuple(shape) for each, shape in shapes.items()}) for name, (handle, shapes) in kept.items()},
        )
        for names, kept in told["parts"]
    ]


def pack_ports(graphs: Mapping[str, Ports]) -> dict[str, Any]:
    """Ports as JSON."""
    return {name: [[asdict(port) for port in side] for side in sides[:2]] + [sides[2]] for name, sides in graphs.items()}


def unpack_ports(told: Mapping[str, Any]) -> dict[str, Ports]:
    """The inverse of `pack_ports`."""

    def side(ports: Sequence[Mapping[str, Any]]) -> tuple[Port, ...]:
        return tuple(Port(**{**port, "axes": tuple(port["axes"])}) for port in ports)

    return {name: (side(inputs), side(outputs), adapter) for name, (inputs, outputs, adapter) in told.items()}


def fault(error: Exception) -> dict[str, Any]:
    """An error as a message: a MainstemError as it is, of another its type and text."""
    if isinstance(error, MainstemError):
        return {"error": [error.what, error.where, error.do]}
    text = str(error)
    return {"failed": f"{type(error).__name__}: {text[:500]}", "memory": out_of_memory(error)}


class _Lanes:
    """Where runs are under way. While there is one on every core each keeps to its own: left alone, two share a core for milliseconds
    in which another idles."""

    def __init__(self, count: int) -> None:
        self._free: queue.SimpleQueue[int] = queue.SimpleQueue()
        for lane in range(count):
            self._free.put(lane)
        self._cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_setaffinity") else []
        self._kept = len(self._cores) == count

    @contextmanager
    def taken(self, cores: int) -> Iterator[None]:
        """Once a lane is free, for a run on so many cores (0: all)."""
        lane = self._free.get()
        if self._kept:
            full = cores == 1 and self._free.empty()
            with suppress(OSError):  # a core that was taken away meanwhile
                os.sched_setaffinity(0, [self._cores[lane]] if full else self._cores)  # of this thread
        try:
            yield
        finally:
            self._free.put(lane)


class _Process:
    """Answers the front's messages. Its threads take turns at reading: who reads a run runs it, and leaves the channel to the next."""

    def __init__(self, connection: socket.socket, lanes: int) -> None:
        self.connection, self.engine = connection, Engine()
        self._sending, self._reading, self._lanes = threading.Lock(), threading.Lock(), _Lanes(lanes)
        self._threads = [threading.Thread(target=self._lane, daemon=True) for _ in range(lanes + AHEAD)]
        threading.Thread(target=self._beat, daemon=True).start()

    def serve(self) -> None:
        """Until the other side is closed. One thread more than runs that are asked for, so that somebody always reads."""
        for thread in self._threads:
            thread.start()
        self._lane()

    def _lane(self) -> None:
        try:
            while (message := self._next()) is not None:
                self._run(*message)
                del message  # while it waits it holds nothing
        except (OSError, channel.BrokenChannel):
            pass
        except BaseException:
            traceback.print_exc()
        files.clear_scratch(own=True)  # of a model that is loaded just now
        os._exit(0)  # runs under way have nobody to answer, and a channel that was left in the middle has no next message

    def _next(self) -> channel.Message | None:
        """The next run that is asked for; what else is asked is done on the way. None once the other side is closed."""
        with self._reading:
            while (message := channel.receive(self.connection)) is not None:
                told, _ = message
                if told["do"] == "run":
                    return message
                if told["do"] == "open":
                    threading.Thread(target=self._open, args=(told,), daemon=True).start()
                elif told["do"] == "close":
                    self.engine.close(told["model"])
                elif told["do"] == "free":
                    self.engine.free(told["handles"])
            return None

    def _send(self, header: Mapping[str, Any], arrays: Sequence[Array] = ()) -> None:
        with self._sending:
            channel.send(self.connection, header, arrays)

    def _run(self, told: Mapping[str, Any], arrays: Sequence[Array]) -> None:
        with self._lanes.taken(told["cores"]):
            began = time.perf_counter()
            try:
                header, results = pack_answers(self.engine.run(*unpack_run(told, arrays)))
            except Exception as error:  # whatever a graph raises must reach its own request, and no other
                header, results = fault(error), []
            seconds = time.perf_counter() - began
        self._send({"id": told["id"], "seconds": seconds, **header}, results)

    def _open(self, told: Mapping[str, Any]) -> None:
        try:
            answer: dict[str, Any] = {"graphs": self.engine.open(told["model"], Path(told["folder"]), unpack_ports(told["graphs"]))}
        except Exception as error:
            answer = fault(error)
        self._send({"id": told["id"], **answer})

    def _beat(self) -> None:
        while True:
            self._send({"beat": True})
            time.sleep(BEAT)


def main() -> None:
    """Serve over the socket whose number is the first argument; the second says how many runs may be under way at a time."""
    for number in (signal.SIGINT, signal.SIGTERM):  # the front decides when an engine ends
        signal.signal(number, signal.SIG_IGN)
    process = _Process(socket.socket(fileno=int(sys.argv[1])), int(sys.argv[2]))
    with suppress(Exception):  # it is told when a model is opened
        from mainstem.runtimes import onnx  # noqa: F401  # while the front is still busy with the folders

    process.serve()


if __name__ == "__main__":
    main()

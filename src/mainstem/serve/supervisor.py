"""The engines as the front holds them: in this process, or each in one of its own that is watched and replaced.

Both have: `lanes`, runs that it takes at a time; `up`; `back_in()`, seconds until it is up; `start(changed, gone)`; `open`; `close`;
`run`; `free`; `stop`.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mainstem import files
from mainstem.contracts import Array
from mainstem.errors import MainstemError
from mainstem.serve import channel
from mainstem.serve.engine import Answered, Engine, Part, Ports, fault, pack_ports, pack_run, unpack_answers
from mainstem.serve.scheduler import CallFailed, EngineGone, TooLarge

HUNG = 5.0  # seconds without a sign of life, after which an engine is killed
STARTING = 60.0  # the same before its first sign
RUNAWAY = 120.0  # seconds that one run may take
LOADING = 600.0  # seconds that loading a model may take, without a sign of life
TICK = 0.5
BACK_OFF = 30.0  # seconds, at most, between two attempts to start an engine that keeps ending
BUFFER = 1 << 20
THRIFTY = {"MALLOC_ARENA_MAX": "2", "MALLOC_TRIM_THRESHOLD_": "131072"}  # glibc keeps tens of MB less of what runs let go
COMMAND = (sys.executable, "-P", "-m", "mainstem.serve.engine")

Opened = dict[str, tuple[int, dict[str, int]]]
Run = asyncio.Future[tuple[list[Answered], float]]


def error_of(told: Mapping[str, Any]) -> Exception:
    """What an engine raised, from `engine.fault`."""
    if "error" in told:
        what, where, do = told["error"]
        return MainstemError(what, where=where, do=do)
    if told["memory"]:
        return TooLarge("this does not fit into memory", do="Send fewer rows, or smaller ones.")
    return CallFailed(told["failed"])


class NotLoaded(MainstemError):
    """A model that the engine did not load, for want of memory or because it ended; it may another time."""

    status = 503


@contextlib.contextmanager
def loading(folder: Path) -> Iterator[None]:
    """What befalls an engine while a model is loaded and tried, as the sentence for whoever wants it served."""
    where = str(folder)
    try:
        yield
    except EngineGone as error:
        do = "Most often the system ended it for want of memory: free some, or serve fewer models."
        raise NotLoaded("the engine process ended while it loaded this model", where=where, do=do) from error
    except TooLarge as error:
        raise NotLoaded("there is not enough memory to load this model", where=where, do="Free some, or serve fewer models.") from error
    except CallFailed as error:
        do = "See whether `mainstem verify` takes it on this machine."
        raise MainstemError(f"the engine cannot run this model ({' '.join(str(error).split())})", where=where, do=do) from error


class Local:
    """An engine in this process."""

    up = True

    def __init__(self, lanes: int) -> None:
        self.lanes, self.engine = lanes, Engine()
        self._pool = ThreadPoolExecutor(lanes, thread_name_prefix="graphs")

    def back_in(self) -> float:
        """It is always up."""
        return 0.0

    async def start(self, changed: Callable[[], None], gone: Callable[[], None]) -> None:
        """Nothing is to be started."""

    async def open(self, model: int, folder: Path, graphs: Mapping[str, Ports], heard: Callable[[Opened], None]) -> None:
        """Load the graphs of a model; `heard` takes what `Engine.open` tells, here and whenever they are loaded again."""
        try:
            heard(await asyncio.to_thread(self.engine.open, model, folder, graphs))
        except Exception as error:
            raise error_of(fault(error)) from error

    def close(self, model: int) -> None:
        """Let go of a model."""
        self.engine.close(model)

    def run(self, number: int, parts: Sequence[Part], wanted: tuple[str, ...], keep: tuple[str, ...], cores: int = 0) -> Run:
        """Run calls as one."""

        def work() -> tuple[list[Answered], float]:
            began = time.perf_counter()
            try:
                return self.engine.run(number, parts, wanted, keep, cores), time.perf_counter() - began
            except Exception as error:
                raise error_of(fault(error)) from error

        return asyncio.get_running_loop().run_in_executor(self._pool, work)

    def free(self, handle: int) -> None:
        """Let go of what was kept."""
        self.engine.free([handle])

    def kill(self) -> None:
        """End its threads."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def stop(self) -> None:
        """End its threads."""
        self._pool.shutdown(wait=False, cancel_futures=True)


@dataclass
class _Opening:
    folder: Path
    graphs: Mapping[str, Ports]
    heard: Callable[[Opened], None]


@dataclass
class _Pending:
    """What was asked of an engine, when, and whether it is to load a model. `read` makes of the answer what the future has."""

    future: asyncio.Future[Any]
    read: Callable[[channel.Message], Any]
    began: float
    loads: bool

    def answer(self, told: dict[str, Any], arrays: list[Array]) -> None:
        """The answer is here."""
        try:
            self.future.set_result(self.read((told, arrays)))
        except Exception as error:
            self.future.set_exception(error)


class _Process(asyncio.Protocol):
    """One engine process and the channel to it, from its start to its end."""

    def __init__(self, command: Sequence[str], lanes: int) -> None:
        self.ours, theirs = socket.socketpair()
        with theirs:
            for each in (self.ours, theirs):
                each.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER)
            asked = [*command, str(theirs.fileno()), str(lanes)]
            self.process = subprocess.Popen(asked, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, env={**THRIFTY, **os.environ})
        self.reader = channel.Reader()
        self.transport: Any = None
        self.pending: dict[int, _Pending] = {}
        self.numbers = itertools.count(1)
        self.heard_at, self.alive = time.monotonic(), False
        self.freed: deque[int] = deque()  # handles to let go of, with the next beat
        self.ended: Callable[[], None] = lambda: None

    def send(self, header: Mapping[str, Any], arrays: Sequence[Array], read: Callable[[channel.Message], Any]) -> asyncio.Future[Any]:
        """Ask something. The future has what `read` makes of the answer; it raises EngineGone where the process ends before."""
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        if self.transport is None or self.transport.is_closing():
            future.set_exception(EngineGone("the engine ended and is started again"))
            return future
        number = next(self.numbers)
        self.pending[number] = _Pending(future, read, time.monotonic(), header["do"] == "open")
        try:
            self.tell({**header, "id": number}, arrays)
        except Exception:
            del self.pending[number]
            raise
        return future

    def tell(self, header: Mapping[str, Any], arrays: Sequence[Array] = ()) -> None:
        """Say something that has no answer."""
        if self.transport is not None:
            self.transport.write(b"".join(channel.pack(header, arrays)))

    def kill(self) -> None:
        """End it at once."""
        with contextlib.suppress(OSError):
            self.process.kill()

    def wait(self) -> None:
        """Until it has ended; what it left behind is removed."""
        self.process.wait()
        files.clear_scratch()

    def troubled(self, now: float) -> bool:
        """Whether it gives no sign of life, or a run does not end."""
        loading = any(waiting.loads for waiting in self.pending.values())
        silent = now - self.heard_at > (LOADING if loading else HUNG if self.alive else STARTING)
        return silent or any(now - waiting.began > (LOADING if waiting.loads else RUNAWAY) for waiting in self.pending.values())

    def connection_made(self, transport: Any) -> None:
        """The channel is open."""
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        """Some bytes came."""
        self.heard_at, self.alive = time.monotonic(), True
        try:
            for told, arrays in self.reader.feed(data):
                waiting = self.pending.pop(told.get("id", 0), None)
                if waiting and not waiting.future.done():
                    waiting.answer(told, arrays)
                elif "beat" in told and self.freed:
                    self.tell({"do": "free", "handles": [self.freed.popleft() for _ in range(len(self.freed))]})
        except channel.BrokenChannel:
            self.kill()

    def connection_lost(self, error: Exception | None) -> None:
        """The other side was closed: the process has ended, or is about to."""
        waiting, self.pending = self.pending, {}
        self.ended()
        for each in waiting.values():
            if not each.future.done():
                each.future.set_exception(EngineGone("the engine ended while it ran this and is started again"))


class Remote:
    """An engine in a process of its own. `check(model)` raises where a model's folder is not what it was, before it is loaded again."""

    def __init__(self, lanes: int, check: Callable[[int], None] = lambda model: None, command: Sequence[str] = COMMAND) -> None:
        self.lanes, self.check, self.command, self.up = lanes, check, command, False
        self.restarts = 0
        self._models: dict[int, _Opening] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._down_since, self._took = time.monotonic(), 1.0  # seconds that a start takes
        self._process = _Process(command, lanes)  # at once: it imports what it needs while others are still busy

    @property
    def pid(self) -> int:
        """Of the process that there is now."""
        return self._process.process.pid

    def back_in(self) -> float:
        """Seconds until it is probably up."""
        return 0.0 if self.up else max(0.1, self._down_since + self._took - time.monotonic())

    async def start(self, changed: Callable[[], None], gone: Callable[[], None]) -> None:
        """Watch it from this event loop. `changed` hears that it is up again, `gone` that it ended."""
        self._changed, self._gone = changed, gone
        await self._connect()
        self.up = True
        self._tasks.append(asyncio.create_task(self._watch()))

    async def _connect(self) -> None:
        process = self._process
        process.ended = self._ended
        await asyncio.get_running_loop().create_connection(lambda: process, sock=process.ours)

    async def open(self, model: int, folder: Path, graphs: Mapping[str, Ports], heard: Callable[[Opened], None]) -> None:
        """Load the graphs of a model; `heard` takes what `Engine.open` tells, here and whenever they are loaded again."""
        while not self.up:
            await asyncio.sleep(0.05)
        began = time.monotonic()
        await self._load(model, opening := _Opening(folder, graphs, heard))
        self._models[model] = opening
        self._took = max(self._took, time.monotonic() - began + 0.5)

    async def _load(self, model: int, opening: _Opening) -> None:
        asked = {"do": "open", "model": model, "folder": str(opening.folder), "graphs": pack_ports(opening.graphs)}
        opening.heard(await self._process.send(asked, (), _opened))

    def close(self, model: int) -> None:
        """Let go of a model."""
        if self._models.pop(model, None):
            self._process.tell({"do": "close", "model": model})

    def run(self, number: int, parts: Sequence[Part], wanted: tuple[str, ...], keep: tuple[str, ...], cores: int = 0) -> Run:
        """Run calls as one. The future raises EngineGone where the engine ends before it answers."""
        return self._process.send(*pack_run(number, parts, wanted, keep, cores), _answered)

    def free(self, handle: int) -> None:
        """Let go of what was kept, with the next beat. May be called from any thread."""
        self._process.freed.append(handle)

    def _ended(self) -> None:
        if self.up:
            self.up, self._down_since = False, time.monotonic()
            self._gone()
            self._tasks = [self._tasks[0], asyncio.create_task(self._restart())]

    async def _restart(self) -> None:
        pause = 0.0
        while not self.up:
            await asyncio.sleep(pause)
            pause = min(BACK_OFF, 2 * pause + 0.5)
            self._process.kill()
            await asyncio.to_thread(self._process.wait)
            self.restarts += 1
            began = time.monotonic()
            try:
                self._process = _Process(self.command, self.lanes)
                await self._connect()
                for model, opening in list(self._models.items()):
                    try:
                        await asyncio.to_thread(self.check, model)
                        await self._load(model, opening)
                    except EngineGone:
                        raise
                    except MainstemError:  # it stays out, and the others are served
                        self._models.pop(model, None)
            except (OSError, EngineGone):
                continue
            self._took = time.monotonic() - began
            self.up = True
        self._changed()

    async def _watch(self) -> None:
        """Kill it where it gives no sign of life, or where a run does not end: its place is then taken as after any death."""
        before = time.monotonic()
        while True:
            await asyncio.sleep(TICK)
            now = time.monotonic()
            if now - before > 4 * TICK:  # it was this side that slept
                self._process.heard_at = now
            before = now
            if self._process.troubled(now):
                self._process.heard_at = now
                self._process.kill()

    def kill(self) -> None:
        """End the process at once; while the server runs, another takes its place."""
        self._process.kill()
        if not self._tasks:  # it was never started, and nobody else looks after it
            self._process.wait()
            self._process.ours.close()

    async def stop(self) -> None:
        """End the process."""
        self.up = False
        for task in self._tasks:
            task.cancel()
        if self._process.transport:
            self._process.transport.abort()
        else:
            self._process.ours.close()
        self._process.kill()
        await asyncio.to_thread(self._process.wait)


def _opened(message: channel.Message) -> Opened:
    told, _ = message
    if "graphs" not in told:
        raise error_of(told)
    return {name: (number, rows) for name, (number, rows) in told["graphs"].items()}


def _answered(message: channel.Message) -> tuple[list[Answered], float]:
    told, arrays = message
    if "parts" not in told:
        raise error_of(told)
    return unpack_answers(told, arrays), told["seconds"]

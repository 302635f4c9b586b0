"""The models of a server: verified when loaded, replayed before they answer, equal graphs in memory once, one engine a backbone.

A new version is loaded beside the old one, which answers until the new one has reproduced its golden rows, and stays warm
for `rollback` after that.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import json
import threading
from collections.abc import AsyncIterator, Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from starlette.requests import ClientDisconnect, Request

from mainstem import artifact, files, inference, seal
from mainstem.contracts import Call, Emit, GraphSpec, Rows
from mainstem.errors import MainstemError, suggest
from mainstem.inference import Answers, Ask, Listen, Memo, Pipeline
from mainstem.runtimes import _linear as linear
from mainstem.runtimes._calls import threads
from mainstem.serve.calls import Graph, Shared
from mainstem.serve.engine import Ports
from mainstem.serve.line import Line
from mainstem.serve.scheduler import Cancelled, EngineGone, Scheduler, Ticket
from mainstem.serve.supervisor import Local, Opened, Remote, loading

WAITING, REPLAYED, UNREPLAYED = "waiting", "replayed", "not replayed"
PATIENCE = 0.1  # seconds of a request before it is looked whether its client is still there
SMALL = 8 << 20  # bytes of a graph that may be a head
ATTEMPTS = 3  # at replaying a model whose engine ends meanwhile

__all__ = ["Answers", "Cancelled", "Models", "NotReady", "Served"]


class NotReady(MainstemError):
    """The model has not answered its golden rows yet, or not as it did when it was measured."""

    status = 503
    headers: Mapping[str, str] = {"Retry-After": "1"}


@dataclass(eq=False)
class Served:
    """One version of a model under its name.

    `state` says how far it is: waiting, replayed, not replayed (it keeps hashes only), or what is wrong. `digest`: SHA-256 of its manifest.
    """

    name: str
    folder: Path
    pipeline: Pipeline
    scheduler: Scheduler
    line: Line
    number: int  # unique in this server
    version: int
    digest: str
    state: str = WAITING
    graphs: dict[str, Graph] = field(default_factory=dict)
    heads: dict[str, linear.Linear] = field(default_factory=dict)  # graphs that the front computes itself
    under_way: int = 0
    over: Callable[[], None] | None = None  # once nothing is under way any more

    @property
    def ready(self) -> bool:
        """Whether it may answer."""
        return self.state in (REPLAYED, UNREPLAYED)

    def check_ready(self) -> None:
        """Raises NotReady where it may not answer."""
        if not self.ready:
            raise NotReady(f"the model '{self.name}' is not ready: {self.state}")

    # answering

    def asked(self, call: Call, ticket: Ticket) -> asyncio.Future[dict[str, Any]]:
        """Start a call for a request."""
        if head := self.heads.get(call.graph):
            return self.scheduler.stacked(head, head.taken(call.inputs), call.outputs or (head.output,), ticket)
        return self.scheduler.ask(self.graphs[call.graph], call, ticket)

    def asking(self, options: Mapping[str, Any], ask: Ask, emit: Listen | None = None) -> inference.Asking:
        """How this model is asked for a request. emit: hears what is final before the whole answer is."""
        watch = self.scheduler.watch
        took = None if watch is None else (lambda stage, seconds: watch.took(stage, self.name, seconds))
        return inference.Asking(self.pipeline, ask, options, emit, took)

    async def predict(self, rows: Rows, options: Mapping[str, Any], ticket: Ticket, emit: Listen | None = None) -> Answers:
        """One answer a row, bad rows as their error."""
        [answers] = await inference.answer(rows, [self.asking(options, lambda call: self.asked(call, ticket), emit)])
        if isinstance(answers, MainstemError):
            raise answers
        return answers

    async def answer(self, request: Request, rows: Rows, options: Mapping[str, Any]) -> Answers:
        """The same for a request. Raises Cancelled once whoever asked has gone, and Refused or Late where it takes too long."""
        with held(self):
            async with self.scheduler.ticket(self.line, self.name, len(rows)) as ticket:
                with _watched(request, ticket):
                    return await self.predict(rows, options, ticket)

    async def stream(self, rows: Rows, options: Mapping[str, Any]) -> AsyncIterator[Emit | Answers]:
        """The same bit by bit: what is final as it comes, and last the answers. Closed early, nothing more of it is run."""
        told: asyncio.Queue[Emit] = asyncio.Queue()

        async def answered() -> Answers:
            async with self.scheduler.ticket(self.line, self.name, len(rows)) as ticket:
                return await self.predict(rows, options, ticket, told.put_nowait)

        with held(self):
            work = asyncio.create_task(answered())
            try:
                while not work.done() or not told.empty():
                    part = asyncio.ensure_future(told.get())
                    await asyncio.wait((work, part), return_when=asyncio.FIRST_COMPLETED)
                    if part.done():
                        yield part.result()
                    else:
                        part.cancel()
                yield await work
            finally:
                if not work.done():
                    work.cancel()
                    await asyncio.wait((work,))
                    work.cancelled() or work.exception()  # nobody is there to hear it

    # life

    async def open(self) -> None:
        """Have its graphs loaded. Raises MainstemError where one cannot be read."""
        specs = self.pipeline.artifact.graphs
        self.heads = await asyncio.to_thread(_heads, self.folder, specs)
        ports: dict[str, Ports] = {n: (spec.inputs, spec.outputs, spec.adapter) for n, spec in specs.items() if n not in self.heads}

        def heard(opened: Opened) -> None:
            for name, (number, rows) in opened.items():
                graph = self.graphs.get(name)
                if graph is None:
                    known = next((g.shared for g in self.line.graphs if g.shared.number == number), None)
                    self.graphs[name] = graph = Graph(name, known or Shared(self.line, number, ports[name]), rows)
                    self.line.graphs.append(graph)
                graph.shared.number, graph.rows = number, rows

        with loading(self.folder):
            await self.line.engine.open(self.number, self.folder, ports, heard)

    def close(self) -> None:
        """Have its graphs let go of, those that no other model uses."""
        self.line.graphs = [graph for graph in self.line.graphs if self.graphs.get(graph.name) is not graph]
        self.line.engine.close(self.number)

    def replay(self, loop: asyncio.AbstractEventLoop) -> None:
        """Answer the golden rows again, from a thread beside the event loop. Raises seal.Mismatch where they differ."""
        with loading(self.folder):
            for attempt in range(ATTEMPTS):
                try:
                    return self._replay(loop)
                except EngineGone:  # meanwhile: another takes its place
                    if attempt == ATTEMPTS - 1:
                        raise

    def _replay(self, loop: asyncio.AbstractEventLoop) -> None:
        recorded = seal.read(self.folder)
        if recorded.columns is None:
            self.state = UNREPLAYED
            return
        ticket = Ticket(self.line, f"{self.name} replay", 0, loop.time())

        def runner(call: Call) -> dict[str, Any]:
            async def answer() -> dict[str, Any]:
                return await self.asked(call, ticket)

            return asyncio.run_coroutine_threadsafe(answer(), loop).result()

        try:
            seal.compare(self.pipeline, runner, recorded, where=self.name)
            if not all(graph.shared.cost.known for graph in self.graphs.values()):  # what a run of one row costs is learned as well
                self.pipeline.predict(recorded.rows().take([0]), runner, self.pipeline.task.replayed)
        except Exception as error:
            self.state = str(error)
            raise
        finally:
            loop.call_soon_threadsafe(ticket.end)
        self.state = REPLAYED


def _backbones(folder: Path) -> set[str]:
    """The hashes of its graphs but the head, as its manifest tells them: nothing of it is verified yet."""
    try:
        told = json.loads((folder / files.MANIFEST).read_bytes())["files"].items()
        return {str(digest) for name, digest in told if name.startswith("onnx/") and not name.startswith("onnx/head.")}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return set()  # what is wrong with it is told when it is verified


def _heads(folder: Path, specs: Mapping[str, GraphSpec]) -> dict[str, linear.Linear]:
    """The graphs that are linear heads: small ones, which are not worth a way to the engine and back."""
    paths = {name: folder / "onnx" / f"{name}.onnx" for name, spec in specs.items() if not spec.adapter and f"{name}.shared" not in specs}
    small = {name: path.read_bytes() for name, path in paths.items() if path.exists() and path.stat().st_size <= SMALL}
    return {name: head for name, data in small.items() if (head := linear.read(data))}


@contextmanager
def held(*versions: Served) -> Iterator[None]:
    """While these versions are used they are not let go of."""
    for served in versions:
        served.under_way += 1
    try:
        yield
    finally:
        for served in versions:
            served.under_way -= 1
            if served.over and not served.under_way:
                served.over()


@contextmanager
def _watched(request: Request | None, ticket: Ticket) -> Iterator[None]:
    """Fail the ticket once whoever asked has gone."""

    async def until_gone() -> None:
        with suppress(ClientDisconnect):
            while request and (await request.receive())["type"] != "http.disconnect":
                pass
        ticket.fail(Cancelled())

    started: list[asyncio.Task[None]] = []
    later = asyncio.get_running_loop().call_later(PATIENCE, lambda: started.append(asyncio.create_task(until_gone()))) if request else None
    try:
        yield
    finally:
        if later:
            later.cancel()
        for watch in started:
            watch.cancel()


class _Once:
    """The calls of models that are driven by one task: those that are the same are one, with one future."""

    def __init__(self, ticket: Ticket) -> None:
        self.ticket = ticket
        self._under_way: dict[Hashable, tuple[Call, asyncio.Future[dict[str, Any]]]] = {}

    def ask(self, served: Served, call: Call) -> asyncio.Future[dict[str, Any]]:
        """Start a call of one of them, or join it."""
        graph = served.graphs.get(call.graph)
        if graph is None:
            return served.asked(call, self.ticket)
        handed = graph.handed(call)
        if known := self._under_way.get(handed):
            return known[1]
        future = served.asked(call, self.ticket)
        self._under_way[handed] = call, future  # the call is held, so that no array takes another's id
        future.add_done_callback(lambda done: self._under_way.pop(handed, None))
        return future


class Models:
    """All models of a server by name. `find` and iteration give the versions that answer now."""

    def __init__(self, folders: Mapping[str, Path | str], scheduler: Scheduler | None = None, *, processes: bool = False) -> None:
        """Verify the folders; `processes`: every backbone gets an engine process of its own.

        Raises MainstemError for a name that no URL can hold, and for a model that is not as it was sealed.
        """
        self.scheduler = scheduler or Scheduler()
        self.processes, self.draining = processes, False
        self.by_name: dict[str, Served] = {}
        self.done = threading.Event()  # every replay was tried
        self.lines: dict[Line, set[str]] = {}  # with the digests of the backbones that they serve
        self._before: dict[str, Served] = {}
        self._numbers = itertools.count(1)
        self._versions: dict[str, int] = {}
        self._loading = asyncio.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        try:
            for name, path in folders.items():
                self.by_name[name] = self._prepared(name, path)
        except BaseException:
            self.kill()
            raise

    def __iter__(self) -> Iterator[Served]:
        return iter(list(self.by_name.values()))

    def find(self, name: str) -> Served:
        """The model of this name. Raises KeyError with the sentence to answer."""
        if name not in self.by_name:
            raise KeyError(str(MainstemError(f"no model is served as '{name[:64]}'", do=suggest(name[:64], self.by_name))))
        return self.by_name[name]

    @property
    def ready(self) -> bool:
        """Whether all of them may answer, their engines are up, and the server is not about to stop."""
        return not self.draining and all(served.ready and served.line.engine.up for served in self)

    async def ask(
        self, names: Sequence[str], rows: Rows, options: Mapping[str, Mapping[str, Any]], gone: Request | None = None
    ) -> dict[str, Answers | MainstemError]:
        """The same rows for several models: what they share is read, encoded and run once. `options`: by name.

        gone: the request, whose client may leave (Cancelled). A model that cannot answer has its error instead.
        Raises KeyError for a name that is not served.
        """
        chosen = [self.find(name) for name in dict.fromkeys(names)]
        if not chosen:
            return {}
        found: dict[str, Answers | MainstemError] = {}
        alike: dict[Hashable, list[Served]] = {}
        for served in chosen:
            try:
                served.check_ready()
                alike.setdefault((served.line, served.pipeline.reads), []).append(served)
            except MainstemError as error:
                found[served.name] = error
        memo = Memo()

        async def answered(group: Sequence[Served]) -> None:
            once = _Once(ticket)
            asked = [served.asking(options.get(served.name, {}), partial(once.ask, served)) for served in group]
            found.update(zip((served.name for served in group), await inference.answer(rows, asked, memo), strict=True))

        async with AsyncExitStack() as stack:
            stack.enter_context(held(*chosen))
            first = chosen[0]
            ticket = await stack.enter_async_context(self.scheduler.ticket(first.line, first.name, len(rows)))
            stack.enter_context(_watched(gone, ticket))
            ticket.several = len(chosen) > 1
            await asyncio.gather(*map(answered, alike.values()))
        return {served.name: found[served.name] for served in chosen}

    # life

    def _prepared(self, name: str, path: Path | str) -> Served:
        """A version of a model, verified and not loaded."""
        folder = artifact.find(path)
        artifact.safe_name(name, "model name")
        line = self._line(_backbones(folder))  # its process imports what it needs while the files are hashed
        artifact.check(folder)
        manifest = (folder / files.MANIFEST).read_bytes()
        try:
            pipeline = Pipeline(artifact.read(folder))
        except (KeyError, TypeError, ValueError, AttributeError, IndexError, OSError, RecursionError) as error:
            raise MainstemError(f"this does not describe a model ({type(error).__name__}: {error})", where=str(folder)) from error
        version = self._versions[name] = self._versions.get(name, 0) + 1
        number, digest = next(self._numbers), hashlib.sha256(manifest).hexdigest()
        return Served(name, folder, pipeline, self.scheduler, line, number, version, digest)

    def _line(self, backbones: set[str]) -> Line:
        """The line of the engine that has one of these backbones; models without one share an engine."""
        for line, known in self.lines.items():
            if known & backbones or not (known or backbones):
                known |= backbones
                return line
        made = Line(Remote(threads(), self._unchanged) if self.processes else Local(threads()))
        self.lines[made] = set(backbones)
        return made

    def _unchanged(self, number: int) -> None:
        """Raises MainstemError, and takes the model out, where its folder is not what it was when it was loaded."""
        for served in (*self.by_name.values(), *self._before.values()):
            if served.number == number:
                try:
                    artifact.check(served.folder)
                    if files.hash_file(served.folder / files.MANIFEST) != served.digest:
                        raise MainstemError(
                            "this is another model than the one that was loaded", where=str(served.folder), do="Load it anew."
                        )
                except MainstemError as error:
                    served.state = str(error)
                    raise

    @asynccontextmanager
    async def running(self, failed: Callable[[Exception], None] = lambda error: None) -> AsyncIterator[None]:
        """While the server runs: engines are started, models loaded and replayed. `failed` hears of each that differs."""
        self._loop = asyncio.get_running_loop()
        try:
            for line in list(self.lines):
                await _start(self.scheduler, line)
            threading.Thread(target=self.replay, args=(failed,), name="replay", daemon=True).start()
            yield
        finally:
            self.draining = True
            for line in self.lines:
                await line.engine.stop()

    def replay(self, failed: Callable[[Exception], None] = lambda error: None) -> None:
        """Load and replay them, from a thread beside the event loop; `failed` hears of each that differs, and the others go on."""
        loop = self._loop
        assert loop
        opening = {served: asyncio.run_coroutine_threadsafe(served.open(), loop) for served in self}
        for served, opened in opening.items():
            try:
                opened.result()
                served.replay(loop)
            except Exception as error:  # a model that breaks in any way must not be served
                served.state = str(error)
                if not self.draining:
                    failed(error)
        self.done.set()

    async def load(self, name: str, folder: Path | str) -> Served:
        """Serve another version under `name`, or a new model, once it has reproduced its golden rows; the old one answers until then.

        Raises MainstemError where it does not, and the old one stays.
        """
        async with self._loading:
            lines = set(self.lines)
            try:
                served = await asyncio.to_thread(self._prepared, name, folder)
            except BaseException:
                for line in set(self.lines) - lines:
                    del self.lines[line]
                    await line.engine.stop()
                raise
            try:
                if served.line not in lines:
                    await _start(self.scheduler, served.line)
                await served.open()
                await asyncio.to_thread(served.replay, asyncio.get_running_loop())
            except BaseException:
                await self._let_go(served)
                raise
            before = self.by_name.get(name)
            self.by_name[name] = served
            if before:
                oldest, self._before[name] = self._before.get(name), before
                if oldest:
                    await self._let_go(oldest)
            return served

    async def rollback(self, name: str) -> Served:
        """Serve the version before again, at once. Raises MainstemError where there is none."""
        if name not in self._before or name not in self.by_name:
            raise MainstemError(f"there is no version before the one that is served as '{name[:64]}'", do="Load the one that you want.")
        self.by_name[name], self._before[name] = self._before[name], self.by_name[name]
        return self.by_name[name]

    async def unload(self, name: str) -> None:
        """Serve it no more; requests under way are answered. Raises KeyError for a name that is not served."""
        async with self._loading:
            self.find(name)
            for served in (self.by_name.pop(name), self._before.pop(name, None)):
                if served:
                    await self._let_go(served)

    async def _let_go(self, served: Served) -> None:
        """Close a version once nothing is under way with it, and its engine where it was the last."""

        def over() -> None:
            served.over = None
            served.close()

        if served.under_way:
            served.over = over
        else:
            over()
        line = served.line
        others = {each.line for each in (*self.by_name.values(), *self._before.values())}
        if line in self.lines and line not in others and not served.under_way:
            del self.lines[line]
            await line.engine.stop()

    def kill(self) -> None:
        """End the engines of a server that does not come to run."""
        for line in self.lines:
            line.engine.kill()


async def _start(scheduler: Scheduler, line: Line) -> None:
    await line.engine.start(lambda: scheduler.soon(line), lambda: scheduler.gone(line))

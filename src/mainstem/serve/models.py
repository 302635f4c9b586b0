"""The models of a server: verified when loaded, replayed before they answer, equal graphs in memory once."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request

from mainstem import artifact, seal
from mainstem.contracts import Call, Emit, Prediction, Rows
from mainstem.errors import MainstemError, suggest
from mainstem.inference import Listen, Pipeline
from mainstem.runtimes._calls import GraphRunner
from mainstem.serve.scheduler import Scheduler

WAITING, REPLAYED, UNREPLAYED = "waiting", "replayed", "not replayed"


Answers = list[Prediction | MainstemError]


class Cancelled(Exception):
    """Whoever asked has gone."""


class NotReady(MainstemError):
    """The model has not answered its golden rows yet, or not as it did when it was measured."""

    status = 503


@dataclass
class Served:
    """One model under its name. `state` says how far it is: waiting, replayed, not replayed (it keeps hashes only), or what is wrong."""

    name: str
    folder: Path
    pipeline: Pipeline
    runner: GraphRunner
    scheduler: Scheduler
    state: str = WAITING

    @property
    def ready(self) -> bool:
        """Whether it may answer."""
        return self.state in (REPLAYED, UNREPLAYED)

    def check_ready(self) -> None:
        """Raises NotReady where it may not answer."""
        if not self.ready:
            raise NotReady(f"the model '{self.name}' is not ready: {self.state}")

    def predict(
        self, rows: Rows, options: Mapping[str, Any] | None = None, gone: threading.Event | None = None, emit: Listen | None = None
    ) -> Answers:
        """One answer a row, bad rows as their error. Raises Cancelled at the next call once `gone` is set.

        emit: hears what is final before the whole answer is.
        """

        def run(call: Call) -> dict[str, Any]:
            if gone is not None and gone.is_set():
                raise Cancelled
            return self.runner(call)

        with self.scheduler.request():
            return self.pipeline.predict(rows, run, options, emit)[0]

    async def answer(self, request: Request, rows: Rows, options: Mapping[str, Any]) -> Answers:
        """The same for a request. Raises Cancelled once whoever asked has gone."""
        gone = threading.Event()
        watch = asyncio.create_task(_until_gone(request, gone))
        try:
            return await run_in_threadpool(self.predict, rows, options, gone)
        finally:
            watch.cancel()

    async def stream(self, rows: Rows, options: Mapping[str, Any]) -> AsyncIterator[Emit | Answers]:
        """The same bit by bit: what is final as it comes, and last the answers. Closed early, it ends at the next call."""
        loop, gone = asyncio.get_running_loop(), threading.Event()
        told: asyncio.Queue[Emit | Answers | Exception] = asyncio.Queue()

        def tell(part: Emit | Answers | Exception) -> None:
            with suppress(RuntimeError):  # the loop has ended, and nobody listens
                loop.call_soon_threadsafe(told.put_nowait, part)

        def work() -> None:
            try:
                tell(self.predict(rows, options, gone, tell))
            except Exception as error:  # whatever it is, it belongs to whoever asked
                tell(error)

        running = asyncio.create_task(run_in_threadpool(work))
        try:
            while not isinstance(part := await told.get(), list):
                if isinstance(part, Exception):
                    raise part
                yield part
            yield part
        finally:
            gone.set()
            await running

    def replay(self) -> None:
        """Answer the golden rows again. Raises seal.Mismatch where they differ."""
        recorded = seal.read(self.folder)
        if recorded.columns is None:
            self.state = UNREPLAYED
            return
        try:
            with self.scheduler.request():
                seal.compare(self.pipeline, self.runner, recorded, where=self.name)
        except Exception as error:
            self.state = str(error)
            raise
        self.state = REPLAYED


async def _until_gone(request: Request, gone: threading.Event) -> None:
    with suppress(ClientDisconnect):
        while (await request.receive())["type"] != "http.disconnect":
            pass
    gone.set()


class Models:
    """All models of a server by name."""

    def __init__(self, folders: Mapping[str, Path | str], scheduler: Scheduler | None = None) -> None:
        """Open the folders. Raises MainstemError for a name that no URL can hold, and for a model that is not as it was sealed."""
        self.scheduler = scheduler or Scheduler()
        self.by_name: dict[str, Served] = {}
        self.done = threading.Event()  # every replay was tried
        sessions: dict[str, Any] = {}
        for name, path in folders.items():
            folder = artifact.find(path)
            artifact.check(folder)
            pipeline, runner = seal.open_folder(folder, sessions)
            merged = self.scheduler.runner(cast(GraphRunner, runner))
            self.by_name[artifact.safe_name(name, "model name")] = Served(name, folder, pipeline, merged, self.scheduler)

    def __iter__(self) -> Iterator[Served]:
        return iter(self.by_name.values())

    def find(self, name: str) -> Served:
        """The model of this name. Raises KeyError with the sentence to answer."""
        if name not in self.by_name:
            raise KeyError(str(MainstemError(f"no model is served as '{name[:64]}'", do=suggest(name[:64], self.by_name))))
        return self.by_name[name]

    @property
    def ready(self) -> bool:
        """Whether all of them may answer."""
        return all(served.ready for served in self)

    def replay(self, failed: Callable[[Exception], None] = lambda error: None) -> None:
        """Replay them one after the other; `failed` hears of each that differs, and the others go on."""
        for served in self:
            try:
                served.replay()
            except Exception as error:  # a model that breaks in any way must not be served
                failed(error)
        self.done.set()

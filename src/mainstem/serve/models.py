"""The models of a server: verified when loaded, replayed before they answer, equal graphs in memory once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from mainstem import artifact, seal
from mainstem.contracts import Call, Prediction, Rows
from mainstem.errors import MainstemError, suggest
from mainstem.inference import Pipeline
from mainstem.runtimes._calls import GraphRunner
from mainstem.serve.scheduler import Scheduler

WAITING, REPLAYED, UNREPLAYED = "waiting", "replayed", "not replayed"


class Cancelled(Exception):
    """Whoever asked has gone."""


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

    def predict(
        self, rows: Rows, options: Mapping[str, Any] | None = None, gone: threading.Event | None = None
    ) -> list[Prediction | MainstemError]:
        """One answer a row, bad rows as their error. Raises Cancelled at the next call once `gone` is set."""

        def run(call: Call) -> dict[str, Any]:
            if gone is not None and gone.is_set():
                raise Cancelled
            return self.runner(call)

        with self.scheduler.request():
            return self.pipeline.predict(rows, run, options)[0]

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


def check_options(served: Served, options: Any) -> dict[str, Any]:
    """The options of a request. Raises MainstemError for unknown ones and for values of another type than the default's."""
    known = served.pipeline.task.options
    if not isinstance(options, dict):
        raise MainstemError("options are an object", do='Send {"rows": […], "options": {…}}.')
    wrong = [f"unknown option '{name}'" for name in options if name not in known]
    for name in options.keys() & known.keys():
        default = known[name]
        kinds = (int, float) if isinstance(default, float) else (type(default),)
        if default is not None and not isinstance(options[name], kinds):
            wrong.append(f"option '{name}' is of another type than its default {default!r}")
    if wrong:
        raise MainstemError("; ".join(wrong), do=f"Known: {', '.join(sorted(known)) or 'none'}.")
    return options

"""Runs the application: binds the socket, says where it listens, drains and stops on SIGTERM and Ctrl-C, at once on the second."""

from __future__ import annotations

import gc
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import uvicorn

from mainstem.errors import MainstemError
from mainstem.serve.app import build
from mainstem.serve.guard import check_host
from mainstem.serve.manners import Manners
from mainstem.serve.models import Models
from mainstem.serve.scheduler import QUEUE, Scheduler
from mainstem.serve.transport import Protocol

GRACE = 20.0  # seconds that requests under way have to end once the server is told to stop
LINGER = 0.3  # of these, how long it still takes requests while /ready says no already, so that whoever sends them can look


def serve(
    folders: Mapping[str, Path | str],
    host: str = "127.0.0.1",
    port: int = 8000,
    manners: Manners | None = None,
    say: Callable[[str], None] = print,
    *,
    in_process: bool = False,
    grace: float = GRACE,
    queue: float = QUEUE,
) -> None:
    """Serve these models until SIGTERM or Ctrl-C. Port 0 takes a free one.

    in_process: no engine processes; grace: seconds that requests under way have to end; queue: seconds that a request may
    wait for its turn, beyond which it is refused.

    Raises MainstemError for a model that is not as it was sealed or does not answer as it was measured, an address that
    needs a token, and a port that is in use.
    """
    manners = manners or Manners()
    check_host(host, manners.tokens)
    transport = manners.transport()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # requests are what runs in parallel here
    with _ended_by_signals():
        models = Models(folders, Scheduler(queue), processes=not in_process)
        try:
            failures = _run(models, _listen(host, port), host, manners, transport, say, grace)
        finally:
            models.kill()
    if failures:
        raise failures[0]


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """A signal that comes while models are opened ends the process cleanly; the server takes its own later. Both mean a clean end."""

    def end(number: int, frame: FrameType | None) -> None:
        sys.exit(0)

    here = threading.current_thread() is threading.main_thread()
    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGINT)} if here else {}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _run(
    models: Models,
    listener: socket.socket,
    host: str,
    manners: Manners,
    transport: Mapping[str, Any],
    say: Callable[[str], None],
    grace: float,
) -> list[Exception]:
    failures: list[Exception] = []

    def failed(error: Exception) -> None:
        failures.append(error)
        server.should_exit = True

    config = uvicorn.Config(
        build(models, failed=failed, manners=manners),
        log_level="warning",
        loop="auto",  # uvloop, but on Windows
        http=Protocol,
        ws="none",
        lifespan="on",
        server_header=False,
        access_log=False,
        timeout_graceful_shutdown=max(1, round(grace)),
        **transport,
    )
    server = _Server(config, models)
    address = f"{manners.scheme}://{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}"
    for served in models:
        say(f"{address}/predict/{served.name}  {served.pipeline.artifact.task} from {served.folder}")
    say(f"{address}/docs  how to ask")
    threading.Thread(target=_tell_when_ready, args=(models, server, say), daemon=True).start()
    server.run(sockets=[listener])
    return failures


class _Server(uvicorn.Server):
    """Stops in three steps: /ready says no; no more requests are taken; those under way end. A second signal stops at once."""

    def __init__(self, config: uvicorn.Config, models: Models) -> None:
        super().__init__(config)
        self.models = models

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals go to `handle_exit` while it runs; what was caught is not raised again afterwards."""
        here = threading.current_thread() is threading.main_thread()
        before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGTERM, signal.SIGINT)} if here else {}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def handle_exit(self, sig: int, frame: Any) -> None:
        """A signal came."""
        if self.models.draining or self.should_exit:
            self.should_exit = self.force_exit = True
            return
        self.models.draining = True
        threading.Timer(LINGER, self._stop).start()

    def _stop(self) -> None:
        self.should_exit = True


def _listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listener = socket.create_server((host, port), family=family, backlog=512)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # else a body waits for its head to arrive (RFC 896)
        return listener
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise MainstemError(f"cannot listen on {host}:{port}: {reason}", do="Choose another with --host and --port.") from None


def _tell_when_ready(models: Models, server: uvicorn.Server, say: Callable[[str], None]) -> None:
    models.done.wait()
    if models.ready and not server.should_exit:
        states = ", ".join(f"{served.name} {served.state}" for served in models)
        say(f"ready: {states}")
    gc.collect()
    gc.freeze()  # what there is by now stays: the collector need not look at it again and again

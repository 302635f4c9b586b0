"""Runs the application: binds the socket, says where it listens, stops cleanly on SIGTERM and Ctrl-C."""

from __future__ import annotations

import signal
import socket
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

import uvicorn

from mainstem.errors import MainstemError
from mainstem.serve.app import build
from mainstem.serve.guard import check_host
from mainstem.serve.manners import Manners
from mainstem.serve.models import Models

GRACE = 20  # seconds that requests under way have to end once the server is told to stop
MOST_REQUESTS = 256  # under way at a time; more are answered 503


def serve(
    folders: Mapping[str, Path | str],
    host: str = "127.0.0.1",
    port: int = 8000,
    manners: Manners | None = None,
    say: Callable[[str], None] = print,
) -> None:
    """Serve these models until SIGTERM or Ctrl-C. Port 0 takes a free one.

    Raises MainstemError for a model that is not as it was sealed or does not answer as it was measured, an address that
    needs a token, and a port that is in use.
    """
    manners = manners or Manners()
    check_host(host, manners.tokens)
    transport = manners.transport()
    models = Models(folders)
    listener = _listen(host, port)
    failures: list[Exception] = []

    def failed(error: Exception) -> None:
        failures.append(error)
        server.should_exit = True

    app = build(models, failed=failed, manners=manners)
    config = uvicorn.Config(
        app,
        log_level="warning",
        loop="asyncio",
        http="h11",
        ws="none",
        lifespan="on",
        server_header=False,
        limit_concurrency=MOST_REQUESTS,
        timeout_graceful_shutdown=GRACE,
        **transport,
    )
    server = uvicorn.Server(config)
    address = f"{manners.scheme}://{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}"
    for served in models:
        say(f"{address}/predict/{served.name}  {served.pipeline.artifact.task} from {served.folder}")
    say(f"{address}/docs  how to ask")
    threading.Thread(target=_tell_when_ready, args=(models, server, say), daemon=True).start()
    # The server hands a caught signal on once it has stopped: both mean a clean end here.
    before = {number: signal.signal(number, lambda *_: None) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        server.run(sockets=[listener])
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if failures:
        raise failures[0]


def _listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=512)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise MainstemError(f"cannot listen on {host}:{port}: {reason}", do="Choose another with --host and --port.") from None


def _tell_when_ready(models: Models, server: uvicorn.Server, say: Callable[[str], None]) -> None:
    models.done.wait()
    if models.ready and not server.should_exit:
        states = ", ".join(f"{served.name} {served.state}" for served in models)
        say(f"ready: {states}")

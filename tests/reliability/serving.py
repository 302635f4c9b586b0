"""Servers and load for the serving rows of the sheet: a server in this process whose graphs take a known time, or one that is
started as users start it; a client that measures from the moment a request was due; what a percentile is.
"""

import asyncio
import contextlib
import json
import os
import random
import re
import subprocess
import sys
import threading
import time

import numpy as np
import uvicorn

from mainstem.serve.app import build
from mainstem.serve.engine import _Graph
from mainstem.serve.models import Models


class Slow:
    """A graph that takes `seconds` a row and sleeps meanwhile, so that capacity does not depend on the machine. Knows what it was asked."""

    def __init__(self, function, seconds):
        self.function, self.seconds, self.seen = function, seconds, []

    def __call__(self, arrays, wanted):
        self.seen.append({name: array.copy() for name, array in arrays.items()})
        time.sleep(self.seconds * max(len(array) for array in arrays.values()))
        return self.function(arrays, wanted)


class Server:
    """Models behind HTTP on a port of this process."""

    def __init__(self, folders, scheduler=None, seconds=0.0, processes=False):
        self.models, self.failures = Models(folders, scheduler, processes=processes), []
        config = uvicorn.Config(build(self.models, failed=self.failures.append), log_level="error", ws="none", http="httptools")
        self.server, self.seconds, self.slow = uvicorn.Server(config), seconds, []

    def __enter__(self):
        self.thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)
        self.thread.start()
        assert self.models.done.wait(60)
        assert not self.failures
        while not self.server.started:
            time.sleep(0.01)
        self.port = self.server.servers[0].sockets[0].getsockname()[1]
        if self.seconds:
            for line in self.models.lines:
                graphs = line.engine.engine._graphs
                for number, graph in list(graphs.items()):
                    self.slow.append(Slow(graph.function, self.seconds))
                    graphs[number] = _Graph(self.slow[-1], graph.inputs, graph.outputs)
                for graph in line.graphs:
                    graph.shared.cost._seen.clear()
                    for rows in (1, 8):
                        graph.shared.cost.add(rows, rows * self.seconds)
        return self

    async def _serve(self):
        self.server.config.port = 0
        await self.server.serve()

    def __exit__(self, *error):
        self.server.should_exit = True
        self.thread.join(30)
        assert not self.thread.is_alive()

    def call(self, work):
        """Run a coroutine on the server's event loop."""
        return asyncio.run_coroutine_threadsafe(work, self.models._loop).result(60)


class Connection:
    """One HTTP connection that is kept."""

    def __init__(self, port):
        self.port, self.reader, self.writer = port, None, None

    async def ask(self, path, body):
        """(status, headers, JSON). Raises OSError where the connection ends."""
        if self.writer is None:
            self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.port)
        data = json.dumps(body).encode()
        try:
            self.writer.write(f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(data)}\r\n\r\n".encode() + data)
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            headers = dict(line.lower().split(": ", 1) for line in head.split("\r\n")[1:] if ": " in line)
            answer = await self.reader.readexactly(int(headers["content-length"]))
        except BaseException as error:
            self.close()
            raise ConnectionError(str(error)) if isinstance(error, asyncio.IncompleteReadError) else error from None
        if headers.get("connection") == "close":
            self.close()
        return int(head.split()[1]), headers, json.loads(answer)

    def close(self):
        """Hang up."""
        if self.writer is not None:
            self.writer.close()
        self.writer = None

    async def hang_up(self):
        """Hang up, and wait until it is done."""
        writer = self.writer
        self.close()
        if writer is not None:
            with contextlib.suppress(OSError):
                await writer.wait_closed()


async def ask(port, path, body):
    """One request over a connection of its own."""
    connection = Connection(port)
    try:
        return await connection.ask(path, body)
    finally:
        await connection.hang_up()


class Load:
    """Requests in an open loop: each is due at its own time, whether or not those before were answered."""

    def __init__(self, port, path, rows, seed=0):
        self.port, self.path, self.rows, self.rng = port, path, rows, random.Random(seed)
        self.answers = []  # (when it was due, seconds, status, headers, JSON)
        self.idle = []

    async def one(self, due, body):
        """One request, timed from when it was due."""
        connection = self.idle.pop() if self.idle else Connection(self.port)
        try:
            status, headers, answer = await connection.ask(self.path, body)
            self.idle.append(connection)
        except OSError as error:
            status, headers, answer = 0, {}, {"error": repr(error)}
        self.answers.append((due, time.perf_counter() - due, status, headers, answer))

    async def run(self, rate, seconds):
        """Poisson arrivals for so many seconds; returns what was answered."""
        self.answers = []
        due, end, asked = time.perf_counter(), time.perf_counter() + seconds, []
        while (due := due + self.rng.expovariate(rate)) < end:
            await asyncio.sleep(max(0, due - time.perf_counter()))
            asked.append(asyncio.create_task(self.one(due, self.rows(self.rng))))
        await asyncio.gather(*asked)
        while self.idle:
            await self.idle.pop().hang_up()
        return self.answers


def percentile(values, share):
    """In seconds; 0 of nothing."""
    return float(np.quantile(values, share)) if len(values) else 0.0


def good(answers):
    """The seconds of those that were answered 200."""
    return [seconds for _, seconds, status, _, _ in answers if status == 200]


PROGRAM = "import sys; from mainstem.cli import main; sys.exit(main(sys.argv[1:]))"


@contextlib.contextmanager
def started(*arguments):
    """A server as users start it: (process, port) once it is ready."""
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, "serve", *map(str, arguments), "--port", "0"], stderr=subprocess.PIPE, text=True
    )
    try:
        said = []
        for line in process.stderr:
            said.append(line)
            if line.startswith("ready"):
                break
        else:
            raise AssertionError(said)
        reading = threading.Thread(target=process.stderr.read, daemon=True)
        reading.start()
        yield process, int(re.search(r"http://127.0.0.1:(\d+)", said[0])[1])
    finally:
        process.kill()
        process.wait(20)
        with contextlib.suppress(NameError):
            reading.join(20)
        process.stderr.close()


def children(pid):
    """The processes that a process started."""
    with open(f"/proc/{pid}/task/{pid}/children") as stream:
        return [int(child) for child in stream.read().split()]


def lives(pid):
    """Whether there is such a process, and it is no zombie."""
    with contextlib.suppress(OSError, IndexError), open(f"/proc/{pid}/stat") as stream:
        return stream.read().rpartition(")")[2].split()[0] != "Z"
    return False


def gone(pids, seconds=10):
    """Whether none of these processes lives any more, soon."""
    end = time.monotonic() + seconds
    while any(map(lives, pids)) and time.monotonic() < end:
        time.sleep(0.02)
    return not any(map(lives, pids))


def cores():
    """That this process may use."""
    return len(os.sched_getaffinity(0))

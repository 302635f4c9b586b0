"""What the serving benchmarks share: a server as users start it, closed loops over kept connections, processor time and memory."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path


def cpu(pid):
    """User and system seconds of a process."""
    ticks = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(ticks[11]) + int(ticks[12])) / os.sysconf("SC_CLK_TCK")


def pss(pid):
    """MB of a process, shared pages by their share; 0 of one that has ended."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0) / 1024


class Server:
    """`mainstem serve NAME=FOLDER…`: port, process ids (the front first), seconds until it was ready."""

    def __init__(self, models, *more):
        began = time.monotonic()
        command = [sys.executable, "-m", "mainstem", "serve", *(f"{name}={folder}" for name, folder in models.items())]
        self.process = subprocess.Popen([*command, "--port", "0", "--queue", "30", *more], stderr=subprocess.PIPE, text=True)
        said = ""
        for line in self.process.stderr:
            said += line
            if line.startswith("ready"):
                break
        self.ready, self.port = time.monotonic() - began, int(re.search(r":(\d+)/", said)[1])
        self.pids = [self.process.pid, *map(int, Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split())]

    def pss(self):
        """MB of all its processes."""
        return sum(map(pss, self.pids))

    def stop(self):
        """End it."""
        self.process.terminate()
        self.process.wait(30)
        self.process.stderr.close()


@contextlib.contextmanager
def serving(models, *more):
    """A server that is stopped afterwards."""
    server = Server(models, *more)
    try:
        yield server
    finally:
        server.stop()


HEAD = b"POST %s HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"


class Connection:
    """One HTTP connection that is kept."""

    async def open(self, port):
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", port)
        return self

    async def ask(self, path, body):
        """The bytes of the answer; raises AssertionError where it is none."""
        data = json.dumps(body).encode()
        self.writer.write(HEAD % (path.encode(), len(data)) + data)
        head = await self.reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"content-length: (\d+)", head.lower())
        answer = await self.reader.readexactly(int(length[1])) if length else await self.chunks()
        assert b" 200 " in head[:16], answer[:500]
        return answer

    async def chunks(self):
        """The bytes of an answer that comes in chunks (RFC 9112, 7.1)."""
        whole = b""
        while True:
            size = int(await self.reader.readuntil(b"\r\n"), 16)
            whole += await self.reader.readexactly(size)
            await self.reader.readexactly(2)
            if not size:
                return whole


async def closed(port, asked, connections, seconds):
    """Every connection sends the next of `asked` (path, body) once it has its answer. Returns the seconds of each."""
    took, end = [], time.perf_counter() + seconds

    async def work():
        connection = await Connection().open(port)
        while time.perf_counter() < end:
            path, body = next(asked)
            began = time.perf_counter()
            await connection.ask(path, body)
            took.append(time.perf_counter() - began)
        connection.writer.close()

    await asyncio.gather(*[work() for _ in range(connections)])
    return took

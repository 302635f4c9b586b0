"""Other servers of the same model on the same texts, in the same run as ours.

    python benchmarks/serving/peers.py MODEL TEXTS.json PEERS.json [--seconds 10] [--json FILE]

PEERS.json: {NAME: {"command": [...], "folder": where it runs, "environment": {}, "port": 8101, "path": "/classify", "field": "text",
"list": false}}: a server that answers POST {field: text}, or {field: [text]}; with "input" in place of "field" the Open Inference
Protocol v2's input of that name. Each one and ours: seconds from the start to the first answer, requests a second and p99 in a closed
loop over 1, 8 and 32 connections, memory of all its processes afterwards.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import os
import signal
import socket
import subprocess
import time
from pathlib import Path

import load
import numpy as np

CONNECTIONS = (1, 8, 32)
PATIENCE = 120


def tree(pid):
    """A process and all below it."""
    found = [pid]
    for each in found:
        with contextlib.suppress(OSError):
            for task in Path(f"/proc/{each}/task").iterdir():
                found += map(int, (task / "children").read_text().split())
    return found


def first_answer(port, path, body):
    """Wait until it answers."""

    async def ask():
        connection = await load.Connection().open(port)
        await asyncio.wait_for(connection.ask(path, body), 20)
        connection.writer.close()

    end = time.monotonic() + PATIENCE
    while True:
        try:
            return asyncio.run(ask())
        except (OSError, AssertionError, asyncio.IncompleteReadError, TimeoutError):
            if time.monotonic() > end:
                raise
            time.sleep(0.05)


def body(peer, text):
    """What a peer is asked for a text."""
    if "input" in peer:
        return {"inputs": [{"name": peer["input"], "shape": [1, 1], "datatype": "BYTES", "data": [text]}]}
    return {peer["field"]: [text] if peer.get("list") else text}


def measure(port, path, bodies, pid, seconds):
    """Cells of a server that runs."""
    asked, cells = ((path, body) for body in itertools.cycle(bodies)), []
    asyncio.run(load.closed(port, asked, 8, seconds / 3))
    for connections in CONNECTIONS:
        took = asyncio.run(load.closed(port, asked, connections, seconds))
        cell = {"connections": connections, "a_second": len(took) / seconds, "p99_ms": 1e3 * float(np.quantile(took, 0.99))}
        cells.append({name: round(value, 1) for name, value in cell.items()})
    return {"cells": cells, "mb": round(sum(map(load.pss, tree(pid))), 1)}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("texts", type=Path)
    parser.add_argument("peers", type=Path)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    texts, report = json.loads(options.texts.read_text(encoding="utf-8")), {}

    def ours():
        with load.serving({"m": options.model}) as server:
            bodies = [{"rows": [{"text": text}]} for text in texts]
            return {
                "first_answer": round(server.ready, 2),
                **measure(server.port, "/predict/m", bodies, server.process.pid, options.seconds),
            }

    report["mainstem"] = ours()
    for name, peer in json.loads(options.peers.read_text(encoding="utf-8")).items():
        bodies = [body(peer, text) for text in texts]
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", peer["port"]), 1):
            raise SystemExit(f"something answers at the port of {name} already: {peer['port']}")
        began = time.monotonic()
        process = subprocess.Popen(
            peer["command"],
            cwd=peer.get("folder"),
            env={**os.environ, **peer.get("environment", {})},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            first_answer(peer["port"], peer["path"], bodies[0])
            ready = time.monotonic() - began
            cells = measure(peer["port"], peer["path"], bodies, process.pid, options.seconds)
            report[name] = {"first_answer": round(ready, 2), **cells}
        finally:
            for pid in tree(process.pid):  # some are in sessions of their own
                with contextlib.suppress(OSError):
                    os.kill(pid, signal.SIGKILL)
            process.wait()
        print(name, report[name], flush=True)
    report["mainstem again"] = ours()
    report["load_average"] = os.getloadavg()
    print(json.dumps({name: report[name] for name in ("mainstem", "mainstem again")}))
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

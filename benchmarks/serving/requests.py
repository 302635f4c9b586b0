"""Requests a second over HTTP against what the same machine does with the same model when all texts are known beforehand.

    python benchmarks/serving/requests.py MODEL TEXTS.json [--seconds 20] [--json FILE]

MODEL: a model folder that takes one text; TEXTS: a list of texts of natural length. Cells of the server (closed loop, 1, 8 and 32
connections) alternate with cells of the limit: tokenizer and backbone alone, texts sorted by length, the best of batches of 1, 2, 4
and 8, one thread a core; beside one connection, one text at a time with all cores. `share`: requests a second ÷ (limit × (1 − the load
generator's share of the processors)). Processor time is user and system time of each process; on a machine that others use it says
more than seconds do.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import threading
import time
from functools import partial
from pathlib import Path

import load
import numpy as np

from mainstem import artifact, seal
from mainstem.contracts import Rows
from mainstem.runtimes import _widths, onnx
from mainstem.runtimes._calls import CORES

BATCHES = (1, 2, 4, 8)
CONNECTIONS = (1, 8, 32)
NAME = "m"
CORES_HERE = len(os.sched_getaffinity(0))


class Limit:
    """What this machine does with this model offline."""

    def __init__(self, folder, texts):
        pipeline, _ = seal.open_folder(artifact.find(folder))
        self.task, self.processors, [self.column] = pipeline.task, pipeline.processors, pipeline.artifact.schema.columns
        graphs = {name: spec for name, spec in pipeline.artifact.graphs.items() if name.startswith("backbone")}
        self.runner = onnx.runner(artifact.find(folder), graphs, None, _widths.widths())
        self.pipeline, self.sorted, self.texts = pipeline, sorted(texts, key=len), texts

    def run(self, texts):
        """Tokenize these and run the backbone: the first call that the task makes."""
        table, _ = self.pipeline.parse(Rows({self.column.name: texts}))
        batch = self.pipeline.encode(table)
        call = self.pipeline.start(batch).send(None)
        return self.runner(call[0] if isinstance(call, tuple) else call)

    def one_at_a_time(self, seconds):
        """Texts a second, each with all cores, and processor seconds a text."""
        began, used, done = time.monotonic(), time.process_time(), 0
        while time.monotonic() < began + seconds:
            self.run([self.texts[done % len(self.texts)]])
            done += 1
        return done / (time.monotonic() - began), (time.process_time() - used) / done

    def cell(self, batch, seconds):
        """Texts a second, and processor seconds a text."""
        starts = itertools.cycle(np.random.default_rng(0).permutation(range(0, len(self.sorted) - batch, batch)).tolist())
        end, done, lock = time.monotonic() + seconds, [0], threading.Lock()

        def work():
            CORES.set(1)
            while time.monotonic() < end:
                with lock:
                    start = next(starts)
                self.run(self.sorted[start : start + batch])
                with lock:
                    done[0] += batch

        workers = [threading.Thread(target=work) for _ in range(len(os.sched_getaffinity(0)))]
        began, used = time.monotonic(), time.process_time()
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        return done[0] / (time.monotonic() - began), (time.process_time() - used) / max(done[0], 1)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("texts", type=Path)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    texts = json.loads(options.texts.read_text(encoding="utf-8"))
    limit = Limit(options.model, texts)
    asked = ((f"/predict/{NAME}", {"rows": [{limit.column.name: text}]}) for text in itertools.cycle(texts))
    with load.serving({NAME: options.model}) as server:
        report = {"ready_seconds": round(server.ready, 2), "pss_mb_before": round(server.pss(), 1), "cells": []}
        asyncio.run(load.closed(server.port, asked, 8, options.seconds / 4))
        best = max(BATCHES, key=lambda batch: limit.cell(batch, options.seconds / 4)[0])
        for connections in CONNECTIONS:
            offline = partial(limit.cell, best) if connections > 1 else limit.one_at_a_time
            before = offline(options.seconds / 2)
            used, mine = list(map(load.cpu, server.pids)), time.process_time()
            took = asyncio.run(load.closed(server.port, asked, connections, options.seconds))
            mine = time.process_time() - mine
            spent = [load.cpu(pid) - was for pid, was in zip(server.pids, used, strict=True)]
            after = offline(options.seconds / 2)
            most, rate = (before[0] + after[0]) / 2, len(took) / options.seconds
            p99 = float(np.quantile(took, 0.99))
            report["cells"].append(
                {
                    "connections": connections,
                    "requests_a_second": round(rate, 1),
                    "limit": round(most, 1),
                    "share": round(rate / (most * (1 - mine / options.seconds / CORES_HERE)), 3),
                    "p50_ms": round(1e3 * float(np.median(took)), 1),
                    "p99_ms": round(1e3 * p99, 1),
                    "p99_by_connections_over_limit": round(p99 * most / connections, 2),
                    "cpu_ms_a_request": {
                        "front": round(1e3 * spent[0] / len(took), 2),
                        "engine": round(1e3 * sum(spent[1:]) / len(took), 2),
                        "offline": round(1e3 * (before[1] + after[1]) / 2, 2),
                        "client": round(1e3 * mine / len(took), 2),
                    },
                }
            )
            print(report["cells"][-1], flush=True)
        report["pss_mb"] = [round(load.pss(pid), 1) for pid in server.pids]
        report["batch_of_the_limit"], report["load_average"] = best, os.getloadavg()
    print(json.dumps(report, indent=1))
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

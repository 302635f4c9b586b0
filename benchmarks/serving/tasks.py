"""Many tasks on one frozen backbone beside one task, beside a request a task, and beside a copy of the model a task.

    python benchmarks/serving/tasks.py TEXTS.json MODEL… [--seconds 20] [--json FILE] [--picture FILE]

MODEL…: probes on one backbone, which take one text. Mixed traffic (32 connections, every request asks a random task) alternates with the
same on a server of one task, in every round another. Copies: sessions of ONNX Runtime, one a task, in one process that does nothing
else; no HTTP, two runs at a time with one thread each, as suits copies best.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import random
import statistics
import subprocess
import sys
import time
from pathlib import Path

import load

COUNTS = (1, 5, 10, 20)
ROUNDS = 6

COPIES = """
import itertools, json, sys, threading, time
import numpy as np, onnxruntime
path, count, seconds, rows = sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), json.loads(sys.stdin.read())
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
made = []
for _ in range(count):
    made.append(onnxruntime.InferenceSession(open(path, "rb").read(), options, providers=["CPUExecutionProvider"]))
    made[-1]._model_bytes = None
asked, lock, done = itertools.cycle(rows), threading.Lock(), [0]
def work(end):
    while time.monotonic() < end:
        with lock:
            ids, session = next(asked), made[done[0] % count]
            done[0] += 1
        row = np.array([ids], np.int64)
        session.run(None, {"ids": row, "mask": np.ones_like(row)})
for s in (1 + count / 10, seconds):
    done[0], began = 0, time.monotonic()
    threads = [threading.Thread(target=work, args=(began + s,)) for _ in range(2)]
    [t.start() for t in threads]
    [t.join() for t in threads]
pss = next(int(l.split()[1]) for l in open("/proc/self/smaps_rollup") if l.startswith("Pss:")) / 1024
print(json.dumps([done[0] / (time.monotonic() - began), pss]))
"""


def requests(texts, names, column):
    """Texts in a random order, each for a task drawn at random: in turn, a task would be asked the same few texts again and again."""
    drawn = random.Random(0)
    for text in itertools.cycle(drawn.sample(texts, len(texts))):
        yield f"/predict/{drawn.choice(names)}", {"rows": [{column: text}]}


def copies(folder, texts, count, seconds):
    """Runs a second and MB of a process with a session a task."""
    import mainstem as ms
    from mainstem.contracts import Rows

    model = ms.load(folder)
    [column] = model.pipeline.artifact.schema.names
    rows = []
    for text in texts[:400]:
        table, _ = model.pipeline.parse(Rows({column: [text]}))
        rows.append(next(iter(model.pipeline.encode(table).inputs.values()))["ids"][0].tolist())
    [graph] = [path for path in (model.path / "onnx").glob("backbone.*.onnx")]
    command = [sys.executable, "-c", COPIES, str(graph), str(count), str(seconds)]
    done = subprocess.run(command, input=json.dumps(rows), capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


async def one_input(port, texts, names, column, seconds):
    """Seconds of requests for all tasks, seconds of a request a task, over texts in turn; and whether the answers are equal."""
    connection, whole, each, end, equal = await load.Connection().open(port), [], [], time.perf_counter() + seconds, True
    for text in itertools.cycle(texts):
        if time.perf_counter() > end:
            connection.writer.close()
            return sum(whole), sum(each), equal
        rows = [{column: text}]
        began = time.perf_counter()
        told = json.loads(await connection.ask("/predict", {"tasks": "*", "rows": rows}))["answers"]
        whole.append(time.perf_counter() - began)
        began = time.perf_counter()
        alone = {name: json.loads(await connection.ask(f"/predict/{name}", {"rows": rows})) for name in names}
        each.append(time.perf_counter() - began)
        equal &= all(same(told[name]["predictions"][0], alone[name]["predictions"][0]) for name in names)


def same(a, b):
    """Equal labels, numbers within 1e-5."""
    if isinstance(a["prediction"], str):
        return a["prediction"] == b["prediction"] and abs(a["score"] - b["score"]) < 1e-5
    return abs(a["prediction"] - b["prediction"]) <= 1e-5 * max(1, abs(b["prediction"]))


def draw(report, path):
    """Memory and requests a second by the number of tasks."""
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
    counts = [cell["tasks"] for cell in report["by_tasks"]]
    titles = ((axes[0], "mb", "memory, MB"), (axes[1], "answers_a_second", "answers a second, every text asked of all tasks"))
    kinds = (("copies", "a copy of the model a task (without HTTP)", "#c0504d"), ("shared", "mainstem serve, one backbone", "#2f6fb0"))
    for axis, what, title in titles:
        for kind, label, color in kinds:
            axis.plot(counts, [cell[kind][what] for cell in report["by_tasks"]], "o-", label=label, color=color)
        axis.set(xlabel="tasks", title=title, xticks=counts, ylim=(0, None))
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].legend(frameon=False)
    figure.savefig(path, dpi=110)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("texts", type=Path)
    parser.add_argument("models", nargs="+")
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--picture", type=Path)
    options = parser.parse_args()
    texts, seconds = json.loads(options.texts.read_text(encoding="utf-8")), options.seconds
    models = {f"t{i}": folder for i, folder in enumerate(options.models)}
    names, column, report = list(models), "text", {"tasks": len(models)}
    with load.serving(models) as many:
        report["ready_seconds"], ratios, rates, costs = {"all tasks": round(many.ready, 2)}, [], [], []
        asyncio.run(load.closed(many.port, requests(texts, names, column), 8, 4))
        for turn in range(ROUNDS):
            one = names[turn * len(names) // ROUNDS]
            with load.serving({one: models[one]}) as single:
                report["ready_seconds"]["one task"], pair, cost = round(single.ready, 2), {}, {}
                asked = {single: requests(texts, [one], column), many: requests(texts, names, column)}
                asyncio.run(load.closed(single.port, asked[single], 8, 4))
                for server in (single, many) if turn % 2 else (many, single):
                    used = sum(map(load.cpu, server.pids))
                    took = asyncio.run(load.closed(server.port, asked[server], 32, seconds / ROUNDS * 2))
                    pair[server] = len(took) / (seconds / ROUNDS * 2)
                    cost[server] = (sum(map(load.cpu, server.pids)) - used) / len(took)
                ratios.append(pair[many] / pair[single])
                costs.append(cost[single] / cost[many])
                rates.append([round(pair[single], 1), round(pair[many], 1)])
                if not turn:  # both have answered as much by now
                    report["mb"] = {"one task": round(single.pss(), 1), "all tasks": round(many.pss(), 1)}
        figures = {"ratio": statistics.median(ratios), "ratio_of_processor_time": statistics.median(costs)}
        report["mixed_traffic"] = {"a_second": rates, **{name: round(value, 3) for name, value in figures.items()}}
        whole, each, equal = asyncio.run(one_input(many.port, texts, names, column, seconds))
        report["one_input"] = {"times_faster_than_a_request_a_task": round(each / whole, 2), "answers_equal": equal}
        print(json.dumps(report, indent=1), flush=True)
    report["by_tasks"] = []
    for count in [count for count in COUNTS if count <= len(models)]:
        with load.serving(dict(itertools.islice(models.items(), count))) as server:
            asyncio.run(load.closed(server.port, requests(texts, names[:count], column), 32, 3))
            took = asyncio.run(load.closed(server.port, requests(texts, names[:count], column), 32, seconds / 2))
            shared = {"mb": round(server.pss(), 1), "a_second": round(len(took) / (seconds / 2), 1)}
            asked = (("/predict", {"tasks": "*", "rows": [{column: text}]}) for text in itertools.cycle(texts))
            took = asyncio.run(load.closed(server.port, asked, 8, seconds / 2))
            shared["answers_a_second"] = round(count * len(took) / (seconds / 2), 1)
        rate, size = copies(options.models[0], texts, count, seconds / 2)
        cell = {"tasks": count, "shared": shared, "copies": {"mb": round(size, 1), "answers_a_second": round(rate, 1)}}
        print(cell, flush=True)
        report["by_tasks"].append(cell)
    report["load_average"] = os.getloadavg()
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    if options.picture:
        draw(report, options.picture)


if __name__ == "__main__":
    main()

"""int8 beside the model it was made from: same answers, metrics, speed, size, and whether an answer depends on its batch.

    python benchmarks/int8.py NAME=MODEL,COMPRESSED,DATA… [--rows N] [--json FILE]

MODEL and COMPRESSED are model folders (`mainstem compress MODEL -o COMPRESSED`), DATA rows with answers that neither has seen.
Speed is of the backbone's graph alone, one thread, processor time in alternating blocks, rows one by one and in fours as they come.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import onnxruntime

import mainstem as ms
from mainstem.evaluation.report import point_metrics


def session(model, graph):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(str(model.path / "onnx" / f"{graph}.onnx"), options, providers=["CPUExecutionProvider"])


def speed(sessions, feeds, blocks=9):
    """How many times as fast the second session is as the first: the median over blocks that alternate."""
    for each in sessions:
        each.run(None, feeds[0])
    ratios = []
    for _ in range(blocks):
        seconds = []
        for each in sessions:
            begin = time.process_time()
            for feed in feeds:
                each.run(None, feed)
            seconds.append(time.process_time() - begin)
        ratios.append(seconds[0] / seconds[1])
    return round(float(np.median(ratios)), 3)


def alone_and_together(made, feeds, ports):
    """The largest difference between a row's features alone and the same row in a batch, padded as the longest of it needs."""
    widest = {name: max(feed[name].shape[1] for feed in feeds) for name, port in ports.items() if any("pad:" in a for a in port.axes)}
    padded = [{n: np.pad(a, ((0, 0), (0, widest[n] - a.shape[1]))) if n in widest else a for n, a in feed.items()} for feed in feeds]
    together = made.run(None, {name: np.concatenate([feed[name] for feed in padded]) for name in feeds[0]})[0]
    return float(max(np.abs(made.run(None, feed)[0][0] - together[i]).max() for i, feed in enumerate(feeds)))


def measure(before, after, data, rows):
    """The figures of one pair of models."""
    table, _ = before.pipeline.parse(before.read(data), target=True)
    table = table.take(range(min(rows, len(table))))
    answers = [m.pipeline.judge_table(table, m.runner) for m in (before, after)]
    values = [[a.value for a in made] for made in answers]
    right = [np.array(made) == np.array(table.target) for made in values]
    lost, won = int((right[0] & ~right[1]).sum()), int((~right[0] & right[1]).sum())
    labels = before.pipeline.artifact.state.json.get("labels", [])
    name = next(name for name in before.pipeline.artifact.graphs if name.startswith("backbone."))
    each, ports = name.removeprefix("backbone."), {p.name: p for p in before.pipeline.artifact.graphs[name].inputs}
    one = [dict(before.pipeline.encode(table.take([i])).inputs[each]) for i in range(min(24, len(table)))]
    four = [dict(before.pipeline.encode(table.take(range(i, i + 4))).inputs[each]) for i in range(0, min(24, len(table)) - 3, 4)]
    sessions = [session(m, name) for m in (before, after)]
    sizes = [(m.path / "onnx" / f"{name}.onnx").stat().st_size for m in (before, after)]
    return {
        "rows": len(table),
        "same": float(np.mean([a == b for a, b in zip(*values, strict=True)])),
        "metrics": {m: [point_metrics(before.pipeline.artifact.task, a, table.target, labels)[m] for a in answers] for m in ("accuracy",)},
        "right before alone, after alone": [lost, won],
        "z of the change (McNemar)": round((won - lost) / max(won + lost, 1) ** 0.5, 2),
        "speed of one row": speed(sessions, one),
        "speed of four rows": speed(sessions, four),
        "graph smaller": round(sizes[0] / sizes[1], 2),
        "depends on batch and padding": [alone_and_together(s, one[:6], ports) for s in sessions],
    }


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("pairs", nargs="+")
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    found = {"onnxruntime": onnxruntime.__version__, "vnni": "avx512_vnni" in Path("/proc/cpuinfo").read_text(encoding="utf-8")}
    for pair in given.pairs:
        name, _, paths = pair.partition("=")
        before, after, data = paths.split(",")
        found[name] = measure(ms.load(before), ms.load(after), data, given.rows)
        print(name, json.dumps(found[name], indent=1), flush=True)
    if given.json:
        given.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

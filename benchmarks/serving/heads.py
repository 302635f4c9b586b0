"""Twenty linear heads of twenty classes on 384 features: microseconds of processor time a batch, in numpy and by twenty sessions.

    python benchmarks/serving/heads.py [--json FILE]

"one input": all heads are asked about the same rows, one product; "mixed": each row is asked of a head of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from pathlib import Path

import numpy as np
import torch

from mainstem.contracts import Feature, GraphSpec, Port
from mainstem.nn.heads import Head
from mainstem.runtimes import _linear as linear
from mainstem.runtimes import onnx

HEADS, CLASSES, WIDTH, REPEATS, BLOCKS = 20, 20, 384, 200, 15
SETTINGS = {"hidden": (), "activation": "relu", "norm": "none", "dropout": 0.0, "init": "default", "standardize": ("text",)}


def head(seed):
    """A probe's head as mainstem ships it."""
    torch.manual_seed(seed)
    module = Head({"text.mean": Feature(WIDTH)}, "logits", CLASSES, SETTINGS)
    module.train()({"text.mean": torch.randn(64, WIDTH) / WIDTH**0.5})
    spec = GraphSpec(
        (Port("text.mean", "float32", ("row", str(WIDTH))),), (Port("logits", "float32", ("row", str(CLASSES))),), module=module.eval()
    )
    return onnx.write(spec, {"text.mean": np.zeros((2, WIDTH), np.float32)})


def spent(run):
    """Microseconds of processor time of one run."""
    began = time.process_time()
    for _ in range(REPEATS):
        run()
    return (time.process_time() - began) / REPEATS * 1e6


def main() -> None:
    """Measure, print, and write the JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--json", default="")
    args = parser.parse_args()
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    graphs = [head(seed) for seed in range(HEADS)]
    heads, sessions = [linear.read(data) for data in graphs], [onnx.Graph(data) for data in graphs]
    rng = np.random.default_rng(0)
    result = {"heads": HEADS, "classes": CLASSES, "features": WIDTH, "us": {}, "worst_difference": 0.0}
    for rows in (1, 8):
        x = {"text.mean": (rng.standard_normal((rows, WIDTH)) / WIDTH**0.5).astype(np.float32)}
        each = [{"text.mean": x["text.mean"][i : i + 1]} for i in range(rows)]
        chosen = rng.permutation(HEADS)[:rows]
        one = [(h, x) for h in heads]
        mixed = [(heads[k], given) for k, given in zip(chosen, each, strict=True)]
        kinds = {
            "one input, numpy": lambda one=one: heads[0].stacked(one),
            "one input, sessions": lambda x=x: [run(x, ("logits",)) for run in sessions],
            "mixed, numpy": lambda mixed=mixed: heads[0].stacked(mixed),
            "mixed, sessions": lambda chosen=chosen, each=each: [
                sessions[k](given, ("logits",)) for k, given in zip(chosen, each, strict=True)
            ],
        }
        times = {name: [] for name in kinds}
        for _ in range(BLOCKS):
            for name, run in kinds.items():
                times[name].append(spent(run))
        result["us"][rows] = {name: round(statistics.median(all_times), 1) for name, all_times in times.items()}
        for answer, run in zip(heads[0].stacked(one), sessions, strict=True):
            difference = float(np.abs(answer["logits"] - run(x, ("logits",))["logits"]).max())
            result["worst_difference"] = max(result["worst_difference"], difference)
    print(json.dumps(result, indent=1))
    if args.json:
        Path(args.json).write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()

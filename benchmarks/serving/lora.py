"""Twenty LoRA tasks on one MiniLM: rows a second of a batch that mixes them, beside the same graph without adapters.

    python benchmarks/serving/lora.py --data FILE.csv --minilm FOLDER [--json FILE]

FILE.csv: texts in the column "text". Batches of rows of like length, as the scheduler makes them, in one thread; each kind runs the same
batches in alternating blocks, in processor time, and a ratio is the median over blocks. The adapters are random: that changes no time.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import statistics
import time
from pathlib import Path

import numpy as np
import tokenizers
import torch

from mainstem import registry
from mainstem.artifact import Adapter
from mainstem.network import BackboneNet
from mainstem.runtimes import onnx

TASKS, RANK, TEXTS, BLOCKS = 20, 8, 64, 9
LAYERS = [f"encoder.layer.{i}.attention.self.{part}" for i in range(6) for part in ("query", "value")]


def graph(folder):
    """MiniLM as mainstem ships it."""
    ref = registry.resolve(f"hf:{folder}")
    plugin = registry.load("backbones", ref.family).plugin
    spec = BackboneNet(plugin, plugin.build(ref).requires_grad_(False), plugin.describe(ref)).spec()
    return onnx.write(spec, {"ids": np.ones((2, 3), np.int64), "mask": np.ones((2, 3), np.int64)})


def adapter(rng, rank=RANK):
    """A random one that changes answers."""

    def drawn(*shape):
        return (rng.standard_normal(shape) * 0.1).astype(np.float32)

    return Adapter({layer: (drawn(rank, 384), drawn(384, rank), 2.0) for layer in LAYERS})


def batches(path, folder, size):
    """Token ids and masks of texts of natural length, those of like length together."""
    with open(path, encoding="utf-8", newline="") as stream:
        texts = [row["text"] for row in csv.DictReader(stream)]
    tokenizer = tokenizers.Tokenizer.from_file(str(Path(folder) / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(256)
    rows = sorted((each.ids for each in tokenizer.encode_batch(texts[:TEXTS])), key=len)
    for start in range(0, len(rows), size):
        part = rows[start : start + size]
        mask = (np.arange(len(part[-1])) < np.array([len(row) for row in part])[:, None]).astype(np.int64)
        yield {"ids": np.array([row + [0] * (mask.shape[1] - len(row)) for row in part]), "mask": mask}


def measure(kinds):
    """Ratio of processor time by kind: the plain graph's over its own, the median over alternating blocks."""
    for run in kinds.values():
        run()
    spent = {name: [] for name in kinds}
    for block in range(BLOCKS):
        for name in list(kinds) if block % 2 else reversed(kinds):
            began = time.process_time()
            kinds[name]()
            spent[name].append(time.process_time() - began)
    ratios = {name: statistics.median(p / s for p, s in zip(spent["plain"], each, strict=True)) for name, each in spent.items()}
    return {name: round(ratio, 3) for name, ratio in ratios.items() if name != "plain"}, min(spent["plain"])


def worst(shared, numbers, parts):
    """The largest difference between a row in a mixed batch and the same row alone."""
    found = 0.0
    for arrays in parts[:6]:
        rows = np.resize(numbers, len(arrays["ids"]))
        mixed = shared({**arrays, "adapter": rows}, ("mean",))["mean"]
        for i, length in enumerate(arrays["mask"].sum(1)):
            alone = {name: array[i : i + 1, :length] for name, array in arrays.items()}
            found = max(found, float(np.abs(shared({**alone, "adapter": rows[i : i + 1]}, ("mean",))["mean"] - mixed[i]).max()))
    return found


def resident():
    """Bytes of memory that this process has for itself."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith(("Private_Clean", "Private_Dirty")))


def main() -> None:
    """Measure, print, and write the JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", required=True)
    parser.add_argument("--minilm", required=True)
    parser.add_argument("--json", default="")
    args = parser.parse_args()
    torch.set_flush_denormal(True)
    rng = np.random.default_rng(0)
    data = graph(args.minilm)
    adapters = [adapter(rng) for _ in range(TASKS)]
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})  # a session has as many threads as it finds cores
    plain, shared = onnx.Graph(data), onnx.Graph(data, adapter=adapters[0])
    os.sched_setaffinity(0, cores)
    before = resident()
    took = []
    numbers = []
    for each in adapters:
        began = time.process_time()
        numbers.append(shared.add(each, data))
        took.append(time.process_time() - began)
    result = {
        "machine": {"cores": 1, "onnxruntime": onnx.onnxruntime.__version__},
        "tasks": TASKS,
        "rank": RANK,
        "texts": TEXTS,
        "blocks": BLOCKS,
        "memory_mb": {
            "adapters": round(sum(a.nbytes + b.nbytes for each in adapters for a, b, _ in each.layers.values()) / 2**20, 1),
            "process": round((resident() - before) / 2**20, 1),
        },
        "add_ms": round(1000 * max(took), 2),
        "batch": {},
    }
    for size in (1, 4, 8):
        parts = list(batches(args.data, args.minilm, size))
        chosen = [rng.choice(numbers, len(arrays["ids"])) for arrays in parts]

        def run(function, rows, parts=parts):
            for arrays, own in zip(parts, rows, strict=True):
                function({**arrays, "adapter": own}, ("mean",))

        ratios, seconds = measure(
            {
                "plain": lambda: run(plain, [own * 0 for own in chosen]),  # noqa: B023 called before the next round
                "mixed": lambda: run(shared, chosen),  # noqa: B023
                "one adapter": lambda: run(shared, [own * 0 + numbers[3] for own in chosen]),  # noqa: B023
                "no adapter": lambda: run(shared, [own * 0 for own in chosen]),  # noqa: B023
            }
        )
        result["batch"][size] = {"share_of_plain": ratios, "plain_rows_per_s": round(TEXTS / seconds, 1)}
        print(size, result["batch"][size], flush=True)
    result["worst_difference_to_alone"] = worst(shared, numbers, list(batches(args.data, args.minilm, 8)))
    print(json.dumps(result, indent=1))
    if args.json:
        Path(args.json).write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()

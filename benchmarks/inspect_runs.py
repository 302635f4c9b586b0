"""What `mainstem inspect CONFIG` says a pretraining run will need, against what it then needs: memory at its peak, seconds of a step.

    python benchmarks/inspect_runs.py --data FOLDER [--json FILE]

FOLDER holds debsections/train.csv (text). Each run is a process of its own, of so many steps; its memory is the most that the system
saw it hold, its time the median of what passes between two steps. The ratio of both to what was said before is to lie within 20 %.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml

STEPS = 24
RUNS = {
    "mlm bert-tiny, 32 texts": {"objective": "mlm", "backbone": "bert-tiny", "training": {"batch_size": 32}},
    "mlm bert-small, 128 texts": {"objective": "mlm", "backbone": "bert-small", "training": {"batch_size": 128}},
    "clm gpt-tiny, 16 windows": {"objective": "clm", "backbone": "gpt-tiny", "training": {"batch_size": 16}},
    "clm gpt-tiny, 32 windows in 8 parts": {"objective": "clm", "backbone": "gpt-tiny", "training": {"batch_size": 32, "accumulate": 8}},
}
SAID = """
import json, sys
from mainstem import api
_, need = api.estimate(sys.argv[1])
print(json.dumps({"parameters": need.parameters, "memory": dict(need.memory), "peak": need.peak, "step": need.step}))
"""
DONE = """
import json, resource, sys, time
from itertools import pairwise
from statistics import median
from mainstem import api
moments = []
report = lambda figures: moments.append(time.monotonic()) if "rows" in figures else None
api.pretrain(config=sys.argv[1], out=sys.argv[2], report=report)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
print(json.dumps({"peak": peak, "step": median(b - a for a, b in pairwise(moments))}))
"""


def output(code, *arguments):
    done = subprocess.run([sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    report = {}
    for name, asked in RUNS.items():
        training = {"precision": "float32", **asked["training"], "steps": STEPS}
        config = {**asked, "data": str(options.data / "debsections" / "train.csv"), "inputs": ["text"], "training": training}
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "config.yaml"
            path.write_text(yaml.safe_dump({**config, "evaluate_every": STEPS}), encoding="utf-8")
            said, done = output(SAID, path), output(DONE, path, Path(folder) / "run")
        report[name] = {"said": said, "measured": done, "ratio": {key: round(said[key] / done[key], 3) for key in ("peak", "step")}}
        print(f"{name:38s} memory {done['peak'] / 2**20:,.0f} MiB, ratio {report[name]['ratio']['peak']:.2f}; ", end="")
        print(f"step {done['step']:.3f} s, ratio {report[name]['ratio']['step']:.2f}", flush=True)
        if options.json:
            options.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

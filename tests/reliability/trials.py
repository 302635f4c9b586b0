"""What the rows of the reliability sheet share: tiny runs of every modality, their fingerprints, and result files.

A trial is a fork of this process, which has imported everything once (mainstem.testing.faults).
"""

import contextlib
import datetime
import hashlib
import io
import json
import os
import platform
import shutil
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from small_pictures import write_pictures

import mainstem as ms
from mainstem import seal

RESULTS = Path(__file__).parents[2] / "benchmarks" / "reliability"
WORDS = {"good": "fine lovely warm great bright calm".split(), "bad": "poor cold dull broken grim loud".split()}
TABLE = {"width": 8, "depth": 1, "dropout": 0.3, "numbers": "plain"}


def table_rows(count=36, seed=0):
    """Two numbers and a category, a yes or no."""
    rng = np.random.default_rng(seed)
    rows = []
    for _ in range(count):
        a, b = rng.normal(size=2).round(4).tolist()
        rows.append({"a": a, "b": b, "place": str(rng.choice(["北京", "north", "south"])), "y": "yes" if a + b > 0 else "no"})
    return rows


def text_rows(count=36, seed=0):
    """Words of one of two moods."""
    rng = np.random.default_rng(seed)
    moods = [str(m) for m in rng.permutation(["good", "bad"] * (count // 2))]
    return [{"text": f"{' '.join(rng.choice(WORDS[m], 4))} {i}", "y": m} for i, m in enumerate(moods)]


def candidate(name, kind, columns, **settings):
    """A candidate of one input."""
    return {"name": name, "inputs": [{"name": kind, "columns": columns, "backbone": name, "settings": settings}]}


def cases(folder):
    """Tiny runs by name: keyword arguments of `ms.train`, with dropout and checkpoints after every step."""
    training = {"optimizer": "adam", "lr": 0.01, "epochs": 2, "batch_size": 12, "checkpoint_every": 0}
    columns = ["a", "b", "place"]
    pictures = str(write_pictures(folder / "pixels"))
    mlp, linear = candidate("mlp", "table", columns, **TABLE), candidate("linear", "table", columns)
    made = {
        "table": ({"data": table_rows(), "target": "y"}, [mlp]),
        "text": ({"data": text_rows(), "target": "y"}, [candidate("ngram", "text", ["text"], buckets=64, dim=4, dropout=0.2)]),
        "pictures": ({"data": pictures, "target": "label"}, [candidate("cnn", "image", ["image"], size=8, width=4, depth=1, dropout=0.2)]),
        "several": ({"data": table_rows(), "target": "y", "split__folds": 2}, [linear, {**mlp, "training": training}]),
    }
    return {
        name: {**given, "config": {"candidates": [c if c["name"] == "linear" else {**c, "training": training} for c in found]}}
        for name, (given, found) in made.items()
    }


def train(case, folder, *, resume=False, here=True, **more):
    """One run with one thread. here: the seal's check is made in this process, not in one of its own."""
    torch.set_num_threads(1)
    with checking_here() if here else contextlib.nullcontext():
        return ms.train(**{**case, **more}, out=folder, resume=resume)


@contextlib.contextmanager
def checking_here():
    """Seals run their check in this process: half a second where the start of another takes two."""

    def run(command, *, input, **more):
        before, sys.stdin = sys.stdin, io.StringIO(input)
        try:
            with contextlib.redirect_stdout(io.StringIO()) as said:
                seal._fresh()
        finally:
            sys.stdin = before
        return SimpleNamespace(stdout=said.getvalue(), stderr="", returncode=0)

    before, seal.subprocess = seal.subprocess, SimpleNamespace(run=run)
    try:
        yield
    finally:
        seal.subprocess = before


def weights(folder):
    """One hash of what was chosen and of every weight and learned state of a run's model."""
    model = Path(folder) / "model"
    contents = json.loads((model / "mainstem.json").read_bytes())
    digest = hashlib.sha256(contents["about"]["chosen"].encode())
    for path in sorted(model.rglob("*.safetensors")):
        if "replay" not in path.parts:
            digest.update(path.relative_to(model).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()


def leftovers(folder):
    """Temporary files and folders in a run folder, and checkpoints of fits that ended."""
    return sorted(
        p.relative_to(folder).as_posix() for p in Path(folder).rglob("*") if ".tmp-" in p.name or ".old-" in p.name or "training" in p.name
    )


def snapshot(folder):
    """Every file by its place."""
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(Path(folder).rglob("*")) if p.is_file()}


def fresh(folder):
    """The path, with nothing there."""
    shutil.rmtree(folder, ignore_errors=True)
    return folder


class Count:
    """Trials of one row: how many, which failed, and the file with the result."""

    def __init__(self, row, promise, seed):
        self.row, self.promise, self.seed = row, promise, seed
        self.n, self.failures, self.late, self.details = 0, [], [], {}
        self.started = time.monotonic()

    def __call__(self, right, what=""):
        """One trial: whether it went as promised, and what it was."""
        self.n += 1
        if not right:
            self.failures.append(str(what)[:2000])

    def timely(self, right, what):
        """One trial of a promise about time: it fails the full counts alone, since a quick test must not fail where the machine stalls."""
        self.n += 1
        if not right:
            self.late.append(str(what))

    def write(self, **details):
        """The result file; then fail where a trial did, or was late."""
        import onnxruntime

        self.failures += self.late
        versions = {"python": platform.python_version(), "torch": torch.__version__, "onnxruntime": onnxruntime.__version__}
        result = {
            "row": self.row,
            "promise": self.promise,
            "n": self.n,
            "failures": len(self.failures),
            "seed": self.seed,
            "versions": {"mainstem": ms.__version__, **versions, "numpy": np.__version__},
            "date": datetime.date.today().isoformat(),
            "seconds": round(time.monotonic() - self.started, 1),
            "details": {**self.details, **details, "failed": self.failures[:10]},
        }
        RESULTS.mkdir(parents=True, exist_ok=True)
        (RESULTS / f"r{self.row:02d}.json").write_text(json.dumps(result, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
        self.check()

    def check(self):
        """Fail where a trial did."""
        assert self.n
        assert not self.failures, f"{len(self.failures)} of {self.n}: {self.failures[0]}"


def share():
    """The share of the full counts that is asked for: MAINSTEM_TORTURE=0.1 tries a tenth of them. The result file tells n."""
    return float(os.environ.get("MAINSTEM_TORTURE", "1"))


def scaled(full):
    """That share of a count."""
    return max(1, round(full * share()))

"""Row 8: the same seed gives the same weights in a fresh process, whatever the hash seed; another seed gives others."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import trials

PROMISE = "the same seed gives bit-identical weights in fresh processes with different PYTHONHASHSEED; another seed gives other weights"
SCRIPT = """
import sys, json
from pathlib import Path
sys.path[:0] = [sys.argv[1], str(Path(sys.argv[1]).parent)]
import trials
folder, name, seed, here = Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]), sys.argv[5] == "here"
trials.train(trials.cases(folder)[name], folder / "run", here=here, seed=seed)
print(json.dumps(trials.weights(folder / "run")))
"""


def fresh(folder, name, seed, hash_seed, here="here"):
    """The hash of the weights that one process of its own arrives at."""
    folder.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "PYTHONHASHSEED": str(hash_seed), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", SCRIPT, str(Path(__file__).parent), str(folder), name, str(seed), here]
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", env=environment)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_fresh_processes_agree(tmp_path):
    """This process has made other runs before; the fresh one has not."""
    case = trials.cases(tmp_path)["several"]
    trials.train(case, tmp_path / "run")
    trials.train(case, tmp_path / "other", seed=1)
    assert fresh(tmp_path / "fresh", "several", 0, 4321) == trials.weights(tmp_path / "run") != trials.weights(tmp_path / "other")


@pytest.mark.parametrize("name", ["table", "text", "pictures"])
def test_runs_in_one_process_agree(tmp_path, name):
    case = trials.cases(tmp_path)[name]
    for run, seed in (("a", 0), ("b", 0), ("c", 1)):
        trials.train(case, tmp_path / run, seed=seed)
    assert trials.weights(tmp_path / "a") == trials.weights(tmp_path / "b") != trials.weights(tmp_path / "c")


@pytest.mark.torture
def test_fifty_of_each(tmp_path):
    count, repeats, found = trials.Count(8, PROMISE, 0), trials.scaled(50), {}
    for name in ("table", "text", "pictures", "several"):
        first = fresh(tmp_path / name / "0", name, 0, 0)
        for i in range(1, repeats):
            again = fresh(trials.fresh(tmp_path / name / "again"), name, 0, i)
            count(again == first, f"{name}, hash seed {i}: {again} instead of {first}")
        count(fresh(tmp_path / name / "other", name, 1, 0) != first, f"{name}: another seed gave the same weights")
        found[name] = {"runs": repeats, "weights": first}
    count.write(cases=found)

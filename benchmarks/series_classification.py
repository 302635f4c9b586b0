"""Accuracy on series of sensors: train and test file of each set, rows in long format (id, time, values, label).

series_classification.py --data FOLDER --json series_classification.json
PYTHON series_classification.py --data FOLDER --json series_classification.json --models minirocket     # by a PYTHON that has aeon
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import tempfile
import time
from pathlib import Path

import numpy as np

CANDIDATES = ("statistics", "kernels", "cnn")  # those that are compared when none is named, one at a time


def read(path: Path) -> dict[str, list[str]]:
    """The columns of a file."""
    with gzip.open(path, "rt", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return {name: [row[name] for row in rows] for name in rows[0]}


def labels(columns: dict[str, list[str]]) -> dict[str, str]:
    """The label of each series, in order."""
    return dict(zip(columns["id"], columns["label"], strict=True))


def mainstem_answers(train: dict, test: dict, backbone: str, folder: Path, seed: int) -> tuple[list[str], str]:
    """Labels of the test series, and what was chosen. All of the training file is learned from."""
    import mainstem as ms

    settings = {"backbone": backbone} if backbone else {}
    run = ms.train(train, "label", series="id", time="time", task="classification", out=folder, seed=seed, split__test=0, **settings)
    asked = {name: cells for name, cells in test.items() if name != "label"}
    return [answer["prediction"] for answer in run.model.predict(asked)], run.chosen


def peer_answers(train: dict, test: dict, seed: int) -> list[str]:
    """MiniRocket and ridge, as aeon has them."""
    from aeon.classification.convolution_based import MiniRocketClassifier

    names = [name for name in train if name not in ("id", "time", "label")]

    def windows(columns: dict) -> np.ndarray:
        values = np.array([columns[name] for name in names], np.float64)
        count = len(labels(columns))
        return values.reshape(len(names), count, -1).transpose(1, 0, 2)

    model = MiniRocketClassifier(random_state=seed).fit(windows(train), np.array(list(labels(train).values())))
    return model.predict(windows(test)).tolist()


def main() -> None:
    """Measure the models named on every set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--models", default=",".join((*CANDIDATES, "default")), help="by name; minirocket needs aeon")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="written after each set; what is in it is not done again")
    options = parser.parse_args()
    report = json.loads(options.json.read_text(encoding="utf-8")) if options.json and options.json.exists() else {"models": {}}
    sets = sorted(path.name for path in options.data.iterdir() if path.is_dir())
    for model in options.models.split(","):
        done = report["models"].setdefault(model, {"sets": {}})
        for name in sets:
            if name in done["sets"]:
                continue
            train, test = (read(options.data / name / f"{part}.csv.gz") for part in ("train", "test"))
            started, chosen = time.perf_counter(), ""
            if model == "minirocket":
                answers = peer_answers(train, test, options.seed)
            else:
                with tempfile.TemporaryDirectory() as folder:
                    backbone = "" if model == "default" else model
                    answers, chosen = mainstem_answers(train, test, backbone, Path(folder) / "run", options.seed)
            accuracy = float(np.mean([a == b for a, b in zip(answers, labels(test).values(), strict=True)]))
            done["sets"][name] = {"accuracy": accuracy, "seconds": round(time.perf_counter() - started, 1), "chosen": chosen}
            done["accuracy"] = float(np.mean([found["accuracy"] for found in done["sets"].values()]))
            print(f"{model:10s} {name:18s} {accuracy:.4f} {done['sets'][name]['seconds']:7.1f} s  {chosen}", flush=True)
            if options.json:
                options.json.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        print(f"{model:10s} {'mean':18s} {done['accuracy']:.4f}", flush=True)


if __name__ == "__main__":
    main()

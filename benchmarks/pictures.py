"""Pictures: a probe on a given EfficientNet-Lite0 for stamps, and a small network from scratch for scikit-learn's digits as images.

    python benchmarks/pictures.py [--data FOLDER --efficientnet FOLDER] [--json FILE]

FOLDER holds stamps/index.csv (image, label, split). Without --data only the digits are done. The peer of the probe is
scikit-learn's logistic regression on the same standardised features.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import tempfile
import time
from pathlib import Path

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import mainstem as ms
from mainstem.contracts import Call
from mainstem.data import examples
from mainstem.inference import chunks


def stamps(folder, efficientnet, work):
    """`--input image` alone: the index's train rows to learn from, its test rows as the test file.

    Two of the 97 test pictures stand in train too: the leak check stops there, and `allow_leak` keeps the split as others measure it.
    """
    with open(folder / "stamps" / "index.csv", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    paths = {}
    for part in ("train", "test"):
        paths[part] = work / f"{part}.csv"
        with open(paths[part], "w", encoding="utf-8", newline="") as stream:
            writer = csv.writer(stream)
            writer.writerow(["image", "label"])
            writer.writerows([folder / "stamps" / row["image"], row["label"]] for row in rows if row["split"] == part)
    settings = {"backbone": str(efficientnet), "adapt": "probe", "allow_leak": True}
    return ms.train(paths["train"], "label", input="image", test=str(paths["test"]), out=work / "run", **settings)


def peer(run, work):
    """Accuracy of logistic regression on the features that the run's frozen backbone makes of the same files."""
    parts = []
    for part in ("train", "test"):
        model, rows = run.model, run.model.read(work / f"{part}.csv")
        table, _ = model.pipeline.parse(rows, target=True)
        calls = [Call("backbone.image", model.pipeline.encode(piece).inputs["image"]) for piece in chunks(table)]
        parts += [np.concatenate([next(iter(model.runner(call).values())) for call in calls]), table.target]
    features, labels, new, answers = parts
    return float(make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)).fit(features, labels).score(new, answers))


def digits(work):
    """The folder that `mainstem example digits` writes, by class folders; a stratified test part is drawn."""
    examples.write("digits", work)
    return ms.train(work / "digits", "label", backbone="cnn", out=work / "run")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--efficientnet", type=Path)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    report = {}
    with tempfile.TemporaryDirectory() as cache:
        os.environ.setdefault("MAINSTEM_CACHE", cache)
        tasks = {"digits cnn": digits}
        if options.data:
            tasks["stamps efficientnet probe"] = lambda work: stamps(options.data, options.efficientnet, work)
        for name, task in tasks.items():
            with tempfile.TemporaryDirectory() as work:
                start = time.monotonic()
                run = task(Path(work))
                seconds = round(time.monotonic() - start, 1)
                beside = {"peer": peer(run, Path(work))} if task is not digits else {}
            report[name] = {
                "accuracy": run.report["metrics"]["accuracy"],
                "rows": run.report["rows"],
                "chosen": run.chosen,
                "seconds": seconds,
                **beside,
            }
            print(f"{name:28s} {report[name]['accuracy']['value']:.4f} of {run.report['rows']}  {seconds:.0f} s", flush=True)
            if options.json:
                options.json.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

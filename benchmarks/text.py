"""Texts: `mainstem train --target label` with one given backbone, and each way to adapt it, on the test part.

    python benchmarks/text.py --data FOLDER --minilm FOLDER --e5 FOLDER [--only NAME,…] [--json FILE]

FOLDER holds debsections/ and zh_reviews/ (train.csv, test.csv: text, label). zh_reviews is trained from a GB18030 file. The
feature cache starts empty, so that the second probe shows what the first one left behind. The peer of each data set is TF-IDF
(words 1 to 2, characters 1 to 3) with scikit-learn's logistic regression.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import tempfile
import time
from pathlib import Path

from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

import mainstem as ms

# name: data, backbone, settings. The first probe of a pair finds an empty cache, "again" what that one left there.
RUNS = {
    "debsections minilm probe": ("debsections", "minilm", {"adapt": "probe"}),
    "debsections minilm probe again": ("debsections", "minilm", {"adapt": "probe"}),
    "debsections minilm default": ("debsections", "minilm", {}),
    "zh_reviews e5 default": ("zh_reviews", "e5", {}),
    "zh_reviews e5 probe": ("zh_reviews", "e5", {"adapt": "probe"}),
    "debsections minilm lora": ("debsections", "minilm", {"adapt": "lora", "epochs": 1}),
    "debsections minilm full": ("debsections", "minilm", {"adapt": "full", "epochs": 1}),
    "debsections e5 probe": ("debsections", "e5", {"adapt": "probe"}),
    "zh_reviews minilm probe": ("zh_reviews", "minilm", {"adapt": "probe"}),
    "zh_reviews e5 lora": ("zh_reviews", "e5", {"adapt": "lora", "epochs": 1}),
    "zh_reviews e5 full": ("zh_reviews", "e5", {"adapt": "full", "epochs": 1}),
}


PEERS = {"debsections": {"ngram_range": (1, 2)}, "zh_reviews": {"analyzer": "char", "ngram_range": (1, 3)}}


def peer(data):
    """Accuracy of TF-IDF and logistic regression on the test file."""
    parts = []
    for part in ("train", "test"):
        with open(data / f"{part}.csv", encoding="utf-8", newline="") as stream:
            rows = list(csv.DictReader(stream))
        parts += [[row["text"] for row in rows], [row["label"] for row in rows]]
    texts, labels, new, answers = parts
    model = make_pipeline(TfidfVectorizer(sublinear_tf=True, **PEERS[data.name]), LogisticRegression(C=10, max_iter=1000))
    return float(model.fit(texts, labels).score(new, answers))


def run(data, backbone, settings, work):
    """One training run: accuracy on the test file with its interval, what was chosen, and seconds."""
    paths = {}
    for part in ("train", "test"):
        text = (data / f"{part}.csv").read_text(encoding="utf-8")
        paths[part] = work / f"{part}.csv"
        paths[part].write_bytes(text.encode("gb18030" if data.name == "zh_reviews" else "utf-8"))
    moments = []
    start = time.monotonic()
    made = ms.train(
        paths["train"],
        "label",
        test=str(paths["test"]),
        backbone=str(backbone),
        out=work / "run",
        say=lambda text: moments.append((time.monotonic() - start, text)),
        **settings,
    )
    seconds = time.monotonic() - start
    begun = next(t for t, text in moments if text.startswith("classification of"))
    fitted = next(t for t, text in moments if "is refitted on" in text)
    compared = json.loads((made.path / "report.json").read_text())["compared"]
    return {
        "accuracy": made.report["metrics"]["accuracy"],
        "chosen": made.chosen,
        "compared": {c["name"]: {k: c["metrics"].get(k) for k in ("cross_entropy", "accuracy")} for c in compared},
        "settings": settings,
        "seconds": round(seconds, 1),
        "features_and_head_seconds": round(fitted - begun, 1),
        "said": [text for _, text in moments if "GB18030" in text],
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("--data", "--minilm", "--e5"):
        parser.add_argument(name, type=Path, required=True)
    parser.add_argument("--only", default="", help="names of runs, separated by commas")
    parser.add_argument("--json", type=Path, help="written after each run; runs that are in it are not done again")
    options = parser.parse_args()
    report = json.loads(options.json.read_text()) if options.json and options.json.exists() else {"peers": {}, "runs": {}}
    names = options.only.split(",") if options.only else list(RUNS)
    for data in PEERS.keys() - report["peers"].keys():
        report["peers"][data] = peer(options.data / data)
        print(f"{data} TF-IDF, logistic regression  {report['peers'][data]:.4f}", flush=True)
    with tempfile.TemporaryDirectory() as cache:
        os.environ.setdefault("MAINSTEM_CACHE", cache)
        for name in names:
            if name in report["runs"]:
                continue
            data, backbone, settings = RUNS[name]
            with tempfile.TemporaryDirectory() as work:
                found = run(options.data / data, getattr(options, backbone), settings, Path(work))
            report["runs"][name] = found
            print(f"{name:32s} {found['accuracy']['value']:.4f}  {found['seconds']:.0f} s  {found['chosen']}", flush=True)
            if options.json:
                options.json.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

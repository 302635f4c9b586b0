"""What pretraining buys: a small BERT pretrained on unlabelled texts, then fine-tuned with 500 labels, against the same network from
scratch and against `ngram` with the same labels.

    python benchmarks/pretrain.py --data FOLDER --run RUN [--json FILE] [--picture FILE]

FOLDER holds debsections/ (train.csv, test.csv: text, label) and en_zh/ (train.csv: source). Pretrained on the texts of the two training
files without their labels; RUN is where it goes on from when it is started again. The labels are those of the first 500 rows that a
seed draws from the training file; what each network trains with is chosen on a part of these, the same choices for both. All figures
are of the test file, which nothing was chosen on.
"""

from __future__ import annotations

import argparse
import csv
import json
import tempfile
import time
from pathlib import Path

import numpy as np

import mainstem as ms
from mainstem import api

LABELS, SEED = 500, 0
PRETRAINING = {
    "objective": "mlm",
    "backbone": "bert-tiny",
    "inputs": ["text"],
    "training": {"optimizer": "muon", "batch_size": 128, "lr": 0.002, "schedule": "cosine", "warmup": 100, "clip": 1.0, "steps": 8000},
    "backbone_settings": {"max_length": 256},
    "evaluate_every": 666,
}
RATES = (5e-4, 1e-3, 2e-3)
FINE = {"optimizer": "adamw", "weight_decay": 0.01, "schedule": "cosine", "warmup": 0.06, "batch_size": 16, "epochs": 12, "clip": 1.0}


def read(path):
    with open(path, encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def corpus(data, folder):
    """The unlabelled texts, as a folder of two files."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, column in (("debsections", "text"), ("en_zh", "source")):
        lines = [json.dumps({"text": row[column]}, ensure_ascii=False) for row in read(data / name / "train.csv")]
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def fine_tuned(rows, test, backbone, settings):
    """Accuracy on the test rows of a network adapted to the labelled rows, at the rate that is best on a part of them."""
    columns = {"columns": ["text"], "name": "text", "backbone": str(backbone), "settings": settings, "adapt": "full"}
    candidates = [{"name": f"rate {lr:g}", "inputs": [columns], "training": {**FINE, "lr": lr, "group_by_length": True}} for lr in RATES]
    return trained(rows, test, candidates=candidates)


def trained(rows, test, **settings):
    start = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        test_file = Path(folder) / "test.jsonl"
        test_file.write_text("".join(json.dumps(row) + "\n" for row in test), encoding="utf-8")
        made = ms.train(
            rows,
            "label",
            test=str(test_file),
            out=Path(folder) / "run",
            columns={"text": "text"},
            split__folds_below=0,
            seed=SEED,
            **settings,
        )
        accuracy = made.report["metrics"]["accuracy"]
    return {"accuracy": accuracy, "chosen": made.chosen, "cpu_seconds": round(time.process_time() - start, 1)}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--picture", type=Path)
    options = parser.parse_args()
    start = time.process_time()
    texts = corpus(options.data, options.run.with_name(f"{options.run.name}-texts"))
    made = api.pretrain(texts, config=PRETRAINING, out=options.run, resume=options.run.exists(), seed=SEED, say=print)
    lines = [json.loads(line) for line in (made.folder / "log.jsonl").read_text().splitlines()]
    report = {
        "pretraining": {
            **PRETRAINING,
            "cpu_seconds_of_this_start": round(time.process_time() - start, 1),
            "seconds": lines[-1]["seconds"],
            "held_out": {"loss": made.valid, **made.figures},
            "curve": [{key: line[key] for key in ("step", "loss", "valid", "bits_per_byte")} for line in lines],
            "engine": json.loads((made.folder / "stages" / "01" / "engine.json").read_text()),
        }
    }
    if options.picture:
        options.picture.write_bytes((made.folder / "curve.png").read_bytes())
    labelled, test = read(options.data / "debsections" / "train.csv"), read(options.data / "debsections" / "test.csv")
    rows = [labelled[i] for i in np.random.default_rng(SEED).permutation(len(labelled))[:LABELS]]
    report["labels"], report["test"], report["accuracy"] = LABELS, len(test), {}
    for name, run in (
        ("ngram", lambda: trained(rows, test, backbone="ngram")),
        ("from scratch", lambda: fine_tuned(rows, test, "bert-tiny", PRETRAINING["backbone_settings"])),
        ("pretrained", lambda: fine_tuned(rows, test, made.backbone, {})),
    ):
        report["accuracy"][name] = run()
        print(f"{name:14s} {report['accuracy'][name]['accuracy']['value']:.4f}  {report['accuracy'][name]['chosen']}", flush=True)
        if options.json:
            options.json.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

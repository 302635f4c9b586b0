"""What pretraining on pictures and pairs buys a probe, beside the backbone before it and the honest alternative with the same labels.

    python benchmarks/pretrain_views.py --data FOLDER --runs FOLDER [--minilm FOLDER] [--only texts|pictures]
        [--objective NAME…] [--json FILE]

texts: `contrastive` goes on from MiniLM on the texts of debsections/train.csv, labels left out; then probes on 1,000 labels, judged by
debsections/test.csv. pictures: `contrastive` and `masked-image` from scratch, a ViT-tiny on the training pictures of stamps/ and 1,300 of
scikit-learn's digits; then probes on the labels of 500 of these digits, and on those of the stamps, judged by the others. RUNS is where
it goes on from when it is started again. Nothing was chosen on the files that judge: views, rates and steps were chosen on other rows of
the training files (docs/log.md), size and length by the time a run may take. Before and after are
compared row by row (McNemar 1947, exact).
"""

from __future__ import annotations

import argparse
import csv
import json
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.stats import binomtest
from sklearn.datasets import load_digits

import mainstem as ms
from mainstem import api, registry

LABELS, DIGITS, DIGIT_LABELS, SEED = 1000, 1300, 500, 0
TOKENS, PIXELS = 64, 56
TEXTS = {
    "objective": "contrastive",
    "settings": {"length": TOKENS, "views": "neighbours"},
    "training": {"steps": 200, "batch_size": 32, "lr": 8e-5},
    "evaluate_every": 50,
}
VIT = {"backbone": "vit-tiny", "backbone_settings": {"size": PIXELS}, "evaluate_every": 100}
PICTURES = {
    "contrastive": {
        "objective": "contrastive",
        "settings": {"flip": False, "crop": 0.5},
        **VIT,
        "training": {"steps": 1000, "batch_size": 32},
    },
    "masked-image": {"objective": "masked-image", "settings": {"flip": False, "crop": 0.6}, **VIT, "training": {"steps": 4000}},
}


def read(path):
    with open(path, encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def write(path, rows):
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def pretrained(config, data, out, **more):
    """The run, gone on with where it was begun, and what it told."""
    start = time.process_time()
    made = api.pretrain(data, config={**config, **more}, out=out, resume=out.exists(), seed=SEED, say=print)
    lines = [json.loads(line) for line in (made.folder / "log.jsonl").read_text().splitlines()]
    curve = [{key: line[key] for key in ("step", "loss", "valid", "measures") if key in line} for line in lines]
    told = {"held_out": {"loss": made.valid, **made.figures}, "steps": made.steps, "curve": curve}
    return made, {**config, **told, "cpu_seconds_of_this_start": round(time.process_time() - start, 1)}


def trained(rows, test, column, backbone, **settings):
    """Accuracy on the test rows of one backbone adapted to the labelled rows, as the plan does it; and which rows are right."""
    start = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        made = ms.train(
            write(Path(folder) / "train.jsonl", rows),
            "label",
            test=str(write(Path(folder) / "test.jsonl", test)),
            out=Path(folder) / "run",
            inputs=[column],
            backbone=str(backbone),
            columns={column: column},
            split__folds_below=0,
            allow_leak=True,
            seed=SEED,
            **settings,
        )
        told = {"accuracy": made.report["metrics"]["accuracy"], "cpu_seconds": round(time.process_time() - start, 1)}
        answers = made.model.predict(Path(folder) / "test.jsonl")
        return told, np.array([answer["prediction"] == row["label"] for answer, row in zip(answers, test, strict=True)])


def paired(before, after):
    """McNemar's exact test of two models on the same rows."""
    gained, lost = int((after & ~before).sum()), int((before & ~after).sum())
    return {"right only after": gained, "right only before": lost, "p": binomtest(gained, gained + lost).pvalue if gained + lost else 1.0}


def random_weights(folder):
    """A ViT-tiny that has learned nothing, as a folder, so that it is probed like the others."""
    import torch

    ref = replace(registry.resolve("vit-tiny"), settings=VIT["backbone_settings"])
    plugin = registry.load("backbones", "vit").plugin
    torch.manual_seed(SEED)
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in plugin.save(plugin.build(ref), ref).items():
        (folder / name).write_bytes(content)
    return folder


def texts(options, save):
    """MiniLM, before and after."""
    rows, test = (read(options.data / "debsections" / f"{part}.csv") for part in ("train", "test"))
    options.runs.mkdir(parents=True, exist_ok=True)
    unlabelled = write(options.runs / "texts.jsonl", [{"text": row["text"]} for row in rows])
    brought = f"hf:{options.minilm}"
    made, told = pretrained(TEXTS, unlabelled, options.runs / "texts", backbone=brought)
    report = {"pretraining": told, "labels": LABELS, "test": len(test), "accuracy": {}}
    some = [rows[i] for i in np.random.default_rng(SEED).permutation(len(rows))[:LABELS]]
    probe, right = {"adapt": "probe"}, {}
    for name, backbone, settings in (("ngram", "ngram", {}), ("brought", brought, probe), ("gone on", made.backbone, probe)):
        report["accuracy"][name], right[name] = trained(some, test, "text", backbone, **settings)
        if name == "gone on":
            report["paired"] = paired(right["brought"], right["gone on"])
        save("texts", name, report)


def digits(folder):
    """scikit-learn's digits as files, drawn in an order of the seed: rows of picture and label."""
    made = load_digits()
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for i in np.random.default_rng(SEED).permutation(len(made.target)):
        path = folder / f"{i}.png"
        Image.fromarray((made.images[i] * 15.9).astype(np.uint8)).save(path)
        rows.append({"image": str(path.resolve()), "label": str(made.target[i])})
    return rows


def pictures(options, save):
    """A ViT-tiny, of random weights and pretrained."""
    drawn = digits(options.runs / "digits")
    stamps = {part: [] for part in ("train", "test")}
    for row in read(options.data / "stamps" / "index.csv"):
        stamps[row["split"]].append({"image": str((options.data / "stamps" / row["image"]).resolve()), "label": row["label"]})
    unlabelled = write(options.runs / "pictures.jsonl", [{"image": row["image"]} for row in [*drawn[:DIGITS], *stamps["train"]]])
    report, backbones = {"pretraining": {}, "accuracy": {}}, {}
    for name in options.objective:
        config = PICTURES[name]
        made, report["pretraining"][name] = pretrained(config, unlabelled, options.runs / name)
        backbones[name] = made.backbone
    report["paired"] = {}
    for data, rows, test in (("digits", drawn[:DIGIT_LABELS], drawn[DIGITS:]), ("stamps", stamps["train"], stamps["test"])):
        right = {}
        for name, backbone, settings in (
            ("cnn", "cnn", {}),
            ("random weights", random_weights(options.runs / "random"), {"adapt": "probe"}),
            *((name, backbone, {"adapt": "probe"}) for name, backbone in backbones.items()),
        ):
            told, right[name] = trained(rows, test, "image", backbone, **settings)
            report["accuracy"][f"{data}, {name}"] = {**told, "labels": len(rows), "test": len(test)}
            if name in backbones:
                report["paired"][f"{data}, {name}"] = paired(right["random weights"], right[name])
            save("pictures", f"{data}, {name}", report)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--minilm", type=Path)
    parser.add_argument("--only", choices=("texts", "pictures"))
    parser.add_argument("--objective", nargs="+", choices=list(PICTURES), default=list(PICTURES), help="of pictures")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    whole = json.loads(options.json.read_text()) if options.json and options.json.exists() else {}

    def save(part, name, report):
        whole[part] = report
        print(f"{part:9s} {name:24s} {report['accuracy'][name]['accuracy']['value']:.4f}", flush=True)
        if options.json:
            options.json.write_text(json.dumps(whole, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")

    if options.only != "texts":
        pictures(options, save)
    if options.only != "pictures" and options.minilm:
        texts(options, save)


if __name__ == "__main__":
    main()

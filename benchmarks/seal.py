"""Are clean models ever refused? Trains small models of every kind, seals and verifies each, and writes the worst differences by stage.

    python benchmarks/seal.py [--out benchmarks/seal.json] [--seeds 1]

Every task over every mix of columns and every family of backbones that needs no download; three in four go through a
network. Each is verified twice: by the sealing process (without PyTorch) and by `mainstem verify` in a process of its own.
"""

from __future__ import annotations

import argparse
import io
import json
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

import mainstem as ms
from mainstem import files, seal
from mainstem.errors import MainstemError

ROWS = 120
WORDS = "the a room Film view was VERY quite good bad warm cold 海景 安静 Staff pool".split()
TABLE = ("size", "price", "city", "since")
KINDS: list[tuple[tuple[str, ...], str, dict[str, Any]]] = [  # inputs, backbone, settings of the run
    (("size", "price"), "linear", {}),
    (("size", "price"), "linear", {"optimizer": "adam", "epochs": 3}),
    (TABLE, "linear", {}),
    (("city",), "trees", {}),
    (TABLE, "trees", {}),
    (TABLE, "blend", {}),
    (TABLE, "mlp", {"epochs": 3}),
    (("text",), "ngram", {"epochs": 2}),
    (("text", *TABLE), "ngram", {"epochs": 2}),
    (("text",), "gru", {"epochs": 1}),
    (("text",), "lstm", {"epochs": 1}),
    (("text",), "bert-tiny", {"epochs": 1}),
    (("text",), "hf", {"adapt": "probe", "epochs": 3}),
    (("text",), "hf", {"adapt": "lora", "epochs": 1}),
    (("text", *TABLE), "hf", {"adapt": "full", "epochs": 1}),
    (("picture",), "cnn", {"epochs": 1}),
    (("picture", "text", *TABLE), "cnn", {"epochs": 1}),
]
TARGETS = {"classification": "kind", "regression": "rent", "labels": "extras"}


def main() -> int:
    """0 where no clean model was refused."""
    parser = argparse.ArgumentParser(description="Train clean models of every kind, and see whether one is refused.")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/seal.json"))
    parser.add_argument("--seeds", type=int, default=1)
    asked = parser.parse_args()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        encoder(folder / "encoder")
        for seed in range(asked.seeds):
            for task in TARGETS:
                for inputs, backbone, settings in KINDS:
                    rows.append(one(folder, task, inputs, backbone, settings, seed))
                    print(json.dumps(rows[-1]), flush=True)
    files.write_json(asked.out, summary(rows))
    return int(any(row["refused"] for row in rows))


def one(folder: Path, task: str, inputs: tuple[str, ...], backbone: str, settings: dict[str, Any], seed: int) -> dict[str, Any]:
    """Train, seal and verify one model."""
    place = Path(tempfile.mkdtemp(dir=folder)) / "run"
    described = {"task": task, "inputs": list(inputs), "backbone": backbone, **settings, "seed": seed}
    reference = f"hf:{folder / 'encoder'}" if backbone == "hf" else backbone
    separator = {"separator": "|"} if task == "labels" else {}
    began = time.monotonic()
    try:
        run = ms.train(
            data(seed),
            TARGETS[task],
            task=task,
            inputs=inputs,
            backbone=reference,
            seed=seed,
            out=place,
            allow_leak=True,
            **settings,
            **separator,
        )
    except seal.Mismatch as error:
        return {**described, "refused": str(error)}
    done = subprocess.run([sys.executable, "-m", "mainstem", "verify", str(place)], capture_output=True, text=True)
    if done.returncode:
        return {**described, "refused": done.stderr}
    sealed = json.loads((place / "model/seal.json").read_bytes())
    again = run.model.verify()["worst"]
    worst = {stage: max(size, again[stage]) for stage, size in sealed["worst"].items()}
    return {**described, "refused": "", "rows": sealed["rows"], "worst": worst, "seconds": round(time.monotonic() - began, 1)}


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """What benchmarks/seal.json holds."""
    worst: dict[str, float] = {}
    for row in rows:
        for stage, size in row.get("worst", {}).items():
            stage = stage.split(".")[0]
            worst[stage] = max(worst.get(stage, 0.0), size)
    return {
        "command": "python benchmarks/seal.py",
        "date": time.strftime("%Y-%m-%d"),
        "models": len(rows),
        "refused": sum(bool(row["refused"]) for row in rows),
        "allowed": f"encode equal; calls {seal.ABSOLUTE:g} + {seal.RELATIVE:g} of the largest output",
        "worst": worst,
        "machine": f"{platform.machine()}, {platform.system()}",
        "versions": seal.versions(),
        "each": rows,
    }


# --- data ---------------------------------------------------------------------------------------------------------------


def data(seed: int) -> dict[str, list[Any]]:
    """Columns of every kind, some cells missing, and an answer for every task that depends on all of them a little."""
    rng = np.random.default_rng(seed)
    size, price = rng.normal(70, 20, ROWS), rng.lognormal(7, 0.4, ROWS)
    city = rng.choice(["海淀", "Mitte", "7"], ROWS)
    texts = [" ".join(rng.choice(WORDS, rng.integers(3, 25))) for _ in range(ROWS)]
    level = rng.uniform(60, 190, ROWS)
    score = (size - 70) / 20 + (city == "7") + np.array([t.count("good") - t.count("bad") for t in texts]) + (level - 120) / 60
    columns: dict[str, list[Any]] = {
        "size": [None if rng.random() < 0.05 else round(float(v), 1) for v in size],
        "price": ["N/A" if rng.random() < 0.05 else f"{v:,.0f}" for v in price],
        "city": [None if rng.random() < 0.05 else str(v) for v in city],
        "since": [f"20{y:02d}-{m:02d}-17" for y, m in zip(rng.integers(10, 25, ROWS), rng.integers(1, 13, ROWS), strict=True)],
        "text": texts,
        "picture": [picture(rng, v) for v in level],
    }
    answers = {
        "kind": [["low", "middle", "high"][int(v > -0.5) + int(v > 1)] for v in score],
        "rent": [round(float(v), 3) for v in 300 + 90 * score],
        "extras": ["|".join(n for n, low in (("balcony", -9), ("garage", 0), ("garden", 1)) if v > low) for v in score],
    }
    return {**columns, **answers}


def picture(rng: np.random.Generator, level: float) -> bytes:
    """An oblong picture of noise as PNG."""
    stream = io.BytesIO()
    Image.fromarray(np.clip(rng.normal(level, 40, (40, 56, 3)), 0, 255).astype(np.uint8)).save(stream, "PNG")
    return stream.getvalue()


def encoder(folder: Path) -> None:
    """A small BERT with random weights and a tokenizer that lower-cases, as the hub keeps them."""
    import torch
    from safetensors.torch import save
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    words = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", *sorted({w.lower() for w in WORDS})]
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)])
    config = BertConfig(vocab_size=len(words), hidden_size=64, num_hidden_layers=2, num_attention_heads=2, intermediate_size=128)
    config.architectures = ["BertModel"]
    files.write_text(folder / "config.json", config.to_json_string(use_diff=False))
    files.write_text(folder / "tokenizer.json", tokenizer.to_str())
    files.write_bytes(folder / "model.safetensors", save(BertModel(config).state_dict(), {"format": "pt"}))


if __name__ == "__main__":
    try:
        sys.exit(main())
    except MainstemError as error:
        sys.exit(str(error))

"""One small model of each kind, trained once a session, when the first test asks for it."""

import csv
import datetime
import random

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

import mainstem as ms

GOOD, BAD = ["fine", "warm", "Great", "LOVELY"], ["dull", "cold", "Awful", "BROKEN"]
FILLERS = ["the", "a", "film", "Room", "view", "was", "and", "very", "quite", "Staff"]


def flats(path, rows=200):
    """Prices with separators, gaps in every spelling, a date, two labels; four of five are let."""
    rng = random.Random(3)
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["price", "district", "since", "state", "extras", "size"])
        for _ in range(rows):
            price, district = rng.gauss(2600, 600), rng.choice(["海淀", "Mitte", "7"])
            since = datetime.date(2020, 1, 1) + datetime.timedelta(days=rng.randrange(900))
            state = "let" if price + 500 * (district == "7") + rng.gauss(0, 150) > 2100 else "free"
            extras = "|".join(name for name, low in (("balcony", 2500), ("garage", 3000)) if price + rng.gauss(0, 100) > low)
            gap = rng.choice(["", "N/A", "-"]) if rng.random() < 0.08 else f"{price:,.0f}"
            district = "" if rng.random() < 0.05 else district
            writer.writerow([gap, district, since.isoformat(), state, extras, round(price / 30 + rng.gauss(0, 3), 1)])
    return path


def reviews(path, rows=160):
    """One word in each tells; texts are of very different lengths."""
    rng = random.Random(5)
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["text", "mood"])
        for _ in range(rows):
            mood = "good" if rng.random() < 0.8 else "bad"
            words = [*rng.choices(FILLERS, k=rng.randint(3, 18)), rng.choice(GOOD if mood == "good" else BAD)]
            rng.shuffle(words)
            writer.writerow([" ".join(words), mood])
    return path


def encoder(folder):
    """A tiny BERT with random weights, and a tokenizer that lower-cases, as the hub keeps them."""
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    words = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", *(w.lower() for w in GOOD + BAD + FILLERS)]
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)])
    layers = {"num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32, "hidden_size": 16}
    config = BertConfig(vocab_size=len(words), max_position_embeddings=64, initializer_range=0.5, **layers)
    config.architectures = ["BertModel"]
    config.to_json_file(folder / "config.json")
    safetensors.torch.save_file(BertModel(config).state_dict(), folder / "model.safetensors", {"format": "pt"})
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def pictures(folder):
    """Bright or dark noise, larger than the network reads."""
    rng = np.random.default_rng(2)
    for name, level in (("bright", 150), ("dark", 90)):
        (folder / name).mkdir(parents=True)
        for i in range(30):
            pixels = np.clip(rng.normal(level, 60, (25, 33, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{i}.png")
    return folder


def candidate(kind, column, backbone, settings, **training):
    training = {"optimizer": "adam", "lr": 0.02, "batch_size": 32, "epochs": 2, **training}
    inputs = [{"name": kind, "columns": [column], "backbone": backbone, "settings": settings}]
    return {"candidates": [{"name": backbone[:10], "inputs": inputs, "training": training}]}


class Made:
    """Data and settings by kind of model, and their runs."""

    def __init__(self, folder):
        self.folder, self.runs = folder, {}
        table, texts = flats(folder / "flats.csv"), reviews(folder / "reviews.csv")
        (folder / "encoder").mkdir()
        columns = {"inputs": ["price", "district", "since"], "backbone": "linear"}
        self.settings = {
            "table": (table, {"target": "state", **columns}),
            "number": (table, {"target": "size", **columns}),
            "labels": (table, {"target": "extras", "task": "labels", "separator": "|", **columns}),
            "mlp": (table, {"target": "state", **columns, "backbone": "mlp", "epochs": 2}),
            "ngram": (texts, {"target": "mood", "config": candidate("text", "text", "ngram", {"buckets": 4096, "dim": 8})}),
            "tokens": (texts, {"target": "mood", "backbone": f"hf:{folder / 'encoder'}", "adapt": "full", "epochs": 2, "lr": 0.01}),
            "pictures": (
                pictures(folder / "pictures"),
                {"target": "label", "config": candidate("image", "image", "cnn", {"size": 16, "width": 8})},
            ),
        }

    def train(self, kind, out, **more):
        if kind == "tokens" and not any((self.folder / "encoder").iterdir()):
            encoder(self.folder / "encoder")
        data, settings = self.settings[kind]
        return ms.train(data, out=out, **{**settings, **more})

    def __getitem__(self, kind):
        if kind not in self.runs:
            self.runs[kind] = self.train(kind, self.folder / "runs" / kind)
        return self.runs[kind]


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    return Made(tmp_path_factory.mktemp("made"))


def sealed_anew(folder, name, content):
    """Replace one file of a model folder, and its hash in the manifest, as someone would who means to deceive."""
    from mainstem.testing.faults import relist

    (folder / name).write_bytes(content)
    relist(folder)


@pytest.fixture
def anew():
    return sealed_anew

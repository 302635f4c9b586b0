"""Fine-tuning a brought text backbone in full: mainstem's loop against one written by hand, in turns of so many steps.

    python benchmarks/finetune_speed.py --data FOLDER --minilm FOLDER [--block 50] [--pairs N] [--json FILE]

FOLDER holds debsections/ (train.csv, test.csv: text, label). Both train one epoch of the same rows in batches of 32 at the same rate with
the same schedule, clipped alike; the loop by hand pads to the longest of a batch, sorts texts by length within pools of 16 batches, and
steps with torch's fused AdamW. The ratio is that of processor seconds, which other programs on the
machine disturb little; that of wall seconds stands beside it. Stopped after --pairs, accuracy is not compared.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import time
from pathlib import Path
from statistics import median

import numpy as np
import torch
from tokenizers import Tokenizer
from transformers import AutoModel

from mainstem import api
from mainstem.training import fitting, plan, preparing

SIZE, LONGEST, LR, DECAY, CLIP, WARMUP, NEAR = 32, 256, 5e-5, 0.01, 1.0, 0.06, 16


class ByHand:
    """The loop that one would write: tokens padded by batch, length buckets, fused AdamW, a cosine."""

    def __init__(self, folder, texts, labels, names):
        torch.manual_seed(0)
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.tokenizer.no_padding()
        self.tokenizer.enable_truncation(LONGEST)
        self.ids = [one.ids for one in self.tokenizer.encode_batch(texts)]
        self.labels, self.names = torch.tensor([names.index(label) for label in labels]), names
        self.model = AutoModel.from_pretrained(folder, attn_implementation="sdpa", add_pooling_layer=False).float().train()
        self.head = torch.nn.Linear(self.model.config.hidden_size, len(names))
        parameters = [*self.model.parameters(), *self.head.parameters()]
        groups = [
            {"params": [p for p in parameters if p.ndim > 1], "weight_decay": DECAY},
            {"params": [p for p in parameters if p.ndim == 1], "weight_decay": 0.0},
        ]
        self.parameters = parameters
        self.optimiser = torch.optim.AdamW(groups, lr=LR, fused=True)
        drawn = np.random.default_rng(0).permutation(len(texts))
        pools = np.split(drawn, range(NEAR * SIZE, len(drawn), NEAR * SIZE))
        ordered = np.concatenate([sorted(pool, key=lambda i: len(texts[i])) for pool in pools])
        batches = np.split(ordered, range(SIZE, len(ordered), SIZE))
        self.batches = [batches[i] for i in np.random.default_rng(1).permutation(len(batches))]
        warmup = math.ceil(WARMUP * len(batches))
        self.factor = [
            (i + 1) / warmup if i < warmup else (1 + math.cos(math.pi * (i - warmup) / (len(batches) - warmup))) / 2
            for i in range(len(batches))
        ]
        self.done = 0

    def logits(self, rows):
        width = max(map(len, rows))
        ids = torch.tensor([row + [0] * (width - len(row)) for row in rows])
        mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
        hidden = self.model(input_ids=ids, attention_mask=mask).last_hidden_state
        mean = (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        return self.head(torch.nn.functional.normalize(mean, dim=-1))

    def step(self):
        batch = self.batches[self.done]
        for group in self.optimiser.param_groups:
            group["lr"] = LR * self.factor[self.done]
        loss = torch.nn.functional.cross_entropy(self.logits([self.ids[i] for i in batch]), self.labels[batch])
        self.optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, CLIP)
        self.optimiser.step()
        self.done += 1
        return loss.item()

    @torch.inference_mode()
    def accuracy(self, texts, labels):
        self.model.eval()
        right = 0
        for start in range(0, len(texts), SIZE):
            rows = [one.ids for one in self.tokenizer.encode_batch(texts[start : start + SIZE])]
            found = [self.names[i] for i in self.logits(rows).argmax(1)]
            right += sum(a == b for a, b in zip(found, labels[start : start + SIZE], strict=True))
        return right / len(texts)


class Enough(Exception):
    """So many pairs were asked for."""


class Turns:
    """Called after every step of mainstem's loop: after a block of them it is the other's turn."""

    def __init__(self, by_hand, block, pairs):
        self.by_hand, self.block, self.pairs = by_hand, block, pairs
        self.own, self.other, self.steps = [], [], 0
        self.start = None

    def __call__(self, figures):
        if "rows" not in figures or "step" not in figures:
            return
        self.steps += 1
        if self.start is None:  # the first step is no one's: it makes the optimiser's state
            self.by_hand.step()
        elif self.steps % self.block == 1:
            self.own.append([now - then for now, then in zip(clocks(), self.start, strict=True)])
            left = min(self.block, len(self.by_hand.batches) - self.by_hand.done)
            start = clocks()
            for _ in range(left):
                self.by_hand.step()
            self.other.append([now - then for now, then in zip(clocks(), start, strict=True)])
            if self.pairs and len(self.own) >= self.pairs:
                raise Enough
        else:
            return
        self.start = clocks()


def clocks():
    return time.process_time(), time.perf_counter()


def read(path):
    with open(path, encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    return [row["text"] for row in rows], [row["label"] for row in rows]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--minilm", type=Path, required=True)
    parser.add_argument("--block", type=int, default=50)
    parser.add_argument("--pairs", type=int, default=0, help="0: to the end of the epoch")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    folder = options.data / "debsections"
    asked = {"test": str(folder / "test.csv"), "backbone": str(options.minilm), "adapt": "full", "epochs": 1, "input": "text"}
    config = api.configure(str(folder / "train.csv"), "label", None, asked)
    data = preparing.prepare(config)
    candidate = plan.candidates(config, data)[0][0]
    assert (candidate.training.lr, candidate.training.weight_decay, candidate.training.clip) == (LR, DECAY, CLIP)
    known = np.concatenate([data.parts["train"], data.parts["valid"]])
    table, test = data.table.take(known), data.table.take(data.parts["test"])
    target = fitting.fit_target(data.task, data.schema.targets, data.answers(known))
    problem = fitting.Problem(data.task, data.name, data.schema, target, 0)
    turns = Turns(ByHand(options.minilm, table.columns["text"], table.target, target.json["labels"]), options.block, options.pairs)
    report = {"block": options.block, "rows": len(table), "accuracy": {}}
    try:
        fitted = fitting.fit(candidate, problem, table, None, report=turns)
        while turns.by_hand.done < len(turns.by_hand.batches):
            turns.by_hand.step()
        answers = [answer.value for answer in fitting.answers(fitted, test)[0]]
        report["accuracy"] = {
            "mainstem": float(np.mean([a == b for a, b in zip(answers, test.target, strict=True)])),
            "by hand": turns.by_hand.accuracy(test.columns["text"], test.target),
        }
    except Enough:
        pass
    report["seconds"] = {"mainstem": turns.own, "by hand": turns.other}
    ratios = [[a / b for a, b in zip(own, other, strict=True)] for own, other in zip(turns.own, turns.other, strict=True)]
    report["ratio"] = {name: round(median(ratio[i] for ratio in ratios), 4) for i, name in enumerate(("processor", "wall"))}
    print(json.dumps(report))
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

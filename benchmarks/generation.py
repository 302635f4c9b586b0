"""Tokens a second of a GPT that was just made: written by a sealed model on ONNX Runtime with its cache, by the same graph without
a cache, and by transformers' `generate` on PyTorch. Greedy, one text at a time, one thread for each.

    python benchmarks/generation.py [--rounds 5] [--json FILE]

Weights are random and the vocabulary is trained on made words: speed depends on neither. The ways take turns, so that what else the
machine does meets all alike; figures are medians over the rounds, by the clock and by the seconds of CPU that each way took.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

PROMPT, NEW = 64, 128  # tokens
SIZES = {
    "gpt2-small / 12": {"layers": 6, "width": 384, "heads": 6, "vocab_size": 16000, "max_length": 512},
    "gpt2-small / 4": {"layers": 8, "width": 512, "heads": 8, "vocab_size": 24000, "max_length": 512},
}


def made_texts(rng, rows):
    """Sentences of made words, so many that a large vocabulary can be trained on them."""
    words = ["".join(rng.choice(list("abcdefghijklmnopqrstuvwxyz"), rng.integers(2, 11))) for _ in range(30000)]
    return [{"text": " ".join(rng.choice(words, 30))} for _ in range(rows)]


def sealed(settings, folder):
    """A model folder of this size, after one step."""
    import mainstem as ms

    rows = made_texts(np.random.default_rng(0), 2500)
    inputs = [{"name": "text", "columns": ["text"], "backbone": "gpt", "settings": {**settings, "dropout": 0.0}}]
    training = {"optimizer": "adamw", "lr": 1e-4, "steps": 1, "batch_size": 2}
    config = {"candidates": [{"name": "gpt", "inputs": inputs, "training": training}], "split": {"valid": 0.01, "test": 0.01}}
    return ms.train(rows, task="generation", config=config, out=folder, cuts={"refit": 0}), rows


def without_cache(runner, ids):
    """Greedy over the same graph, which reads all that is written again for each token."""
    from mainstem.contracts import Call

    ids = list(ids)
    for _ in range(NEW):
        arrays = {"ids": np.array([ids]), "mask": np.ones((1, len(ids)), np.int64), "at": np.array([[len(ids) - 1]])}
        ids.append(int(runner(Call("decoder", arrays, outputs=("logits",)))["logits"][0, 0].argmax()))
    return ids


def measure(settings, rounds):
    import torch
    from transformers import AutoModelForCausalLM

    from mainstem.runtimes import onnx

    torch.set_num_threads(1)
    onnx.threads = lambda: 1
    with tempfile.TemporaryDirectory() as work:
        run, rows = sealed(settings, Path(work) / "run")
        model = run.model
        theirs = AutoModelForCausalLM.from_pretrained(run.path / "model" / "backbones" / "text").eval()
        table, _ = model.pipeline.parse(model.read([" ".join(row["text"] for row in rows[:4])]))
        ids = model.pipeline.encode(table).inputs["text"]["ids"][0, :PROMPT].tolist()
        prompt = model.pipeline.task.encode(model.pipeline.examples(table), model.pipeline.processors)
        prompt = _first(prompt, PROMPT)
        options = {"max_tokens": NEW, "min_tokens": NEW}

        def cached():
            return model.pipeline.predict_batch(prompt, model.runner, options)

        def uncached():
            return without_cache(model.runner, ids)

        def generate():
            given = torch.tensor([ids])
            with torch.inference_mode():
                return theirs.generate(
                    given, attention_mask=torch.ones_like(given), do_sample=False, max_new_tokens=NEW, min_new_tokens=NEW, pad_token_id=0
                )

        ways = {"onnx cached": cached, "transformers generate": generate, "onnx without cache": uncached}
        wall, cpu = ({name: [] for name in ways} for _ in range(2))
        for turn in range(rounds + 1):
            for name, way in ways.items():
                started, spent = time.perf_counter(), time.process_time()
                way()
                if turn:  # the first warms up
                    wall[name].append(time.perf_counter() - started)
                    cpu[name].append(time.process_time() - spent)
        return {
            **settings,
            "parameters": sum(p.numel() for p in theirs.parameters()),
            "tokens_per_second": {name: round(NEW / statistics.median(times), 1) for name, times in wall.items()},
            "tokens_per_cpu_second": {name: round(NEW / statistics.median(times), 1) for name, times in cpu.items()},
            "cached_over": _over(wall),
            "cached_over_by_cpu": _over(cpu),
        }


def _over(seconds):
    """How many times as fast as each other way the cached one is: the median, and round by round."""
    ours = seconds["onnx cached"]
    ratios = {name: [a / b for a, b in zip(times, ours, strict=True)] for name, times in seconds.items() if times is not ours}
    return {name: {"median": round(statistics.median(each), 2), "rounds": [round(x, 2) for x in each]} for name, each in ratios.items()}


def _first(batch, tokens):
    """The batch with its one text cut to so many tokens."""
    from dataclasses import replace

    [(name, arrays)] = batch.by_backbone()
    return replace(batch, inputs={name: {key: array[:, :tokens] for key, array in arrays.items()}})


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default="")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    import onnxruntime
    import torch
    import transformers

    report = {
        "prompt": PROMPT,
        "new": NEW,
        "rounds": options.rounds,
        "versions": {"onnxruntime": onnxruntime.__version__, "torch": torch.__version__, "transformers": transformers.__version__},
        "sizes": {name: measure(settings, options.rounds) for name, settings in SIZES.items() if options.only in name},
    }
    print(json.dumps(report, indent=1))
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

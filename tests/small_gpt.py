"""Sentences, and a GPT so small that it learns them in seconds."""

import random


def sentences(rows: int = 120) -> list[str]:
    """Sentences of a few parts, in English and Chinese, no two alike."""
    things, said = (
        ["The film", "A long book", "My old phone", "这部电影", "那家餐厅"],
        ["was a joy", "is not bad at all", "fell apart", "让人很开心"],
    )
    ends = [".", ", and I have tried many.", "; my sister says the same.", "。春天的时候买的。", " to be honest.", "，我试过不少家了。"]
    every = [f"{thing} {verb}{end}" for thing in things for verb in said for end in ends]
    return random.Random(1).sample(every, rows)


SMALL_GPT = {"width": 48, "layers": 2, "heads": 3, "max_length": 40, "vocab_size": 300, "dropout": 0.0}


def writing(column: str, **training: object) -> dict[str, object]:
    """A config of one candidate: a small GPT from scratch over one column."""
    inputs = [{"name": "text", "columns": [column], "backbone": "gpt", "settings": SMALL_GPT}]
    settings = {"optimizer": "adamw", "lr": 5e-3, "batch_size": 16, "epochs": 16, "schedule": "cosine", **training}
    return {"candidates": [{"name": "gpt", "inputs": inputs, "training": settings}]}

"""A tiny BERT with random weights, as the hub keeps a sentence-transformers model."""

import json

from mainstem.modalities.text import train_tokenizer

CONFIG = {
    "architectures": ["BertModel"],
    "model_type": "bert",
    "vocab_size": 300,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
}


def save(folder, **changes):
    """The folder, with its files written. changes: of the configuration."""
    import torch
    from safetensors.torch import save as packed
    from transformers import BertConfig, BertModel

    folder.mkdir(parents=True)
    torch.manual_seed(0)
    config = {**CONFIG, **changes}
    network = BertModel(BertConfig(**config, initializer_range=0.5))
    weights = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_bytes(train_tokenizer(["some words to learn from", "一些词"] * 5, 300))
    (folder / "model.safetensors").write_bytes(packed(weights, metadata={"format": "pt"}))
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    return folder

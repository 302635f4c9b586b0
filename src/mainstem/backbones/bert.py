"""`bert-tiny`, `bert-small`, `bert-base`: BERT (Devlin et al. 2018, arXiv:1810.04805) from scratch, on a vocabulary of the data."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mainstem.backbones import _hub, _own, _tokens, hf
from mainstem.contracts import Info, Ref

DEFAULTS = {
    "width": 0,  # 0: of the size
    "layers": 0,
    "heads": 0,  # 0: of 64 channels each
    "max_length": 128,  # positions
    "vocab_size": 8000,
    "dropout": 0.1,
}
SIZES = {"tiny": (2, 128), "small": (4, 256), "base": (12, 768)}  # layers, width


class Bert:
    """transformers' own BertModel; a saved one is a folder like any other of the hub."""

    def describe(self, ref: Ref) -> Info:
        """What it is. Raises MainstemError for an unknown size or setting."""
        config, s = _config(ref), _settings(ref)
        return Info(
            modality="text",
            inputs=_tokens.ports(),
            features=hf.features(config["hidden_size"]),
            pooled="mean",
            processor=_tokens.processor(ref, s),
            parameters=_parameters(config),
            extra="train",
            slots=("query", "value"),
            pretrained=ref.folder is not None,
            summary=f"BERT from scratch, {config['num_hidden_layers']} layers of {config['hidden_size']}",
        )

    def build(self, ref: Ref) -> Any:
        """transformers' module, random until ref.folder has weights."""
        _own.need_torch("bert")
        if ref.folder:
            return hf.plugin.build(ref)
        from mainstem.nn import encoder

        return encoder.build(_config(ref))

    def masked(self, ref: Ref) -> Any:
        """transformers' module with the head that predicts masked tokens."""
        _own.need_torch("bert")
        if ref.folder:
            return hf.plugin.masked(ref)
        from mainstem.nn import encoder

        return encoder.build(_config(ref), masked=True)

    def forward(self, module: Any, arrays: Mapping[str, Any]) -> dict[str, Any]:
        """ids, mask [row, tokens] → mean, cls [row, width], sequence [row, tokens, width]."""
        return hf.plugin.forward(module, arrays)

    def save(self, module: Any, ref: Ref) -> dict[str, bytes | Path]:
        """config.json, model.safetensors and tokenizer.json, as transformers reads them."""
        if ref.folder:
            return hf.plugin.save(module, ref)
        return _own.save_family(module, _config(ref)) | _tokens.tokenizer(ref)


def _settings(ref: Ref) -> dict[str, Any]:
    return _own.settings(Ref(ref.text, ref.family, settings=ref.settings), DEFAULTS)


def _config(ref: Ref) -> dict[str, Any]:
    """The config as transformers writes it."""
    if ref.folder:
        return _hub.read(ref.folder).config
    s = _settings(ref)
    layers, width, heads = _tokens.shape(ref, s, SIZES)
    return {
        "architectures": ["BertModel"],
        "model_type": "bert",
        "vocab_size": _tokens.vocabulary(ref, s),
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "intermediate_size": 4 * width,
        "hidden_dropout_prob": s["dropout"],
        "attention_probs_dropout_prob": s["dropout"],
        "max_position_embeddings": s["max_length"],
        "pad_token_id": 0,
    }


def _parameters(config: Mapping[str, Any]) -> int:
    width, inner = config["hidden_size"], config["intermediate_size"]
    embeddings = (config["vocab_size"] + config["max_position_embeddings"] + 4) * width  # two segments, norm
    layer = 4 * (width + 1) * width + 2 * width * inner + inner + width + 4 * width  # attention, feed-forward, two norms
    return int(embeddings + config["num_hidden_layers"] * layer)


plugin = Bert()

"""`gpt-tiny`, `gpt-small`, `gpt-base`: GPT-2 (Radford et al. 2019) from scratch, on a vocabulary of the data."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mainstem.backbones import _causal, _hub, _own, _tokens, hf
from mainstem.contracts import Info, Ref

END = "<|endoftext|>"  # the only special token, id 0: begins, ends and pads
DEFAULTS = {
    "width": 0,  # 0: of the size
    "layers": 0,
    "heads": 0,  # 0: of 64 channels each
    "max_length": 256,  # positions
    "vocab_size": 8000,
    "dropout": 0.1,
}
SIZES = {"tiny": (4, 128), "small": (6, 384), "base": (12, 768)}  # layers, width


class Gpt:
    """transformers' own GPT2LMHeadModel; a saved one is a folder like any other of the hub."""

    def describe(self, ref: Ref) -> Info:
        """What it is. Raises MainstemError for an unknown size, and for settings that do not go together."""
        config, s = _config(ref), _settings(ref)
        processor = _tokens.processor(ref, s)
        if "train" in processor:
            processor["train"]["end"] = END
        return Info(
            modality="text",
            inputs=_tokens.ports(),
            features=_causal.features(config["n_embd"]),
            pooled="last",
            processor={**processor, "pad": 0, **_causal.marks(config, str(ref.folder or ref.text))},
            parameters=_parameters(config),
            extra="train",
            slots=_causal.slots(config),
            pretrained=ref.folder is not None,
            summary=f"GPT from scratch, {config['n_layer']} layers of {config['n_embd']}",
        )

    def build(self, ref: Ref) -> Any:
        """transformers' module, random until ref.folder has weights."""
        _own.need_torch("gpt")
        if ref.folder:
            return hf.plugin.build(ref)
        from mainstem.nn import encoder

        return encoder.build(_config(ref), causal=True)

    def forward(self, module: Any, arrays: Mapping[str, Any]) -> dict[str, Any]:
        """ids, mask [row, tokens] → last, mean [row, width], sequence [row, tokens, width]."""
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
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "vocab_size": _tokens.vocabulary(ref, s),
        "n_positions": s["max_length"],
        "n_embd": width,
        "n_layer": layers,
        "n_head": heads,
        "embd_pdrop": s["dropout"],
        "attn_pdrop": s["dropout"],
        "resid_pdrop": s["dropout"],
        "bos_token_id": 0,
        "eos_token_id": 0,
        "pad_token_id": 0,
    }


def _parameters(config: Mapping[str, Any]) -> int:
    width = config["n_embd"]
    layer = 12 * width * width + 13 * width  # attention 4 w² + 4 w, feed-forward 8 w² + 5 w, two norms 4 w
    return int((config["vocab_size"] + config["n_positions"]) * width + config["n_layer"] * layer + 2 * width)


plugin = Gpt()

"""`hf:FOLDER`, `hf:org/name`: text encoders and causal language models of transformers with real weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mainstem.backbones import _causal, _hub, _own, _tokens
from mainstem.contracts import Feature, Info, Ref
from mainstem.errors import MainstemError

DEFAULTS = {
    "max_length": 0,  # tokens; 0: what the model says, at most 256
    "prefix": "auto",  # put before every text; auto: the query prompt that the folder names, else none
}

# The linear layers that LoRA wraps by default, by model type: queries and values (Hu et al. 2021, arXiv:2106.09685).
SLOTS = {
    "distilbert": ("q_lin", "v_lin"),
    "deberta-v2": ("query_proj", "value_proj"),
    "mpnet": ("attn.q", "attn.v"),
    "modernbert": ("Wqkv",),
}


class Hf:
    """transformers' own module; `mean` is over the real tokens, of length 1 where the folder's modules.json normalises."""

    def describe(self, ref: Ref) -> Info:
        """What the folder says; a name on the hub is fetched first. Raises MainstemError where a file is missing or unsafe."""
        settings = _own.settings(Ref(ref.text, ref.family, settings=ref.settings), DEFAULTS)
        folder = _read(ref)
        causal = _hub.is_causal(folder.config)
        tokenizer = folder.path / _tokens.TOKENIZER
        if not tokenizer.is_file():
            raise MainstemError(
                "this folder has no tokenizer.json", where=str(folder.path), do="Save the model's fast tokenizer into it (save_pretrained)."
            )
        return Info(
            modality="text",
            inputs=_tokens.ports(folder.pad),
            features=(_causal.features if causal else features)(_hub.width(folder.config)),
            pooled="last" if causal else "cls" if folder.cls else "mean",
            processor={
                "form": "tokens",
                "file": str(tokenizer),
                "max_length": settings["max_length"] or folder.max_length,
                "pad": folder.pad,
                "prefix": folder.prefix if settings["prefix"] == "auto" else settings["prefix"],
                **(_causal.marks(folder.config, str(folder.path)) if causal else {}),
            },
            parameters=_hub.count(folder.path),
            licence=folder.licence,
            extra="train",
            slots=_causal.slots(folder.config) if causal else SLOTS.get(folder.config["model_type"], ("query", "value")),
            pretrained=True,
            summary=f"{folder.config['model_type']} {'decoder' if causal else 'encoder'} with its weights",
        )

    def build(self, ref: Ref) -> Any:
        """transformers' module in eval-ready float32. Raises MainstemError for a type or weights that cannot be used."""
        _own.need_torch("hf")
        from mainstem.nn import encoder

        folder = _read(ref)
        module = _load(folder, causal=_hub.is_causal(folder.config))
        encoder.set_normalise(module, folder.normalise)
        return module

    def masked(self, ref: Ref) -> Any:
        """transformers' module with the head that predicts masked tokens, which is random where the folder has none."""
        return _load(_read(ref), masked=True)

    def forward(self, module: Any, arrays: Mapping[str, Any]) -> dict[str, Any]:
        """ids, mask [row, tokens] → mean, cls (of a decoder: last) [row, width], sequence [row, tokens, width]."""
        from mainstem.nn import decoder, encoder

        read = decoder.encode if decoder.is_decoder(module) else encoder.encode
        return read(module, arrays["ids"], arrays["mask"])

    def save(self, module: Any, ref: Ref) -> dict[str, bytes | Path]:
        """The folder's files as links; weights that were trained as a new model.safetensors with the family's names."""
        folder = _read(ref).path
        links: dict[str, bytes | Path] = {name: folder / name for name in KEPT if (folder / name).is_file()}
        trained = _trained(module, folder)
        if trained is None:
            return links | {file.name: file for file in _hub.weights(folder)}
        links.pop(f"{_own.WEIGHTS}.index.json", None)
        return links | {_own.WEIGHTS: trained}


KEPT = (
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "generation_config.json",
    "modules.json",
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
    "1_Pooling/config.json",
    f"{_own.WEIGHTS}.index.json",
    "source.json",
    "README.md",
)


def features(width: int) -> dict[str, Feature]:
    """The features of a text encoder."""
    return {"mean": Feature(width), "cls": Feature(width), "sequence": Feature(width, ("row", "pad:tokens"))}


def _read(ref: Ref) -> _hub.Folder:
    path = ref.folder or _hub.fetch(ref.variant)
    folder = _hub.read(path, _causal.LONGEST) if _hub.is_causal(_own.read_json(path / "config.json")) else _hub.read(path)
    if not isinstance(folder.config.get("model_type"), str):
        raise MainstemError("config.json names no model_type", where=str(path), do="Give a model folder of transformers.")
    return folder


def _load(folder: _hub.Folder, *, causal: bool = False, masked: bool = False) -> Any:
    _own.need_torch("hf")
    from mainstem.nn import encoder

    _hub.count(folder.path)  # a torn file is told before transformers reads it
    try:
        return encoder.load(folder.path, folder.config, causal=causal, masked=masked)
    except (ValueError, KeyError) as error:
        kind = "text decoder" if causal else "network with masked tokens" if masked else "text encoder"
        raise MainstemError(
            f"transformers does not know the model type '{folder.config.get('model_type')}' as a {kind}", where=str(folder.path)
        ) from error
    except OSError as error:
        raise MainstemError(f"the weights cannot be read: {' '.join(str(error).split())[:200]}", where=str(folder.path)) from error


def _trained(module: Any, folder: Path) -> bytes | None:
    """The weights as safetensors, or None where they are those of the folder (`pooler` and the like are not compared)."""
    from safetensors.torch import load_file
    from safetensors.torch import save as to_bytes

    from mainstem.nn import decoder

    now = decoder.weights(module)
    old: dict[str, Any] = {}
    for file in _hub.weights(folder):
        old.update(load_file(file))
    prefix = f"{module.base_model_prefix}."
    before = {name.removeprefix(prefix): tensor for name, tensor in old.items()}
    same = ((before.get(name.removeprefix(prefix)), t) for name, t in now.items())
    if all(a is not None and a.shape == t.shape and bool((a.float() == t).all()) for a, t in same):
        return None
    return to_bytes({name: t.contiguous().clone() for name, t in now.items()}, metadata={"format": "pt"})


plugin = Hf()

"""Folders of transformers models as the hub keeps them: read without importing torch or anything a folder names."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from mainstem.backbones._own import WEIGHTS, read_json
from mainstem.errors import MainstemError, MissingExtra

PATTERNS = ("*.json", "*.safetensors", "*/config.json", "vocab.txt", "merges.txt", "*.model", "README.md")
HARMLESS = {"_name_or_path", "_commit_hash", "_num_labels"}
RUNS_CODE = {"auto_map", "attn_implementation", "experts_implementation", "custom_generate", "custom_pipelines", "trust_remote_code"}


@dataclass(frozen=True)
class Folder:
    """What the small files of a model folder say."""

    path: Path
    config: dict[str, Any]
    normalise: bool  # sentence-transformers' modules end in a Normalize
    cls: bool  # its pooling takes the first token
    prefix: str  # the prompt before a query
    max_length: int
    pad: int
    licence: str


def fetch(name: str) -> Path:
    """The folder of `org/name` in the hub's cache, downloaded where it is not there: configs, tokenizer, safetensors; never code."""
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise MissingExtra(f"the backbone 'hf:{name}'", "train") from error
    try:
        return Path(snapshot_download(name, allow_patterns=list(PATTERNS)))
    except Exception as error:  # the hub's client raises its own, requests' and the system's
        raise MainstemError(
            f"the hub did not give the model '{name}': {' '.join(str(error).split())[:200]}",
            do="Check the name and the connection, or give a folder: hf:FOLDER.",
        ) from error


def read(path: Path, longest: int = 256) -> Folder:
    """The folder at `path`; texts are cut at `longest` tokens, or earlier where the model takes fewer.

    Raises MainstemError where config.json is missing or asks for code to be run.
    """
    config = read_json(path / "config.json")
    _refuse_code(config, path / "config.json")
    sentence = _optional(path / "sentence_bert_config.json")
    tokenizer = _optional(path / "tokenizer_config.json")
    modules = json.loads((path / "modules.json").read_bytes()) if (path / "modules.json").is_file() else []
    prompts = _optional(path / "config_sentence_transformers.json").get("prompts") or {}
    positions = config.get("max_position_embeddings") or config.get("n_positions") or longest
    if config.get("model_type") in ("roberta", "xlm-roberta", "camembert", "mpnet", "longformer"):
        positions -= int(config.get("pad_token_id") or 1) + 1  # their positions start behind the padding id
    lengths = [longest, positions, sentence.get("max_seq_length"), tokenizer.get("model_max_length")]
    return Folder(
        path=path,
        config=config,
        normalise=any(str(m.get("type", "")).rpartition(".")[2] == "Normalize" for m in modules),
        cls=bool(_optional(path / "1_Pooling" / "config.json").get("pooling_mode_cls_token")),
        prefix=str(prompts.get("query") or ""),
        max_length=int(min(n for n in lengths if isinstance(n, int | float) and n > 0)),
        pad=int(config.get("pad_token_id") or 0),
        licence=_licence(path, config),
    )


def is_causal(config: dict[str, Any]) -> bool:
    """Whether the config names a decoder with a language-model head."""
    names = config.get("architectures")
    return isinstance(names, list) and any(str(name).endswith(("ForCausalLM", "LMHeadModel")) for name in names)


def width(config: dict[str, Any]) -> int:
    """The width of the last hidden state. Raises MainstemError where the config does not tell."""
    for key in ("hidden_size", "d_model", "dim", "n_embd"):
        if isinstance(config.get(key), int):
            return int(config[key])
    raise MainstemError("config.json does not tell the width of the features (hidden_size)")


def shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Name → shape of every tensor of a safetensors file, from its header alone."""
    try:
        with open(path, "rb") as stream:
            size = int.from_bytes(stream.read(8), "little")
            header = json.loads(stream.read(min(size, 100_000_000)))
        return {name: tuple(entry["shape"]) for name, entry in header.items() if name != "__metadata__"}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise MainstemError("this is not a whole safetensors file", where=str(path), do="Fetch the model again.") from error


def weights(path: Path) -> list[Path]:
    """The safetensors files of the folder, one or many. Raises MainstemError where there is none."""
    if (path / WEIGHTS).is_file():
        return [path / WEIGHTS]
    index = _optional(path / f"{WEIGHTS}.index.json").get("weight_map", {})
    names = sorted(set(index.values()))
    if not names or any(Path(name).name != name for name in names):
        raise MainstemError(
            f"this folder has no {WEIGHTS}",
            where=str(path),
            do="Other formats (pytorch_model.bin) can run code when they are read; convert the model to safetensors.",
        )
    return [path / name for name in names]


def _optional(path: Path) -> dict[str, Any]:
    return read_json(path) if path.is_file() else {}


def _refuse_code(config: dict[str, Any], where: Path) -> None:
    """Keys that make transformers import or fetch code (CVE-2026-4372: a private key did it with trust_remote_code=False)."""
    for key in _keys(config):
        if key in RUNS_CODE or (key.startswith("_") and key not in HARMLESS):
            raise MainstemError(
                f"the key '{key}' can make the library run code that comes with the model",
                where=str(where),
                do="Use a model without it, or remove the key if you know what it does.",
            )
    if "quantization_config" in config:
        raise MainstemError("quantised weights cannot be adapted", where=str(where), do="Take the model in float32, float16 or bfloat16.")
    if config.get("is_encoder_decoder"):
        raise MainstemError("this is an encoder with a decoder; a text backbone is one network", where=str(where))


def _keys(tree: Any) -> Iterator[str]:
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield str(key)
            yield from _keys(value)
    elif isinstance(tree, list):
        for value in tree:
            yield from _keys(value)


def _licence(path: Path, config: dict[str, Any]) -> str:
    """From the front matter of README.md, a config or source.json, lower case; "" where none says."""
    if (path / "README.md").is_file():
        head = (path / "README.md").read_text(encoding="utf-8", errors="replace")[:5000]
        match = re.search(r"^licen[sc]e:\s*([\w.+-]+)\s*$", head, re.MULTILINE)
        if match:
            return match[1].lower()
    said = config.get("license") or _optional(path / "source.json").get("license") or ""
    return str(said).lower()


def count(path: Path, skip: str = "pooler.") -> int:
    """How many parameters the folder's weights hold, without those whose name contains `skip`."""
    return sum(
        prod(shape) for file in weights(path) for name, shape in shapes(file).items() if skip not in name and "position_ids" not in name
    )

"""What families share that read tokens of a vocabulary trained on the data: byte-level BPE."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mainstem.contracts import Port, Ref

TOKENIZER = "tokenizer.json"


def ports(pad: int = 0) -> tuple[Port, ...]:
    """The inputs of every network over tokens; ids are padded with `pad`."""
    axes = ("row", "pad:tokens")
    return Port("ids", "int64", axes, pad=pad), Port("mask", "int64", axes)


def processor(ref: Ref, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of the text modality: the tokenizer of the backbone's folder, or one to be trained."""
    kept = ref.folder / TOKENIZER if ref.folder else None
    source = {"file": str(kept)} if kept and kept.is_file() else {"train": {"vocab_size": settings["vocab_size"]}}
    return {"form": "tokens", **source, "max_length": settings["max_length"]}


def vocabulary(ref: Ref, settings: Mapping[str, Any]) -> int:
    """How many tokens there are: of the fitted tokenizer, or as many as were asked for."""
    return int(ref.state.json.get("vocab_size", settings["vocab_size"]))


def tokenizer(ref: Ref) -> dict[str, bytes]:
    """The fitted tokenizer as a file of the backbone's folder, so that the folder alone can be used again."""
    kept = ref.folder / TOKENIZER if ref.folder else None
    if ref.state.files:
        return {TOKENIZER: next(iter(ref.state.files.values()))}
    return {TOKENIZER: kept.read_bytes()} if kept and kept.is_file() else {}

"""What families share that read tokens of a vocabulary trained on the data: byte-level BPE."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mainstem.contracts import Port, Ref
from mainstem.errors import MainstemError, suggest

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


def shape(ref: Ref, settings: Mapping[str, Any], sizes: Mapping[str, tuple[int, int]]) -> tuple[int, int, int]:
    """Layers, width and heads of a transformer: of its size (layers, width) or as asked. Raises MainstemError where they do not fit."""
    size = ref.variant or "tiny"
    if size not in sizes:
        known = [f"{ref.family}-{name}" for name in sizes]
        raise MainstemError(f"there is no {ref.family} of the size '{size}'", do=suggest(f"{ref.family}-{size}", known))
    layers, width = settings["layers"] or sizes[size][0], settings["width"] or sizes[size][1]
    heads = settings["heads"] or max(1, width // 64)
    if layers < 1 or heads < 1 or width < 1 or width % heads:
        raise MainstemError(
            f"a width of {width} cannot be parted among {heads} heads, or there are no {layers} layers",
            where=f"backbone '{ref.text}'",
            do="Choose a width that is a multiple of the heads.",
        )
    return layers, width, heads


def vocabulary(ref: Ref, settings: Mapping[str, Any]) -> int:
    """How many tokens there are: of the fitted tokenizer, or as many as were asked for."""
    return int(ref.state.json.get("vocab_size", settings["vocab_size"]))


def tokenizer(ref: Ref) -> dict[str, bytes]:
    """The fitted tokenizer as a file of the backbone's folder, so that the folder alone can be used again."""
    kept = ref.folder / TOKENIZER if ref.folder else None
    if ref.state.files:
        return {TOKENIZER: next(iter(ref.state.files.values()))}
    return {TOKENIZER: kept.read_bytes()} if kept and kept.is_file() else {}

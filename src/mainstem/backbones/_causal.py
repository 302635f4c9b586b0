"""What causal language models share: features, the tokens that begin and end a text, where LoRA goes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mainstem.contracts import Feature
from mainstem.errors import MainstemError

LONGEST = 1024  # tokens that a decoder reads, where it takes more

# The linear layers that LoRA wraps by default, by model type; the others have queries and values of their own.
SLOTS = {
    "gpt2": ("c_attn",),
    "gpt_neox": ("query_key_value",),
    "bloom": ("query_key_value",),
    "falcon": ("query_key_value",),
    "phi3": ("qkv_proj",),
}


def features(width: int) -> dict[str, Feature]:
    """The features of a decoder; the last token has seen all others."""
    return {"last": Feature(width), "mean": Feature(width), "sequence": Feature(width, ("row", "pad:tokens"))}


def slots(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of the linear layers that LoRA wraps."""
    return SLOTS.get(config["model_type"], ("q_proj", "v_proj"))


def marks(config: Mapping[str, Any], where: str) -> dict[str, Any]:
    """ "begin": the token before every text, and "end": the tokens that end one. A family without the one takes the other.

    Raises MainstemError where the config names neither.
    """
    begin, end = config.get("bos_token_id"), config.get("eos_token_id")
    ends = [end] if isinstance(end, int) else list(end or ())
    begins = [begin] if isinstance(begin, int) else ends
    if not begins or not all(isinstance(token, int) for token in (*begins, *ends)):
        raise MainstemError(
            "config.json names no token that begins or ends a text", where=where, do="Set bos_token_id and eos_token_id in it."
        )
    return {"begin": begins[0], "end": ends or begins}

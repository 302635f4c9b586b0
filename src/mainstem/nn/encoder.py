"""transformers' own encoders: built from a config or a folder, and run with padding that never changes an answer."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from mainstem.nn import pooling


def build(config: Mapping[str, Any]) -> nn.Module:
    """A transformers model with random weights; `config` names its model_type. Raises ValueError for one that is not known."""
    return _class(config)(_config(config), **_options(config))


def load(folder: Path, config: Mapping[str, Any]) -> nn.Module:
    """The transformers model of a folder, from its safetensors, in float32, never with code of the folder.

    Raises ValueError for an unknown model_type, OSError for weights that cannot be read.
    """
    return _class(config).from_pretrained(
        folder,
        config=_config(config),
        use_safetensors=True,
        local_files_only=True,
        trust_remote_code=False,
        dtype=torch.float32,
        **_options(config),
    )


def encode(module: nn.Module, ids_BT: Tensor, mask_BT: Tensor, *, normalise: bool) -> dict[str, Tensor]:
    """mean and cls [B, D], sequence [B, T, D] of the last layer; `normalise` scales mean and cls to length 1."""
    sequence_BTD = module(input_ids=ids_BT, attention_mask=mask_BT).last_hidden_state
    mean, cls = pooling.mean(sequence_BTD, mask_BT), sequence_BTD[:, 0]
    if normalise:
        mean, cls = functional.normalize(mean, dim=-1), functional.normalize(cls, dim=-1)
    return {"mean": mean, "cls": cls, "sequence": sequence_BTD}


def _config(config: Mapping[str, Any]) -> Any:
    from transformers import AutoConfig

    tree = {key: value for key, value in config.items() if key not in ("model_type", "torch_dtype", "dtype", "transformers_version")}
    return AutoConfig.for_model(config["model_type"], **tree, attn_implementation="sdpa")


def _class(config: Mapping[str, Any]) -> Any:
    from transformers import MODEL_MAPPING

    return MODEL_MAPPING[type(_config(config))]


def _options(config: Mapping[str, Any]) -> dict[str, Any]:
    """No pooling layer: it belongs to the family's old pretraining, and nothing here reads it."""
    return {"add_pooling_layer": False} if "add_pooling_layer" in inspect.signature(_class(config).__init__).parameters else {}

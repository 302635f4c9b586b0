"""transformers' own networks: built from a config or a folder; encoders run with padding that never changes an answer."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.nn import functional

from mainstem.nn import pooling


def build(config: Mapping[str, Any], *, causal: bool = False, masked: bool = False) -> nn.Module:
    """A transformers model with random weights; `config` names its model_type. Raises ValueError for one that is not known.

    causal: the decoder with its language-model head in place of the bare network; masked: with the head that predicts masked tokens.
    """
    family = _class(config, causal, masked)
    return cast(nn.Module, family(_config(config), **_options(family)))


def load(folder: Path, config: Mapping[str, Any], *, causal: bool = False, masked: bool = False) -> nn.Module:
    """The transformers model of a folder, from its safetensors, in float32, never with code of the folder.

    A head that predicts masked tokens is random where the folder has none. Raises ValueError for an unknown model_type, OSError for
    weights that cannot be read or are not all there.
    """
    family = _class(config, causal, masked)
    try:
        with _quiet():
            module, report = family.from_pretrained(
                folder,
                config=_config(config),
                use_safetensors=True,
                local_files_only=True,
                trust_remote_code=False,
                dtype=torch.float32,
                output_loading_info=True,
                **_options(family),
            )
    except (SafetensorError, RuntimeError) as error:
        raise OSError(str(error)) from error
    missing = sorted(key for key in report["missing_keys"] if not masked or key.startswith(f"{module.base_model_prefix}."))
    if missing:  # transformers fills them with random numbers
        raise OSError(f"{len(missing)} tensors are missing, among them {missing[0]}")
    return cast(nn.Module, module)


def set_normalise(module: nn.Module, normalise: bool) -> None:
    """Note on the family's module whether `encode` scales its mean and cls to length 1; no weight and no name changes."""
    module.__dict__["normalise"] = normalise


def encode(module: nn.Module, ids_BT: Tensor, mask_BT: Tensor) -> dict[str, Tensor]:
    """mean and cls [B, D], sequence [B, T, D] of the last layer."""
    sequence_BTD = module(input_ids=ids_BT, attention_mask=mask_BT).last_hidden_state
    mean, cls = pooling.mean(sequence_BTD, mask_BT), sequence_BTD[:, 0]
    if getattr(module, "normalise", False):
        mean, cls = functional.normalize(mean, dim=-1), functional.normalize(cls, dim=-1)
    return {"mean": mean, "cls": cls, "sequence": sequence_BTD}


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the library's progress bar and its report on weights that are left out on purpose."""
    from transformers.utils import logging

    level, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bar:
            logging.enable_progress_bar()


def _config(config: Mapping[str, Any]) -> Any:
    from transformers import AutoConfig

    tree = {key: value for key, value in config.items() if key not in ("model_type", "torch_dtype", "dtype", "transformers_version")}
    return AutoConfig.for_model(config["model_type"], **tree, attn_implementation="sdpa")


def _class(config: Mapping[str, Any], causal: bool, masked: bool) -> Any:
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_MASKED_LM_MAPPING, MODEL_MAPPING

    known = MODEL_FOR_CAUSAL_LM_MAPPING if causal else MODEL_FOR_MASKED_LM_MAPPING if masked else MODEL_MAPPING
    return known[type(_config(config))]


def _options(family: Any) -> dict[str, Any]:
    """No pooling layer: it belongs to the family's old pretraining, and nothing here reads it."""
    return {"add_pooling_layer": False} if "add_pooling_layer" in inspect.signature(family.__init__).parameters else {}

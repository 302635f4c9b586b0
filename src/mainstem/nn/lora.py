"""LoRA (Hu et al. 2021, arXiv:2106.09685) on the family's own module, in PEFT's file format.

A linear layer becomes a LoraLinear under the same name, so that the module keeps the names of its own weights; those of
the adapter are named NAME.lora_A.weight and NAME.lora_B.weight.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes
from torch import Tensor, nn
from torch.nn import functional

from mainstem import artifact
from mainstem.errors import MainstemError

CONFIG, WEIGHTS, PREFIX = artifact.ADAPTER_CONFIG, artifact.ADAPTER_WEIGHTS, artifact.ADAPTER_PREFIX


class LoraLinear(nn.Linear):
    """y = W·x + b + alpha/rank · B·A·dropout(x), with W and b of the layer it replaces.

    `transposed`: W lies as [in, out], as GPT-2's own layer (transformers' Conv1D) keeps it.
    """

    def __init__(self, layer: Any, rank: int, alpha: float, dropout: float) -> None:
        nn.Module.__init__(self)
        self.weight, self.bias = layer.weight, layer.bias
        self.transposed = _is_conv1d(layer)
        self.out_features, self.in_features = layer.weight.shape[::-1] if self.transposed else layer.weight.shape
        self.rank, self.alpha, self.dropout = rank, alpha, dropout
        like: dict[str, Any] = {"device": layer.weight.device, "dtype": layer.weight.dtype, "bias": False}
        self.lora_A = nn.utils.skip_init(nn.Linear, self.in_features, rank, **like)
        self.lora_B = nn.utils.skip_init(nn.Linear, rank, self.out_features, **like)
        nn.init.zeros_(self.lora_B.weight)

    def forward(self, input: Tensor) -> Tensor:
        """[..., in] → [..., out]."""
        kept = functional.dropout(input, self.dropout, self.training)
        own = functional.linear(input, self.weight.T if self.transposed else self.weight, self.bias)
        return own + self.lora_B(self.lora_A(kept)) * (self.alpha / self.rank)

    def base(self) -> Any:
        """The layer without the adapter, over the same weights."""
        layer: Any = _conv1d(self) if self.transposed else nn.utils.skip_init(nn.Linear, self.in_features, self.out_features)
        layer.weight, layer.bias = self.weight, self.bias
        return layer

    def plain(self) -> Any:
        """The layer with the adapter added to its weights."""
        layer = self.base()
        added = self.lora_B.weight @ self.lora_A.weight * (self.alpha / self.rank)
        layer.weight = nn.Parameter((self.weight + (added.T if self.transposed else added)).detach(), requires_grad=False)
        return layer


def _is_conv1d(layer: nn.Module) -> bool:
    """Whether it is GPT-2's kind of linear layer, told by its name: its class lies in transformers."""
    return type(layer).__name__ == "Conv1D"


def _conv1d(layer: LoraLinear) -> Any:
    from transformers.pytorch_utils import Conv1D

    return Conv1D(layer.out_features, layer.in_features)


def _is_linear(layer: nn.Module) -> bool:
    return isinstance(layer, nn.Linear) or _is_conv1d(layer)


def attach(
    module: nn.Module, slots: Sequence[str], *, rank: int = 8, alpha: float = 16.0, dropout: float = 0.0, seed: int = 0
) -> nn.Module:
    """Give every linear layer whose name ends in one of `slots` an adapter that changes nothing yet; all else is frozen.

    A is drawn from `seed` as PEFT draws it, B is 0. Returns the module. Raises MainstemError where no layer is named so.
    """
    linears = [(n, m) for n, m in module.named_modules() if _is_linear(m)]
    found = [(n, m) for n, m in linears if any(f".{n}".endswith(f".{s}") for s in slots)]
    if not found:
        linear = sorted({n.rpartition(".")[2] for n, _ in linears})
        raise MainstemError(
            f"no linear layer is named {' or '.join(slots) or 'at all'}, so LoRA has nothing to adapt",
            do=f"Known: {', '.join(linear)}." if linear else "Take --adapt probe or --adapt full.",
        )
    generator = torch.Generator().manual_seed(seed)
    module.requires_grad_(False)
    for name, layer in found:
        adapted = _put(module, name, LoraLinear(layer, rank, alpha, dropout))
        bound = 1 / math.sqrt(adapted.in_features)  # kaiming_uniform with a = √5
        drawn = torch.rand(rank, adapted.in_features, generator=generator) * 2 * bound - bound
        adapted.lora_A.weight.data.copy_(drawn)
    return module


def attached(module: nn.Module) -> dict[str, LoraLinear]:
    """The adapted layers by name."""
    return {name: layer for name, layer in module.named_modules() if isinstance(layer, LoraLinear)}


def save(module: nn.Module) -> dict[str, bytes]:
    """The adapter as PEFT writes it: adapter_config.json and adapter_model.safetensors."""
    layers = attached(module)
    first = next(iter(layers.values()))
    config = {
        "peft_type": "LORA",
        "task_type": None,
        "base_model_name_or_path": None,
        "inference_mode": True,
        "r": first.rank,
        "lora_alpha": first.alpha,
        "lora_dropout": first.dropout,
        "target_modules": sorted(layers),  # whole names: no other layer that ends alike is wrapped
        "bias": "none",
        "fan_in_fan_out": first.transposed,
        "use_rslora": False,
        "use_dora": False,
        "modules_to_save": None,
    }
    weights = {
        f"{PREFIX}{name}.{part}.weight": getattr(layer, part).weight.detach().cpu().contiguous()
        for name, layer in layers.items()
        for part in ("lora_A", "lora_B")
    }
    return {CONFIG: (json.dumps(config, indent=1) + "\n").encode(), WEIGHTS: to_bytes(weights, metadata={"format": "pt"})}


def adapter_id(module: nn.Module) -> str:
    """Id of the adapter: its weights, and what their product is multiplied with."""

    def weight(part: nn.Linear) -> Any:
        return part.weight.detach().cpu().float().numpy()

    layers = attached(module).items()
    return artifact.Adapter({name: (weight(each.lora_A), weight(each.lora_B), each.alpha / each.rank) for name, each in layers}).adapter_id


def load(module: nn.Module, folder: Path) -> nn.Module:
    """Attach the adapter of a folder in PEFT's format, its weights frozen. Returns the module.

    Raises MainstemError for a file that is missing or torn, a kind of adapter that is not LoRA on linear layers, or
    layers that the module does not have.
    """
    config, scale = artifact.adapter_config(folder), artifact.adapter_scale(folder)
    try:
        weights = load_file(folder / WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise MainstemError(f"the adapter cannot be read: {error}", where=str(folder / WEIGHTS)) from error
    layers = dict(module.named_modules())
    names = sorted({artifact.adapter_layer(key, folder) for key in weights})
    for name in names:
        layer = layers.get(name)
        down, up = (weights.get(f"{PREFIX}{name}.{part}.weight") for part in ("lora_A", "lora_B"))
        if layer is None or not _is_linear(layer) or down is None or up is None or not _fits(layer, down, up):
            raise MainstemError(f"the adapter is of another model: it has no fitting layer '{name}'", where=str(folder))
        rank = down.shape[0]
        adapted = _put(module, name, LoraLinear(layer, rank, rank * scale(rank), float(config.get("lora_dropout", 0.0))))
        adapted.lora_A.weight.data.copy_(down)
        adapted.lora_B.weight.data.copy_(up)
    return module.requires_grad_(False)


def merge(module: nn.Module) -> nn.Module:
    """Fold every adapter into the weights of its layer, in place; answers stay equal but for rounding. Returns the module."""
    for name, layer in attached(module).items():
        _put(module, name, layer.plain())
    return module


@contextmanager
def without(module: nn.Module) -> Iterator[None]:
    """The module as it was before adapters were attached, while this is held: its graph is that of the backbone alone."""
    layers = attached(module)
    try:
        for name, layer in layers.items():
            _put(module, name, layer.base())
        yield
    finally:
        for name, layer in layers.items():
            _put(module, name, layer)


def _fits(layer: Any, down: Tensor, up: Tensor) -> bool:
    shape = (up.shape[0], down.shape[1])
    return bool(layer.weight.shape == (shape[::-1] if _is_conv1d(layer) else shape))


def _put(module: nn.Module, name: str, layer: Any) -> Any:
    parent, _, last = name.rpartition(".")
    setattr(module.get_submodule(parent), last, layer.train(module.training))
    return layer

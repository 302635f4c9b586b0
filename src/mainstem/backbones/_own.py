"""What the families of our own share: settings with their defaults, and folders of config.json + model.safetensors."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mainstem import files
from mainstem.contracts import Ref
from mainstem.errors import MainstemError, MissingExtra, suggest

WEIGHTS = "model.safetensors"


def settings(ref: Ref, defaults: Mapping[str, Any], choices: Mapping[str, tuple[str, ...]] | None = None) -> dict[str, Any]:
    """The defaults, what the folder's config says, then what was asked for.

    Raises MainstemError for an unknown setting, a value of another type than the default's, a word that is no choice.
    """
    result = {**defaults, **config(ref).get("settings", {}), **ref.settings}
    for name, value in result.items():
        where = f"backbone '{ref.family}' setting '{name}'"
        if name not in defaults:
            raise MainstemError(f"the backbone '{ref.family}' has no setting '{name}'", do=suggest(name, defaults))
        kind = (int, float) if isinstance(defaults[name], float) else type(defaults[name])
        if not isinstance(value, kind) or (isinstance(value, bool) and not isinstance(defaults[name], bool)):
            raise MainstemError(f"{value!r} is not of the type of the default, {defaults[name]!r}", where=where)
        if name in (choices or {}) and value not in choices[name]:  # type: ignore[index]
            raise MainstemError(f"'{value}' is not known", where=where, do=suggest(str(value), choices[name]))  # type: ignore[index]
    return result


def config(ref: Ref) -> dict[str, Any]:
    """config.json of the backbone's folder; empty while there is no folder."""
    return read_json(ref.folder / "config.json") if ref.folder else {}


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object. Raises MainstemError where it is missing or is none."""
    try:
        tree = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise MainstemError("this file is missing or is not JSON", where=str(path), do="Give the folder of a whole model.") from error
    if not isinstance(tree, dict):
        raise MainstemError("this file does not hold a JSON object", where=str(path))
    return tree


def load(module: Any, ref: Ref) -> Any:
    """The module with the weights of ref.folder, or as it is while there is none. Raises MainstemError where they do not fit."""
    if ref.folder is None:
        return module
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = ref.folder / WEIGHTS
    try:
        module.load_state_dict(load_file(path))
    except (OSError, SafetensorError) as error:
        raise MainstemError(f"the weights cannot be read: {error}", where=str(path)) from error
    except RuntimeError as error:
        first = [line.strip() for line in str(error).splitlines() if line.strip()][:2][-1]  # of what may be a line a tensor
        raise MainstemError(f"the weights are of another network: {first}", where=str(path)) from error
    return module


def save(module: Any, ref: Ref, settings: Mapping[str, Any], **more: Any) -> dict[str, bytes | Path]:
    """config.json (family, settings, `more`) and model.safetensors. LoRA weights are left out: they have files of their own."""
    from safetensors.torch import save as to_bytes

    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in module.state_dict().items() if ".lora_" not in name}
    tree = {"mainstem": ref.family, "settings": dict(settings), **more}
    return {"config.json": to_json(tree), WEIGHTS: to_bytes(weights, metadata={"format": "pt"})}


def save_bare(module: Any, config: Mapping[str, Any]) -> dict[str, bytes]:
    """config.json as it is, and model.safetensors."""
    from safetensors.torch import save as to_bytes

    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in module.state_dict().items()}
    return {"config.json": to_json(config), WEIGHTS: to_bytes(weights)}


def save_family(module: Any, config: Mapping[str, Any]) -> dict[str, bytes | Path]:
    """config.json and model.safetensors of a transformers module from scratch, as transformers reads them."""
    from safetensors.torch import save as to_bytes

    from mainstem.nn import decoder

    weights = {name: tensor.contiguous() for name, tensor in decoder.weights(module).items()}
    tree = {**config, "architectures": [type(module).__name__]}
    return {"config.json": to_json(tree), WEIGHTS: to_bytes(weights, metadata={"format": "pt"})}


def to_json(tree: Mapping[str, Any]) -> bytes:
    """A config.json."""
    return files.to_json(dict(tree)).encode()


def need_torch(family: str) -> None:
    """Raises MissingExtra where PyTorch is not installed."""
    try:
        import torch  # noqa: F401
    except ImportError as error:
        raise MissingExtra(f"the backbone '{family}'", "train", "PyTorch") from error

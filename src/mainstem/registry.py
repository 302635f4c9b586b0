"""Plug-ins by name: a plug-in is a file, its name is the key, and listing imports nothing but the folder's names.

Third parties add plug-ins through entry points `mainstem.tasks`, `mainstem.backbones`, … (name → module).
"""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
import re
import sys
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

from mainstem.contracts import Ref
from mainstem.errors import MainstemError, suggest

KINDS = ("tasks", "objectives", "backbones", "modalities", "runtimes", "compress")
_SINGULAR = {
    **{"tasks": "task", "objectives": "objective", "backbones": "backbone", "modalities": "modality", "runtimes": "runtime"},
    "compress": "method of compression",
}

# The hub's names of tasks, and common ones, beside ours.
ALIASES = {
    "text-classification": "classification",
    "sentiment-analysis": "classification",
    "image-classification": "classification",
    "tabular-classification": "classification",
    "tabular-regression": "regression",
    "multi-label-classification": "labels",
    "text-generation": "generation",
}


@cache
def _installed(path: tuple[str, ...]) -> Any:  # its type differs between versions of Python
    return entry_points()


@cache
def _entries(kind: str, path: tuple[str, ...]) -> tuple[EntryPoint, ...]:
    """Plug-ins of third parties on this path. Kept: a search takes tens of milliseconds, and the kind of every column is loaded."""
    return tuple(_installed(path).select(group=f"mainstem.{kind}"))


def _third_party(kind: str) -> tuple[EntryPoint, ...]:
    return _entries(kind, tuple(sys.path))


@cache
def _own(kind: str) -> frozenset[str]:
    folder = str(Path(__file__).parent / kind)
    return frozenset(m.name for m in pkgutil.iter_modules([folder]) if not m.name.startswith("_"))


def names(kind: str) -> list[str]:
    """The plug-ins of `kind`, sorted, without importing any of them."""
    if kind not in KINDS:
        raise MainstemError(f"there is no list of '{kind}'", do=suggest(kind, KINDS))
    return sorted(_own(kind) | {e.name for e in _third_party(kind)})


def load(kind: str, name: str) -> ModuleType:
    """The module of one plug-in. An error inside the plug-in surfaces as itself, never as "unknown"."""
    return _loaded(kind, name, tuple(sys.path))


@cache
def _loaded(kind: str, name: str, path: tuple[str, ...]) -> ModuleType:
    """Kept by the path: a server looks the kind of every column up for every request."""
    name = ALIASES.get(name, name) if kind == "tasks" else name.replace("-", "_") if kind == "objectives" else name
    for entry in _third_party(kind):
        if entry.name == name:
            module: ModuleType = entry.load()
            return module
    if name not in names(kind):
        known = names(kind) + (sorted(ALIASES) if kind == "tasks" else [])
        raise MainstemError(f"no {_SINGULAR[kind]} is named '{name}'", do=suggest(name, known))
    return importlib.import_module(f"mainstem.{kind}.{name}")


def resolve(text: str) -> Ref:
    """A backbone as a user names it → its reference, without importing the family.

    "mlp", "resnet18" (family resnet, variant 18), "bert-tiny", "timm:resnet50", "hf:org/name", "hf:FOLDER", or a bare
    folder, recognised by the config.json inside. Raises MainstemError with the nearest known name.
    """
    known = names("backbones")
    family, colon, variant = text.partition(":")
    if colon and family in known:
        if not variant:
            raise MainstemError(
                f"the backbone '{text}' lacks what follows the colon", do=f"For example --backbone {family}:NAME or {family}:FOLDER."
            )
        return _with_folder(Ref(text, family, variant), Path(variant).expanduser())
    if text.replace("-", "_") in known:
        return Ref(text, text.replace("-", "_"))
    match = re.fullmatch(r"([a-z_]+?)[-_]?(\d\w*|tiny|mini|small|medium|base|large)", text)
    if match and match[1] in known:
        return Ref(text, match[1], match[2])
    path = Path(text).expanduser()
    if path.is_dir():
        return _with_folder(Ref(f"{_family_of(path)}:{text}", _family_of(path), text), path)
    if "/" in text or "\\" in text:
        raise MainstemError(
            f"the backbone folder '{text}' does not exist", do="Give a folder with a config.json, or hf:ORG/NAME for one on the hub."
        )
    raise MainstemError(f"no backbone is named '{text}'", do=suggest(text, known))


def _with_folder(ref: Ref, path: Path) -> Ref:
    return Ref(ref.text, ref.family, ref.variant, folder=path.resolve() if path.is_dir() else None)


def _family_of(folder: Path) -> str:
    """Which family a bare folder belongs to, by its config.json."""
    import json

    try:
        config = json.loads((folder / "config.json").read_bytes())
        config = config if isinstance(config, dict) else {}
    except (OSError, ValueError, RecursionError) as error:
        raise MainstemError(
            "this folder has no readable config.json, so its family is unknown",
            where=str(folder),
            do="Give a model folder as the hub keeps it.",
        ) from error
    if "mainstem" in config:
        return str(config["mainstem"])
    if "architecture" in config and "pretrained_cfg" in config:
        return "timm"
    if "model_type" in config:
        return "hf"
    raise MainstemError(
        "config.json names neither a transformers nor a timm model", where=str(folder), do="Say which it is: hf:FOLDER or timm:FOLDER."
    )

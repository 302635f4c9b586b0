"""`mainstem list tasks|backbones|modalities|runtimes`."""

from __future__ import annotations

from dataclasses import replace
from types import ModuleType
from typing import Annotated

from typer import Argument

from mainstem import registry
from mainstem.errors import MainstemError


def command(kind: Annotated[str, Argument(metavar="KIND", help="tasks, backbones, modalities or runtimes")]) -> None:
    """What there is, a line each. Nothing heavy is imported for it."""
    lines = [_backbone(name) if kind == "backbones" else [name, _summary(kind, name)] for name in registry.names(kind)]
    if kind == "backbones":
        lines = [["name", "reads", "parameters", "licence", "extra", "what it is"], *lines]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def _summary(kind: str, name: str) -> str:
    return _first_sentence(registry.load(kind, name))


def _first_sentence(module: ModuleType) -> str:
    """The first line of a plug-in's docstring, without its own name in front."""
    line = (module.__doc__ or "").strip().splitlines()[0] if module.__doc__ else ""
    return line.partition(": ")[2] or line


def _backbone(name: str) -> list[str]:
    """One line on a family: of its default member where it has one, else of what the family is."""
    module = registry.load("backbones", name)
    variant = getattr(module, "example", "")
    ref = replace(registry.resolve(name), variant=variant)
    for what in ("plugin", "predictor"):
        try:
            info = getattr(module, what).describe(ref)
        except (AttributeError, MainstemError, ValueError, KeyError):
            continue
        parameters = "" if info.parameters is None else f"{info.parameters:,}"
        return [name, info.modality, parameters or "by data", info.licence or "Apache-2.0", _extra(module, info.extra), info.summary]
    return [name, "", "by model", "by model", "train", _first_sentence(module)]


def _extra(module: ModuleType, extra: str) -> str:
    return "tables or train" if hasattr(module, "predictor") and hasattr(module, "plugin") else extra

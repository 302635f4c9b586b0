"""`mainstem list tasks|backbones|modalities|runtimes`."""

from __future__ import annotations

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


def _first_sentence(module: ModuleType, *, whole: bool = False) -> str:
    """The first line of a plug-in's docstring; unless `whole`, without the names that it starts with."""
    line = (module.__doc__ or "").strip().partition("\n")[0]
    return line.partition("`: ")[2] or line if line.startswith("`") and not whole else line


def _backbone(name: str) -> list[str]:
    """One line on a family: of its default member, or of the family where it only reads what it is given (`NAME:FOLDER`)."""
    module = registry.load("backbones", name)
    whole = [name, "", "by model", "by model", "train", _first_sentence(module)]
    if f"`{name}:" in _first_sentence(module, whole=True):
        return whole
    for what in ("plugin", "predictor"):
        try:
            info = getattr(module, what).describe(registry.resolve(name))
        except (AttributeError, MainstemError):
            continue
        parameters = f"{info.parameters:,}" if info.parameters else "by data"
        return [name, info.modality, parameters, info.licence or "Apache-2.0", _extra(module, info.extra), info.summary]
    return whole


def _extra(module: ModuleType, extra: str) -> str:
    return "tables or train" if hasattr(module, "predictor") and hasattr(module, "plugin") else extra

"""`mainstem list tasks|objectives|backbones|modalities|runtimes|compress`."""

from __future__ import annotations

import ast
from importlib import util
from pathlib import Path
from types import ModuleType
from typing import Annotated

from typer import Argument

from mainstem import registry
from mainstem.errors import MainstemError


def command(kind: Annotated[str, Argument(metavar="KIND", help="tasks, objectives, backbones, modalities, runtimes or compress")]) -> None:
    """What there is, a line each. Nothing heavy is imported for it."""
    lines = [_backbone(name) if kind == "backbones" else [name.replace("_", "-"), _summary(kind, name)] for name in registry.names(kind)]
    if kind == "backbones":
        lines = [["name", "reads", "parameters", "licence", "extra", "what it is"], *lines]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def _summary(kind: str, name: str) -> str:
    """What a plug-in says of itself; its file is read, not imported: a runtime may need PyTorch."""
    spec = util.find_spec(f"mainstem.{kind}.{name}")
    if spec is None or spec.origin is None:
        return _without_name(registry.load(kind, name).__doc__)
    return _without_name(ast.get_docstring(ast.parse(Path(spec.origin).read_text(encoding="utf-8"))))


def _first_line(docstring: str | None) -> str:
    return (docstring or "").strip().partition("\n")[0]


def _without_name(docstring: str | None) -> str:
    """The first line of a docstring, without the names that it may start with."""
    line = _first_line(docstring)
    return line.partition("`: ")[2] or line if line.startswith("`") else line


def _backbone(name: str) -> list[str]:
    """One line on a family: of its default member, or of the family where it only reads what it is given (`NAME:FOLDER`)."""
    module = registry.load("backbones", name)
    whole = [name, "", "by model", "by model", "train", _without_name(module.__doc__)]
    if f"`{name}:" in _first_line(module.__doc__):
        return whole
    for what in ("plugin", "predictor"):
        try:
            info = getattr(module, what).describe(registry.resolve(name))
        except (AttributeError, MainstemError):
            continue
        parameters = f"{info.parameters:,}" if info.parameters else "by data"
        return [name, info.modality, parameters, info.licence or "no weights", _extra(module, info.extra), info.summary]
    return whole


def _extra(module: ModuleType, extra: str) -> str:
    return "tables or train" if hasattr(module, "predictor") and hasattr(module, "plugin") else extra

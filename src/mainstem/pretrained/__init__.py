"""Backbones of our own that lie in the package: NAME/config.json and NAME/network.onnx, weights in float16."""

from __future__ import annotations

import json
from functools import cache
from importlib import resources
from typing import Any

from mainstem.errors import MainstemError


@cache
def network(name: str) -> bytes:
    """The ONNX graph of a pretrained network. Raises MainstemError where the package lacks it."""
    return _read(name, "network.onnx")


@cache
def config(name: str) -> dict[str, Any]:
    """What shapes that network. Raises MainstemError where the package lacks it."""
    return dict(json.loads(_read(name, "config.json")))


def _read(name: str, file: str) -> bytes:
    try:
        return resources.files(__name__).joinpath(name, file).read_bytes()
    except OSError:
        raise MainstemError(f"this installation lacks the pretrained network '{name}'", do="Install mainstem anew.") from None

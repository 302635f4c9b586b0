"""Networks that were pretrained and answer by themselves: those of our own that lie in the package, and those of a folder.

NAME/config.json says what shapes the graph, NAME/network.onnx is the graph, weights in float16.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib import resources
from pathlib import Path
from typing import Any

from mainstem import files
from mainstem.errors import MainstemError

CONFIG, GRAPH = "config.json", "network.onnx"


@dataclass(frozen=True)
class Network:
    """A pretrained network: its two files."""

    config: bytes
    graph: bytes

    @property
    def shape(self) -> Mapping[str, Any]:
        """What shapes the graph: width, layers, …"""
        return dict(json.loads(self.config))

    @property
    def id(self) -> str:
        """The hash of both files."""
        return hashlib.sha256(self.config + self.graph).hexdigest()


@cache
def shipped(name: str) -> Network:
    """One that lies in the package. Raises MainstemError where this installation lacks it."""
    place = resources.files(__name__).joinpath(name)
    try:
        return Network(place.joinpath(CONFIG).read_bytes(), place.joinpath(GRAPH).read_bytes())
    except OSError:
        raise MainstemError(f"this installation lacks the pretrained network '{name}'", do="Install mainstem anew.") from None


def of_folder(folder: Path) -> Network:
    """One that `mainstem pretrain` left in a folder. Raises MainstemError where it is not as it was written."""
    wrong = files.broken(folder)
    if wrong:
        raise MainstemError("; ".join(wrong), where=str(folder), do="Give the folder RUN/backbone of a finished pretraining run.")
    return Network((folder / CONFIG).read_bytes(), (folder / GRAPH).read_bytes())


@lru_cache(maxsize=4)
def session(graph: bytes) -> Any:
    """A pretrained network in ONNX Runtime."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])

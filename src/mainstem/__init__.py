"""mainstem: adapt one backbone to many tasks, and ship exactly the model you measured.

import mainstem as ms
run = ms.train("reviews.csv", target="label")
run.model.predict(["fine film"])
"""

import os
from typing import TYPE_CHECKING, Any

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # ONNX Runtime reports what it runs to its makers, from 1.29 on, unless this is set

__version__ = "0.1.0"
__all__ = ["Client", "MainstemError", "Model", "Run", "load", "train"]
_HOMES = {"Client": "client", "MainstemError": "errors"}  # the others are in api

if TYPE_CHECKING:
    from mainstem.api import Model, Run, load, train
    from mainstem.client import Client
    from mainstem.errors import MainstemError


def __getattr__(name: str) -> Any:
    """The public names, imported when they are first used."""
    if name not in __all__:
        raise AttributeError(f"module 'mainstem' has no attribute '{name}'")
    from importlib import import_module

    return getattr(import_module(f"mainstem.{_HOMES.get(name, 'api')}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])

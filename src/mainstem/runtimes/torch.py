"""Runs a task's networks as they were trained: the live side that a replay is recorded from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from mainstem.contracts import ADAPTER, Array, Arrays, GraphSpec
from mainstem.runtimes._calls import Function, GraphRunner


def function(module: Any) -> Function:
    """A module from a dict of tensors to a dict of tensors → the same on numpy arrays, in evaluation mode."""

    def run(arrays: Arrays, wanted: tuple[str, ...]) -> dict[str, Array]:
        training = module.training
        module.eval()
        try:
            with torch.inference_mode():
                tensors = {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items() if name != ADAPTER.name}
                outputs = module(tensors)
        finally:
            module.train(training)
        return {name: outputs[name].numpy() for name in wanted}

    return run


def runner(specs: Mapping[str, GraphSpec]) -> GraphRunner:
    """A Runner over the modules of `specs`."""
    return GraphRunner({name: function(spec.module) for name, spec in specs.items()}, specs)

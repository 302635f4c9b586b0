"""What a pretraining run will need, before it is started: parameters, memory at its peak, time.

Memory is added up as the tensors of a step come and go, first of a part of a batch and, where the whole would fit, of the whole;
time is that of a few steps on the beginning of the data.
"""

from __future__ import annotations

import os
import tempfile
import threading
import time
import weakref
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mainstem import registry
from mainstem.config import Pretraining, Training
from mainstem.contracts import Array, Material, Objective, State
from mainstem.training import loop
from mainstem.training.engine import part_of
from mainstem.training.optimisers import Optimiser
from mainstem.training.pretraining import brought

_ROWS = 2000  # of each file that are looked at
_STEPS = 10
_LOOK = 1 / 3  # time of a batch that is only looked at, beside a step

Networks = Mapping[str, torch.nn.Module]


@dataclass(frozen=True)
class Estimate:
    """What a run will need. `memory`: bytes by what they are for, of the stage that needs most; `peak`: of the process at its worst;
    `free`: what this machine has left. `steps`: of all stages; `step`: seconds of one of the first stage; `seconds`: of all, with the
    looks at held-out data; None where the run does not fit, so that nothing was tried."""

    parameters: int
    memory: Mapping[str, int]
    peak: int
    free: int
    steps: int
    step: float | None
    seconds: float | None

    @property
    def fits(self) -> bool:
        """Whether the memory that is left will do."""
        return self.step is not None


def estimate(config: Pretraining) -> Estimate:
    """What `config` will need on this machine. Raises MainstemError where the config or its data are not as they should be."""
    plugin: type[Objective] = registry.load("objectives", config.objective).plugin
    refs, suited = brought(config, plugin)
    made: list[Estimate] = []
    with tempfile.TemporaryDirectory() as folder:
        material = Material(config.data, config.inputs, config.encoding, refs.pop("", None), refs, Path(folder), rows=_ROWS)
        for stage in config.stages:
            objective = plugin({**config.settings, **stage.settings})
            objective.open(material)
            made.append(_of_stage(config, objective, config.stage_training(stage, suited)))
    most = max(made, key=lambda each: each.peak)
    seconds = None if any(each.seconds is None for each in made) else sum(each.seconds or 0.0 for each in made)
    return replace(most, steps=sum(each.steps for each in made), step=made[0].step, seconds=seconds)


def _of_stage(config: Pretraining, objective: Objective, training: Training) -> Estimate:
    networks = objective.networks({}, State(), {})
    for network in networks.values():
        network.train()
    stream = objective.stream(_STEPS)
    size = loop.batch_size(training, stream.rows) if stream.rows else 1
    steps = training.steps or int(training.epochs or 1) * -(-round((stream.rows or 1) / objective.taken()) // size)
    named = [pair for params in objective.parameters(networks).values() for pair in params.named]
    weights, learned = _bytes(t for network in networks.values() for t in network.state_dict().values()), _bytes(p for _, p in named)
    memory = {"process": _resident() - weights, "weights": weights, "best weights": weights}
    with _Watched() as seen:
        step, kept = _step_memory(objective, networks, training, _longest(stream, size), _free() - weights)
    memory |= {"gradients": learned, "optimiser": kept, "activations": max(0, step - learned)}
    free, parameters = _free(), sum(p.numel() for _, p in named)
    peak = _peak(memory, seen.most)
    if peak - memory["process"] > free:
        return Estimate(parameters, memory, peak, free, steps, None, None)
    with seen:
        seconds = _seconds(
            objective, networks, training.model_copy(update={"steps": _STEPS, "epochs": None, "batch_size": size}), config.seed
        )
    peak = _peak(memory, seen.most)
    looked = int(objective.settings.get("looked_at", len(objective.held_out()))) / size
    whole = seconds * (steps + _LOOK * looked * (steps / config.evaluate_every))
    return Estimate(parameters, memory, peak, free, steps, seconds, whole)


def _peak(memory: dict[str, int], seen: int) -> int:
    """The most that the process will hold: in a step, or while a checkpoint is written. What steps were seen to need beside their
    tensors (the libraries' own memory, gaps) is added to "process"."""
    kept, step = memory["weights"] + memory["optimiser"], memory["gradients"] + memory["activations"]
    memory["process"] += max(0, seen - memory["process"] - kept - step)
    checkpoint = 2 * kept + memory["best weights"] + memory["gradients"]  # copies, and the bytes of the file
    return memory["process"] + kept + memory["best weights"] + max(step, checkpoint)


class _Watched:
    """While it is open, `most` follows what this process holds."""

    def __init__(self) -> None:
        self.most = 0

    def __enter__(self) -> _Watched:
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._closed.wait(0.005):
            self.most = max(self.most, _resident())

    def __exit__(self, *error: object) -> None:
        self._closed.set()
        self._thread.join()


def _longest(stream: Any, size: int) -> Array:
    """The batch that needs most memory: of the longest examples that were seen."""
    if stream.rows is None or stream.lengths is None:
        return np.arange(size)
    return np.argsort(stream.lengths[np.arange(stream.rows)], kind="stable")[-size:]


def _step_memory(objective: Objective, networks: Networks, training: Training, indices: Array, free: int) -> tuple[int, int]:
    """Bytes at the peak of a step beside weights and optimiser, and those that the optimiser keeps."""
    stream = objective.stream(_STEPS)
    batch = loop.tensors(stream.take(indices, np.random.default_rng(0)))
    batch = part_of(batch, np.arange(-(-batch.examples // training.accumulate)))
    few = part_of(batch, np.arange(-(-batch.examples // 8)))
    some, kept = _tracked(objective, networks, training, few)
    whole = some * -(-batch.examples // few.examples)
    if few.examples < batch.examples and whole < free // 2:  # as far as can be told so far
        whole, kept = _tracked(objective, networks, training, batch)
    return whole, kept


def _tracked(objective: Objective, networks: Networks, training: Training, batch: Any) -> tuple[int, int]:
    optimisers = {}
    for name, params in objective.parameters(networks).items():
        optimisers[name] = Optimiser(params.named, training, 1e-12)
        if training.precision != "float32":
            optimisers[name].around = lambda: torch.autocast("cpu", torch.bfloat16)
    before = {tensor.untyped_storage()._cdata for network in networks.values() for tensor in network.state_dict().values()}
    live = _Live(before)
    with live:
        objective.step(networks, batch, optimisers, np.random.default_rng(0))
    kept = sum(array.nbytes for made in optimisers.values() for array in made.state()[1].values())
    for made in optimisers.values():
        for _, p in made.named:
            p.grad = None
    return live.peak - kept, kept


class _Live(TorchDispatchMode):
    """Bytes of the tensors that live at the same time, beside those of `known` storages."""

    def __init__(self, known: set[int]) -> None:
        super().__init__()
        self.known, self.now, self.peak = set(known), 0, 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = function(*args, **(kwargs or {}))
        for leaf in tree_leaves(made):
            if isinstance(leaf, torch.Tensor):
                self._see(leaf.untyped_storage())
        return made

    def _see(self, storage: Any) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self.known:
            return
        self.known.add(key)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._gone, key, size)

    def _gone(self, key: int, size: int) -> None:
        self.known.discard(key)
        self.now -= size


def _seconds(objective: Objective, networks: Networks, training: Training, seed: int) -> float:
    """Of one step, on this machine as busy as it is now."""
    moments: list[float] = []

    def report(figures: Mapping[str, Any]) -> None:
        if "rows" in figures:
            moments.append(time.monotonic())

    loop.fit(objective, networks, objective.stream(_STEPS + 1), None, training, seed=seed, report=report)
    return median(b - a for a, b in pairwise(moments))


def _bytes(tensors: Iterator[torch.Tensor]) -> int:
    return sum({t.untyped_storage()._cdata: t.untyped_storage().nbytes() for t in tensors}.values())


def _resident() -> int:
    """Bytes of memory that this process holds now; 0 where the system does not tell."""
    with suppress(OSError, ValueError, IndexError):
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return 0


def _free() -> int:
    """Bytes of memory that this machine has left; all it has where the system does not tell."""
    with suppress(OSError, ValueError, IndexError):
        lines = Path("/proc/meminfo").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("MemAvailable")).split()[1]) * 1024
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")

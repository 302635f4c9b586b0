"""How a step is computed: in parts, by several processes, in which precision, compiled or not, and how fast that is.

Nothing here changes what is learned beyond rounding, but for `precision`. What a measurement chose is written down beside the
checkpoints at once, so that a run that is resumed goes on with it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from mainstem import files
from mainstem.config import Training
from mainstem.contracts import Array, Batch, Objective, Task
from mainstem.errors import MainstemError
from mainstem.training.optimisers import Optimiser
from mainstem.training.parallel import Ranks

_PAYS = 0.9  # bfloat16 is taken where a step needs at most this share of the time
_REPEATS = 3
_EDGE = 1024  # of the matrices whose product is the machine's limit
CHOSEN = "engine.json"


@dataclass(frozen=True)
class Speed:
    """What was measured at the start. `limit`: floating-point operations a second of a large matrix product; `work`: those of one
    padded token of a step, forward and back; `seconds`: of the processor, of one step by precision."""

    precision: str
    limit: float
    work: float
    seconds: Mapping[str, float]


class Engine:
    """Computes the steps of one fit."""

    def __init__(
        self,
        task: Task,
        networks: Mapping[str, torch.nn.Module],
        optimisers: Mapping[str, Optimiser],
        settings: Training,
        folder: Path | None,
        ranks: Ranks,
    ) -> None:
        self.task, self.networks, self.optimisers, self.settings = task, networks, optimisers, settings
        self.folder, self.ranks = folder, ranks
        self.parts = settings.accumulate * ranks.world
        able = isinstance(task, Objective) and task.in_parts and ranks.world == 1
        if self.parts > 1 and task.batch_coupled and not able:
            raise MainstemError(
                "the loss of this task is one of the whole batch, so a batch cannot be computed in parts",
                where="training.accumulate",
                do="Leave it out, and start one process.",
            )
        if "lbfgs" in {o.name for o in optimisers.values()} and (settings.precision != "float32" or ranks.world > 1):
            raise MainstemError("lbfgs searches in float32 and in one process", where="training.optimizer", do="Choose another.")
        self.speed: Speed | None = None

    def start(self, first: Callable[[], Batch], *, measured: bool) -> str:
        """Make the networks ready and choose the precision; the sentence that says what was chosen, "" where nothing was.

        first: the first batch. measured: whether speed is to be known. Weights, buffers and gradients stay as they are; random states
        do not.
        """
        if self.settings.checkpoint_activations:
            self._checkpoint_activations()
        told = ""
        if self.settings.precision == "auto" or measured:
            self.speed, told = self._settled(first)
        precision = self.speed.precision if self.speed else self.settings.precision
        for optimiser in self.optimisers.values():
            optimiser.around = _autocast(precision)
            optimiser.join = self.ranks.add if self.ranks.world > 1 else None
        if self.settings.compile:
            self._compile()
        return told

    def step(self, batch: Batch, rng: np.random.Generator) -> dict[str, float]:
        """One step on the tensors of `batch`, in as many parts as are asked for; figures of the whole."""
        if self.parts == 1 or self.task.batch_coupled:
            return self.task.step(self.networks, self._told(batch), self.optimisers, rng)
        figures: dict[str, float] = {}
        parts = list(self._shares(batch))
        for number, (part, share) in enumerate(parts):
            for optimiser in self.optimisers.values():
                optimiser.part(share, first=number == 0, last=number == len(parts) - 1)
            figures = self.task.step(self.networks, part, self.optimisers, rng)
        return figures

    def _told(self, batch: Batch) -> Batch:
        """A batch whose loss is one of the whole, with how many parts its features are to be computed in."""
        return replace(batch, meta={**batch.meta, "parts": self.settings.accumulate}) if self.task.batch_coupled else batch

    def _shares(self, batch: Batch) -> Iterator[tuple[Batch, float]]:
        """This process's parts of a batch, and the share of the loss that each stands for."""
        whole = max(self._size(batch), 1e-9)
        own = np.array_split(np.arange(batch.examples), self.ranks.world)[self.ranks.rank]
        if not len(own):  # a last batch smaller than there are processes: gradients of nothing, but all must come together
            yield part_of(batch, np.zeros(1, np.int64)), 0.0
        for examples in np.array_split(own, min(self.settings.accumulate, len(own))) if len(own) else ():
            part = part_of(batch, examples)
            yield part, self._size(part) / whole

    def _size(self, batch: Batch) -> float:
        return self.task.size(batch) if isinstance(self.task, Objective) else float(batch.examples)

    def _checkpoint_activations(self) -> None:
        able = [next((m for m in network.modules() if _recomputing(m)), None) for network in self.networks.values()]
        if not any(able):
            raise MainstemError(
                "these networks cannot compute their activations again", where="training.checkpoint_activations", do="Leave it out."
            )
        for module in filter(None, able):
            getattr(module, _recomputing(module))({"use_reentrant": False})

    def _compile(self) -> None:
        """Compile what the networks are made of in place; their names and weights stay. Raises MainstemError without a compiler."""
        import shutil

        if not any(map(shutil.which, ("g++", "clang++", "c++"))):
            raise MainstemError(
                "compiling needs a C++ compiler, and there is none", where="training.compile", do="Install g++, or leave it out."
            )
        for network in self.networks.values():
            own = [m for m in network.modules() if hasattr(m, "base_model_prefix")]
            for module in own or [network]:
                module.compile(dynamic=True)

    # measuring

    def _settled(self, first: Callable[[], Batch]) -> tuple[Speed, str]:
        """The speed as it was written down, or measured now."""
        place = self.folder / CHOSEN if self.folder else None
        if place and place.is_file():
            try:
                return Speed(**json.loads(place.read_bytes())), ""
            except (ValueError, TypeError):
                raise MainstemError("this does not say how the run computes", where=str(place), do="Start a new run.") from None
        speed, told = self._measured(first())
        if self.ranks.world > 1:
            bits = torch.tensor(float(speed.precision == "bfloat16") if self.ranks.is_first else 0.0)
            self.ranks.add([bits])
            speed = replace(speed, precision="bfloat16" if float(bits) > 0 else "float32")
        if place and self.ranks.is_first:
            files.write_json(place, vars(speed))
        return speed, told

    def _measured(self, batch: Batch) -> tuple[Speed, str]:
        asked = ("float32", "bfloat16") if self.settings.precision == "auto" else (self.settings.precision,)
        held = [(b, b.clone()) for network in self.networks.values() for b in network.buffers()]
        rng, batch = np.random.default_rng(0), self._told(batch)
        if self.parts > 1 and not self.task.batch_coupled:  # memory may hold no more than a part
            batch = part_of(batch, np.arange(-(-batch.examples // self.parts)))

        def once() -> float:  # in processor seconds, which other programs on the machine disturb little
            start = time.process_time()
            for optimiser in self.optimisers.values():
                optimiser.part(last=False)
            self.task.step(self.networks, batch, self.optimisers, rng)
            return time.process_time() - start

        try:
            counter = FlopCounterMode(display=False)
            with counter:
                once()
            seconds = {}
            for precision in asked:
                for optimiser in self.optimisers.values():
                    optimiser.around = _autocast(precision)
                once()
                seconds[precision] = min(once() for _ in range(_REPEATS))
        finally:
            for optimiser in self.optimisers.values():
                optimiser.part()
                for _, p in optimiser.named:
                    p.grad = None
            with torch.no_grad():
                for buffer, old in held:
                    buffer.copy_(old)
        precision = "bfloat16" if "bfloat16" in seconds and seconds["bfloat16"] <= _PAYS * seconds.get("float32", np.inf) else asked[0]
        speed = Speed(precision, limit(precision), counter.get_total_flops() / max(1, padded_tokens(batch)), seconds)
        if len(asked) == 1:
            return speed, ""
        compared = f"{seconds['bfloat16'] / seconds['float32']:.2f} of the time of a step in float32"
        return speed, f"steps are computed in {precision}: bfloat16 needs {compared}"


def _recomputing(module: torch.nn.Module) -> str:
    """The method by which a transformers module is told not to keep activations; its name changed in version 5."""
    return next((name for name in ("activation_checkpointing_enable", "gradient_checkpointing_enable") if hasattr(module, name)), "")


def _autocast(precision: str) -> Callable[[], AbstractContextManager[Any]]:
    return nullcontext if precision == "float32" else lambda: torch.autocast("cpu", torch.bfloat16)


def limit(precision: str = "float32", seconds: float = 0.3) -> float:
    """Floating-point operations a second of this process's best product of two large matrices."""
    a = torch.ones(_EDGE, _EDGE, dtype=getattr(torch, precision))
    best, until = float("inf"), time.perf_counter() + seconds
    while best == float("inf") or time.perf_counter() < until:
        start = time.perf_counter()
        a @ a
        best = min(best, time.perf_counter() - start)
    return 2 * _EDGE**3 / best


def part_of(batch: Batch, examples: Array) -> Batch:
    """The rows of a batch of tensors that belong to `examples` (int64 [m], rising); what is no row is shared."""
    owner = np.asarray(batch.owner)
    rows = np.flatnonzero(np.isin(owner, examples))

    def pick(tensor: Any) -> Any:
        chosen = rows if len(tensor) == len(owner) else examples if len(tensor) == batch.examples else None
        return tensor if chosen is None else tensor[torch.from_numpy(chosen)]

    return replace(
        batch,
        inputs={name: {key: pick(tensor) for key, tensor in tensors.items()} for name, tensors in batch.inputs.items()},
        owner=np.searchsorted(examples, owner[rows]),
        examples=len(examples),
        target={name: pick(tensor) for name, tensor in batch.target.items()},
        weights=None if batch.weights is None else batch.weights[torch.from_numpy(examples)],
    )


def tokens(batch: Batch) -> int:
    """How many real tokens a batch of tensors holds; 0 where it holds no texts."""
    return int(sum(int(arrays["mask"].sum()) for arrays in batch.inputs.values() if "mask" in arrays))


def padded_tokens(batch: Batch) -> int:
    """How many tokens a batch of tensors holds with its padding."""
    return sum(arrays["mask"].numel() for arrays in batch.inputs.values() if "mask" in arrays)


class Meter:
    """Tokens a second and the share of the machine's limit, over the steps since it was last read. `skip`: steps at the beginning that
    are not counted, because a network is compiled in them."""

    def __init__(self, skip: int = 0) -> None:
        self.skip = skip
        self.tokens = self.padded = 0
        self.seconds = 0.0

    def add(self, batch: Batch, seconds: float) -> int:
        """Count a step; returns its tokens."""
        here = tokens(batch)
        if self.skip:
            self.skip -= 1
            return here
        self.tokens, self.padded, self.seconds = self.tokens + here, self.padded + padded_tokens(batch), self.seconds + seconds
        return here

    def read(self, speed: Speed | None) -> dict[str, float]:
        """ "tokens_per_second" and, where speed is known, "of_limit"; nothing where there were no tokens. Starts anew."""
        told: dict[str, float] = {}
        if self.tokens and self.seconds:
            told["tokens_per_second"] = round(self.tokens / self.seconds, 1)
            if speed and speed.work:
                told["of_limit"] = round(speed.work * self.padded / self.seconds / speed.limit, 4)
        self.tokens = self.padded = 0
        self.seconds = 0.0
        return told

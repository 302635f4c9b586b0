"""The training loop: batches in the order of (seed, epoch), steps, epochs, the best weights kept, a checkpoint now and then.

It knows no task: `Task.step` does a step, and what is trained are the networks it is handed. Killed at any moment, the
same call on the same folder goes on where the newest checkpoint stands and ends in the same weights, bit for bit.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mainstem.config import Training
from mainstem.contracts import Array, Batch, Objective, Stream, Task
from mainstem.errors import MainstemError
from mainstem.inference import chunked
from mainstem.training import checkpoints, order, randomness, ranges
from mainstem.training.engine import Engine, Meter
from mainstem.training.loader import Encoded
from mainstem.training.optimisers import DEFAULT_LR, Optimiser
from mainstem.training.parallel import ALONE, Ranks
from mainstem.training.schedules import Schedule
from mainstem.training.stops import Stops
from mainstem.training.tensors import to_array, to_tensor

BATCH_SIZE = 32


@dataclass
class History:
    """What a training run did. `best_epoch` counts from 1: the epochs after which the kept weights stood; `steps` all it took."""

    epochs: int = 0
    steps: int = 0
    best_epoch: int = 0
    reason: str = ""
    losses: list[float] = field(default_factory=list)
    valid: list[float] = field(default_factory=list)


Report = Callable[[Mapping[str, Any]], None]


def fit(
    task: Task,
    networks: Mapping[str, torch.nn.Module],
    train: Encoded | Stream,
    valid: Encoded | Stream | None,
    settings: Training,
    *,
    seed: int,
    folder: Path | None = None,
    final: bool = False,
    report: Report = lambda figures: None,
    stopped: Callable[[], bool] = lambda: False,
    ranks: Ranks = ALONE,
    measured: bool = False,
) -> History:
    """Train `networks` in place and return what was done.

    With `valid`, the weights after the epoch of its least loss are kept. `folder`: where checkpoints go; None writes none.
    `final`: leave one of the finished weights, from which the same call comes back at once.
    `stopped` is asked after every step (Ctrl-C, a time limit): the run then ends with the best weights so far.
    `ranks`: the processes that share the work; the first alone writes. `measured`: tell how fast it goes.
    Raises NonFinite (MainstemError) at the first step that is not finite; the weights are then those before it; MainstemError
    where no rule ever ends it.
    """
    made = _Fit(task, networks, train, valid, settings, seed, folder, report, stopped, ranks, measured)
    history = made.run()
    if final and history.reason != "stopped":
        made.checkpoint()
    return history


class _Fit:
    """The state of one run."""

    def __init__(
        self,
        task: Task,
        networks: Mapping[str, torch.nn.Module],
        train: Encoded | Stream,
        valid: Encoded | Stream | None,
        settings: Training,
        seed: int,
        folder: Path | None,
        report: Report,
        stopped: Callable[[], bool],
        ranks: Ranks,
        measured: bool,
    ) -> None:
        self.task, self.networks, self.train, self.valid, self.settings = task, networks, train, valid, settings
        self.seed, self.folder, self.report, self.stopped = seed, folder, report, stopped
        self.ranks, self.measured = ranks, measured
        if (settings.epochs, settings.steps, settings.tol, settings.patience) == (None,) * 4:
            raise MainstemError("this training would never end", where="training", do="Set epochs, steps, tol or patience.")
        self.streamed = hasattr(train, "rows")  # its epochs are no more than what lies between two looks: the last may be short
        self.rows = getattr(train, "rows", None)
        self.size = batch_size(settings, self.rows or len(train))
        self.lengths = train.lengths if settings.group_by_length else None
        self.per_epoch = len(train) if self.rows else order.steps(len(train), self.size)
        name = settings.optimizer or "adamw"
        self.lr = settings.lr if isinstance(settings.lr, float | int) else DEFAULT_LR[name]
        self.optimisers = {key: Optimiser(p.named, settings, self.lr) for key, p in task.parameters(networks).items()}
        self.engine, self.meter = Engine(task, networks, self.optimisers, settings, folder, ranks), Meter(int(settings.compile))
        total = settings.epochs * self.per_epoch if settings.epochs else settings.steps or self.per_epoch
        self.telling = {"total": total, "log_every": settings.log_every, "of": task.settings.get("loss", "")}
        self.schedule = Schedule(settings, self.per_epoch, total)
        self.stops = Stops(settings)
        self.history = History()
        self.epoch = self.position = 0  # epochs done, batches done within the next
        self.sums = [0.0, 0]  # loss of the epoch so far, batches it is of
        self.best: dict[str, Array] | None = None
        self.measures: dict[str, float] = {}  # of the last look at held-out data, beside its loss
        self.saved = time.monotonic()

    def run(self) -> History:
        with randomness.deterministic():
            self._mode(training=True)
            if self.optimisers:
                told = self.engine.start(lambda: tensors(self.train.take(self._batches(0)[0], self._rng(0, 0))), measured=self.measured)
                if told:
                    self.report({"warning": told})
            randomness.seed_everything(self.seed)
            self._resume()
            if not self.optimisers:
                self.history.reason = "there is nothing to learn by gradients"
            elif self.settings.lr == "auto" and not self.history.steps:
                self._find_rate()
            if self.ranks.any(self.stopped()):
                self.history.reason = "stopped"
            while not self.history.reason:
                self._epoch()
        if self.best is not None:
            _load(self.networks, self.best)
        self._mode(training=False)
        self._check()
        return self.history

    def _epoch(self) -> None:
        for indices in self._batches(self.epoch)[self.position :]:
            self._step(indices)
            self.history.reason = "stopped" if self.ranks.any(self.stopped()) else self.stops.step_end(self.history.steps, 0.0)
            if self.position == self.per_epoch or (self.streamed and self.history.reason not in ("", "stopped")):
                self._epoch_end()
            if self.history.reason:
                return
            self._maybe_checkpoint()

    def _batches(self, epoch: int) -> list[Array]:
        if self.rows:
            return order.stretch(self.seed, epoch * self.per_epoch, self.per_epoch, self.rows, self.size, self.lengths)
        return order.batches(self.seed, epoch, len(self.train), self.size, self.lengths)

    def _rng(self, epoch: int, position: int) -> np.random.Generator:
        """What the random parts of a batch are drawn from."""
        return np.random.default_rng((self.seed, epoch, position))

    def _find_rate(self) -> None:
        """The learning rate by a range test; the default one where the test finds none."""
        rng = np.random.default_rng((self.seed, 0, 0))
        batches = self._batches(0)

        def step(number: int) -> float:
            batch = tensors(self.train.take(batches[number % len(batches)], rng))
            return self.engine.step(batch, rng)["loss"]

        found = ranges.range_test(self.networks, self.optimisers, step)
        self.lr = found.lr or self.lr
        self.report({"range": found, "warning": found.why if found.lr else f"{found.why}; the default {self.lr:g} is used"})

    def _check(self) -> None:
        for optimiser in self.optimisers.values():
            optimiser.check()

    def _step(self, indices: Array) -> None:
        factor = self.schedule.factor(self.history.steps, self.epoch)
        for optimiser in self.optimisers.values():
            optimiser.lr = self.lr * factor
        started = time.monotonic()
        rng = self._rng(self.epoch, self.position)
        batch = tensors(self.train.take(indices, rng))
        if self.ranks.world > 1:  # dropout differs by process, and is the same after a resumption
            torch.manual_seed(int(np.random.default_rng((self.seed, self.history.steps, self.ranks.rank)).integers(2**63)))
        figures = self.engine.step(batch, rng)
        figures["tokens"] = self.meter.add(batch, time.monotonic() - started)
        self.position += 1
        self.history.steps += 1
        self.sums[0] += figures.get("loss", 0.0)
        self.sums[1] += 1
        self.report(
            {"step": self.history.steps, "epoch": self.epoch, "rows": len(indices), "lr": self.lr * factor, **self.telling, **figures}
        )

    def _epoch_end(self) -> None:
        loss = self.sums[0] / max(1, self.sums[1])
        self.epoch, self.position, self.sums = self.epoch + 1, 0, [0.0, 0]
        self.history.epochs = self.epoch
        self.history.losses.append(loss)
        watched = self._validate()
        if watched is not None:
            self.history.valid.append(watched)
        reason = self.stops.epoch_end(self.epoch, self.history.steps, 0.0, loss, watched)
        self.history.reason = self.history.reason or reason
        if watched is not None and self.stops.improved:
            self.best = _copy(self.networks)
        self.history.best_epoch = self.epoch if watched is None else self.stops.best_epoch
        self.schedule.epoch_end(loss if watched is None else watched)
        ended = {"step": self.history.steps, "epoch": self.epoch, "loss": loss, "valid": watched}
        ended |= {"measures": self.measures} if self.measures else {}
        ended |= self.meter.read(self.engine.speed)
        self.report({**ended, "ended": True, **self.telling})

    @torch.no_grad()
    def _validate(self) -> float | None:
        """The mean loss of the validation part, in evaluation mode; None where there is none or the task has no loss."""
        if not self.valid or type(self.task).loss is Task.loss:
            return None
        self._mode(training=False)
        apart = -(-max(self.size, 0 if self.rows else 256) // self.settings.accumulate)  # what steps must not hold, looks must not
        size = len(self.valid) if self.task.batch_coupled else apart
        total: dict[str, float] = {}
        for indices in chunked(len(self.valid), self.valid.lengths, size):
            batch = tensors(self.valid.take(indices))
            output = self.task.forward(self.networks, batch)
            told = self.task.measure(output, batch) if isinstance(self.task, Objective) else {}
            for name, value in {"": float(self.task.loss(output, batch)), **told}.items():
                total[name] = total.get(name, 0.0) + value * len(indices)
        self._mode(training=True)
        self.measures = {name: value / len(self.valid) for name, value in total.items()}
        return self.measures.pop("")

    def _mode(self, *, training: bool) -> None:
        """Networks that learn nothing stay in evaluation mode: their norms and dropouts stand still."""
        for module in self.networks.values():
            module.train(training and any(p.requires_grad for p in module.parameters()))

    # checkpoints

    def _maybe_checkpoint(self) -> None:
        if self.folder is not None and not self.history.reason and time.monotonic() - self.saved >= self.settings.checkpoint_every:
            self.checkpoint()

    def checkpoint(self) -> None:
        """Write the state as it stands."""
        if self.folder is None or not self.ranks.is_first:
            return
        self._check()
        state, arrays = randomness.capture()
        arrays = {f"random/{k}": v for k, v in arrays.items()}
        arrays.update({f"weights/{k}": v for k, v in _copy(self.networks).items()})
        arrays.update({f"best/{k}": v for k, v in (self.best or {}).items()})
        optimisers = {}
        for name, optimiser in self.optimisers.items():
            optimisers[name], held = optimiser.state()
            arrays.update({f"optimiser/{name}/{k}": v for k, v in held.items()})
        json = {
            "epoch": self.epoch,
            "position": self.position,
            "sums": self.sums,
            "lr": self.lr,
            "threads": torch.get_num_threads(),
            "history": vars(self.history),
            "schedule": self.schedule.state(),
            "stops": self.stops.state(),
            "random": state,
            "optimisers": optimisers,
        }
        checkpoints.save(self.folder, self.history.steps, json, arrays)
        self.saved = time.monotonic()

    def _resume(self) -> None:
        if self.ranks.is_first:
            found, warnings = checkpoints.load(self.folder) if self.folder else (None, [])
        self.ranks.wait()
        if not self.ranks.is_first:
            found, warnings = checkpoints.load(self.folder, mend=False) if self.folder else (None, [])
        for warning in warnings:
            self.report({"warning": warning})
        if found:
            try:
                self._take_up(found.json, found.arrays)
            except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
                raise MainstemError(
                    f"the checkpoint of step {found.step} is not of this run ({type(error).__name__})",
                    where=str(self.folder),
                    do="Start a new run without --resume.",
                ) from error
        if self.folder:
            self.report({"resumed": self.epoch})

    def _take_up(self, json: Mapping[str, Any], arrays: Mapping[str, Array]) -> None:
        if json["threads"] != torch.get_num_threads():
            now = torch.get_num_threads()
            self.report({"warning": f"this run began with {json['threads']} threads and goes on with {now}: the last digits may differ"})
        self.epoch, self.position, self.sums, self.lr = json["epoch"], json["position"], list(json["sums"]), json["lr"]
        self.history = History(**json["history"])
        self.schedule.load(json["schedule"])
        self.stops.load(json["stops"])
        _load(self.networks, _under(arrays, "weights/"))
        self.best = _under(arrays, "best/") or None
        for name, optimiser in self.optimisers.items():
            optimiser.load(json["optimisers"][name], _under(arrays, f"optimiser/{name}/"))
        randomness.restore(json["random"], _under(arrays, "random/"))


def batch_size(settings: Training, rows: int) -> int:
    """The rows of a batch."""
    if settings.batch_size == "full" or settings.optimizer in ("gd", "lbfgs"):
        return max(1, rows)
    return min(int(settings.batch_size or BATCH_SIZE), max(1, rows))


def tensors(batch: Batch) -> Batch:
    """The batch with tensors in place of arrays; float64 becomes float32, as the graphs take it."""

    def convert(array: Array) -> Any:
        array = array.astype(np.float32) if array.dtype == np.float64 else array
        return torch.from_numpy(np.ascontiguousarray(array))

    inputs: dict[str, Any] = {name: {key: convert(a) for key, a in arrays.items()} for name, arrays in batch.inputs.items()}
    target: dict[str, Any] = {name: convert(a) for name, a in batch.target.items()}
    weights: Any = None if batch.weights is None else convert(batch.weights)
    return replace(batch, inputs=inputs, target=target, weights=weights)


def _copy(networks: Mapping[str, torch.nn.Module]) -> dict[str, Array]:
    """The weights and buffers of networks that learn, copied."""
    return {
        f"{name}/{key}": to_array(tensor).copy()
        for name, module in networks.items()
        if any(p.requires_grad for p in module.parameters())
        for key, tensor in module.state_dict().items()
    }


def _load(networks: Mapping[str, torch.nn.Module], arrays: Mapping[str, Array]) -> None:
    for name, module in networks.items():
        if held := _under(arrays, f"{name}/"):
            module.load_state_dict({key: to_tensor(array) for key, array in held.items()})


def _under(arrays: Mapping[str, Array], prefix: str) -> dict[str, Array]:
    return {key.removeprefix(prefix): array for key, array in arrays.items() if key.startswith(prefix)}

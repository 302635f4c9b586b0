"""One step of training: gradient, penalties, the check for NaN and Inf, clipping, update. Settings are `config.Training`.

The updates are those of torch.optim, but for muon (muon.py), which moves the matrices of numbered blocks and leaves the rest to adamw.
What is added: nothing non-finite ever reaches a weight, biases and norms are neither penalised nor decayed, and the state goes to
JSON and arrays and back bit for bit (never through pickle).

Sparse gradients (nn.Embedding and nn.EmbeddingBag with sparse=True) stay sparse under gd, sgd, adagrad, adam and adamw:
only the rows that occur in the batch are updated. For adam and adamw that is torch.optim.SparseAdam (moments of absent
rows stand still, no decay); momentum, nesterov, rmsprop and lbfgs take the gradient as dense. A penalty makes it dense too.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from mainstem.config import Training
from mainstem.contracts import Array
from mainstem.errors import MainstemError
from mainstem.training.muon import Muon
from mainstem.training.tensors import to_array, to_tensor

DEFAULT = "adamw"
DEFAULT_LR = {
    "gd": 0.1,
    "sgd": 0.05,
    "momentum": 0.01,
    "nesterov": 0.01,
    "rmsprop": 1e-3,
    "adagrad": 0.05,
    "adam": 1e-3,
    "adamw": 1e-3,
    "muon": 1e-3,
    "lbfgs": 1.0,
}
_KEEPS_SPARSE = ("gd", "sgd", "adagrad", "adam", "adamw")
_LINE_SEARCH = 25  # evaluations at most
_UNCHECKED: Any = torch.sparse.check_sparse_tensor_invariants  # torch wants the choice made: sparse gradients are its own, so sound


class NonFinite(MainstemError):
    """A loss, gradient, learning rate or weight is NaN or Inf. Raised before the step changes a weight.

    step: the number of the step, from 1. lr: its learning rate. which: "loss", "gradient", "learning rate" or "weight".
    parameter: the name of the first parameter concerned, or "".
    """

    def __init__(self, which: str, value: float, step: int, lr: float, parameter: str = "") -> None:
        whose = f" of '{parameter}'" if parameter else ""
        lower = f"a lower rate (--lr {lr / 10:.2g})" if math.isfinite(lr) and lr > 0 else "a finite rate (--lr 0.001)"
        super().__init__(
            f"training stopped at step {step}: the {which}{whose} is {value:g}, at learning rate {lr:g}",
            do=f"Try {lower}, a bound on the gradient (--set training.clip=1), or look for extreme values in the data.",
        )
        self.which, self.step, self.lr, self.parameter = which, step, lr, parameter


def is_weight(name: str, parameter: Tensor) -> bool:
    """Whether a parameter is penalised and decayed: matrices and kernels are, biases and norm parameters are not."""
    return parameter.ndim > 1 and not name.endswith("bias")


def in_block(name: str, parameter: Tensor) -> bool:
    """Whether a parameter is a matrix of one of many like blocks ("layers.3.inner.weight"): no embedding, no first or last layer."""
    return parameter.ndim == 2 and name.endswith(".weight") and re.search(r"\.\d+\.", name) is not None


class Optimiser:
    """Updates `named` parameters by settings.optimizer ("" is adamw) with learning rate `lr`, which schedules may set.

    `steps` counts the updates made. Raises MainstemError where settings do not go together.
    """

    def __init__(self, named: Sequence[tuple[str, Tensor]], settings: Training, lr: float) -> None:
        self.named, self.settings, self.lr, self.steps = list(named), settings, lr, 0
        self.name = settings.optimizer or DEFAULT
        if self.name == "lbfgs" and settings.clip is not None:
            raise MainstemError(
                "lbfgs cannot clip: its line search needs the gradient as it is", where="training.clip", do="Leave out one of the two."
            )
        if self.name == "lbfgs" and settings.accumulate > 1:
            raise MainstemError(
                "lbfgs cannot take a batch in parts: its line search needs the whole loss", where="training.accumulate", do="Leave it out."
            )
        # how a step is computed, as the engine sets it: what the loss is computed in, and how other processes add their gradients
        self.around: Callable[[], AbstractContextManager[Any]] = nullcontext
        self.join: Callable[[list[Tensor]], None] | None = None
        self.part()
        self._weights = [p for n, p in self.named if is_weight(n, p)]
        # "dense", "sparse" and "blocks" (of muon), made when the first gradient shows which is which
        self._parts: dict[str, torch.optim.Optimizer] = {}
        self._sparse: list[str] = []

    def part(self, share: float = 1.0, *, first: bool = True, last: bool = True) -> None:
        """What the next step() is of: a part of a batch that weighs `share`. Gradients add up from the first part on; the last updates."""
        self._share, self._is_first, self._is_last = share, first, last

    def step(self, closure: Callable[[], Tensor]) -> float:
        """One update. `closure` computes the scalar loss of the batch; the answer is that loss, without penalties, before the update.

        Of a batch in parts (see `part`) the answer is what its loss has come to so far.

        lbfgs calls it several times: one step is one iteration with a strong Wolfe line search (Nocedal and Wright, 2006,
        algorithms 3.5 and 7.5). Raises NonFinite, and every weight is then as it was.
        """
        if not math.isfinite(self.lr):
            raise NonFinite("learning rate", self.lr, self.steps + 1, self.lr)
        loss = self._line_search(closure) if self.name == "lbfgs" else self._single(closure)
        self.steps += self._is_last
        return loss

    def check(self) -> None:
        """Raise NonFinite where a weight is NaN or Inf (after an update by a huge rate): before a checkpoint or model is written."""
        for name, p in self.named:
            if not bool(torch.isfinite(p).all()):
                raise NonFinite("weight", _first(p), self.steps, self.lr, name)

    def _single(self, closure: Callable[[], Tensor]) -> float:
        loss, _ = self._gradient(closure)
        if not self._is_last:
            return loss
        with _UNCHECKED(enable=False):
            for part in self._made().values():
                part.step()
        return loss

    def _line_search(self, closure: Callable[[], Tensor]) -> float:
        before = [p.detach().clone() for _, p in self.named]
        losses: list[float] = []

        def evaluate() -> Tensor:
            loss, total = self._gradient(closure)
            losses.append(loss)
            return total

        try:
            self._made()["dense"].step(evaluate)  # type: ignore[arg-type]
        except BaseException:
            with torch.no_grad():
                for (_, p), old in zip(self.named, before, strict=True):
                    p.copy_(old)
            raise
        return losses[0]

    def _gradient(self, closure: Callable[[], Tensor]) -> tuple[float, Tensor]:
        """Fill .grad with the checked and clipped gradient; the loss, and the loss with penalties."""
        if self._is_first:
            self._sums = torch.zeros(2)
            for _, p in self.named:
                p.grad = None
        with torch.enable_grad():
            with self.around():
                loss = closure()
            total = self._penalised(loss)
            (total if self._share == 1 else total * self._share).backward()  # type: ignore[no-untyped-call]
        self._sums += torch.stack([loss.detach().float().cpu(), total.detach().float().cpu()]) * self._share
        if self._is_last:
            if self.join is not None:
                self.join([self._sums, *(p.grad for _, p in self.named if p.grad is not None)])
            if not math.isfinite(value := float(self._sums[1])):
                raise NonFinite("loss", value, self.steps + 1, self.lr)
            self._check_and_clip()
        return float(self._sums[0]), total.detach()

    def _penalised(self, loss: Tensor) -> Tensor:
        if self.settings.l1:
            loss = loss + self.settings.l1 * sum(w.abs().sum() for w in self._weights)
        if self.settings.l2:
            loss = loss + self.settings.l2 / 2 * sum(w.square().sum() for w in self._weights)
        return loss

    def _check_and_clip(self) -> None:
        keep = self.name in _KEEPS_SPARSE
        values = []
        for _, p in self.named:
            if p.grad is not None and p.grad.is_sparse:
                p.grad = p.grad.coalesce() if keep else p.grad.to_dense()
            if p.grad is not None:
                values.append(p.grad._values() if p.grad.is_sparse else p.grad)
        norm = torch.nn.utils.get_total_norm(values)
        if not math.isfinite(float(norm)):
            self._blame()
        if self.settings.clip is not None and values:
            scale = torch.clamp(self.settings.clip / (norm + 1e-6), max=1.0)
            torch._foreach_mul_(values, scale)

    def _blame(self) -> None:
        """Raise for the first parameter with a NaN or Inf in its gradient, or else (the norm overflowed) the largest."""
        found = [(name, p.grad.coalesce()._values() if p.grad.is_sparse else p.grad) for name, p in self.named if p.grad is not None]
        for name, gradient in found:
            if not bool(torch.isfinite(gradient).all()):
                raise NonFinite("gradient", _first(gradient), self.steps + 1, self.lr, name)
        name, gradient = max(found, key=lambda pair: float(pair[1].abs().max()) if pair[1].numel() else 0.0)
        raise NonFinite("gradient", float(gradient.abs().max()), self.steps + 1, self.lr, name)

    def _made(self) -> dict[str, torch.optim.Optimizer]:
        """The torch optimisers, with the current rate."""
        if not self._parts:
            sparse = [n for n, p in self.named if p.grad is not None and p.grad.is_sparse] if self.name in ("adam", "adamw") else []
            self._build(sparse)
        for part in self._parts.values():
            for group in part.param_groups:
                group["lr"] = self.lr
        return self._parts

    def _build(self, sparse: Sequence[str]) -> None:
        self._sparse = list(sparse)
        blocks = [(n, p) for n, p in self.named if self.name == "muon" and in_block(n, p)]
        apart = {*sparse, *(n for n, _ in blocks)}
        named = [(n, p) for n, p in self.named if n not in apart]
        if blocks:
            self._parts["blocks"] = Muon([p for _, p in blocks], self.lr, weight_decay=self.settings.weight_decay)
        if named:
            self._parts["dense"] = _torch_optimiser(self.name, named, self.settings, self.lr)
        if sparse:
            self._parts["sparse"] = torch.optim.SparseAdam([p for n, p in self.named if n in sparse], lr=self.lr, betas=self.settings.betas)

    def state(self) -> tuple[dict[str, Any], dict[str, Array]]:
        """All that the next step depends on beside weights and settings, as JSON and arrays by "part.index.key"."""
        arrays: dict[str, Array] = {}
        parts = {}
        for part, made in self._parts.items():
            held = made.state_dict()["state"]
            parts[part] = {str(i): {k: _pack(v, f"{part}.{i}.{k}", arrays) for k, v in state.items()} for i, state in held.items()}
        names = [n for n, _ in self.named]
        return {"name": self.name, "steps": self.steps, "lr": self.lr, "parameters": names, "sparse": self._sparse, "parts": parts}, arrays

    def load(self, json: Mapping[str, Any], arrays: Mapping[str, Array]) -> None:
        """Take up a state() of the same optimiser over the same parameters. Raises MainstemError where it is of another one."""
        names = [n for n, _ in self.named]
        if json["name"] != self.name or json["parameters"] != names:
            raise MainstemError(
                f"the checkpoint holds the state of {json['name']} over {len(json['parameters'])} parameters, "
                f"this run has {self.name} over {len(names)}",
                do="Resume with the settings that the run was started with.",
            )
        self.steps, self.lr = json["steps"], json["lr"]
        self._parts = {}
        if not json["parts"]:
            return
        self._build(json["sparse"])
        for part, held in json["parts"].items():
            state = {int(i): {k: _unpack(v, arrays) for k, v in values.items()} for i, values in held.items()}
            made = self._parts[part]
            made.load_state_dict({"state": state, "param_groups": made.state_dict()["param_groups"]})


def _torch_optimiser(name: str, named: Sequence[tuple[str, Tensor]], settings: Training, lr: float) -> torch.optim.Optimizer:
    parameters = [p for _, p in named]
    if name in ("gd", "sgd"):
        return torch.optim.SGD(parameters, lr=lr)
    if name in ("momentum", "nesterov"):
        return torch.optim.SGD(parameters, lr=lr, momentum=settings.momentum, nesterov=name == "nesterov" and settings.momentum > 0)
    if name == "rmsprop":
        return torch.optim.RMSprop(parameters, lr=lr)
    if name == "adagrad":
        return torch.optim.Adagrad(parameters, lr=lr)
    if name == "adam":
        return torch.optim.Adam(parameters, lr=lr, betas=settings.betas, fused=True)  # a fifth faster a step on small networks
    if name == "lbfgs":
        return torch.optim.LBFGS(parameters, lr=lr, max_iter=1, max_eval=1 + _LINE_SEARCH, line_search_fn="strong_wolfe")
    decayed = {"params": [p for n, p in named if is_weight(n, p)], "weight_decay": settings.weight_decay}
    spared = {"params": [p for n, p in named if not is_weight(n, p)], "weight_decay": 0.0}
    return torch.optim.AdamW([group for group in (decayed, spared) if group["params"]], lr=lr, betas=settings.betas, fused=True)


def _first(tensor: Tensor) -> float:
    """The first NaN or Inf in it."""
    flat = tensor.detach().flatten()
    return float(flat[~torch.isfinite(flat)][0])


def _pack(value: Any, key: str, arrays: dict[str, Array]) -> Any:
    """A value of an optimiser's state → JSON; tensors go to `arrays` under `key`."""
    if isinstance(value, Tensor):
        arrays[key] = to_array(value)
        return {"array": key}
    if isinstance(value, list):
        return [_pack(item, f"{key}.{i}", arrays) for i, item in enumerate(value)]
    return value


def _unpack(value: Any, arrays: Mapping[str, Array]) -> Any:
    if isinstance(value, dict):
        return to_tensor(arrays[value["array"]])
    return [_unpack(item, arrays) for item in value] if isinstance(value, list) else value

"""The factor of the learning rate, as a function of step and epoch; only `plateau` remembers anything. No torch.

Cosine: Loshchilov and Hutter, 2017 (one period, down to 0). One-cycle: Smith and Topin, 2018, with the shape of
torch.optim.lr_scheduler.OneCycleLR (up from 1/25 over 30 % of the steps, then down to 1/250,000; momentum stays).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from mainstem.config import Training

_RISE, _START, _END = 0.3, 1 / 25, 1 / 25e4  # of one-cycle
_WARMUP = 0.1  # share of all steps, where the schedule "warmup" is asked for without saying how long


class Schedule:
    """settings.schedule over `total_steps`, after `warmup` steps of a linear rise."""

    def __init__(self, settings: Training, steps_per_epoch: int, total_steps: int) -> None:
        self.settings, self.steps_per_epoch, self.total = settings, steps_per_epoch, max(1, total_steps)
        warmup = settings.warmup or (_WARMUP if settings.schedule == "warmup" else 0.0)
        self.warmup = min(self.total - 1, math.ceil(warmup * self.total) if warmup < 1 else round(warmup))
        self._best: float | None = None
        self._bad = 0
        self._drops = 0

    def factor(self, step: int, epoch: int | None = None) -> float:
        """What to multiply the base rate with at `step` (from 0, over the whole run) of `epoch` (from 0)."""
        if step < self.warmup:
            return (step + 1) / self.warmup
        epoch = step // self.steps_per_epoch if epoch is None else epoch
        done, steps = min(step, self.total) - self.warmup, self.total - self.warmup
        match self.settings.schedule:
            case "step":
                return float(self.settings.gamma ** (epoch // self.settings.step_size))
            case "cosine":
                return _cosine(1.0, 0.0, done / steps)
            case "one-cycle":
                return _one_cycle(done, steps)
            case "plateau":
                return float(self.settings.gamma**self._drops)
        return 1.0

    def epoch_end(self, figure: float) -> None:
        """For `plateau`: the epoch's validation figure, lower is better. NaN and Inf count as no improvement."""
        if math.isfinite(figure) and (self._best is None or figure < self._best):
            self._best, self._bad = figure, 0
            return
        self._bad += 1
        if self._bad >= self.settings.plateau:
            self._drops, self._bad = self._drops + 1, 0

    def state(self) -> dict[str, Any]:
        """What `plateau` remembers, as JSON."""
        return {"best": self._best, "bad": self._bad, "drops": self._drops}

    def load(self, state: Mapping[str, Any]) -> None:
        """Take up a state()."""
        self._best, self._bad, self._drops = state["best"], state["bad"], state["drops"]


def _cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2


def _one_cycle(done: int, steps: int) -> float:
    peak, last = _RISE * steps - 1, steps - 1
    if done <= peak:
        return _cosine(_START, 1.0, done / peak)
    return _cosine(1.0, _END, min(1.0, (done - peak) / (last - peak)))

"""When to stop: epochs, steps, time, converged loss, patience. No torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from mainstem.config import Training


class Stops:
    """The stop rules of `settings`; those that are not set never stop. `improved`: whether the last epoch was the best so far."""

    def __init__(self, settings: Training) -> None:
        self.settings = settings
        self.best: float | None = None
        self.best_epoch = 0
        self.improved = False
        self._loss: float | None = None

    def step_end(self, steps: int, seconds: float) -> str:
        """Why to stop after a step, or "". `steps` and `seconds` count from the start of the run, over every resumption."""
        if self.settings.steps is not None and steps >= self.settings.steps:
            return f"{steps:,} steps are done"
        if self.settings.time_limit is not None and seconds >= self.settings.time_limit:
            return f"the time limit of {self.settings.time_limit:g} s is reached"
        return ""

    def epoch_end(self, epochs: int, steps: int, seconds: float, loss: float, figure: float | None = None) -> str:
        """Why to stop after an epoch, or "".

        epochs: how many are done. loss: the mean training loss of this one. figure: of the validation part, lower is better;
        None: the training loss takes its place.
        """
        figure = loss if figure is None else figure
        self.improved = math.isfinite(figure) and (self.best is None or figure < self.best)
        if self.improved:
            self.best, self.best_epoch = figure, epochs
        last, self._loss = self._loss, loss if math.isfinite(loss) else None
        reason = self.step_end(steps, seconds)
        if reason:
            return reason
        if self.settings.tol is not None and last is not None and abs(loss - last) <= self.settings.tol * abs(last):
            return f"the loss has converged after {epochs:,} epochs (it changed by less than {self.settings.tol:g} of itself)"
        if self.settings.patience is not None and epochs - self.best_epoch >= self.settings.patience:
            return f"no improvement for {epochs - self.best_epoch:,} epochs; epoch {self.best_epoch:,} was the best"
        last_one = min(n for n in (self.settings.epochs, self.settings.until, math.inf) if n is not None)
        if epochs >= last_one:
            return f"{epochs:,} epochs are done"
        return ""

    def state(self) -> dict[str, Any]:
        """What the rules remember, as JSON."""
        return {"best": self.best, "best_epoch": self.best_epoch, "loss": self._loss}

    def load(self, state: Mapping[str, Any]) -> None:
        """Take up a state()."""
        self.best, self.best_epoch, self._loss = state["best"], state["best_epoch"], state["loss"]

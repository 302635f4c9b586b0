"""The learning-rate range test of `--lr auto` (Smith, 2017, section 3.3): rates rise exponentially from step to step.

The rate chosen is a tenth of the one where the smoothed loss is lowest: at the lowest point itself training is about to
diverge. The networks, optimisers and random states are afterwards exactly what they were.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mainstem.errors import MainstemError, MissingExtra
from mainstem.training import randomness
from mainstem.training.optimisers import NonFinite, Optimiser

_SMOOTHING = 0.9  # weight of what was, as against the newest loss
_DIVERGED = 4.0  # times the lowest loss
_FALL = 0.99  # the loss must reach this share of the first one


@dataclass(frozen=True)
class RangeTest:
    """The curve of a range test and the rate it chose; None where the loss fell at no rate, and `why` says so."""

    lr: float | None
    why: str
    rates: tuple[float, ...]
    losses: tuple[float, ...]
    smoothed: tuple[float, ...]


def range_test(
    networks: Mapping[str, nn.Module],
    optimisers: Mapping[str, Optimiser],
    step: Callable[[int], float],
    *,
    low: float = 1e-6,
    high: float = 10.0,
    steps: int = 100,
) -> RangeTest:
    """Train `steps` steps with rates from `low` to `high`, until the loss is NaN or four times its lowest.

    step: does the training step of that number (from 0) with `optimisers`, and returns its loss. It should bring its own
    generators, made for the test: those it is handed elsewhere are not put back. Raises MainstemError for lbfgs.
    """
    if any(o.name == "lbfgs" for o in optimisers.values()):
        raise MainstemError("lbfgs searches its step length itself, so there is no rate to find", where="training.lr", do="Leave out --lr.")
    tensors = [t for module in networks.values() for t in (*module.parameters(), *module.buffers())]
    before = [t.detach().clone() for t in tensors]
    held, random = {name: o.state() for name, o in optimisers.items()}, randomness.capture()
    rates: list[float] = []
    losses: list[float] = []
    try:
        for i in range(steps):
            rate = low * (high / low) ** (i / max(1, steps - 1))
            for optimiser in optimisers.values():
                optimiser.lr = rate
            losses.append(step(i))
            rates.append(rate)
            if smooth(losses)[-1] > _DIVERGED * min(smooth(losses)):
                break
    except NonFinite:
        pass
    finally:
        _put_back(tensors, before)
        for name, optimiser in optimisers.items():
            optimiser.load(*held[name])
        randomness.restore(*random)
    smoothed = smooth(losses)
    lr, why = choose(rates, smoothed)
    return RangeTest(lr, why, tuple(rates), tuple(losses), tuple(smoothed))


def smooth(losses: Sequence[float]) -> list[float]:
    """The exponential mean, without the bias of its start."""
    mean, result = 0.0, []
    for i, loss in enumerate(losses, 1):
        mean = _SMOOTHING * mean + (1 - _SMOOTHING) * loss
        result.append(mean / (1 - _SMOOTHING**i))
    return result


def choose(rates: Sequence[float], smoothed: Sequence[float]) -> tuple[float | None, str]:
    """The rate a decade below the lowest smoothed loss, in two digits, and the sentence that says so."""
    if not smoothed or min(smoothed) > _FALL * smoothed[0]:
        return None, "the range test found no rate at which the loss falls"
    lowest = min(range(len(smoothed)), key=smoothed.__getitem__)
    lr = float(f"{rates[lowest] / 10:.2g}")
    return lr, f"learning rate {lr:g}: a tenth of {rates[lowest]:.2g}, where the loss of the range test was lowest"


def plot(result: RangeTest) -> bytes:
    """The curve as a PNG picture."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtra("the plot of the range test", "train", "Matplotlib") from error
    figure = Figure(figsize=(6.4, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot(xscale="log", xlabel="learning rate", ylabel="loss", title="Learning-rate range test")
    axes.plot(result.rates, result.losses, color="0.8", label="loss")
    axes.plot(result.rates, result.smoothed, label="smoothed")
    if result.lr is not None:
        axes.axvline(result.lr, color="tab:red", linestyle="--", label=f"chosen: {result.lr:g}")
    axes.legend()
    made = io.BytesIO()
    figure.savefig(made, format="png", dpi=120, metadata={"Software": None})
    return made.getvalue()


@torch.no_grad()
def _put_back(tensors: Sequence[Tensor], before: Sequence[Tensor]) -> None:
    for tensor, old in zip(tensors, before, strict=True):
        tensor.copy_(old)
        tensor.grad = None

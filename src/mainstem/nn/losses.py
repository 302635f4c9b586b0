"""Losses of the single-pass tasks: float32 scalars, each example's loss times its weight, then the mean over the batch.

Weights are meant to average 1 over the training part, so a batch's mean is an unbiased part of the whole and micro-batches
join by their sizes.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from mainstem.errors import MainstemError, suggest

REGRESSION = ("mse", "mae", "huber")


def cross_entropy(logits_BK: Tensor, index_B: Tensor, weights_B: Tensor | None = None, smoothing: float = 0.0) -> Tensor:
    """Cross-entropy in nats with label smoothing (Szegedy et al. 2016, arXiv:1512.00567); an unknown label (-1) costs nothing."""
    losses_B = functional.cross_entropy(logits_BK.float(), index_B, reduction="none", label_smoothing=smoothing, ignore_index=-1)
    return mean(losses_B, weights_B)


def binary_cross_entropy(logits_BK: Tensor, hot_BK: Tensor, weights_B: Tensor | None = None, smoothing: float = 0.0) -> Tensor:
    """Binary cross-entropy in nats, averaged over the labels; smoothing moves every 0 and 1 towards ½ by half of it."""
    target_BK = hot_BK.float() * (1 - smoothing) + smoothing / 2
    losses_BK = functional.binary_cross_entropy_with_logits(logits_BK.float(), target_BK, reduction="none")
    return mean(losses_BK.mean(1), weights_B)


def regression(name: str, value_B: Tensor, target_B: Tensor, weights_B: Tensor | None = None, delta: float = 1.0) -> Tensor:
    """mse: half the squared residual, so that its gradient is the residual; mae: its size; huber: mse up to `delta`, straight beyond.

    Raises MainstemError for another name.
    """
    value_B, target_B = value_B.float().reshape(-1), target_B.float().reshape(-1)
    if name == "mse":
        losses_B = (value_B - target_B).square() / 2
    elif name == "mae":
        losses_B = (value_B - target_B).abs()
    elif name == "huber":
        losses_B = functional.huber_loss(value_B, target_B, reduction="none", delta=delta)
    else:
        raise MainstemError(f"no loss of regression is named '{name}'", do=suggest(name, REGRESSION))
    return mean(losses_B, weights_B)


def mean(losses_B: Tensor, weights_B: Tensor | None) -> Tensor:
    """The mean of losses [B] times weights [B]; no weights: each is 1."""
    return losses_B.mean() if weights_B is None else (losses_B * weights_B.to(losses_B)).mean()

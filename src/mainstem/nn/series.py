"""Networks over the steps of series. B rows, L steps of history, H steps ahead, D input width, W width, Q levels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn


class Steps(nn.Module):
    """A GRU (Cho et al. 2014) that reads the history and goes on over the steps ahead, where the seasonal naive stands for the values.

    channels, covariates: widths of what is read at each step: values and whether they are known; calendar and covariates.
    """

    def __init__(self, channels: int, covariates: int, width: int, layers: int, dropout: float) -> None:
        super().__init__()
        self.gru = nn.GRU(2 * channels + covariates + 1, width, layers, batch_first=True, dropout=dropout if layers > 1 else 0.0)
        self.dropout = nn.Dropout(dropout)

    def forward(self, values_BLC: Tensor, known_BLC: Tensor, naive_BH: Tensor, spread_B1: Tensor, ahead: Sequence[Tensor]) -> Tensor:
        """[B, H, W]: states at the steps ahead. `ahead`: [B, L + H, …] each."""
        horizon, channels = naive_BH.shape[1], values_BLC.shape[2]
        last = values_BLC[:, -1:, 1:].expand(-1, horizon, -1)
        future_BHC = torch.cat([naive_BH.unsqueeze(2), last], 2)
        values = torch.cat([values_BLC, future_BHC], 1)
        known = torch.cat([known_BLC, torch.zeros_like(future_BHC)], 1)
        spread = spread_B1.unsqueeze(1).expand(-1, values.shape[1], -1)
        x_BTD = torch.cat([values, known, spread, *ahead], 2)
        assert x_BTD.shape[2] == 2 * channels + 1 + sum(a.shape[2] for a in ahead)
        return self.dropout(self.gru(x_BTD)[0][:, -horizon:])


class QuantileHead(nn.Module):
    """Features of the steps ahead → quantiles around the seasonal naive, in units of its spread; `levels` are theirs.

    {FEATURE: [B, H, W], INPUT.naive [B, H], INPUT.spread [B, 1], INPUT.units [B, 2]} → {"quantiles": [B, H, Q], "units": [B, 2]}.
    """

    def __init__(self, feature: str, name: str, width: int, levels: Sequence[float]) -> None:
        super().__init__()
        self.feature, self.name = feature, name
        self.linear = nn.Linear(width, len(levels))
        normal = torch.distributions.Normal(0.0, 1.0).icdf(torch.tensor(list(levels)))
        with torch.no_grad():  # at first it is the seasonal naive with normal quantiles
            self.linear.weight.mul_(0.1)
            self.linear.bias.copy_(normal)

    def forward(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """One pass, without a branch on values."""
        naive, spread = features[f"{self.name}.naive"].unsqueeze(2), features[f"{self.name}.spread"].unsqueeze(2)
        return {"quantiles": naive + spread * self.linear(features[self.feature]), "units": features[f"{self.name}.units"]}


def quantile_loss(quantiles_BHQ: Tensor, truth_BH: Tensor, known_BH: Tensor, levels: Sequence[float]) -> Tensor:
    """Mean over known steps and levels of 2 · max(τ·e, (τ − 1)·e), e = truth - quantile."""
    level_Q = torch.tensor(list(levels), dtype=quantiles_BHQ.dtype)
    error = truth_BH.unsqueeze(2) - quantiles_BHQ
    loss_BH = 2 * torch.maximum(level_Q * error, (level_Q - 1) * error).mean(2)
    return (loss_BH * known_BH).sum() / known_BH.sum().clamp(min=1)


class Convolutions(nn.Module):
    """Three convolutions over the steps, each normed, and the mean and maximum over all steps."""

    def __init__(self, channels: int, width: int, dropout: float) -> None:
        super().__init__()
        sizes = ((2 * channels, width, 7), (width, width, 5), (width, width, 3))
        blocks = [
            nn.Sequential(nn.Conv1d(before, after, kernel, padding=kernel // 2), nn.BatchNorm1d(after), nn.ReLU())
            for before, after, kernel in sizes
        ]
        self.blocks, self.dropout = nn.Sequential(*blocks), nn.Dropout(dropout)

    def forward(self, values_BLC: Tensor, known_BLC: Tensor) -> Tensor:
        """[B, 2·W]."""
        x_BWL = self.blocks(torch.cat([values_BLC, known_BLC], 2).transpose(1, 2))
        return self.dropout(torch.cat([x_BWL.mean(2), x_BWL.amax(2)], 1))

"""How far features lie from the nearest of others."""

from __future__ import annotations

from torch import Tensor, nn


class Nearest(nn.Module):
    """The mean distance to the nearest `neighbours` of a bank; `feature`: the name under which features come."""

    def __init__(self, feature: str, neighbours: int) -> None:
        super().__init__()
        self.feature, self.neighbours = feature, neighbours

    def forward(self, arrays: dict[str, Tensor]) -> dict[str, Tensor]:
        """features [row, width], "center" [width], "spread" [1], "bank" [n, width] → {"score": [row, 1]}."""
        x, bank = (arrays[self.feature] - arrays["center"]) / arrays["spread"], arrays["bank"]
        square = (x * x).sum(1, keepdim=True) - 2.0 * x @ bank.T + (bank * bank).sum(1)
        nearest = square.topk(min(self.neighbours, bank.shape[0]), dim=1, largest=False).values
        return {"score": nearest.clamp(min=0.0).sqrt().mean(1, keepdim=True)}

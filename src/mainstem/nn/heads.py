"""The head of the single-pass tasks: feature vectors side by side, hidden layers, one linear layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from mainstem.contracts import Feature
from mainstem.errors import MainstemError
from mainstem.nn.table import ACTIVATIONS, NORMS, BatchNorm, initialise


class Head(nn.Module):
    """{"INPUT.feature": float [row, width]} → {output: float32 [row, outputs]}.

    It reads the features whose only axis is "row", in the order of their names. `settings`: hidden (widths of the hidden
    layers), activation, norm, dropout (before every linear layer), init, standardize (each feature to mean 0, variance 1).
    Raises MainstemError where no feature is a vector.
    """

    def __init__(self, features: Mapping[str, Feature], output: str, outputs: int, settings: Mapping[str, Any]) -> None:
        super().__init__()
        self.names = sorted(name for name, feature in features.items() if feature.axes == ("row",))
        if not self.names:
            raise MainstemError(f"none of the features {', '.join(sorted(features)) or '(there are none)'} is a vector a row")
        self.output = output
        width, layers = sum(features[name].width for name in self.names), []
        if settings["standardize"]:
            layers.append(BatchNorm(width, affine=False, momentum=None))  # no momentum: the plain average of what it saw
        for hidden in settings["hidden"]:
            layers += [nn.Dropout(settings["dropout"]), _linear(width, hidden, settings["init"])]
            layers += [NORMS[settings["norm"]](hidden), ACTIVATIONS[settings["activation"]]()]
            width = hidden
        self.layers = nn.Sequential(*layers, nn.Dropout(settings["dropout"]), _linear(width, outputs, settings["init"]))

    def forward(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """One pass, without a branch on values."""
        joined_BD = torch.cat([features[name] for name in self.names], 1)
        return {self.output: self.layers(joined_BD)}


def _linear(width: int, outputs: int, init: str) -> nn.Linear:
    linear = nn.Linear(width, outputs)
    initialise(linear, init)
    return linear

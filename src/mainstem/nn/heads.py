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
    layers), activation, norm, dropout (before every linear layer), init, standardize (inputs whose features are brought to
    mean 0 and variance 1 over the training part: those of frozen backbones). Raises MainstemError where no feature is a vector.
    """

    def __init__(self, features: Mapping[str, Feature], output: str, outputs: int, settings: Mapping[str, Any]) -> None:
        super().__init__()
        self.names = sorted(name for name, feature in features.items() if feature.axes == ("row",))
        if not self.names:
            raise MainstemError(f"none of the features {', '.join(sorted(features)) or '(there are none)'} is a vector a row")
        self.output = output
        width, layers = sum(features[name].width for name in self.names), []
        # no momentum: the plain average over what it saw
        frozen = [name for name in self.names if name.rpartition(".")[0] in settings["standardize"]]
        self.places = [self.names.index(name) for name in frozen]
        self.norms = nn.ModuleList(BatchNorm(features[name].width, affine=False, momentum=None) for name in frozen)
        for hidden in settings["hidden"]:
            layers += [nn.Dropout(settings["dropout"]), _linear(width, hidden, settings["init"])]
            layers += [NORMS[settings["norm"]](hidden), ACTIVATIONS[settings["activation"]]()]
            width = hidden
        self.layers = nn.Sequential(*layers, nn.Dropout(settings["dropout"]), _linear(width, outputs, settings["init"]))

    def forward(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """One pass, without a branch on values."""
        parts = [features[name] for name in self.names]
        for place, norm in zip(self.places, self.norms, strict=True):
            parts[place] = norm(parts[place])
        return {self.output: self.layers(torch.cat(parts, 1))}


def _linear(width: int, outputs: int, init: str) -> nn.Linear:
    linear = nn.Linear(width, outputs)
    initialise(linear, init)
    return linear

"""AlexNet without weights (Krizhevsky 2014, arXiv:1404.5997), as torchvision builds it.

"pooled" is what the last layer before the classifier gives, 4,096 wide.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mainstem.backbones import _own, _picture
from mainstem.contracts import Info, Ref
from mainstem.errors import MissingExtra

DEFAULTS: dict[str, Any] = {"size": 224}
GRID = (6, 6)  # what the fully connected layers take


class AlexNet:
    """The plug-in. Setting: size (pixels an edge, 63 at least)."""

    def describe(self, ref: Ref) -> Info:
        """Features "pooled" [row, 4096] and "map" [row, h, w, 256]."""
        size = _settings(ref)["size"]
        edge = (size - 7) // 4 + 1
        for _ in range(3):
            edge = (edge - 3) // 2 + 1
        return Info(
            "image",
            inputs=(_picture.port((size, size)),),
            features=_picture.features(4096, 256, (edge, edge)),
            pooled="pooled",
            processor=_picture.processor((size, size)),
            parameters=57003840,
            extra="train",
            slots=("classifier.1", "classifier.4"),
            pretrained=ref.folder is not None,
            summary="AlexNet of torchvision, trained from scratch",
        )

    def build(self, ref: Ref) -> Any:
        """torchvision's module without its last layer, with the weights of ref.folder where there is one."""
        try:
            import torch
            from torchvision.models import alexnet
        except ImportError as error:
            raise MissingExtra("the backbone 'alexnet'", "train", "torchvision") from error
        _settings(ref)
        module = alexnet(weights=None)
        module.classifier[6] = torch.nn.Identity()
        return _own.load(module, ref)

    def forward(self, module: Any, arrays: Mapping[str, Any]) -> dict[str, Any]:
        """pixels [row, 3, H, W] → the features."""
        x = module.features(arrays["pixels"])
        grid = x if tuple(x.shape[-2:]) == GRID else _picture.pool_to(x, GRID)
        return {"pooled": module.classifier(grid.flatten(1)), "map": _picture.map_last(x)}

    def save(self, module: Any, ref: Ref) -> dict[str, bytes | Path]:
        """config.json and model.safetensors, tensors named as torchvision names them."""
        return _own.save(module, ref, _settings(ref))


def _settings(ref: Ref) -> dict[str, Any]:
    s = _own.settings(ref, DEFAULTS)
    _picture.check_size(ref, s["size"], 63)
    return s


plugin = AlexNet()

"""A small convolutional network of our own for pictures of any size from 8 pixels: a stem, then residual stages that halve the map.

Each stage is a max-pooling and one residual block (He et al. 2015, arXiv:1512.03385) with batch norm; the map is averaged.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mainstem.backbones import _own, _picture
from mainstem.contracts import Info, Ref

# depth 0: as many stages as leave a map of about 4 pixels an edge; small pictures are stretched to `size`
DEFAULTS: dict[str, Any] = {"size": 32, "width": 32, "depth": 0, "dropout": 0.1, "init": "kaiming_normal"}
AUGMENT = {"crop": 0.8, "rotate": 10}  # while training; no mirroring, which would make another digit or letter
INITIALISERS = ("kaiming_normal", "kaiming_uniform", "xavier_normal", "xavier_uniform", "orthogonal", "default")


class Cnn:
    """The plug-in. Settings: size (pixels an edge), width (channels of the stem), depth (stages), dropout, init."""

    def describe(self, ref: Ref) -> Info:
        """Features "pooled" [row, D] and "map" [row, h, w, D]."""
        s = _settings(ref)
        widths = _widths(s)
        edge = s["size"] >> len(widths)
        return Info(
            "image",
            inputs=(_picture.port((s["size"], s["size"])),),
            features=_picture.features(widths[-1], widths[-1], (edge, edge)),
            pooled="pooled",
            processor=_picture.processor((s["size"], s["size"]), augment=AUGMENT),
            parameters=_parameters(s["width"], widths),
            extra="train",
            pretrained=ref.folder is not None,
            summary="small residual convolutional network, trained from scratch",
        )

    def build(self, ref: Ref) -> Any:
        """The network, with the weights of ref.folder where there is one."""
        _own.need_torch(ref.family)
        from torch import nn

        s = _settings(ref)
        widths = _widths(s)
        layers: list[Any] = [_convolution(3, s["width"]), nn.BatchNorm2d(s["width"]), nn.ReLU()]
        for before, after in zip([s["width"], *widths], widths, strict=False):
            layers += [nn.MaxPool2d(2), _block(before, after)]
        module = nn.ModuleDict({"stages": nn.Sequential(*layers), "dropout": nn.Dropout(s["dropout"])})
        if s["init"] != "default":
            for layer in module.modules():
                if isinstance(layer, nn.Conv2d):
                    getattr(nn.init, s["init"] + "_")(layer.weight, **({"nonlinearity": "relu"} if "kaiming" in s["init"] else {}))
        return _own.load(module, ref)

    def forward(self, module: Any, arrays: Mapping[str, Any]) -> dict[str, Any]:
        """pixels [row, 3, H, W] → the features."""
        x = module["stages"](arrays["pixels"])
        return {"pooled": module["dropout"](x.mean((2, 3))), "map": _picture.map_last(x)}

    def save(self, module: Any, ref: Ref) -> dict[str, bytes | Path]:
        """config.json and model.safetensors."""
        return _own.save(module, ref, _settings(ref))


def _settings(ref: Ref) -> dict[str, Any]:
    s = _own.settings(ref, DEFAULTS, {"init": INITIALISERS})
    _picture.check_size(ref, s["size"], 8)
    return s


def _widths(s: Mapping[str, Any]) -> list[int]:
    """The channels of each stage: doubled from stage to stage, up to eightfold."""
    most = int(math.log2(s["size"]))
    depth = min(s["depth"] or max(2, most - 2), most)
    return [s["width"] * min(2**i, 8) for i in range(depth)]


def _parameters(stem: int, widths: list[int]) -> int:
    total = 27 * stem + 2 * stem
    for before, after in zip([stem, *widths], widths, strict=False):
        total += 9 * after * (before + after) + 4 * after + (before * after + 2 * after if before != after else 0)
    return total


def _convolution(before: int, after: int, size: int = 3) -> Any:
    from torch import nn

    return nn.Conv2d(before, after, size, padding=size // 2, bias=False)


def _block(before: int, after: int) -> Any:
    """Two convolutions beside a shortcut."""
    from torch import nn

    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.convolution1, self.norm1 = _convolution(before, after), nn.BatchNorm2d(after)
            self.convolution2, self.norm2 = _convolution(after, after), nn.BatchNorm2d(after)
            same = before == after
            self.shortcut = nn.Identity() if same else nn.Sequential(_convolution(before, after, 1), nn.BatchNorm2d(after))

        def forward(self, x: Any) -> Any:
            inner = self.norm1(self.convolution1(x)).relu()
            return (self.norm2(self.convolution2(inner)) + self.shortcut(x)).relu()

    return Residual()


plugin = Cnn()

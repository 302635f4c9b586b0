"""ResNet by name, without weights: resnet18, 34, 50, 101, 152 (He et al. 2015, arXiv:1512.03385), as timm builds them.

With weights from the hub it is timm:resnet18.
"""

from __future__ import annotations

from mainstem.backbones import _picture, timm
from mainstem.contracts import Ref

# variant: (width, parameters)
KNOWN = {"18": (512, 11176512), "34": (512, 21284672), "50": (2048, 23508032), "101": (2048, 42500160), "152": (2048, 58143808)}


def fresh(ref: Ref) -> timm.Config:
    """The config; setting size: pixels an edge, 224 unless asked otherwise."""
    name, size = timm.variant(ref, KNOWN, "18"), _picture.check_size(ref, ref.settings.get("size") or 224, 32)
    width, parameters = KNOWN[name]
    return timm.new(f"resnet{name}", size, width, width, parameters, grid=-(-size // 32))


plugin = timm.Timm(fresh)

"""VGG by name, without weights: vgg11, 13, 16, 19, and with batch norm vgg11_bn … (Simonyan & Zisserman 2014, arXiv:1409.1556).

timm builds them. "pooled" is what the last layer before the classifier gives, 4,096 wide. With weights from the hub it is timm:vgg11.
"""

from __future__ import annotations

from mainstem.backbones import _picture, timm
from mainstem.contracts import Ref

# variant: parameters
KNOWN = {
    "11": 128766336,
    "11_bn": 128771840,
    "13": 128950848,
    "13_bn": 128956736,
    "16": 134260544,
    "16_bn": 134268992,
    "19": 139570240,
    "19_bn": 139581248,
}


def fresh(ref: Ref) -> timm.Config:
    """The config; setting size: pixels an edge, 224 unless asked otherwise."""
    name, size = timm.variant(ref, KNOWN, "11_bn"), _picture.check_size(ref, ref.settings.get("size") or 224, 32)
    return timm.new(f"vgg{name}", size, 512, 4096, KNOWN[name], grid=size // 32, drop_rate=0.5)


plugin = timm.Timm(fresh)

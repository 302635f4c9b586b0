"""Vision transformer by name, without weights: vit-tiny, vit-small, vit-base (Dosovitskiy et al. 2020, arXiv:2010.11929).

timm builds them. "pooled" is the mean of the patches (Zhai et al. 2022, arXiv:2106.04560), from which a probe reads more than from the
class token, whatever they were pretrained by (docs/log.md). With weights from the hub it is timm:vit_small_patch16_224.
"""

from __future__ import annotations

from typing import Any

from mainstem.backbones import _picture, timm
from mainstem.contracts import Ref
from mainstem.errors import MainstemError

# variant: (width, parameters without those of patches and positions)
KNOWN = {"tiny": (192, 5339136), "small": (384, 21295104), "base": (768, 85057536)}
LEAST = 7  # patches an edge


def fresh(ref: Ref) -> timm.Config:
    """The config; setting size: pixels an edge, 224 unless asked otherwise. Small pictures are cut into smaller patches."""
    name, size = timm.variant(ref, KNOWN, "tiny"), _picture.check_size(ref, ref.settings.get("size") or 224, 8)
    patch = next((p for p in (16, 8, 4, 2, 1) if size % p == 0 and size // p >= LEAST), 1)
    if size // patch > 32:
        raise MainstemError(f"pictures of {size} pixels an edge cannot be cut into few enough patches", do="Set size to a multiple of 16.")
    width, rest = KNOWN[name]
    parameters = rest + width * (3 * patch**2 + (size // patch) ** 2 + 1)
    pooling: dict[str, Any] = {"global_pool": "avg", "fc_norm": False}  # after the last norm, so that the map is normalised too
    return timm.new(f"vit_{name}_patch16_224", size, width, width, parameters, img_size=size, patch_size=patch, **pooling)


plugin = timm.Timm(fresh)

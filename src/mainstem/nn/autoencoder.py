"""Masked autoencoding of pictures by a vision transformer of timm (He et al. 2022, arXiv:2111.06377).

B rows, C channels, N patches of P pixels (channels included), K of them shown, D channels of the encoder, W of the decoder.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def is_encoder(module: Any) -> bool:
    """Whether it is built as timm's VisionTransformer is, so that patches can be left out."""
    parts = ("patch_embed", "_pos_embed", "norm_pre", "blocks", "norm")
    return all(hasattr(module, part) for part in parts) and hasattr(module.patch_embed, "grid_size")


def encode(module: Any, pixels: Tensor, shown_BK: Tensor) -> Tensor:
    """What the encoder makes of the patches that are shown, after its class and register tokens [B, prefix + K, D]."""
    x = module._pos_embed(module.patch_embed(pixels))
    first = module.num_prefix_tokens
    at = shown_BK[:, :, None].expand(-1, -1, x.shape[-1])
    x = torch.cat([x[:, :first], x[:, first:].gather(1, at)], dim=1)
    output: Tensor = module.norm(module.blocks(module.norm_pre(x)))
    return output


def cut(pixels: Tensor, size: tuple[int, int]) -> Tensor:
    """Pictures [B, C, H, W] → their patches of size [h, w], row by row [B, N, P]."""
    b, c, tall, wide = pixels.shape
    h, w = size
    return pixels.reshape(b, c, tall // h, h, wide // w, w).permute(0, 2, 4, 3, 5, 1).reshape(b, -1, h * w * c)


class Decoder(nn.Module):
    """Predicts the pixels of hidden patches from what an encoder made of the others. Used for pretraining alone."""

    def __init__(self, encoder: Any, width: int, layers: int, channels: int) -> None:
        super().__init__()
        self.patch: tuple[int, int] = tuple(encoder.patch_embed.patch_size)
        self.first = int(encoder.num_prefix_tokens)
        self.norm_in = nn.LayerNorm(encoder.embed_dim)
        self.enter = nn.Linear(encoder.embed_dim, width)
        self.hidden = nn.Parameter(torch.randn(width) * 0.02)
        self.register_buffer("places", _waves(*encoder.patch_embed.grid_size, width), persistent=False)
        heads = next(n for n in (8, 4, 2, 1) if width % n == 0 and (width // n >= 16 or n == 1))
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(width, heads, 4 * width, 0.0, "gelu", batch_first=True, norm_first=True) for _ in range(layers)
        )
        self.norm = nn.LayerNorm(width)
        self.leave = nn.Linear(width, self.patch[0] * self.patch[1] * channels)

    def forward(self, encoded: Tensor, shown_BK: Tensor, pixels: Tensor) -> Tensor:
        """Mean squared error over the hidden patches, each scaled to mean 0 and deviation 1 [B]."""
        wanted_BNP = cut(pixels.float(), self.patch)
        mean, spread = wanted_BNP.mean(-1, keepdim=True), wanted_BNP.var(-1, keepdim=True)
        wanted_BNP = (wanted_BNP - mean) / (spread + 1e-6).sqrt()
        x = self.enter(self.norm_in(encoded))
        prefix, seen_BKW = x[:, : self.first], x[:, self.first :]
        at = shown_BK[:, :, None].expand(-1, -1, x.shape[-1])
        patches_BNW = self.hidden.to(x.dtype).expand(len(x), wanted_BNP.shape[1], -1).scatter(1, at, seen_BKW)
        x = torch.cat([prefix, patches_BNW + self.places.to(x.dtype)], dim=1)
        for layer in self.layers:
            x = layer(x)
        made_BNP = self.leave(self.norm(x[:, self.first :])).float()
        hidden_BN = torch.ones(wanted_BNP.shape[:2]).scatter(1, shown_BK, 0.0)
        errors_BN = (made_BNP - wanted_BNP).square().mean(-1)
        return (errors_BN * hidden_BN).sum(1) / hidden_BN.sum(1)


def _waves(tall: int, wide: int, width: int) -> Tensor:
    """Sines and cosines of the places of a grid, half of the channels by row, half by column [tall × wide, width]."""
    quarter = -(-width // 4)
    rates = 10000 ** -(torch.arange(quarter) / quarter)
    rows, columns = torch.meshgrid(torch.arange(tall), torch.arange(wide), indexing="ij")
    angles = [place.reshape(-1, 1) * rates for place in (rows, columns)]
    return torch.cat([wave(angle) for angle in angles for wave in (torch.sin, torch.cos)], dim=1)[:, :width]

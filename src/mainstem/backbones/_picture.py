"""What the backbones of pictures share: the port of their pixels, and the two features they give."""

from __future__ import annotations

from typing import Any

from mainstem.contracts import Feature, Port, Ref
from mainstem.errors import MainstemError


def port(size: tuple[int, int], channels: int = 3) -> Port:
    """The input "pixels" [row, channels, H, W], float32, standardised by the modality."""
    return Port("pixels", "float32", ("row", str(channels), str(size[0]), str(size[1])))


def features(pooled: int, width: int, grid: tuple[int, int]) -> dict[str, Feature]:
    """ "pooled" [row, pooled], and "map" [row, h, w, width]: the width comes last, as in every feature."""
    return {"pooled": Feature(pooled), "map": Feature(width, ("row", str(grid[0]), str(grid[1])))}


def processor(size: tuple[int, int], **more: Any) -> dict[str, Any]:
    """Settings of the image modality for a network trained from scratch: the whole picture, pixels in −1 … 1."""
    return {"size": list(size), "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "channels": 3, **more}


def check_size(ref: Ref, size: int, least: int) -> int:
    """The edge in pixels. Raises MainstemError where it is less than the network can halve."""
    if not isinstance(size, int) or isinstance(size, bool) or size < least:
        raise MainstemError(
            f"the backbone '{ref.family}' needs pictures of at least {least} pixels an edge, not {size!r}",
            do=f"Set its size to {least} or more.",
        )
    return size


def map_last(x: Any) -> Any:
    """[row, width, h, w] → [row, h, w, width]."""
    return x.permute(0, 2, 3, 1)


def pool_to(x: Any, grid: tuple[int, int]) -> Any:
    """Adaptive average pooling of x [row, width, h, w] to `grid`, as two products with constant matrices.

    Equal to torch.nn.functional.adaptive_avg_pool2d, which cannot be exported unless h and w are multiples of the grid.
    """
    down, across = (_pooling(int(n), to).to(x) for n, to in zip(x.shape[-2:], grid, strict=True))
    return down @ x @ across.T


def _pooling(n: int, to: int) -> Any:
    """The matrix [to, n] whose row i averages the cells floor(i·n/to) … ceil((i+1)·n/to)."""
    import torch

    matrix = torch.zeros(to, n)
    for i in range(to):
        first, last = i * n // to, -(-(i + 1) * n // to)
        matrix[i, first:last] = 1 / (last - first)
    return matrix

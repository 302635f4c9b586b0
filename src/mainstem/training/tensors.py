"""Torch tensors ⇄ numpy arrays, exactly. numpy has no bfloat16: it travels as two raw bytes an element (dtype V2)."""

from __future__ import annotations

import numpy as np
import torch

from mainstem.contracts import Array


def to_array(tensor: torch.Tensor) -> Array:
    """A copy of `tensor` (dense, any device) as an array of its shape; bfloat16 becomes V2."""
    tensor = tensor.detach().cpu().contiguous()
    raw = tensor.dtype == torch.bfloat16
    array: Array = (tensor.view(torch.int16) if raw else tensor).numpy()
    return array.view(np.dtype("V2")).copy() if raw else array.copy()


def to_tensor(array: Array) -> torch.Tensor:
    """A copy of `array` as a tensor on the CPU; V2 becomes bfloat16."""
    if array.dtype.kind == "V":
        return torch.from_numpy(array.view(np.int16).copy()).view(torch.bfloat16)
    return torch.from_numpy(np.array(array, order="C"))

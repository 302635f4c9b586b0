"""Attention with a mask is written without a search for NaN, and answers as PyTorch does: also rows that see no key, and causal ones."""

import numpy as np
import onnx
import pytest
import torch
from torch.nn import functional

from mainstem.contracts import GraphSpec, Port
from mainstem.runtimes import onnx as runtime

ROWS, STEPS, HEADS, WIDTH = 3, 7, 2, 8


class Masked(torch.nn.Module):
    """Two layers of attention under one boolean mask, as encoders have them."""

    def __init__(self, causal):
        super().__init__()
        torch.manual_seed(0)
        self.causal, self.layers = causal, torch.nn.ModuleList(torch.nn.Linear(WIDTH, 3 * WIDTH) for _ in range(2))

    def forward(self, inputs):
        x, mask = inputs["x"], inputs["mask"] > 0
        allowed = mask[:, None, None, :].expand(-1, 1, x.shape[1], -1)
        if self.causal:
            allowed = allowed & torch.ones(x.shape[1], x.shape[1]).tril().bool()
        for layer in self.layers:
            q, k, v = (part.unflatten(-1, (HEADS, -1)).transpose(1, 2) for part in layer(x).chunk(3, -1))
            x = x + functional.scaled_dot_product_attention(q, k, v, attn_mask=allowed).transpose(1, 2).flatten(2)
        return {"y": x}


@pytest.mark.parametrize("causal", [False, True])
def test_no_search_for_nan_and_equal_answers(causal):
    network = Masked(causal).eval()
    ports = Port("x", "float32", ("row", "pad:t", str(WIDTH))), Port("mask", "int64", ("row", "pad:t"))
    spec = GraphSpec(ports, (Port("y", "float32", ("row", "pad:t", str(WIDTH))),), network)
    x = np.random.default_rng(0).normal(size=(ROWS, STEPS, WIDTH)).astype(np.float32)
    mask = np.ones((ROWS, STEPS), np.int64)
    mask[1, 4:], mask[2], mask[0, 0] = 0, 0, 0  # a short row, one without any key, and one whose first step sees none where it is causal
    data = runtime.write(spec, {"x": x[:2], "mask": mask[:2]})
    kinds = [node.op_type for node in onnx.load_from_string(data).graph.node]
    assert kinds.count("Softmax") == 2
    assert "IsNaN" not in kinds
    assert kinds.count("ReduceMax") == 1  # once for all layers under the mask
    found = runtime.function(runtime.session(data))({"x": x, "mask": mask}, ("y",))["y"]
    with torch.no_grad():
        expected = network({"x": torch.from_numpy(x), "mask": torch.from_numpy(mask)})["y"].numpy()
    assert np.isfinite(expected).all()
    assert np.abs(found - expected).max() < 1e-5

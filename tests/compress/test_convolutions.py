"""Convolutions: those of one pixel with many weights become products of integers, the others keep their weights in 8 bits."""

import numpy as np
import pytest

from mainstem.compress import int8
from mainstem.compress._graph import Graph
from mainstem.runtimes import onnx as runtime

onnx = pytest.importorskip("onnx")

RNG = np.random.default_rng(0)
PIXELS = [{"pixels": RNG.normal(size=(1, 3, 12, 12)).astype(np.float32)} for _ in range(12)]


@pytest.fixture(scope="module")
def graph():
    """Zeros around, 3 × 3, then two of one pixel with 160 channels, the first followed by a clip; averaged."""
    helper, make = onnx.helper, onnx.helper.make_node
    weights = {
        "stem": RNG.normal(size=(160, 3, 3, 3)) / 5,
        "wide": RNG.normal(size=(160, 160, 1, 1)) / 11,
        "last": RNG.normal(size=(160, 160, 1, 1)) / 11,
        "bias": RNG.normal(size=160),
    }
    constants = [onnx.numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()]
    constants += [onnx.numpy_helper.from_array(np.array([0, 0, 1, 1, 0, 0, 1, 1]), "around")]
    constants += [onnx.numpy_helper.from_array(np.float32(value), name) for name, value in (("low", 0), ("high", 6))]
    nodes = [
        make("Pad", ["pixels", "around"], ["padded"]),
        make("Conv", ["padded", "stem", "bias"], ["a"], pads=[0, 0, 0, 0], strides=[2, 2]),
        make("Conv", ["a", "wide", "bias"], ["b"]),
        make("Clip", ["b", "low", "high"], ["c"]),
        make("Conv", ["c", "last"], ["d"]),
        make("GlobalAveragePool", ["d"], ["mean"]),
    ]
    given = helper.make_tensor_value_info("pixels", 1, ["row", 3, 12, 12])
    made = helper.make_graph(nodes, "g", [given], [helper.make_tensor_value_info("mean", 1, ["row", 160, 1, 1])], constants)
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=8).SerializeToString()


@pytest.fixture(scope="module")
def small(graph):
    return int8.compress(graph, PIXELS)


def run(graph, pixels):
    return runtime.function(runtime.session(graph))({"pixels": pixels}, ("mean",))["mean"]


def test_answers_are_near_and_the_graph_is_smaller(graph, small):
    new = np.random.default_rng(5).normal(size=(8, 3, 12, 12)).astype(np.float32)
    a, b = run(graph, new), run(small, new)
    assert 0 < np.linalg.norm(a - b) < 0.03 * np.linalg.norm(a)
    assert len(graph) > 3 * len(small)


def test_pads_move_and_large_products_become_integers(small):
    made = Graph(small)
    kinds = [node.op_type for node in made.nodes]
    assert kinds.count("MatMulIntegerToFloat") == 2
    assert "Pad" not in kinds
    (stem,) = (node for node in made.nodes if node.op_type == "Conv")
    assert list(next(a for a in stem.attribute if a.name == "pads").ints) == [1, 1, 1, 1]
    assert made.constants[next(n for n in made.nodes if n.op_type == "Cast").input[0]].dtype == np.int8


def test_a_picture_is_answered_alike_in_every_batch(small):
    pixels = np.concatenate([sample["pixels"] for sample in PIXELS])
    together = run(small, pixels)
    assert all(np.array_equal(run(small, pixels[i : i + 1])[0], together[i]) for i in range(len(pixels)))


def test_equal_input_gives_equal_bytes(graph, small):
    assert int8.compress(graph, PIXELS) == small


def test_a_clipped_value_gets_no_steps_beyond_its_ends(graph, small):
    made = Graph(small)
    (of_clip,) = (node for node in made.nodes if node.op_type == "QuantizeLinear" and node.input[0] == "c")
    scale, zero = (float(made.constants[name]) for name in of_clip.input[1:3])
    assert zero == 0
    assert scale * 255 <= 6 * 1.02  # the samples' reach with its margin would be wider
    assert int8._clipped(Graph(graph), "c") == (0, 6)
    assert int8._clipped(Graph(graph), "a") == (-np.inf, np.inf)


def test_a_small_convolution_stays_as_it_is(graph, monkeypatch):
    monkeypatch.setattr(int8, "LEAST_KEPT", 160 * 27 + 1)
    made = Graph(int8.compress(graph, PIXELS))
    (stem,) = (node for node in made.nodes if node.op_type == "Conv")
    assert made.constants[stem.input[1]].dtype == np.float32

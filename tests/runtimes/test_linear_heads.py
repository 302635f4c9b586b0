"""Linear heads in numpy answer as ONNX Runtime does; whatever is of another form is left to it."""

import numpy as np
import pytest
import torch

from mainstem.contracts import Feature, GraphSpec, Port
from mainstem.nn.heads import Head
from mainstem.runtimes import _linear as linear
from mainstem.runtimes import onnx

SETTINGS = {"hidden": (), "activation": "relu", "norm": "none", "dropout": 0.1, "init": "default", "standardize": ()}
ONE, THREE = {"text.mean": 6}, {"text.mean": 6, "image.pooled": 5, "table.numbers": 3}


def rows(widths, n=9, seed=0):
    rng = np.random.default_rng(seed)
    return {name: (rng.standard_normal((n, width)) * 3 + 2).astype(np.float32) for name, width in widths.items()}


def written(widths, outputs=4, seed=0, **settings):
    """A head of nn/heads.py that has seen some rows, as it ships."""
    torch.manual_seed(seed)
    head = Head({name: Feature(width) for name, width in widths.items()}, "logits", outputs, {**SETTINGS, **settings})
    head.train()({name: torch.from_numpy(array) for name, array in rows(widths, 40, seed).items()})
    inputs = tuple(Port(name, "float32", ("row", str(width))) for name, width in widths.items())
    spec = GraphSpec(inputs, (Port("logits", "float32", ("row", str(outputs))),), module=head.eval())
    return onnx.write(spec, rows(widths, 2))


def runtime(data):
    return onnx.function(onnx.session(data))


@pytest.mark.parametrize("widths", [ONE, THREE])
@pytest.mark.parametrize("standardize", [(), ("text",), ("text", "image")])
def test_a_linear_head_answers_as_the_runtime_does(widths, standardize):
    data = written(widths, standardize=standardize)
    head = linear.read(data)
    assert isinstance(onnx.functions({"head": data})["head"], linear.Linear)
    for n in (1, 9):
        given = rows(widths, n, seed=1)
        found, expected = head(given, ("logits",)), runtime(data)(given, ("logits",))
        assert list(found) == ["logits"]
        assert found["logits"].dtype == np.float32
        assert np.abs(found["logits"] - expected["logits"]).max() <= 1e-6 * (1 + np.abs(expected["logits"]).max())


@pytest.mark.parametrize("settings", [{"hidden": (5,)}, {"hidden": (5,), "norm": "layer"}, {"hidden": (5, 5), "norm": "batch"}])
def test_a_head_with_hidden_layers_stays_with_the_runtime(settings):
    data = written(ONE, **settings)
    assert linear.read(data) is None
    assert isinstance(onnx.functions({"head": data})["head"], onnx.Graph)


def changed(data, change):
    import onnx as library

    model = library.load_from_string(data)
    change(model.graph)
    return model.SerializeToString()


def gemm(graph):
    return next(node for node in graph.node if node.op_type == "Gemm")


def set_attribute(name, value):
    def change(graph):
        node = gemm(graph)
        kept = [each for each in node.attribute if each.name != name]
        del node.attribute[:]
        from onnx import helper

        node.attribute.extend([*kept, helper.make_attribute(name, value)])

    return change


def more_nodes(graph):
    from onnx import helper

    gemm(graph).output[0] = "before"
    graph.node.append(helper.make_node("Relu", ["before"], ["logits"]))


def other_domain(graph):
    gemm(graph).domain = "com.microsoft"


def no_bias(graph):
    gemm(graph).input.pop()


def half_precision(graph):
    from onnx import numpy_helper

    for tensor in graph.initializer:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), tensor.name))


def not_finite(graph):
    from onnx import numpy_helper

    tensor = graph.initializer[0]
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(np.nan), tensor.name))


def elsewhere(graph):
    tensor = graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = 1


def wide(graph):
    graph.input[0].type.tensor_type.shape.dim[1].dim_value = 1 << 50


CHANGES = [set_attribute("alpha", 2.0), set_attribute("beta", 0.5), more_nodes, other_domain, no_bias, half_precision, not_finite]


@pytest.mark.parametrize("change", [*CHANGES, elsewhere, wide])
def test_whatever_is_not_exactly_a_linear_head_is_not_taken_for_one(change):
    assert linear.read(changed(written(ONE), change)) is None


def test_what_is_no_model_is_none():
    data = written(ONE)
    for broken in (b"", b"\xff" * 30, data[: len(data) // 2], data[:-1]):
        assert linear.read(broken) is None


@pytest.mark.parametrize("widths", [ONE, THREE])
def test_many_heads_are_answered_as_each_alone(widths):
    heads = [linear.read(written(widths, outputs=2 + seed % 3, seed=seed, standardize=("text",))) for seed in range(6)]
    assert len({head.stack_key for head in heads}) == 1
    shared, other = rows(widths, 3, seed=1), rows(widths, 5, seed=2)
    calls = [(head, shared) for head in heads] + [(heads[1], other), (heads[4], rows(widths, 1, seed=3)), (heads[1], shared)]
    calls += [(head, other) for head in heads]
    calls = [calls[i] for i in np.random.default_rng(0).permutation(len(calls))]
    answers = heads[0].stacked(calls)
    assert len(answers) == len(calls)
    for (head, given), answer in zip(calls, answers, strict=True):
        expected = head(given, ("logits",))["logits"]
        assert answer["logits"].shape == expected.shape
        assert np.abs(answer["logits"] - expected).max() < 1e-5


def test_heads_over_other_features_have_another_key():
    keys = {linear.read(written(widths)).stack_key for widths in (ONE, THREE, {"text.mean": 7}, {"text.cls": 6})}
    assert len(keys) == 4

"""linear and mlp: widths, missing and unseen values, settings, saving, export."""

import json

import numpy as np
import pytest
import torch

from mainstem import registry
from mainstem.backbones import linear, mlp
from mainstem.contracts import GraphSpec, Port, Ref, State
from mainstem.errors import MainstemError
from mainstem.runtimes import onnx

STATE = State(
    {
        "numbers": ["age", "income"],
        "categories": [{"name": "city", "values": ["a", "b", "c"]}, {"name": "sex", "values": ["f", "m"]}],
        "gaps": ["income", "sex"],
    }
)
NUMBERS = torch.tensor([[0.5, -1.0], [2.0, float("nan")], [float("nan"), 0.3]])
CATEGORIES = torch.tensor([[2, 3], [4, 0], [1, 1]])
ARRAYS = {"numbers": NUMBERS, "categories": CATEGORIES}


def export(plugin, module, ref, arrays):
    """The module as the product exports it, traced on two rows without gaps, run on `arrays`."""
    info = plugin.describe(ref)

    class Graph(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = module

        def forward(self, tensors):
            return plugin.forward(self.inner, tensors)

    outputs = tuple(Port(name, "float32", (*f.axes, str(f.width))) for name, f in info.features.items())
    data = onnx.write(GraphSpec(info.inputs, outputs, Graph()), {n: torch.nan_to_num(t[:2]).numpy() for n, t in arrays.items()})
    return onnx.function(onnx.session(data))({n: t.numpy() for n, t in arrays.items()}, tuple(info.features))[info.pooled]


def test_linear_expands_columns():
    ref = Ref("linear", "linear", state=STATE)
    values = linear.plugin.forward(linear.plugin.build(ref), ARRAYS)["values"]
    assert values.tolist() == [
        # age, income, income missing, city a b c, sex missing f m
        pytest.approx([0.5, -1, 0, 1, 0, 0, 0, 0, 1]),
        pytest.approx([2, 0, 1, 0, 0, 1, 1, 0, 0]),
        pytest.approx([0, 0.3, 0, 0, 0, 0, 0, 0, 0]),
    ]
    info = linear.plugin.describe(ref)
    assert info.features["values"].width == 9
    assert [(p.name, p.axes) for p in info.inputs] == [("numbers", ("row", "2")), ("categories", ("row", "2"))]


def test_linear_of_one_number_is_the_number():
    ref = Ref("linear", "linear", state=State({"numbers": ["x"], "categories": []}))
    x = torch.tensor([[1.25], [-3.0]])
    assert torch.equal(linear.plugin.forward(linear.plugin.build(ref), {"numbers": x})["values"], x)
    assert [p.name for p in linear.plugin.describe(ref).inputs] == ["numbers"]


@pytest.mark.parametrize("curves", mlp.CHOICES["numbers"])
def test_mlp_takes_missing_and_unseen_values(curves):
    torch.manual_seed(0)
    ref = Ref("mlp", "mlp", settings={"numbers": curves, "width": 7, "depth": 3}, state=STATE)
    module = mlp.plugin.build(ref).eval()
    with torch.no_grad():
        hidden = mlp.plugin.forward(module, ARRAYS)["hidden"]
        assert hidden.shape == (3, 7)
        assert torch.isfinite(hidden).all()
        embedded = module.embed(ARRAYS)
    dim = module.embed.missing.shape[1]
    assert not embedded[2, :dim].any()  # a missing number and an unseen category start at zero
    assert not embedded[2, 2 * dim :].any()
    assert np.allclose(export(mlp.plugin, module, ref, ARRAYS), hidden, atol=1e-6)


def test_linear_exports():
    ref = Ref("linear", "linear", state=STATE)
    module = linear.plugin.build(ref)
    assert np.array_equal(export(linear.plugin, module, ref, ARRAYS), linear.plugin.forward(module, ARRAYS)["values"])


@pytest.mark.parametrize("norm", mlp.CHOICES["norm"])
@pytest.mark.parametrize("activation", mlp.CHOICES["activation"])
def test_mlp_trains_with_every_part(norm, activation):
    torch.manual_seed(0)
    ref = Ref("mlp", "mlp", settings={"norm": norm, "activation": activation}, state=STATE)
    module = mlp.plugin.build(ref).train()
    mlp.plugin.forward(module, ARRAYS)["hidden"].square().sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in module.parameters())
    mlp.plugin.forward(module, {name: t[:1] for name, t in ARRAYS.items()})  # the last batch of an epoch may be one row


@pytest.mark.parametrize("init", mlp.CHOICES["init"])
def test_mlp_initialises_by_name(init):
    torch.manual_seed(0)
    linear_layer = mlp.plugin.build(Ref("mlp", "mlp", settings={"init": init}, state=STATE)).layers[0]
    spread = {"zeros": 0.0, "normal": 0.02, "trunc_normal": 0.02, "uniform": 0.1 / 12**0.5}.get(init)
    if spread is not None:
        assert float(linear_layer.weight.detach().std()) == pytest.approx(spread, rel=0.1)
    assert (init == "default") == bool(linear_layer.bias.any())


def test_mlp_saves_and_loads(tmp_path):
    torch.manual_seed(0)
    ref = Ref("mlp", "mlp", settings={"width": 5, "norm": "batch"}, state=STATE)
    module = mlp.plugin.build(ref).eval()
    for name, content in mlp.plugin.save(module, ref).items():
        (tmp_path / name).write_bytes(content)
    assert json.loads((tmp_path / "config.json").read_text())["mainstem"] == "mlp"
    again = registry.resolve(str(tmp_path))  # a bare folder, without the processor's state
    assert mlp.plugin.describe(again).inputs == mlp.plugin.describe(ref).inputs
    assert mlp.plugin.describe(again).features["hidden"].width == 5
    loaded = mlp.plugin.build(again).eval()
    assert torch.equal(mlp.plugin.forward(loaded, ARRAYS)["hidden"], mlp.plugin.forward(module, ARRAYS)["hidden"])


def test_wrong_weights_are_told(tmp_path):
    ref = Ref("mlp", "mlp", settings={"width": 5}, state=STATE)
    for name, content in mlp.plugin.save(mlp.plugin.build(ref), ref).items():
        (tmp_path / name).write_bytes(content)
    with pytest.raises(MainstemError, match="of another network"):
        mlp.plugin.build(Ref("mlp", "mlp", settings={"width": 6}, state=STATE, folder=tmp_path))
    (tmp_path / "model.safetensors").write_bytes(b"torn")
    with pytest.raises(MainstemError, match="cannot be read"):
        mlp.plugin.build(Ref("mlp", "mlp", state=STATE, folder=tmp_path))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"widht": 3}, "Did you mean 'width'"),
        ({"activation": "rleu"}, "Did you mean 'relu'"),
        ({"width": "wide"}, "setting 'width'"),
        ({"depth": True}, "setting 'depth'"),
    ],
)
def test_wrong_settings_are_told(settings, message):
    with pytest.raises(MainstemError, match=message):
        mlp.plugin.describe(Ref("mlp", "mlp", settings=settings))

from dataclasses import replace

import numpy as np
import pytest
import torch

from mainstem import registry
from mainstem.backbones import _picture
from mainstem.contracts import GraphSpec, Port
from mainstem.errors import MainstemError
from mainstem.runtimes import onnx as onnx_runtime

ALL = [
    *(f"resnet{n}" for n in (18, 34, 50, 101, 152)),
    *(f"vgg{n}{norm}" for n in (11, 13, 16, 19) for norm in ("", "_bn")),
    *(f"vit-{size}" for size in ("tiny", "small", "base")),
    "alexnet",
]


def asked(text, **settings):
    return replace(registry.resolve(text), settings=settings)


def plugin(ref):
    return registry.load("backbones", ref.family).plugin


class Whole(torch.nn.Module):
    def __init__(self, plug, module):
        super().__init__()
        self.plug, self.module = plug, module

    def forward(self, arrays):
        return self.plug.forward(self.module, arrays)


def shapes(info):
    return {name: (*map(int, f.axes[1:]), f.width) for name, f in info.features.items()}


@pytest.mark.parametrize("text", ALL)
@pytest.mark.parametrize("size", [0, 72])
def test_every_classic_is_what_its_description_says(text, size):
    ref = asked(text, size=size) if size else asked(text)
    info = plugin(ref).describe(ref)
    assert info.inputs[0].axes == ("row", "3", str(size or 224), str(size or 224))
    with torch.device("meta"):
        module = plugin(ref).build(ref).eval()
        out = plugin(ref).forward(module, {"pixels": torch.empty(2, 3, size or 224, size or 224)})
    assert {name: value.shape[1:] for name, value in out.items()} == shapes(info)
    assert info.parameters == sum(p.numel() for p in module.parameters())
    assert all(any(name.endswith(slot) for name, _ in module.named_modules()) for slot in info.slots)


def small_vgg(plug, ref):
    """Narrow fully connected layers: the true ones take half a gigabyte."""
    from timm.models.vgg import ConvMlp

    with torch.device("meta"):
        module = plug.build(ref)
        module.pre_logits = ConvMlp(512, 16, 7)
    module.to_empty(device="cpu")
    for name, parameter in module.named_parameters():
        torch.nn.init.normal_(parameter, std=0.02) if parameter.ndim > 1 else torch.nn.init.constant_(parameter, float("weight" in name))
    for name, buffer in module.named_buffers():
        buffer.fill_("var" in name)
    return module


def small_alexnet(plug, ref):
    with torch.device("meta"):
        module = plug.build(ref)
    module.classifier[1], module.classifier[4] = torch.nn.Linear(9216, 16), torch.nn.Linear(16, 16)
    module.features.to_empty(device="cpu")
    for parameter in module.features.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    return module


MAKERS = {"vgg11_bn": small_vgg, "alexnet": small_alexnet}


@pytest.mark.parametrize(("text", "size"), [("resnet18", 40), ("vit-tiny", 28), ("vgg11_bn", 40), ("alexnet", 70)])
def test_onnx_runtime_answers_as_torch_does(text, size):
    ref = asked(text, size=size)
    plug, info = plugin(ref), plugin(ref).describe(ref)
    torch.manual_seed(0)
    module = MAKERS[text](plug, ref) if text in MAKERS else plug.build(ref)
    whole = Whole(plug, module).eval()
    x = np.random.default_rng(0).normal(size=(3, 3, size, size)).astype(np.float32)
    with torch.no_grad():
        expected = {name: value.numpy() for name, value in whole({"pixels": torch.from_numpy(x)}).items()}
    outputs = tuple(Port(name, "float32", ("row", *map(str, value.shape[1:]))) for name, value in expected.items())
    proto = onnx_runtime.write(GraphSpec(info.inputs, outputs, whole), {"pixels": x[:1]})
    found = onnx_runtime.function(onnx_runtime.session(proto))({"pixels": x}, tuple(expected))
    for name, value in expected.items():
        assert value.std() > 0
        np.testing.assert_allclose(found[name], value, rtol=1e-4, atol=1e-5 * max(1, np.abs(value).max()))


def test_a_vit_pools_the_mean_of_its_patches():
    ref = asked("vit-tiny", size=28)
    with torch.no_grad():
        made = plugin(ref).forward(plugin(ref).build(ref).eval(), {"pixels": torch.randn(2, 3, 28, 28)})
    torch.testing.assert_close(made["pooled"], made["map"].mean((1, 2)))


def test_a_saved_vit_is_read_by_its_name_as_a_folder_and_by_timm(tmp_path):
    import timm

    ref = asked("vit-tiny", size=28)
    plug = plugin(ref)
    torch.manual_seed(0)
    module = plug.build(ref).eval()
    for name, content in plug.save(module, ref).items():
        (tmp_path / name).write_bytes(content)
    x = torch.randn(2, 3, 28, 28, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = plug.forward(module, {"pixels": x})
        for again in (replace(ref, folder=tmp_path), registry.resolve(str(tmp_path))):
            info = plugin(again).describe(again)
            assert shapes(info) == shapes(plug.describe(ref))
            assert info.slots == ("attn.qkv", "attn.proj")
            found = plugin(again).forward(plugin(again).build(again).eval(), {"pixels": x})
            assert all(torch.equal(found[name], value) for name, value in expected.items())
        theirs = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
        torch.testing.assert_close(theirs(x), expected["pooled"])


def test_pooling_by_matrices_is_adaptive_average_pooling():
    x = torch.randn(2, 3, 5, 9, generator=torch.Generator().manual_seed(0))
    for grid in [(7, 7), (6, 6), (2, 3), (5, 9)]:
        torch.testing.assert_close(_picture.pool_to(x, grid), torch.nn.functional.adaptive_avg_pool2d(x, grid))


@pytest.mark.parametrize(
    ("text", "settings", "message"),
    [
        ("resnet19", {}, "Did you mean 'resnet18'"),
        ("vgg12_bn", {}, r"Did you mean 'vgg1\d_bn'"),
        ("vit-large", {}, "Known: vit-base, vit-small"),
        ("resnet18", {"size": 16}, "at least 32"),
        ("alexnet", {"size": 28}, "at least 63"),
        ("vit-tiny", {"size": 223}, "multiple of 16"),
        ("resnet18", {"pretrained": True}, "no setting 'pretrained'"),
    ],
)
def test_mistakes_are_told_in_a_sentence(text, settings, message):
    ref = asked(text, **settings)
    with pytest.raises(MainstemError, match=message):
        plugin(ref).describe(ref)

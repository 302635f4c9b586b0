import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from mainstem import registry
from mainstem.contracts import GraphSpec, Port, Ref
from mainstem.errors import MainstemError
from mainstem.runtimes import onnx as onnx_runtime

SMALL = [
    ("cnn", {}),
    ("cnn", {"size": 8, "width": 8}),
    ("cnn", {"size": 50, "width": 8, "init": "orthogonal"}),
    ("timm:test_efficientnet", {"pretrained": False, "size": 28}),
    ("timm:test_resnet", {"pretrained": False, "size": 64}),
    ("timm:test_vit", {"pretrained": False, "size": 32}),
]


def asked(text, settings=None, folder=None):
    return replace(registry.resolve(text), settings=settings or {}, folder=folder)


def plugin(ref):
    return registry.load("backbones", ref.family).plugin


def pixels(info, rows=2, seed=0):
    shape = [int(n) for n in info.inputs[0].axes[1:]]
    return np.random.default_rng(seed).normal(size=(rows, *shape)).astype(np.float32)


def answers(ref, module, x):
    module.eval()
    with torch.no_grad():
        return {name: value.numpy() for name, value in plugin(ref).forward(module, {"pixels": torch.from_numpy(x)}).items()}


class Whole(torch.nn.Module):
    def __init__(self, plug, module):
        super().__init__()
        self.plug, self.module = plug, module

    def forward(self, arrays):
        return self.plug.forward(self.module, arrays)


def check_graph(ref, module):
    info = plugin(ref).describe(ref)
    outputs = tuple(Port(name, "float32", (*f.axes, str(f.width))) for name, f in info.features.items())
    proto = onnx_runtime.write(GraphSpec(info.inputs, outputs, Whole(plugin(ref), module)), {"pixels": pixels(info, 1)})
    x = pixels(info, 3, seed=1)
    found = onnx_runtime.function(onnx_runtime.session(proto))({"pixels": x}, tuple(info.features))
    for name, expected in answers(ref, module, x).items():
        np.testing.assert_allclose(found[name], expected, rtol=1e-4, atol=1e-5 * max(1, np.abs(expected).max()))


def write(folder, contents):
    folder.mkdir()
    for name, content in contents.items():
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.read_bytes())
    return folder


@pytest.mark.parametrize(("text", "settings"), SMALL)
def test_gives_what_it_describes_on_both_runtimes_and_reads_what_it_saved(text, settings, tmp_path):
    ref = asked(text, settings)
    plug, info = plugin(ref), plugin(ref).describe(ref)
    torch.manual_seed(0)
    module = plug.build(ref)
    for layer in module.modules():  # statistics that are not those of a new network
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.running_mean.uniform_(-0.5, 0.5)
            layer.running_var.uniform_(0.5, 1.5)
    x = pixels(info)
    out = answers(ref, module, x)
    assert {name: value.shape[1:] for name, value in out.items()} == {
        name: (*map(int, f.axes[1:]), f.width) for name, f in info.features.items()
    }
    assert info.parameters == sum(p.numel() for p in module.parameters())
    assert (info.modality, info.pooled, info.extra, info.pretrained) == ("image", "pooled", "train", False)
    assert info.processor["size"] == [settings.get("size", 32)] * 2
    check_graph(ref, module)

    saved = replace(ref, folder=write(tmp_path / "saved", plug.save(module, ref)))
    again = plug.describe(saved)
    assert replace(again, pretrained=False) == info
    assert again.pretrained
    assert bool(info.slots) == ("vit" in text)
    for name, value in answers(saved, plug.build(saved), x).items():
        np.testing.assert_array_equal(value, out[name])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder as the hub keeps it: with a classifier, and a size of its own."""
    import timm
    from safetensors.torch import save_file

    torch.manual_seed(1)
    module = timm.create_model("test_efficientnet", num_classes=7)
    path = tmp_path_factory.mktemp("hub") / "tiny"
    path.mkdir()
    save_file(module.state_dict(), path / "model.safetensors")
    cfg = {"input_size": [3, 64, 64], "pool_size": [2, 2], "mean": [0.1, 0.2, 0.3], "std": [0.5, 0.6, 0.7], "interpolation": "bilinear"}
    cfg |= {"crop_pct": 0.9, "num_classes": 7, "classifier": "classifier", "license": "mit", "first_conv": "conv_stem"}
    tree = {"architecture": "test_efficientnet", "num_classes": 7, "num_features": 256, "pretrained_cfg": cfg}
    (path / "config.json").write_text(json.dumps(tree))
    return path


def test_a_folder_brings_its_own_preprocessing_and_weights(folder):
    import timm

    ref = registry.resolve(str(folder))
    info = plugin(ref).describe(ref)
    assert ref.family == "timm"
    assert info.processor == {
        "size": [64, 64],
        "resize": "bilinear",
        "crop": 0.9,
        "mean": [0.1, 0.2, 0.3],
        "std": [0.5, 0.6, 0.7],
        "channels": 3,
    }
    assert (info.licence, info.pretrained, info.features["pooled"].width) == ("mit", True, 256)
    module = plugin(ref).build(ref)
    assert info.parameters == sum(p.numel() for p in module.parameters())
    x = pixels(info)
    theirs = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    with torch.no_grad():
        expected = theirs.forward_head(theirs.forward_features(torch.from_numpy(x)), pre_logits=True)
    np.testing.assert_allclose(answers(ref, module, x)["pooled"], expected.numpy(), rtol=1e-6, atol=1e-6)


def test_describing_a_folder_does_not_import_torch(folder):
    import subprocess
    import sys

    code = (
        "import sys; from mainstem import registry; ref = registry.resolve(sys.argv[1]);"
        "info = registry.load('backbones', ref.family).plugin.describe(ref); assert info.features['pooled'].width == 256;"
        "ref = registry.resolve('cnn'); registry.load('backbones', ref.family).plugin.describe(ref);"
        "assert 'torch' not in sys.modules and 'timm' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, str(folder)], check=True)


def test_unchanged_weights_are_linked_and_changed_ones_load_in_timm(folder, tmp_path):
    import timm

    ref = registry.resolve(f"timm:{folder}")
    plug = plugin(ref)
    module = plug.build(ref)
    assert plug.save(module, ref) == {name: folder.resolve() / name for name in ("config.json", "model.safetensors")}
    resized = replace(ref, settings={"size": 32})
    saved = plug.save(plug.build(resized), resized)
    assert saved["model.safetensors"] == folder.resolve() / "model.safetensors"
    other = replace(ref, folder=write(tmp_path / "resized", saved))
    assert plug.describe(other).processor["size"] == [32, 32]

    with torch.no_grad():
        module.conv_stem.weight.mul_(2)
    changed = write(tmp_path / "changed", plug.save(module, ref))
    theirs = timm.create_model(f"local-dir:{changed}", pretrained=True)
    assert theirs.num_classes == 0
    for name, tensor in theirs.state_dict().items():
        assert torch.equal(tensor, module.state_dict()[name])


def test_a_transformer_takes_pictures_of_another_size(tmp_path):
    small = asked("timm:test_vit", {"pretrained": False, "size": 32})
    plug = plugin(small)
    base = write(tmp_path / "base", plug.save(plug.build(small), small))
    ref = replace(registry.resolve(str(base)), settings={"size": 64})
    module = plug.build(ref)
    x = pixels(plug.describe(ref))
    again = replace(ref, folder=write(tmp_path / "larger", plug.save(module, ref)))
    np.testing.assert_array_equal(answers(again, plug.build(again), x)["pooled"], answers(ref, module, x)["pooled"])


def test_weights_of_the_hub_are_fetched_or_the_message_says_what_to_do(folder, monkeypatch):
    import huggingface_hub

    ref = registry.resolve("timm:test_efficientnet")
    asked_for = []

    def there(repository, name):
        asked_for.append((repository, name))
        return str(folder / name)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", there)
    module = plugin(ref).build(ref)
    assert asked_for == [("timm/test_efficientnet.r160_in1k", "model.safetensors")]
    own = plugin(ref).build(registry.resolve(str(folder)))
    assert all(torch.equal(a, b) for a, b in zip(module.state_dict().values(), own.state_dict().values(), strict=True))
    assert plugin(ref).describe(ref).pretrained

    def offline(repository, name):
        raise huggingface_hub.errors.LocalEntryNotFoundError("no connection")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", offline)
    with pytest.raises(MainstemError, match=r"could not be fetched.*timm:FOLDER, or set pretrained to false"):
        plugin(ref).build(ref)


@pytest.mark.parametrize(
    ("ref", "message"),
    [
        (Ref("timm:resnet81", "timm", "resnet81"), "Did you mean 'resnet18"),
        (Ref("timm:some/where", "timm", "some/where"), "there is no folder 'some/where'"),
        (Ref("cnn", "cnn", settings={"size": 4}), "at least 8 pixels"),
        (Ref("cnn", "cnn", settings={"size": 32, "init": "kaiming"}), "Did you mean 'kaiming_"),
    ],
)
def test_mistakes_are_told_in_a_sentence(ref, message):
    with pytest.raises(MainstemError, match=message):
        plugin(ref).describe(ref)


def test_weights_that_do_not_fit_or_are_pickled_are_refused(folder, tmp_path):
    from safetensors.torch import load_file, save_file

    other = write(tmp_path / "other", {"config.json": folder / "config.json"})
    (other / "pytorch_model.bin").write_bytes(b"pickle")
    ref = registry.resolve(str(other))
    with pytest.raises(MainstemError, match="only safetensors are read"):
        plugin(ref).build(ref)
    weights = load_file(folder / "model.safetensors")
    del weights["conv_stem.weight"]
    save_file(weights, other / "model.safetensors")
    with pytest.raises(MainstemError, match="conv_stem"):
        plugin(ref).build(ref)
    (other / "model.safetensors").write_bytes(b"\x00" * 20)
    with pytest.raises(MainstemError, match="cannot be read"):
        plugin(ref).build(ref)


def test_cnn_learns_digits_with_its_own_augmentation():
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    modality = registry.load("modalities", "image").plugin
    cells = [modality.parse((row.reshape(8, 8) * 255 / 16).astype(np.uint8), {}) for row in images[:700]]
    ref = asked("cnn", {"size": 16})
    plug, info = plugin(ref), plugin(ref).describe(ref)
    state, rng = modality.fit(info.processor, cells), np.random.default_rng(0)
    torch.manual_seed(0)
    module, head = plug.build(ref), torch.nn.Linear(info.features["pooled"].width, 10)
    optimiser = torch.optim.AdamW([*module.parameters(), *head.parameters()], lr=4e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, 60)
    targets = torch.from_numpy(labels)

    def logits(rows, rng=None):
        arrays, _ = modality.encode([cells[i] for i in rows], info.processor, state, rng)
        return head(plug.forward(module, {"pixels": torch.from_numpy(arrays["pixels"])})["pooled"])

    for _ in range(3):
        for rows in np.split(rng.permutation(500), range(25, 500, 25)):
            optimiser.zero_grad()
            torch.nn.functional.cross_entropy(logits(rows, rng), targets[rows]).backward()
            optimiser.step()
            schedule.step()
    module.eval()
    with torch.no_grad():
        right = logits(np.arange(500, 700)).argmax(1) == targets[500:700]
    assert float(right.float().mean()) > 0.75

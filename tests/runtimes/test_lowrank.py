"""Adapters beside a graph: each row has its own, and answers as if it were alone on PyTorch."""

import copy
import threading
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

from mainstem.artifact import read_adapter
from mainstem.contracts import ADAPTER, GraphSpec, Port
from mainstem.errors import MainstemError
from mainstem.nn import decoder, encoder, lora
from mainstem.runtimes import _lowrank, _widths, onnx
from mainstem.runtimes import torch as live

TEXT = (Port("ids", "int64", ("row", "pad:tokens")), Port("mask", "int64", ("row", "pad:tokens")))
PICTURE = (Port("pixels", "float32", ("row", "3", "32", "32")),)
BERT = {
    "model_type": "bert",
    "vocab_size": 50,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 32,
}
GPT2 = {"model_type": "gpt2", "vocab_size": 50, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 32}
ALBERT = {**BERT, "model_type": "albert", "embedding_size": 8, "num_hidden_groups": 1}


class Network(torch.nn.Module):
    """A family's module as a graph with one output."""

    def __init__(self, module, read):
        super().__init__()
        self.module, self.read = module, read

    def forward(self, arrays):
        return {"y": self.read(self.module, arrays)}


@dataclass
class Family:
    """A network, the layers that adapters of it may have, and rows."""

    net: Network
    inputs: tuple[Port, ...]
    slots: tuple[tuple[str, ...], ...]
    rows: dict

    def graph(self):
        return onnx.write(GraphSpec((*self.inputs, ADAPTER), (Port("y", "float32", ("row", "16")),), self.net), self.rows)


def encoded(module, arrays):
    return encoder.encode(module, arrays["ids"], arrays["mask"])["mean"]


def decoded(module, arrays):
    return decoder.encode(module, arrays["ids"], arrays["mask"])["last"]


def pooled(module, arrays):
    return module(arrays["pixels"])


def family(name):
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    mask = (np.arange(9) < np.array([9, 4, 7, 1, 6])[:, None]).astype(np.int64)
    text = {"ids": rng.integers(3, 50, (5, 9)) * mask, "mask": mask}
    if name == "bert":
        return Family(Network(encoder.build(BERT), encoded), TEXT, (("query", "value"), ("key", "dense")), text)
    if name == "albert":  # one layer, called twice
        return Family(Network(encoder.build(ALBERT), encoded), TEXT, (("query", "value"), ("ffn", "query")), text)
    if name == "gpt2":  # its layers lie transposed, and are called on [rows · tokens, width]
        return Family(Network(encoder.build(GPT2, causal=True), decoded), TEXT, (("c_attn",), ("c_proj", "c_fc")), text)
    import timm

    sizes = {"vit": {}, "swin": {"embed_dim": 16, "depths": (1, 1), "num_heads": (1, 2), "window_size": 4, "patch_size": 2}}[name]
    timm_name = {"vit": "test_vit", "swin": "swin_tiny_patch4_window7_224"}[name]
    module = timm.create_model(timm_name, img_size=32, num_classes=0, **sizes)
    pixels = rng.standard_normal((5, 3, 32, 32)).astype(np.float32)
    return Family(Network(module, pooled), PICTURE, (("attn.qkv", "attn.proj"), ("mlp.fc1",)), {"pixels": pixels})


def adapted(one, slots, folder, rank=4, seed=1):
    """The family's network with an adapter that changes its answers, and the same read from PEFT's files."""
    net = copy.deepcopy(one.net)
    lora.attach(net.module, slots, rank=rank, alpha=8, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    for layer in lora.attached(net.module).values():
        layer.lora_B.weight.data.normal_(std=0.3, generator=generator)
    folder.mkdir()
    for name, content in lora.save(net.module).items():
        (folder / name).write_bytes(content)
    return live.function(net), read_adapter(folder)


def take(rows, i):
    return {name: array[i : i + 1] for name, array in rows.items()}


@pytest.fixture
def bert():
    return family("bert")


@pytest.mark.parametrize("name", ["bert", "albert", "gpt2", "vit", "swin"])
def test_rows_of_many_adapters_answer_as_each_alone(name, tmp_path):
    one = family(name)
    data, plain = one.graph(), live.function(one.net)
    first, a = adapted(one, one.slots[0], tmp_path / "a")
    second, b = adapted(one, one.slots[1], tmp_path / "b", rank=3, seed=2)
    third, c = adapted(one, one.slots[0], tmp_path / "c", rank=1, seed=3)
    graph = onnx.Graph(data, adapter=a)
    numbers = [graph.add(each, data) for each in (a, b, c)]
    rows = np.array([numbers[1], 0, numbers[0], numbers[2], numbers[0]])
    mixed = graph({**one.rows, ADAPTER.name: rows}, ("y",))["y"]
    for i, alone in enumerate((second, plain, first, third, first)):
        expected = alone(take(one.rows, i), ("y",))["y"][0]
        assert np.abs(mixed[i] - expected).max() < 1e-5
        assert alone is plain or np.abs(expected - plain(take(one.rows, i), ("y",))["y"][0]).max() > 1e-2
        lone = graph({**take(one.rows, i), ADAPTER.name: rows[i : i + 1]}, ("y",))["y"][0]
        assert np.abs(mixed[i] - lone).max() < 1e-5
    whole = graph({**one.rows, ADAPTER.name: np.full(5, numbers[1])}, ("y",))["y"]
    assert np.abs(whole - second(one.rows, ("y",))["y"]).max() < 1e-5


@pytest.mark.parametrize("name", ["bert", "vit"])
def test_without_an_adapter_a_branched_graph_is_the_plain_one_bit_for_bit(name, tmp_path):
    one = family(name)
    data = one.graph()
    expected = onnx.Graph(data)(one.rows, ("y",))["y"]
    _, adapter = adapted(one, one.slots[0], tmp_path / "a")
    graph = onnx.Graph(data, adapter=adapter)
    assert np.array_equal(graph(one.rows, ("y",))["y"], expected)
    number = graph.add(adapter, data)
    rows = np.array([number, 0, 0, number, 0])
    assert np.array_equal(graph({**one.rows, ADAPTER.name: rows * 0}, ("y",))["y"], expected)
    assert np.array_equal(graph({**one.rows, ADAPTER.name: rows}, ("y",))["y"][rows == 0], expected[rows == 0])


def test_the_graph_that_is_written_has_no_adapter(bert, tmp_path):
    plain = bert.graph()
    lora.attach(bert.net.module, ("query",), rank=2)
    with lora.without(bert.net.module):
        assert bert.graph() == plain
    assert len(lora.attached(bert.net.module)) == 2  # they are back
    assert bert.graph() != plain


def test_what_is_branched_is_sound_onnx(bert, tmp_path):
    import onnx as library

    data = bert.graph()
    _, adapter = adapted(bert, ("query", "value", "dense"), tmp_path / "a")
    branched, groups = _lowrank.branch(data, _lowrank.sizes_of(adapter))
    library.checker.check_model(library.load_from_string(branched), full_check=True)
    assert [tuple(name.rpartition(".")[2] for name in group.layers) for group in groups[:2]] == [("query", "value"), ("dense",)]
    banks = _lowrank.stack(groups, _lowrank.sizes_of(adapter), [adapter])
    assert banks[groups[0].down].shape == (2, 16, 8)  # none and one adapter; two layers of rank 4


def test_banks_hold_each_rank_padded_with_zeros(bert, tmp_path):
    _, small = adapted(bert, ("query",), tmp_path / "small", rank=1)
    _, large = adapted(bert, ("query",), tmp_path / "large", rank=5)
    sizes = _lowrank.sizes_of(small)
    _, groups = _lowrank.branch(bert.graph(), sizes)
    banks = _lowrank.stack(groups, sizes, [small, large])
    down, up = banks[groups[0].down], banks[groups[0].up(groups[0].layers[0])]
    assert (down.shape, up.shape) == ((3, 16, 5), (3, 5, 16))
    assert not down[0].any()
    assert not down[1, :, 1:].any()
    assert down[1, :, :1].any()
    a, b, scale = large.layers[groups[0].layers[0]]
    assert np.allclose(down[2] @ up[2], (b @ a * scale).T, atol=1e-6)


def test_adapters_come_and_go_while_calls_run(bert, tmp_path, monkeypatch):
    data, sessions, real = bert.graph(), [], _widths.sessions
    monkeypatch.setattr(_widths, "sessions", lambda data, widths: sessions.append(widths) or real(data, widths))
    first, a = adapted(bert, ("query", "value"), tmp_path / "a")
    second, b = adapted(bert, ("query", "value"), tmp_path / "b", rank=7, seed=2)
    graph = onnx.Graph(data, adapter=a)
    stays = graph.add(a, data)
    rows = np.array([stays, 0, stays, 0, stays])
    expected = np.where(rows[:, None] > 0, first(bert.rows, ("y",))["y"], live.function(bert.net)(bert.rows, ("y",))["y"])
    worst, done = [0.0], threading.Event()

    def call():
        while not done.is_set():
            worst.append(float(np.abs(graph({**bert.rows, ADAPTER.name: rows}, ("y",))["y"] - expected).max()))

    callers = [threading.Thread(target=call) for _ in range(2)]
    for each in callers:
        each.start()
    seen = []
    for _ in range(60):
        number = graph.add(b, data)
        seen.append(number)
        came = graph({**bert.rows, ADAPTER.name: np.full(5, number)}, ("y",))["y"]
        assert np.abs(came - second(bert.rows, ("y",))["y"]).max() < 1e-5
        graph.remove(number)
        with pytest.raises(MainstemError, match=f"the adapter {number} is no longer loaded"):
            graph({**bert.rows, ADAPTER.name: np.full(5, number)}, ("y",))
    done.set()
    for each in callers:
        each.join()
    assert len(worst) > 20
    assert max(worst) < 1e-5
    assert len(set(seen)) == 60  # a number is never given twice
    assert len(sessions) == 1  # the backbone was loaded once


def test_a_plain_graph_takes_adapters_of_any_layers_later(bert, tmp_path):
    data = bert.graph()
    graph = onnx.Graph(data)
    before = graph(bert.rows, ("y",))["y"]
    first, a = adapted(bert, ("query",), tmp_path / "a")
    second, b = adapted(bert, ("intermediate.dense", "value"), tmp_path / "b", seed=2)
    one, two = graph.add(a, data), graph.add(b, data)
    assert np.array_equal(graph(bert.rows, ("y",))["y"], before)
    for number, alone in ((one, first), (two, second)):
        assert np.abs(graph({**bert.rows, ADAPTER.name: np.array([number])}, ("y",))["y"] - alone(bert.rows, ("y",))["y"]).max() < 1e-5


def test_an_adapter_of_another_model_is_refused(bert, tmp_path):
    data = bert.graph()
    graph = onnx.Graph(data, "backbone.onnx")
    before = graph(bert.rows, ("y",))["y"]
    wide = Family(Network(encoder.build({**BERT, "hidden_size": 8}), encoded), TEXT, (), bert.rows)
    with pytest.raises(MainstemError, match=r"backbone\.onnx: .*layer 'encoder\.layer\.\d\.attention\.self\.query' has other widths"):
        graph.add(adapted(wide, ("query",), tmp_path / "wide")[1], data)
    deep = Family(Network(encoder.build({**BERT, "num_hidden_layers": 3}), encoded), TEXT, (), bert.rows)
    with pytest.raises(MainstemError, match=r"no layer named 'encoder\.layer\.2\.attention\.self\.query'"):
        graph.add(adapted(deep, ("query",), tmp_path / "deep")[1], data)
    with pytest.raises(MainstemError, match="not a graph that can be adapted"):
        onnx.Graph(b"\x0a\xff\xff", adapter=adapted(bert, ("query",), tmp_path / "a")[1])
    assert np.array_equal(graph(bert.rows, ("y",))["y"], before)  # it goes on as it was


def test_models_of_one_graph_share_it_and_are_bound_to_their_adapters(bert, tmp_path):
    spec = GraphSpec((*TEXT, ADAPTER), (Port("y", "float32", ("row", "16")),))
    runners, cache, alone = {}, {}, {"": live.function(bert.net)}
    for name in ("a", "b", ""):
        folder = tmp_path / f"model-{name}"
        (folder / "onnx").mkdir(parents=True)
        (folder / "onnx/backbone.text.onnx").write_bytes(bert.graph())
        if name:
            (folder / "adapters").mkdir()
            alone[name], adapter = adapted(bert, ("query",), folder / "adapters" / name, seed=ord(name))
            own = replace(spec, adapter=name, adapter_id=adapter.adapter_id)
        runners[name] = onnx.runner(folder, {"backbone.text": own if name else spec}, cache)
    functions = {name: runner.functions["backbone.text"] for name, runner in runners.items()}
    assert functions["a"].function is functions["b"].function is functions[""]
    assert functions["a"].rows != functions["b"].rows
    for name, function in functions.items():
        assert np.abs(function(bert.rows, ("y",))["y"] - alone[name](bert.rows, ("y",))["y"]).max() < 1e-5
    functions["a"].close()
    with pytest.raises(MainstemError, match="no longer loaded"):
        functions["a"](bert.rows, ("y",))
    assert np.abs(functions["b"](bert.rows, ("y",))["y"] - alone["b"](bert.rows, ("y",))["y"]).max() < 1e-5
    with pytest.raises(MainstemError, match="the adapter 'a' is another one than the model was made with"):
        onnx.runner(tmp_path / "model-a", {"backbone.text": replace(own, adapter="a")}, cache)


def test_an_id_is_of_the_weights_and_of_their_factor(bert, tmp_path):
    _, adapter = adapted(bert, ("query",), tmp_path / "a")
    torch.manual_seed(0)
    module = copy.deepcopy(bert.net.module)
    lora.attach(module, ("query",), rank=4, alpha=8, seed=1)
    for name, layer in lora.attached(module).items():
        layer.lora_B.weight.data.copy_(torch.from_numpy(adapter.layers[name][1]))
    assert lora.adapter_id(module) == adapter.adapter_id
    layer.alpha = 9.0
    assert lora.adapter_id(module) != adapter.adapter_id
    layer.alpha = 8.0
    layer.lora_B.weight.data[0, 0] += 1e-3
    assert lora.adapter_id(module) != adapter.adapter_id

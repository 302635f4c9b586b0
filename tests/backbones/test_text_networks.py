"""hf, bert, ngram, rnn, lstm and gru: padding never changes an answer, on PyTorch and on exported graphs; saving and loading."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from mainstem import registry
from mainstem.backbones import bert, hf, ngram
from mainstem.contracts import GraphSpec, Port, Ref, State
from mainstem.errors import MainstemError
from mainstem.nn import encoder
from mainstem.runtimes import onnx

CONFIG = {
    "model_type": "bert",
    "architectures": ["BertModel"],
    "vocab_size": 20,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 40,
    "pad_token_id": 0,
}
LENGTHS = (7, 3, 1)
IDS = np.random.default_rng(0).integers(4, 20, (3, 7))
MASK = (np.arange(7) < np.array(LENGTHS)[:, None]).astype(np.int64)
IDS[MASK == 0] = 0


def dump(tree):
    return json.dumps(tree).encode()


def write(files, folder):
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.read_bytes())
    return folder


@pytest.fixture
def folder(tmp_path):
    """A tiny BERT as the hub keeps a sentence-transformers model, with a pooler as real ones have it."""
    from safetensors.torch import save
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    words = {w: i for i, w in enumerate(["[PAD]", "[CLS]", "[SEP]", "[UNK]", *"abcdefghijklmnop"])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)])
    weights = {name: tensor.contiguous() for name, tensor in BertModel(BertConfig(**CONFIG)).state_dict().items()}
    files = {
        "config.json": dump(CONFIG),
        "tokenizer.json": tokenizer.to_str().encode(),
        "model.safetensors": save(weights, metadata={"format": "pt"}),
        "modules.json": dump([{"type": "sentence_transformers.models.Pooling"}, {"type": "sentence_transformers.models.Normalize"}]),
        "sentence_bert_config.json": dump({"max_seq_length": 30}),
        "config_sentence_transformers.json": dump({"prompts": {"query": "query: ", "document": ""}}),
        "README.md": b"---\nlanguage: en\nlicense: Apache-2.0\n---\n# A tiny model\n",
    }
    return write(files, tmp_path / "tiny")


def answers(plugin, module, ids=IDS, mask=MASK):
    with torch.no_grad():
        made = plugin.forward(module, {"ids": torch.from_numpy(ids), "mask": torch.from_numpy(mask)})
    return {name: tensor.numpy() for name, tensor in made.items()}


def exported(plugin, module, info, arrays):
    """The module's graph as the product exports it, as a function of arrays."""

    class Graph(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = module

        def forward(self, tensors):
            return plugin.forward(self.inner, tensors)

    outputs = tuple(Port(name, "float32", (*f.axes, str(f.width))) for name, f in info.features.items())
    run = onnx.function(onnx.session(onnx.write(GraphSpec(info.inputs, outputs, Graph().eval()), arrays)))
    return lambda given: run(given, tuple(info.features))


def check_padding(plugin, module, info):
    """Rows alone equal rows in a padded batch, on PyTorch and on the graph, which was traced on another size."""
    module.eval()
    together = answers(plugin, module)
    graph = exported(plugin, module, info, {"ids": np.full((2, 4), 5), "mask": np.ones((2, 4), np.int64)})
    merged = graph({"ids": IDS, "mask": MASK})
    for i, n in enumerate(LENGTHS):
        ids, mask = IDS[i : i + 1, :n], MASK[i : i + 1, :n]
        alone, graph_alone = answers(plugin, module, ids, mask), graph({"ids": ids, "mask": mask})
        for name, feature in info.features.items():
            row = slice(0, n) if "pad:tokens" in feature.axes else slice(None)
            for other in (alone[name][0], graph_alone[name][0], merged[name][i][row]):
                assert np.abs(together[name][i][row] - other).max() < 2e-6, (name, n)


def test_hf_reads_a_folder(folder):
    ref = registry.resolve(str(folder))
    info = hf.plugin.describe(ref)
    assert ref.family == "hf"
    assert info.pretrained
    assert info.licence == "apache-2.0"
    assert info.processor == {"form": "tokens", "file": str(folder / "tokenizer.json"), "max_length": 30, "pad": 0, "prefix": "query: "}
    module = hf.plugin.build(ref)
    assert info.parameters == sum(p.numel() for p in module.parameters())  # without the pooler
    assert all(info.features[name].width == array.shape[-1] for name, array in answers(hf.plugin, module).items())
    assert np.allclose(np.linalg.norm(answers(hf.plugin, module)["mean"], axis=1), 1)


def test_hf_settings_win(folder):
    ref = Ref("", "hf", settings={"max_length": 12, "prefix": ""}, folder=folder)
    assert hf.plugin.describe(ref).processor["max_length"] == 12
    assert hf.plugin.describe(ref).processor["prefix"] == ""
    with pytest.raises(MainstemError, match="Did you mean 'max_length'"):
        hf.plugin.describe(Ref("", "hf", settings={"max_lenght": 12}, folder=folder))


def test_hf_equals_transformers(folder):
    from transformers import AutoModel

    module = hf.plugin.build(registry.resolve(str(folder))).eval()
    theirs = AutoModel.from_pretrained(folder).eval()
    with torch.no_grad():
        hidden = theirs(input_ids=torch.from_numpy(IDS), attention_mask=torch.from_numpy(MASK)).last_hidden_state.numpy()
    ours = answers(hf.plugin, module)
    assert np.abs(ours["sequence"] - hidden)[MASK == 1].max() < 1e-6
    mean = np.stack([hidden[i, :n].mean(0) for i, n in enumerate(LENGTHS)])
    assert np.abs(ours["mean"] - mean / np.linalg.norm(mean, axis=1, keepdims=True)).max() < 1e-6


@pytest.mark.parametrize("normalised", [True, False])
def test_hf_ignores_padding(folder, normalised):
    if not normalised:
        (folder / "modules.json").unlink()
    ref = registry.resolve(str(folder))
    check_padding(hf.plugin, hf.plugin.build(ref), hf.plugin.describe(ref))


def test_hf_links_what_nobody_changed(folder):
    ref = registry.resolve(str(folder))
    files = hf.plugin.save(hf.plugin.build(ref), ref)
    assert files["model.safetensors"] == folder / "model.safetensors"
    assert {"config.json", "tokenizer.json", "modules.json"} < set(files)


def test_hf_saves_what_was_trained(folder, tmp_path):
    from transformers import AutoModel

    ref = registry.resolve(str(folder))
    module = hf.plugin.build(ref).eval()
    module.encoder.layer[0].attention.self.query.weight.data.add_(0.1)
    again = write(hf.plugin.save(module, ref), tmp_path / "trained")
    loaded = hf.plugin.build(registry.resolve(str(again))).eval()
    assert np.array_equal(answers(hf.plugin, module)["mean"], answers(hf.plugin, loaded)["mean"])
    theirs = AutoModel.from_pretrained(again, add_pooling_layer=False)
    assert torch.equal(theirs.encoder.layer[0].attention.self.query.weight, module.encoder.layer[0].attention.self.query.weight)


def test_hf_saves_the_backbone_without_the_adapter(folder):
    from mainstem.nn import lora

    ref = registry.resolve(str(folder))
    module = lora.attach(hf.plugin.build(ref), hf.plugin.describe(ref).slots)
    assert hf.plugin.save(module, ref)["model.safetensors"] == folder / "model.safetensors"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"auto_map": {"AutoModel": "evil.Model"}}, "auto_map"),
        ({"_attn_implementation_internal": "someone/kernel"}, "_attn_implementation_internal"),
        ({"text_config": {"_attn_implementation_internal": "x/y"}}, "_attn_implementation_internal"),
        ({"attn_implementation": "someone/kernel"}, "attn_implementation"),
        ({"quantization_config": {"quant_method": "gptq"}}, "quantised"),
        ({"is_encoder_decoder": True}, "decoder"),
        ({"model_type": "never_heard_of"}, "never_heard_of"),
    ],
)
def test_hf_refuses(folder, change, message):
    (folder / "config.json").write_bytes(dump({**CONFIG, **change}))
    with pytest.raises(MainstemError, match=message):
        hf.plugin.build(Ref("", "hf", folder=folder))


def test_hf_tells_what_is_missing_or_torn(folder):
    ref = registry.resolve(str(folder))
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[:-10])
    with pytest.raises(MainstemError, match="cannot be read"):
        hf.plugin.build(ref)
    (folder / "config.json").write_bytes(dump({**CONFIG, "num_hidden_layers": 3}))
    (folder / "model.safetensors").write_bytes(data)
    with pytest.raises(MainstemError, match="tensors are missing"):
        hf.plugin.build(ref)
    (folder / "model.safetensors").write_bytes(data[:20])
    with pytest.raises(MainstemError, match="not a whole safetensors file"):
        hf.plugin.describe(ref)
    (folder / "model.safetensors").unlink()
    with pytest.raises(MainstemError, match=r"no model\.safetensors"):
        hf.plugin.describe(ref)
    (folder / "tokenizer.json").unlink()
    with pytest.raises(MainstemError, match=r"no tokenizer\.json"):
        hf.plugin.describe(ref)


def test_hf_asks_the_hub_for_names(folder, monkeypatch):
    import huggingface_hub

    asked = []
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda name, allow_patterns: asked.append((name, allow_patterns)) or folder)
    ref = registry.resolve("hf:org/name")
    assert answers(hf.plugin, hf.plugin.build(ref))["cls"].shape == (3, 16)
    assert asked[0][0] == "org/name"
    assert not [pattern for pattern in asked[0][1] if pattern.endswith((".bin", ".py", ".pt"))]


def test_hf_says_when_the_hub_is_out_of_reach(monkeypatch):
    import huggingface_hub

    def fail(*args, **kwargs):
        raise OSError("no route to host")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(MainstemError, match=r"hub did not give.*no route to host"):
        hf.plugin.describe(registry.resolve("hf:org/name"))


def test_encoder_is_built_from_a_config_without_a_pooler():
    assert not [name for name, _ in encoder.build(CONFIG).named_parameters() if "pooler" in name]


RECURRENT = ("rnn", "lstm", "gru")
VOCABULARY = State({"vocab_size": 20}, files={"tokenizer.json": b"{}"})


def recurrent(kind, **settings):
    torch.manual_seed(0)
    ref = Ref(kind, kind, settings={"dim": 6, "width": 5, **settings}, state=VOCABULARY)
    plugin = registry.load("backbones", kind).plugin
    return plugin, ref, plugin.build(ref)


@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize("kind", RECURRENT)
def test_recurrent_ignores_padding(kind, bidirectional):
    plugin, ref, module = recurrent(kind, layers=2, bidirectional=bidirectional)
    check_padding(plugin, module, plugin.describe(ref))


@pytest.mark.parametrize("kind", RECURRENT)
def test_recurrent_equals_torch_on_whole_rows(kind):
    """Of one length, our two directions are PyTorch's bidirectional network."""
    plugin, _, module = recurrent(kind)
    theirs = getattr(torch.nn, kind.upper())(6, 5, bidirectional=True, batch_first=True)
    for direction, suffix in zip(module.layers[0], ("", "_reverse"), strict=True):
        for name, weight in direction.kernel.named_parameters():
            getattr(theirs, name + suffix).data.copy_(weight)
    with torch.no_grad():
        output, state = theirs(module.embedding(torch.from_numpy(IDS)))
    features = answers(plugin, module.eval(), IDS, np.ones_like(IDS))
    assert np.abs(features["sequence"] - output.numpy()).max() < 1e-6
    hidden = state[0] if kind == "lstm" else state
    assert np.abs(features["last"] - torch.cat([hidden[0], hidden[1]], 1).numpy()).max() < 1e-6


@pytest.mark.parametrize("kind", RECURRENT)
def test_the_walk_without_dropout_equals_the_kernel(kind):
    direction = recurrent(kind)[2].layers[0][0]
    x = torch.randn(3, 7, 6, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        walked = direction.walk(x, torch.ones(3, 1, 6), torch.ones(3, 1, 5))
        assert float((walked - direction.kernel(x)[0]).abs().max()) < 1e-6


@pytest.mark.parametrize("kind", RECURRENT)
def test_dropout_is_one_mask_a_sequence_on_recurrent_connections_too(kind, monkeypatch):
    from mainstem.nn import recurrent as network

    plugin, _, module = recurrent(kind, dropout=0.5, layers=2)
    shapes, drawn = [], network.mask
    monkeypatch.setattr(network, "mask", lambda like, width, p: shapes.append((like.shape[0], width, p)) or drawn(like, width, p))
    features = plugin.forward(module.train(), {"ids": torch.from_numpy(IDS), "mask": torch.from_numpy(MASK)})
    layer = [(3, 6, 0.5), (3, 5, 0.5)] * 2, [(3, 10, 0.5), (3, 5, 0.5)] * 2  # input and state, of two directions
    assert shapes == [*layer[0], *layer[1], (3, 10, 0.5)]  # and the output
    zero = (features["sequence"] == 0).all(1)  # channels dropped in every step of a row
    assert zero.any()
    assert not zero.all()
    features["max"].sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in module.parameters())


@pytest.mark.parametrize("kind", RECURRENT)
def test_recurrent_saves_and_loads(kind, tmp_path):
    plugin, ref, module = recurrent(kind, pooling="last")
    again = registry.resolve(str(write(plugin.save(module, ref), tmp_path / "saved")))
    info = plugin.describe(again)
    assert again.family == kind
    assert info.pooled == "last"
    assert info.processor == {"form": "tokens", "file": str(tmp_path / "saved" / "tokenizer.json"), "max_length": 256}
    assert np.array_equal(answers(plugin, plugin.build(again).eval())["last"], answers(plugin, module.eval())["last"])


def test_from_scratch_a_vocabulary_is_trained():
    for name in ("lstm", "bert-tiny"):
        ref = registry.resolve(name)
        processor = registry.load("backbones", ref.family).plugin.describe(ref).processor
        assert processor["train"] == {"vocab_size": 8000}


@pytest.mark.parametrize(("name", "layers", "width"), [("bert-tiny", 2, 128), ("bert-small", 4, 256), ("bert", 2, 128)])
def test_bert_sizes(name, layers, width):
    ref = replace(registry.resolve(name), state=VOCABULARY)
    info, module = bert.plugin.describe(ref), bert.plugin.build(ref)
    assert len(module.encoder.layer) == layers
    assert info.features["mean"].width == width
    assert info.parameters == sum(p.numel() for p in module.parameters())


def test_bert_ignores_padding_and_is_saved_as_the_hub_keeps_it(tmp_path):
    ref = replace(registry.resolve("bert-tiny"), state=VOCABULARY)
    torch.manual_seed(0)
    module = bert.plugin.build(ref).eval()
    check_padding(bert.plugin, module, bert.plugin.describe(ref))
    saved = write(bert.plugin.save(module, ref), tmp_path / "saved")
    before = answers(bert.plugin, module)["mean"]
    for again in (replace(ref, folder=saved), registry.resolve(str(saved))):  # as `bert-tiny` of a model, and as hf:FOLDER
        plugin = registry.load("backbones", again.family).plugin
        assert np.array_equal(answers(plugin, plugin.build(again).eval())["mean"], before)
        assert plugin.describe(again).features["mean"].width == 128


def test_bert_of_no_size():
    with pytest.raises(MainstemError, match="bert of the size 'large'"):
        bert.plugin.describe(registry.resolve("bert-large"))


def bag():
    torch.manual_seed(0)
    return Ref("ngram", "ngram", settings={"buckets": 50, "dim": 4}), {
        "ids": torch.from_numpy(IDS * 2),
        "weights": torch.from_numpy(np.where(MASK, np.linspace(0.1, 1, 7), 0).astype(np.float32)),
    }


def test_ngram_is_the_weighted_sum_on_torch_and_on_its_graph(tmp_path):
    ref, arrays = bag()
    module = ngram.plugin.build(ref).eval()
    with torch.no_grad():
        mean = ngram.plugin.forward(module, arrays)["mean"].numpy()
        expected = torch.einsum("bt,btd->bd", arrays["weights"], module.table[arrays["ids"]]).numpy()
    assert np.abs(mean - expected).max() < 1e-6
    ngram.plugin.forward(module, arrays)["mean"].sum().backward()
    assert module.table.grad.is_sparse  # a step touches the rows of the batch alone
    as_numpy = {name: tensor.numpy() for name, tensor in arrays.items()}
    graph = exported(ngram.plugin, module, ngram.plugin.describe(ref), {name: a[:2, :3] for name, a in as_numpy.items()})
    assert np.abs(graph(as_numpy)["mean"] - mean).max() < 1e-6
    alone = {name: a[1:2, : LENGTHS[1]] for name, a in as_numpy.items()}
    assert np.abs(graph(alone)["mean"][0] - mean[1]).max() < 1e-6
    saved = write(ngram.plugin.save(module, ref), tmp_path / "saved")
    with torch.no_grad():
        loaded = ngram.plugin.build(registry.resolve(str(saved))).eval()
        assert np.array_equal(ngram.plugin.forward(loaded, arrays)["mean"].numpy(), mean)

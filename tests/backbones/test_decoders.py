"""gpt, and causal language models that hf: reads: what transformers makes of the same folder, likelihoods, tokens that begin and end."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from mainstem import registry
from mainstem.backbones import gpt, hf
from mainstem.contracts import Call, GraphSpec, Ref, State
from mainstem.errors import MainstemError
from mainstem.modalities.text import plugin as text
from mainstem.nn import decoder, encoder
from mainstem.runtimes import onnx
from mainstem.runtimes import torch as live
from mainstem.runtimes._calls import GraphRunner
from mainstem.tasks.generation import _ports
from mainstem.training.shipping import _example

SMALL = {"width": 32, "layers": 2, "heads": 4, "max_length": 24, "vocab_size": 270}
LLAMA = {
    "vocab_size": 300,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": [2, 3],
}
LENGTHS = (9, 4, 1)
IDS = np.random.default_rng(0).integers(4, 260, (3, 9))
MASK = (np.arange(9) < np.array(LENGTHS)[:, None]).astype(np.int64)
TENSORS = {"ids": torch.from_numpy(IDS), "mask": torch.from_numpy(MASK)}


def fitted(ref):
    processor = gpt.plugin.describe(ref).processor
    return processor, text.fit(processor, ["some text", "汉字", "some more text"])


@pytest.fixture
def made():
    """A small GPT with random weights: its reference and module."""
    torch.manual_seed(0)
    ref = Ref("gpt", "gpt", settings=SMALL)
    ref = replace(ref, state=fitted(ref)[1])
    return ref, gpt.plugin.build(ref).eval()


def write(files, folder):
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.read_bytes())
    return folder


@pytest.fixture(params=["gpt", "llama"])
def folder(request, made, tmp_path):
    """A folder as the hub keeps it, of our own family and of another one."""
    ref, module = made
    kept = write(gpt.plugin.save(module, ref), tmp_path / "gpt")
    if request.param == "gpt":
        return kept
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(**LLAMA)).save_pretrained(tmp_path / "llama")
    (tmp_path / "llama" / "tokenizer.json").write_bytes((kept / "tokenizer.json").read_bytes())
    return tmp_path / "llama"


def test_a_folder_answers_as_transformers_does(folder):
    from transformers import AutoModelForCausalLM

    plugin = hf.plugin
    module = plugin.build(registry.resolve(str(folder))).eval()
    theirs = AutoModelForCausalLM.from_pretrained(folder).eval()
    assert decoder.is_decoder(module)
    with torch.no_grad():
        features = plugin.forward(module, TENSORS)
        for i, n in enumerate(LENGTHS):
            hidden = theirs(TENSORS["ids"][i : i + 1, :n], output_hidden_states=True).hidden_states[-1][0]
            assert float((features["sequence"][i, :n] - hidden).abs().max()) < 1e-5
            assert float((features["last"][i] - hidden[-1]).abs().max()) < 1e-5


def test_a_trained_folder_is_saved_whole_and_an_untouched_one_as_links(folder, tmp_path):
    from transformers import AutoModelForCausalLM

    ref = registry.resolve(str(folder))
    module = hf.plugin.build(ref)
    assert hf.plugin.save(module, ref)["model.safetensors"] == folder / "model.safetensors"
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1)
    again = write(hf.plugin.save(module, ref), tmp_path / "again")
    theirs = AutoModelForCausalLM.from_pretrained(again)
    for (name, a), (_, b) in zip(module.state_dict().items(), theirs.state_dict().items(), strict=True):
        assert torch.equal(a, b), name


def test_describing_a_causal_folder(folder):
    info = hf.plugin.describe(registry.resolve(str(folder)))
    own = folder.name == "gpt"
    assert info.pooled == "last"
    assert info.processor["begin"] == (0 if own else 1)
    assert info.processor["end"] == ([0] if own else [2, 3])
    assert info.processor["max_length"] == (24 if own else 64)
    assert info.slots == (("c_attn",) if own else ("q_proj", "v_proj"))


def test_a_config_without_marks_is_told(folder):
    config = json.loads((folder / "config.json").read_bytes())
    (folder / "config.json").write_text(json.dumps({**config, "bos_token_id": None, "eos_token_id": None}))
    with pytest.raises(MainstemError, match="no token that begins or ends"):
        hf.plugin.describe(registry.resolve(str(folder)))


@pytest.mark.parametrize("size", ["gpt", "gpt-tiny", "gpt-small"])
def test_sizes(size):
    ref = replace(registry.resolve(size), state=State({"vocab_size": 300}))
    info = gpt.plugin.describe(ref)
    assert info.parameters == sum(p.numel() for p in gpt.plugin.build(ref).parameters())
    assert info.features["last"].width == (384 if size == "gpt-small" else 128)


def test_what_cannot_be_built_is_told():
    with pytest.raises(MainstemError, match="gpt of the size 'large'"):
        gpt.plugin.describe(registry.resolve("gpt-large"))
    with pytest.raises(MainstemError, match="30 cannot be parted among 4 heads"):
        gpt.plugin.describe(Ref("gpt", "gpt", settings={"width": 30, "heads": 4}))
    with pytest.raises(MainstemError, match="Did you mean 'layers'"):
        gpt.plugin.describe(Ref("gpt", "gpt", settings={"layer": 3}))


def test_every_text_begins_with_the_mark_and_is_cut_behind_it(made):
    ref, _ = made
    processor, state = fitted(ref)
    rows = text.tokens(["", "<|endoftext|>", "x" * 99], processor, state)
    assert rows[0] == [0]
    assert 0 not in rows[1][1:]  # what a user writes is no special token
    assert [row[0] for row in rows] == [0, 0, 0]
    assert len(rows[2]) == 24
    assert len(text.tokens(["x" * 99], {**processor, "max_length": 0}, state)[0]) == 100


def test_the_likelihood_is_that_of_the_marked_tokens_alone(made, monkeypatch):
    _, module = made
    learned = torch.from_numpy(MASK * (np.arange(9) > 0))
    learned[0, 1:4] = 0  # a prompt
    with torch.no_grad():
        nats, tokens = decoder.likelihood(module, TENSORS["ids"], learned)
        for i, n in enumerate(LENGTHS):
            logits = module(TENSORS["ids"][i : i + 1, :n]).logits[0].log_softmax(-1)
            places = range(4, 9) if i == 0 else range(1, n)
            assert float(nats[i]) == pytest.approx(-sum(float(logits[t - 1, IDS[i, t]]) for t in places), abs=1e-4)
        monkeypatch.setattr(decoder, "MOST_LOGITS", 1)  # a row at a time
        assert torch.allclose(decoder.likelihood(module, TENSORS["ids"], learned)[0], nats, atol=1e-4)
    assert tokens.tolist() == [5, 3, 0]


def test_parts_that_are_computed_again_have_the_same_gradients(made, monkeypatch):
    _, module = made
    learned = torch.from_numpy(MASK * (np.arange(9) > 0))  # the last row has nothing to learn

    def gradients():
        module.zero_grad()
        nats, tokens = decoder.likelihood(module, TENSORS["ids"], learned)
        (nats.sum() / tokens.sum()).backward()
        return nats, [parameter.grad.clone() for parameter in module.parameters()]

    nats, whole = gradients()
    assert float(nats[2].detach()) == 0
    monkeypatch.setattr(decoder, "MOST_LOGITS", 1)
    for a, b in zip(whole, gradients()[1], strict=True):
        assert torch.allclose(a, b, atol=1e-5)
    nats, tokens = decoder.likelihood(module, TENSORS["ids"], learned * 0)
    assert (nats.tolist(), tokens.tolist(), nats.requires_grad) == ([0.0] * 3, [0] * 3, True)


FAMILIES = {
    "gpt2": {"vocab_size": 300, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "bos_token_id": 0, "eos_token_id": 0},
    "llama": LLAMA,
    "gpt_neox": {**LLAMA, "eos_token_id": 2},
}


@pytest.mark.parametrize("family", FAMILIES)
def test_the_graph_with_a_cache_answers_as_the_whole_text_read_anew(family):
    """Rows of differing lengths together, then a token more for each, on PyTorch and on the exported graph."""
    torch.manual_seed(0)
    module = encoder.build({"model_type": family, **FAMILIES[family]}, causal=True).eval()
    made = decoder.Decoder(module)
    spec = GraphSpec(*_ports(made.sizes(), 300, 0), made)
    data = onnx.write(spec, _example(spec, {"ids": np.ones((1, 1), np.int64)}))  # as a last step of one row is traced
    graph = GraphRunner({"decoder": onnx.function(onnx.session(data))}, {"decoder": spec})
    lengths, new = np.array(LENGTHS), np.array([[5], [6], [7]])
    for runner in (live.runner({"decoder": spec}), graph):
        asked = {"ids": IDS, "mask": MASK, "at": lengths[:, None] - 1}
        first = runner(Call("decoder", asked, outputs=("logits",), keep=("past",)))
        kept = first["past"].take(np.array([2, 0, 1, 0]))
        rows = np.array([2, 0, 1, 0])
        step = {"ids": new[rows], "mask": np.ones((4, 1), int), "at": np.zeros((4, 1), int), "past": kept, "named": new[rows]}
        second = runner(Call("decoder", step))
        for i, n in enumerate(LENGTHS):
            with torch.no_grad():
                logits = module(torch.from_numpy(np.concatenate([IDS[i, :n], new[i]])[None])).logits[0]
            assert np.abs(first["logits"][i, 0] - logits[n - 1].numpy()).max() < 1e-5
            for place in np.flatnonzero(rows == i):
                assert np.abs(second["logits"][place, 0] - logits[n].numpy()).max() < 1e-5
                assert float(second["nats"][place, 0]) == pytest.approx(-float(logits[n].log_softmax(0)[new[i, 0]]), abs=1e-5)

"""LoRA in PEFT's file format, both ways."""

import copy

import peft
import pytest
import torch

from mainstem.errors import MainstemError
from mainstem.nn import encoder, lora

pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")  # peft asks transformers for it
CONFIG = {
    "model_type": "bert",
    "vocab_size": 50,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 32,
}
IDS = torch.tensor([[2, 5, 9, 3], [2, 7, 3, 0]])
MASK = (IDS != 0).long()


@pytest.fixture
def bert():
    torch.manual_seed(0)
    return encoder.build(CONFIG).eval()


def answer(module):
    with torch.no_grad():
        return module(input_ids=IDS, attention_mask=MASK).last_hidden_state


def adapted(module, **settings):
    """The module with an adapter that changes its answers."""
    lora.attach(module, ("query", "value"), **settings)
    generator = torch.Generator().manual_seed(1)
    for layer in lora.attached(module).values():
        layer.lora_B.weight.data.normal_(generator=generator)
    return module


def write(files, folder):
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def test_a_new_adapter_changes_nothing_and_alone_is_trained(bert):
    before, names = answer(bert), set(bert.state_dict())
    lora.attach(bert, ("query", "value"), rank=4, seed=3)
    assert torch.equal(answer(bert), before)
    assert sorted(lora.attached(bert)) == [f"encoder.layer.{i}.attention.self.{s}" for i in (0, 1) for s in ("query", "value")]
    trained = [name for name, p in bert.named_parameters() if p.requires_grad]
    assert len(trained) == 8
    assert all(".lora_" in name for name in trained)
    assert {name for name in bert.state_dict() if ".lora_" not in name} == names  # the family's own names


def test_the_seed_decides(bert):
    one, two, three = (lora.attach(copy.deepcopy(bert), ("query",), seed=s).state_dict() for s in (5, 5, 6))
    key = "encoder.layer.0.attention.self.query.lora_A.weight"
    assert torch.equal(one[key], two[key])
    assert not torch.equal(one[key], three[key])


def test_merged_equals_unmerged(bert):
    plain = answer(bert)
    separate = answer(adapted(bert, rank=4, alpha=8, dropout=0.5))
    merged = lora.merge(bert)
    assert not lora.attached(merged)
    assert not torch.allclose(separate, plain, atol=1e-2)
    assert torch.allclose(answer(merged), separate, atol=1e-5)


def test_dropout_is_for_training(bert):
    adapted(bert, rank=4, dropout=0.5)
    assert torch.equal(answer(bert), answer(bert))
    bert.encoder.layer[0].attention.self.query.train()
    assert not torch.equal(answer(bert), answer(bert))


def test_peft_reads_ours(bert, tmp_path):
    base = copy.deepcopy(bert)
    ours = answer(adapted(bert, rank=3, alpha=12))
    folder = write(lora.save(bert), tmp_path / "adapter")
    theirs = answer(peft.PeftModel.from_pretrained(base, folder))
    assert float((ours - theirs).abs().max()) <= 1e-5


@pytest.mark.parametrize("rslora", [False, True])
def test_we_read_pefts(bert, tmp_path, rslora):
    base = copy.deepcopy(bert)
    config = peft.LoraConfig(r=4, lora_alpha=6, target_modules=["key", "dense"], use_rslora=rslora, init_lora_weights=False)
    model = peft.get_peft_model(bert, config).eval()
    model.save_pretrained(tmp_path / "adapter")
    assert float((answer(model) - answer(lora.load(base, tmp_path / "adapter"))).abs().max()) <= 1e-5


def test_ours_again(bert, tmp_path):
    base = copy.deepcopy(bert)
    ours = answer(adapted(bert, rank=3, alpha=12))
    assert torch.equal(answer(lora.load(base, write(lora.save(bert), tmp_path / "adapter"))), ours)


def test_what_cannot_be_adapted_or_read_is_told(bert, tmp_path):
    with pytest.raises(MainstemError, match=r"no linear layer is named q_proj.*dense, key, query, value"):
        lora.attach(bert, ("q_proj",))
    files = lora.save(adapted(copy.deepcopy(bert)))
    with pytest.raises(MainstemError, match="another model"):
        lora.load(encoder.build({**CONFIG, "hidden_size": 8}), write(files, tmp_path / "other"))
    dora = {**files, lora.CONFIG: files[lora.CONFIG].replace(b'"use_dora": false', b'"use_dora": true')}
    with pytest.raises(MainstemError, match="use_dora"):
        lora.load(bert, write(dora, tmp_path / "dora"))
    with pytest.raises(MainstemError, match="cannot be read"):
        lora.load(bert, write({**files, lora.WEIGHTS: b"torn"}, tmp_path / "torn"))
    with pytest.raises(MainstemError, match=r"no adapter_config\.json"):
        lora.load(bert, write({}, tmp_path / "empty"))


# --- layers that lie transposed -----------------------------------------------------------------------------------------

GPT2 = {"model_type": "gpt2", "vocab_size": 50, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 32}


@pytest.fixture
def gpt():
    torch.manual_seed(0)
    return encoder.build(GPT2, causal=True).eval()


def logits(module):
    with torch.no_grad():
        return module(input_ids=IDS).logits


def test_gpt2s_own_layers_are_adapted_saved_read_and_merged(gpt, tmp_path):
    base, again, names = copy.deepcopy(gpt), copy.deepcopy(gpt), set(gpt.state_dict())
    before = logits(gpt)
    lora.attach(gpt, ("c_attn",), rank=3, alpha=12)
    assert torch.allclose(logits(gpt), before, atol=1e-6)
    assert {name for name in gpt.state_dict() if ".lora_" not in name} == names
    for layer in lora.attached(gpt).values():
        torch.nn.init.normal_(layer.lora_B.weight, generator=torch.Generator().manual_seed(1))
    ours = logits(gpt)
    assert not torch.allclose(ours, before, atol=1e-2)
    folder = write(lora.save(gpt), tmp_path / "adapter")
    assert float((ours - logits(peft.PeftModel.from_pretrained(base, folder))).abs().max()) <= 1e-5
    assert torch.equal(logits(lora.load(again, folder)), ours)
    merged = lora.merge(gpt)
    assert not lora.attached(merged)
    assert torch.allclose(logits(merged), ours, atol=1e-5)

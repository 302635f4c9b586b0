"""mlm and clm: what is masked, what is packed, how words are told, what the backbone is afterwards."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from mainstem import registry
from mainstem.contracts import Material, Ref, State
from mainstem.errors import MainstemError
from mainstem.objectives import clm, mlm
from mainstem.objectives._tokenizer import begins_of
from mainstem.training.loop import tensors

NETWORK = {"width": 32, "heads": 2, "layers": 1, "vocab_size": 600, "max_length": 24}
WORDS = "the quick brown foxes jumped lazily over seventeen sleeping dogs near riverbanks yesterday 中文也是普通的输入内容".split()
DRAWN = np.random.default_rng(0)
TEXTS = [" ".join(DRAWN.choice(WORDS, 5 + i % 40)) for i in range(300)]


@pytest.fixture(scope="module")
def material(tmp_path_factory):
    folder = tmp_path_factory.mktemp("texts")
    (folder / "texts.jsonl").write_text("".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in TEXTS))
    return Material(str(folder / "texts.jsonl"), folder=folder / "run", backbone=Ref("bert", "bert", settings=NETWORK))


@pytest.fixture(scope="module")
def masked(material):
    return opened(mlm.plugin, material, held_out=0.2)


@pytest.fixture(scope="module")
def causal(material):
    return opened(clm.plugin, replace(material, folder=material.folder / "clm", backbone=Ref("gpt", "gpt", settings=NETWORK)), held_out=0.2)


def opened(plugin, material, **settings):
    objective = plugin(settings)
    objective.open(material)
    return objective


def test_masks_hide_whole_words_at_the_share_asked_for(masked):
    stream = masked.stream(10)
    hidden = shown = replaced = total = words = chosen_words = 0
    for indices in np.array_split(np.arange(stream.rows), 10):
        batch = stream.take(indices, np.random.default_rng(int(indices[0])))
        ids, wanted = batch.inputs["text"]["ids"], batch.target["wanted"]
        for row, (window, begins) in enumerate(stream.tokens.take(indices)):
            inside = slice(1, 1 + len(window))  # between [CLS] and [SEP]
            chosen = wanted[row, inside] >= 0
            assert chosen.any()
            assert np.array_equal(wanted[row, inside][chosen], window[chosen])
            assert np.array_equal(ids[row, inside][~chosen], window[~chosen])
            word = np.cumsum(begins | (np.arange(len(window)) == 0))
            assert all(len(set(chosen[word == w])) == 1 for w in set(word))
            words, chosen_words = words + word.max(), chosen_words + len(set(word[chosen]))
            total += chosen.sum()
            hidden += (ids[row, inside][chosen] == masked.mask).sum()
            shown += (ids[row, inside][chosen] == window[chosen]).sum()
        replaced = total - hidden - shown
        assert (wanted >= 0).sum() == masked.size(tensors(batch))
        assert not np.isin(ids[wanted < 0], masked.mask).any()
    assert 0.15 < chosen_words / words < 0.2  # a little more than the share: at least one a row
    for part, share in ((hidden, 0.8), (replaced, 0.1), (shown, 0.1)):
        assert abs(part / total - share) < 0.04


def test_a_window_is_one_text_between_the_tokens_of_the_tokenizer(masked, material):
    tokenizer = Tokenizer.from_file(str(material.folder / "tokenizer.json"))
    batch = masked.stream(10).take(np.arange(40), np.random.default_rng(0))
    ids, mask, wanted = batch.inputs["text"]["ids"], batch.inputs["text"]["mask"], batch.target["wanted"]
    whole = np.where(wanted >= 0, wanted, ids)
    texts = {text for text in TEXTS}
    for row in range(len(ids)):
        real = whole[row][mask[row] > 0]
        assert (real[0], real[-1]) == (tokenizer.token_to_id("[CLS]"), tokenizer.token_to_id("[SEP]"))
        assert len(real) <= 24
        assert (whole[row][mask[row] == 0] == masked.pad).all()
        text = tokenizer.decode(real.tolist())
        assert any(text.strip() in known for known in texts)


def test_what_is_held_out_is_masked_the_same_whatever_the_batch(masked):
    held_out = masked.held_out()
    together = held_out.take(np.arange(8))
    alone = held_out.take(np.array([5]))
    n = int(alone.inputs["text"]["mask"].sum())
    assert np.array_equal(together.inputs["text"]["ids"][5, :n], alone.inputs["text"]["ids"][0, :n])
    assert np.array_equal(together.target["wanted"][5, :n], alone.target["wanted"][0, :n])


def test_no_text_is_on_both_sides(masked):
    sides = [{tuple(ids) for ids, _ in tokens.take(np.arange(len(tokens))) if len(ids) > 4} for tokens in (masked.train, masked.looked_at)]
    assert not sides[0] & sides[1]


def test_every_token_is_predicted_once_from_those_before_it(causal):
    stream, predicted, everything = causal.stream(10), [], []
    for i in range(stream.rows):
        batch = stream.take(np.array([i]))
        ids, learned = batch.inputs["text"]["ids"][0], batch.target["learned"][0]
        predicted += ids[learned > 0].tolist()
        everything += stream.tokens.take(np.array([i]))[0][0].tolist()
    assert predicted == everything[1:]
    assert everything.count(causal.end(causal.info)) == stream.tokens.counts["texts"]


def test_the_loss_of_an_untrained_network_is_that_of_a_guess(masked, causal):
    for objective in (masked, causal):
        torch.manual_seed(0)
        networks = objective.networks({}, State(), {})
        networks["backbone"].eval()
        batch = tensors(objective.held_out().take(np.arange(8)))
        loss = float(objective.loss(objective.forward(networks, batch), batch).detach())
        vocabulary = objective.tokenizer.get_vocab_size()
        assert abs(loss - np.log(vocabulary)) < 0.3
        figures = objective.figures(np.log(2.0))
        counts = objective.looked_at.counts
        assert figures["perplexity"] == pytest.approx(2)
        assert figures["bits_per_byte"] == pytest.approx(counts["tokens"] / counts["bytes"])


def test_heads_that_are_not_apart_give_the_same_loss(masked):
    from mainstem.nn import masked as network

    module = masked.networks({}, State(), {})["backbone"].eval()
    batch = tensors(masked.held_out().take(np.arange(4)))
    arrays = (batch.inputs["text"]["ids"], batch.inputs["text"]["mask"], batch.target["wanted"])

    class Whole:
        config = module.config

        def __call__(self, **inputs):
            return module(**inputs)

    with torch.no_grad():
        torch.testing.assert_close(network.nats(Whole(), *arrays), network.nats(module, *arrays))


def test_words_of_pieces_and_of_characters():
    pieces = Tokenizer(models.WordPiece({w: i for i, w in enumerate(["[UNK]", "play", "##ing", "##ed", "中", "文"])}, unk_token="[UNK]"))
    pieces.normalizer = normalizers.BertNormalizer()
    pieces.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    assert begins_of(pieces.encode("playing played 中文"), "playing played 中文").tolist() == [True, False, True, False, True, True]
    characters = Tokenizer(models.WordLevel({"中": 0, "文": 1, "x": 2, "y": 3}, unk_token="x"))
    characters.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    assert begins_of(characters.encode("中文"), "中文").tolist() == [True, True]


@pytest.mark.parametrize("name", ["bert", "gpt"])
def test_the_backbone_is_loaded_by_transformers_and_by_hf(masked, causal, tmp_path, name):
    from transformers import AutoModel, AutoModelForCausalLM, AutoModelForMaskedLM, AutoTokenizer, logging

    logging.set_verbosity_error()
    objective = {"bert": masked, "gpt": causal}[name]
    networks = objective.networks({}, State(), {})
    for file, content in objective.artifact(networks).items():
        (tmp_path / file).write_bytes(content)
    tokenizer, base = AutoTokenizer.from_pretrained(tmp_path), AutoModel.from_pretrained(tmp_path).eval()
    own = registry.resolve(str(tmp_path))
    module = registry.load("backbones", own.family).plugin.build(own).eval()
    for text in ("中文 caf\u00e9.", "foxes [MASK]"):
        ids = tokenizer(text, return_tensors="pt").input_ids
        assert ids[0].tolist() == Tokenizer.from_file(str(tmp_path / "tokenizer.json")).encode(text).ids
        plugin = registry.load("backbones", own.family).plugin
        with torch.no_grad():
            ours = plugin.forward(module, {"ids": ids, "mask": torch.ones_like(ids)})["sequence"]
            torch.testing.assert_close(ours, base(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state)
    whole = (AutoModelForMaskedLM if name == "bert" else AutoModelForCausalLM).from_pretrained(tmp_path)
    for key, tensor in networks["backbone"].state_dict().items():
        assert torch.equal(whole.state_dict()[key], tensor), key
    assert tokenizer.pad_token_id == objective.pad
    assert name == "gpt" or tokenizer.mask_token_id == objective.mask


def brought(folder, mask=True):
    """A tiny WordPiece BERT without a head, as the hub keeps one."""
    from safetensors.torch import save
    from transformers import BertConfig, BertModel

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *(["[MASK]"] if mask else []), "the", "quick", "fox", "##es", "dog", "##s", "over"]
    tokenizer = Tokenizer(models.WordPiece({w: i for i, w in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.add_special_tokens([w for w in words if w.startswith("[")])
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    config = {"model_type": "bert", "vocab_size": len(words), "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config |= {"intermediate_size": 24, "max_position_embeddings": 40, "pad_token_id": 0, "architectures": ["BertModel"]}
    torch.manual_seed(3)
    module = BertModel(BertConfig(**config))
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_text(tokenizer.to_str())
    (folder / "model.safetensors").write_bytes(save({k: v.contiguous() for k, v in module.state_dict().items()}, metadata={"format": "pt"}))
    return folder, module


def test_going_on_takes_the_weights_and_the_tokenizer_that_were_brought(material, tmp_path):
    folder, module = brought(tmp_path / "brought")
    objective = opened(mlm.plugin, replace(material, folder=tmp_path / "run", backbone=registry.resolve(f"hf:{folder}")), held_out=0.2)
    assert objective.training(pretrained=True)["lr"] < objective.training(pretrained=False)["lr"]
    network = objective.networks({}, State(), {})["backbone"]
    for key, tensor in network.bert.state_dict().items():
        assert torch.equal(tensor, module.state_dict()[key]), key
    too_long = opened(
        mlm.plugin, replace(material, folder=tmp_path / "long", backbone=registry.resolve(f"hf:{folder}")), held_out=0.2, length=41
    )
    with pytest.raises(MainstemError, match="which takes 40"):
        too_long.networks({}, State(), {})
    saved = objective.artifact({"backbone": network})
    assert "tokenizer_config.json" not in saved
    assert saved["tokenizer.json"] == (folder / "tokenizer.json").read_bytes()
    assert not (tmp_path / "run" / "tokenizer.json").exists()


def test_what_does_not_go_together_is_told(material, tmp_path):
    folder, _ = brought(tmp_path / "brought", mask=False)
    cases = [
        (mlm.plugin, registry.resolve(f"hf:{folder}"), "no token that masks"),
        (mlm.plugin, Ref("gpt", "gpt", settings=NETWORK), "no token that masks"),
        (mlm.plugin, Ref("gru", "gru", settings={"vocab_size": 300}), "predicts no masked tokens"),
        (clm.plugin, Ref("bert", "bert", settings=NETWORK), "both sides"),
        (mlm.plugin, Ref("mlp", "mlp"), "reads no tokens"),
        (mlm.plugin, None, "--backbone bert"),
    ]
    for number, (plugin, ref, message) in enumerate(cases):
        with pytest.raises(MainstemError, match=message):
            opened(plugin, replace(material, folder=tmp_path / str(number), backbone=ref), held_out=0.2).networks({}, State(), {})
    for settings, message in (
        ({"lenght": 3}, "Did you mean 'length'"),
        ({"length": "x"}, "no number"),
        ({"length": 2}, "hold no text"),
        ({"length": 25}, "max_length=25"),
    ):
        with pytest.raises(MainstemError, match=message):
            opened(mlm.plugin, replace(material, folder=tmp_path / "s"), held_out=0.2, **settings)

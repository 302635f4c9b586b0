"""A backbone alone as a model: exported, sealed, and answering with its features."""

import numpy as np
import pytest

import mainstem as ms
from mainstem import api, artifact
from mainstem.errors import MainstemError

TEXTS = ["some words", "一些词 and words", "a rather longer text of many words, with a comma"]


def test_its_answers_are_the_features_of_transformers(embedder, encoder_folder):
    import torch
    from tokenizers import Tokenizer
    from transformers import AutoModel

    network, tokenizer = AutoModel.from_pretrained(encoder_folder).eval(), Tokenizer.from_file(str(encoder_folder / "tokenizer.json"))
    for text, answer in zip(TEXTS, embedder.predict(TEXTS), strict=True):
        ids = tokenizer.encode(text).ids
        with torch.no_grad():
            hidden = network(input_ids=torch.tensor([ids])).last_hidden_state[0].numpy()
        mean = hidden.mean(0)
        assert answer["prediction"] == pytest.approx(mean / np.linalg.norm(mean), abs=1e-5)
        assert answer["tokens"] == len(ids)
    assert len(embedder.predict([""])[0]["prediction"]) == 16


def test_it_is_sealed_like_any_model(embedder):
    told = embedder.verify()
    assert told["worst"]["encode"] == 0
    assert "apache-2.0" in (embedder.path / "card.md").read_text()
    assert "| metric" not in (embedder.path / "card.md").read_text()


def test_its_backbone_is_that_of_a_model_with_a_head(embedder, encoder_folder, tmp_path):
    """Equal ids: a server holds it once."""
    rows = [{"text": f"{word} {i}", "y": word} for i in range(20) for word in ("words", "text")]
    training = {"epochs": 1}
    run = ms.train(rows, "y", inputs=["text"], backbone=f"hf:{encoder_folder}", adapt="probe", out=tmp_path / "run", training=training)
    graphs = [artifact.read(artifact.find(path)).graphs for path in (run.path, embedder.path)]
    assert graphs[0]["backbone.text"].weights_id == graphs[1]["backbone.text"].weights_id


def test_length_is_an_option(embedder):
    plain = embedder.predict(TEXTS, options={"normalize": False})
    lengths = [np.linalg.norm(answer["prediction"]) for answer in plain]
    assert min(abs(length - 1) for length in lengths) > 0.01
    for answer, length, unit in zip(plain, lengths, embedder.predict(TEXTS), strict=True):
        assert np.array(answer["prediction"]) / length == pytest.approx(np.array(unit["prediction"]), abs=1e-6)


@pytest.mark.parametrize(
    ("reference", "part"),
    [
        ("hf:", "lacks what follows"),
        ("mlp:x", "'mlp:x' reads table"),
        ("trees:x", "has no features"),
        ("vit:tiny", "learned nothing yet"),
        ("hf:.", "missing or is not JSON"),
    ],
)
def test_what_cannot_be_embedded_is_one_sentence(reference, part, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(MainstemError, match=part):
        api.export(reference, tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_it_is_not_trained(tmp_path):
    with pytest.raises(MainstemError, match=r"not trained|mainstem export BACKBONE"):
        ms.train([{"text": f"word {i}"} for i in range(20)], task="embedding", backbone="ngram", out=tmp_path / "run")

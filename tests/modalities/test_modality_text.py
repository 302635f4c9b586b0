"""Texts: n-grams that do not depend on the batch, and tokenizers that do not take special tokens from users."""

import hashlib
import subprocess
import sys
import time
from decimal import Decimal

import numpy as np
import pytest

from mainstem.errors import MainstemError
from mainstem.modalities import text

plugin = text.plugin
TEXTS = ["The cat sat on the mat.", "我喜欢这部电影，很好看！", None, "Straße ＡＢＣ １２", "a", "  the   CAT  "]


def vectors(texts, settings, state):
    """Dense [n, buckets] of the encoded texts."""
    arrays, _ = plugin.encode(texts, settings, state)
    dense = np.zeros((len(texts), state.json["buckets"]), np.float32)
    np.add.at(dense, (np.arange(len(texts))[:, None], arrays["ids"]), arrays["weights"])
    return dense


def test_parse():
    assert plugin.parse("a\tb ", {}) == "a\tb "
    assert plugin.parse(3.0, {}) == "3"
    assert plugin.parse(Decimal("2.5"), {}) == "2.5"
    assert plugin.parse(" N/A ", {}) is None
    assert type(plugin.parse(np.str_("x"), {})) is str
    for raw in ("\ud800", b"x", ["x"]):
        with pytest.raises(MainstemError):
            plugin.parse(raw, {})


def test_ngrams_of_one_text_do_not_depend_on_the_batch():
    state = plugin.fit({}, TEXTS)
    arrays, _ = plugin.encode(TEXTS, {}, state)
    assert arrays["ids"].dtype == np.int64
    assert arrays["weights"].dtype == np.float32
    for row, value in enumerate(TEXTS):
        alone, _ = plugin.encode([value], {}, state)
        width = int((alone["ids"] > 0).sum())
        assert (arrays["ids"][row, :width] == alone["ids"][0, :width]).all()
        assert (arrays["weights"][row, :width] == alone["weights"][0, :width]).all()
        assert not arrays["ids"][row, width:].any()
        assert not arrays["weights"][row, width:].any()
    assert np.linalg.norm(arrays["weights"], axis=1) == pytest.approx([1, 1, 0, 1, 1, 1], abs=1e-5)


def test_ngrams_are_those_that_the_page_says():
    """Every n-gram by hand, in the plain way; a hash of 64 bits into 2**20 buckets keeps them apart here."""
    settings = {"buckets": 1 << 20, "word_max": 2, "char_min": 2, "char_max": 3, "cjk_max": 2, "idf": False}
    value = "ab cd, 电影x"
    words = ["ab", "cd", "x", "ab cd", "cd x"]
    characters = {f" {w} "[i : i + n] for w in ("ab", "cd,") for n in (2, 3) for i in range(len(w) + 3 - n)}
    characters |= {" x", "x "} - {" x"}  # in the stretch 电影x the sign before x is no space
    cjk = {"电", "影", " 电", "电影", "影x"}
    arrays, _ = plugin.encode([value], settings, plugin.fit(settings, [value]))
    assert (arrays["ids"] > 0).sum() == len(words) + len(characters) + len(cjk)


def test_case_width_and_space_do_not_matter_and_words_do():
    settings = {"char_max": 0, "cjk_max": 0}
    state = plugin.fit(settings, ["the cat", "ａｂｃ", "dog"])
    dense = vectors(["the cat", " THE\n cat", "ABC", "ａｂｃ", "cat the", "unseen"], settings, state)
    assert (dense[0] == dense[1]).all()
    assert (dense[2] == dense[3]).all()
    assert dense[2].any()
    assert 0 < dense[0] @ dense[4] < 0.99  # the same words in another order: another pair of words
    assert not dense[5].any()  # never seen: left out


def test_weights_follow_the_formula():
    settings = {"char_max": 0, "cjk_max": 0, "word_max": 1}
    state = plugin.fit(settings, ["x", "x y", "x z"])
    weights = plugin.encode(["x x y"], settings, state)[0]["weights"][0]
    x, y = np.log1p(2) * (np.log(4 / 4) + 1), np.log1p(1) * (np.log(4 / 2) + 1)
    assert sorted(weights) == pytest.approx(sorted(np.array([x, y]) / np.hypot(x, y)), abs=1e-6)
    mean = plugin.encode(["x x y"], {**settings, "norm": "mean"}, state)[0]["weights"][0]
    assert mean.sum() == pytest.approx(1)


def test_rare_ones_are_dropped_and_the_heaviest_kept():
    settings = {"char_max": 0, "cjk_max": 0, "word_max": 1, "min_df": 2}
    state = plugin.fit(settings, ["x y", "x z"])
    assert (plugin.encode(["x y z"], settings, state)[0]["ids"] > 0).sum() == 1
    settings = {"char_max": 0, "cjk_max": 0, "word_max": 1}
    state = plugin.fit(settings, ["x rare", "x y", "x y"])
    full, cut = (plugin.encode(["x y rare", "x"], {**settings, "most": most}, state)[0] for most in (4096, 1))
    assert cut["ids"].shape == (2, 1)
    assert cut["ids"][0, 0] == full["ids"][0, full["weights"][0].argmax()]
    assert cut["ids"][1, 0] == full["ids"][1, 0]


def test_hashes_are_the_same_in_every_process():
    code = (
        "import hashlib; from mainstem.modalities.text import plugin as p; t = ['The cat, 电影']; "
        "print(hashlib.sha256(p.encode(t, {}, p.fit({}, t))[0]['ids'].tobytes()).hexdigest())"
    )
    values = ["The cat, 电影"]
    here = hashlib.sha256(plugin.encode(values, {}, plugin.fit({}, values))[0]["ids"].tobytes()).hexdigest()
    there = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": "5"})
    assert there.stdout.strip() == here


def test_ngrams_are_fast():
    texts = [" ".join(f"w{(i * 31 + j * j) % 5000}" for j in range(70))[:400] for i in range(1000)]
    state = plugin.fit({}, texts)
    start = time.process_time()
    plugin.encode(texts, {}, state)
    assert time.process_time() - start < 2  # ten times the usual, for a busy machine


TOKENS = {"form": "tokens", "train": {"vocab_size": 400}, "max_length": 12}
CORPUS = [f"the cat number {i} sat on mat {i % 13}, 第{i}章" for i in range(200)]


def test_tokens_pad_cut_and_decode():
    state = plugin.fit(TOKENS, CORPUS)
    arrays, meta = plugin.encode(["the cat", None, "the cat " * 50], TOKENS, state)
    assert arrays["ids"].dtype == arrays["mask"].dtype == np.int64
    assert arrays["ids"].shape == (3, 12)
    assert arrays["mask"].sum(axis=1).tolist()[1:] == [2, 12]
    assert arrays["ids"][2, 0] == arrays["ids"][0, 0]
    assert arrays["ids"][2, -1] == arrays["ids"][1, 1]  # the end mark stays when a text is cut
    assert (arrays["ids"][1, 2:] == state.json["pad"]).all()
    assert plugin.decode(arrays, meta, TOKENS, state)[0] == "the cat"
    assert state.json["vocab_size"] == 400


def test_a_users_special_tokens_are_plain_text():
    state = plugin.fit(TOKENS, CORPUS)
    ids = plugin.encode(["[SEP] [PAD]"], {**TOKENS, "max_length": 64}, state)[0]["ids"][0]
    assert (ids < 4).sum() == 2  # the marks of start and end alone


def test_training_a_tokenizer_is_repeatable_and_a_file_is_taken_as_it_is(tmp_path):
    first, second = (plugin.fit(TOKENS, CORPUS) for _ in range(2))
    assert first.files == second.files
    path = tmp_path / "tokenizer.json"
    path.write_bytes(first.files["tokenizer.json"])
    brought = plugin.fit({"form": "tokens", "file": str(path)}, [])
    assert brought.files == first.files
    assert brought.json == first.json
    plain, prefixed = ({"form": "tokens", "prefix": p} for p in ("", "query: "))
    a, b = plugin.encode(["query: cat"], plain, brought)[0], plugin.encode(["cat"], prefixed, brought)[0]
    assert a["ids"].tolist() == b["ids"].tolist()


def test_tokenizers_that_cannot_be_read(tmp_path):
    path = tmp_path / "tokenizer.json"
    for content in (b"{}", b"\xff", None):
        path.unlink(missing_ok=True) if content is None else path.write_bytes(content)
        with pytest.raises(MainstemError, match="no readable tokenizer"):
            plugin.fit({"form": "tokens", "file": str(path)}, [])


def test_a_vocabulary_with_one_special_token_and_texts_that_begin_with_it():
    settings = {"form": "tokens", "train": {"vocab_size": 280, "end": "<|endoftext|>"}, "begin": 0, "max_length": 5}
    state = plugin.fit(settings, ["some text", "汉字", None])
    assert (state.json["vocab_size"] <= 280, state.json["pad"]) == (True, 0)
    arrays, _ = plugin.encode(["", "some text and more", "<|endoftext|>"], settings, state)
    assert arrays["ids"][:, 0].tolist() == [0, 0, 0]
    assert arrays["mask"].sum(1).tolist() == [1, 5, 5]
    assert 0 not in arrays["ids"][2, 1:]  # what a user writes is no special token
    whole = plugin.tokens(["汉字 text"], {**settings, "max_length": 0}, state)[0]
    assert plugin.untokenize(whole, settings, state) == "汉字 text"


def test_a_plain_text_has_no_arrays():
    state = plugin.fit({"form": "plain"}, ["a"])
    assert (dict(state.json), plugin.encode(["a", None], {"form": "plain"}, state)) == ({}, ({}, {}))
    with pytest.raises(TypeError, match="only tokens"):
        plugin.decode({}, {}, {"form": "plain"}, state)

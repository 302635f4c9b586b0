"""Token files: every text once, on its side of the split; windows; killed and gone on with; other data refused."""

from dataclasses import replace

import numpy as np
import pytest

from mainstem import files
from mainstem.data import tokens
from mainstem.data.texts import Texts
from mainstem.data.tokens import Recipe, Tokens, is_held_out
from mainstem.errors import MainstemError

TEXTS = [" ".join(f"w{(i * 7 + j) % 90}" for j in range(1 + i % 23)) for i in range(400)]
RECIPE = Recipe(tokenizer="x", vocabulary=100, length=8, held_out=0.2)


def tokenise(texts):
    return [(np.array([int(word[1:]) for word in text.split()]), np.arange(len(text.split())) % 3 == 0) for text in texts]


@pytest.fixture
def source(tmp_path):
    (tmp_path / "texts.txt").write_text("".join(f"{text}\n" for text in TEXTS))
    return Texts(tmp_path / "texts.txt")


def written(source, folder, recipe=RECIPE, **more):
    tokens.write(source, tokenise, folder, recipe, **more)
    return Tokens(folder, "train"), Tokens(folder, "held_out")


def texts_of(part, recipe=RECIPE):
    return [ids for ids, _ in part.take(np.arange(len(part)))]


@pytest.mark.parametrize("small", [False, True])
def test_every_text_is_there_once_in_windows_of_like_length(source, tmp_path, monkeypatch, small):
    if small:  # many shards
        monkeypatch.setattr(tokens, "_TOKENS", 200)
        monkeypatch.setattr(tokens, "_ROWS", 10)
    parts = dict(zip(("train", "held_out"), written(source, tmp_path / "tokens"), strict=True))
    assert len(list((tmp_path / "tokens").glob("0*"))) == (20 if small else 1)
    for name, part in parts.items():
        wanted = [ids for text, (ids, _) in zip(TEXTS, tokenise(TEXTS), strict=True) if is_held_out(text, 0.2) == (name == "held_out")]
        taken = part.take(np.arange(len(part)))
        assert np.array_equal(np.concatenate([ids for ids, _ in taken]), np.concatenate(wanted))
        assert [len(ids) for ids, _ in taken] == part.lengths[np.arange(len(part))].tolist()
        assert max(len(ids) for ids, _ in taken) <= 8
        assert len(part) == sum(-(-len(ids) // 8) for ids in wanted)
        assert part.counts["texts"] == len(wanted)
    assert np.array_equal(parts["train"].take(np.array([3, 0]))[1][0], parts["train"].take(np.array([0]))[0][0])


def test_marks_of_words_are_kept_apart_from_ids(source, tmp_path):
    train, _ = written(source, tmp_path / "tokens")
    first = next(text for text in TEXTS if not is_held_out(text, 0.2) and len(text.split()) == 8)
    ids, begins = tokenise([first])[0]
    found = next((i, b) for i, b in train.take(np.arange(len(train))) if np.array_equal(i, ids))
    assert np.array_equal(found[1], begins)


def test_packed_texts_run_on_through_full_windows_with_an_end_after_each(source, tmp_path):
    recipe = replace(RECIPE, end=99)
    train, _ = written(source, tmp_path / "tokens", recipe)
    stream = [ids for text, (ids, _) in zip(TEXTS, tokenise(TEXTS), strict=True) if not is_held_out(text, 0.2)]
    stream = np.concatenate([np.append(ids, 99) for ids in stream])
    windows = [ids for ids, _ in train.take(np.arange(len(train)))]
    assert {len(ids) for ids in windows[:-1]} == {8}
    assert np.array_equal(np.concatenate(windows), stream)
    longer = [ids for ids, _ in train.take(np.arange(len(train) - 1), more=1)]
    assert all(np.array_equal(ids, stream[8 * i : 8 * i + 9]) for i, ids in enumerate(longer))


def test_large_vocabularies_have_room_for_the_mark(source, tmp_path):
    recipe = replace(RECIPE, vocabulary=1 << 15 | 1)
    train, _ = written(source, tmp_path / "tokens", recipe)
    assert recipe.dtype == np.uint32
    assert max(ids.max() for ids in texts_of(train)) < 90


@pytest.mark.parametrize("damage", [False, True])
def test_a_stopped_writer_goes_on_after_its_last_whole_shard(source, tmp_path, monkeypatch, damage):
    monkeypatch.setattr(tokens, "_TOKENS", 200)
    monkeypatch.setattr(tokens, "_ROWS", 10)
    whole = written(source, tmp_path / "whole")
    asked = []

    def stopped():
        asked.append(1)
        return len(asked) > 15

    with pytest.raises(KeyboardInterrupt):
        written(source, tmp_path / "cut", stopped=stopped)
    before = sorted(p.name for p in (tmp_path / "cut").iterdir())
    assert "index.json" not in before
    assert len(before) > 3
    with pytest.raises(MainstemError, match="not whole"):
        Tokens(tmp_path / "cut", "train")
    if damage:
        (tmp_path / "cut" / "00001" / "train.tokens").write_bytes(b"x")
    seen = []
    monkeypatch.setattr(Texts, "read", lambda self, *at, read=Texts.read: seen.append(at) or read(self, *at))
    for a, b in zip(whole, written(source, tmp_path / "cut"), strict=True):
        assert all(np.array_equal(x, y) for x, y in zip(texts_of(a), texts_of(b), strict=True))
    assert seen == [(0, 20 if damage else 140)]
    assert not files.broken(tmp_path / "cut" / "00001")


def test_other_data_is_refused(source, tmp_path):
    written(source, tmp_path / "tokens")
    with pytest.raises(MainstemError, match="data differs"):
        written(source, tmp_path / "tokens", replace(RECIPE, length=9))


def test_copies_of_a_text_stand_on_one_side():
    copies = [("A text, twice.", "a  TEXT, twice. "), ("中文 文本", "中文  文本")]
    assert all(is_held_out(a, share) == is_held_out(b, share) for a, b in copies for share in np.linspace(0, 1, 50))
    assert abs(np.mean([is_held_out(text, 0.3) for text in map(str, range(3000))]) - 0.3) < 0.03


def test_nothing_held_out_or_nothing_to_learn_is_told(source, tmp_path):
    with pytest.raises(MainstemError, match=r"none of the 400 texts is held out.*held_out=0\.1"):
        written(source, tmp_path / "a", replace(RECIPE, held_out=0.0))
    with pytest.raises(MainstemError, match="no text to learn from"):
        written(source, tmp_path / "b", replace(RECIPE, held_out=1.0))

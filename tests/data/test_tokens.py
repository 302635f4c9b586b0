"""Token files: every text once, on its side of the split; windows; killed and gone on with; other data refused."""

import json
import time
from collections import Counter
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
import pytest

from mainstem import files
from mainstem.data import tokens
from mainstem.data.texts import Texts
from mainstem.data.tokens import Recipe, Tokens, is_held_out
from mainstem.errors import MainstemError
from mainstem.testing import faults

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


@pytest.mark.parametrize("many", [False, True])
def test_every_text_is_there_once_in_windows_of_like_length(source, tmp_path, monkeypatch, many):
    if many:
        small(monkeypatch)
    parts = dict(zip(("train", "held_out"), written(source, tmp_path / "tokens"), strict=True))
    assert len(list((tmp_path / "tokens").glob("0*"))) == (20 if many else 1)
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


def small(monkeypatch):
    """Shards of 200 tokens, written by 40, of chunks of 10 rows."""
    for name, value in (("_TOKENS", 200), ("_FLUSH", 40), ("_ROWS", 10)):
        monkeypatch.setattr(tokens, name, value)


def hashes(folder):
    return {str(path.relative_to(folder)): files.hash_file(path) for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("damage", ["", "shard", "growing"])
def test_a_stopped_writer_goes_on_where_it_was(source, tmp_path, monkeypatch, damage):
    small(monkeypatch)
    monkeypatch.setattr(tokens, "_TOKENS", 1000)
    written(source, tmp_path / "whole")
    asked = []

    def stopped():
        asked.append(1)
        return len(asked) > 15

    cut = tmp_path / "cut"
    with pytest.raises(KeyboardInterrupt):
        written(source, cut, stopped=stopped)
    assert sorted(path.name for path in cut.iterdir()) == ["00000", "growing", "recipe.json"]
    with pytest.raises(MainstemError, match="not whole"):
        Tokens(cut, "train")
    if damage:
        (cut / {"shard": "00000", "growing": "growing"}[damage] / "train.tokens").write_bytes(b"x")
    seen = []
    monkeypatch.setattr(Texts, "read", lambda self, at, read=Texts.read: seen.append(at.row) or read(self, at))
    written(source, cut)
    assert seen == [{"": 150, "shard": 0, "growing": 90}[damage]]
    assert hashes(cut) == hashes(tmp_path / "whole")


SENTENCES = [f"{text} 第{i}行，天地玄黄。"[: 60 + i % 40] for i, text in enumerate(TEXTS)]


def long_source(folder, kind):
    """400 texts, some with Chinese, as two JSONL files with Windows line ends, or as two Parquet files of several row groups."""
    folder.mkdir()
    for number, part in enumerate((SENTENCES[:230], SENTENCES[230:])):
        if kind == "jsonl":
            lines = [json.dumps({"text": text}, ensure_ascii=False) + "\r\n" for text in part]
            (folder / f"{number}.jsonl").write_bytes("".join(lines).encode())
        else:
            pd.DataFrame({"text": part}).to_parquet(folder / f"{number}.parquet", row_group_size=70)
    return Texts(folder, ["text"])


def by_characters(texts):
    time.sleep(0.002)  # so that a kill falls between
    return [(np.array([ord(c) % 97 for c in text]), np.array([c == " " for c in text])) for text in texts]


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_killed_at_any_time_the_same_bytes_come_out_and_no_more_than_a_flush_is_done_again(tmp_path, monkeypatch, kind):
    for name, value in (("_TOKENS", 5000), ("_FLUSH", 800), ("_ROWS", 7)):
        monkeypatch.setattr(tokens, name, value)
    source = long_source(tmp_path / "data", kind)
    recipe = replace(RECIPE, end=98)
    with faults.counting() as calls:
        tokens.write(source, by_characters, tmp_path / "whole", recipe)
    wanted = hashes(tmp_path / "whole")
    assert len([name for name in wanted if name.endswith("shard.json")]) > 4
    rng = np.random.default_rng(0)
    log = tmp_path / "log"

    def logged(texts):
        with open(log, "a", encoding="utf-8") as stream:
            stream.writelines(f"{text}\n" for text in texts)
        return by_characters(texts)

    for trial in range(3):
        folder, kills = tmp_path / str(trial), 0
        log.write_text("")
        while True:
            at = int(rng.integers(1, len(calls) // 3))
            in_time = kills and rng.random() < 0.4
            how = {"after": float(rng.uniform(0.02, 0.3))} if in_time else {"fault": partial(faults.killing, at)}
            outcome = faults.trial(lambda folder=folder: tokens.write(source, logged, folder, recipe), **how)
            if outcome.kind == "done":
                break
            assert outcome.kind == "killed", outcome
            kills += 1
        assert kills
        assert hashes(folder) == wanted
        done_again = Counter(log.read_text(encoding="utf-8").splitlines()).total() - len(SENTENCES)
        assert done_again <= kills * 21  # texts of a flush: 800 characters and more, in portions of 7


def test_a_full_disk_is_told_and_nothing_written_is_lost(source, tmp_path, monkeypatch):
    for name, value in (("_TOKENS", 2000), ("_FLUSH", 700), ("_ROWS", 10)):
        monkeypatch.setattr(tokens, name, value)
    with faults.counting() as calls:
        written(source, tmp_path / "whole")
    for at in np.random.default_rng(0).integers(1, len(calls), 8).tolist():
        folder = tmp_path / str(at)
        with faults.failing(at), pytest.raises(MainstemError, match="disk is full"):
            written(source, folder)
        written(source, folder)
        assert hashes(folder) == hashes(tmp_path / "whole")


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

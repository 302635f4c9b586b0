"""Tokens become text without broken characters, without any part of a stop string, and nothing told is ever taken back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mainstem.tasks._writing import Writer


def of_bytes(ids):
    """A tokenizer of one token a byte."""
    return bytes(ids).decode(errors="replace")


def written(data, stop=(), context=b""):
    writer, told = Writer(of_bytes, list(context), stop), []
    for token in data:
        told.append(writer.add(token))
        if writer.stopped:
            break
    told.append(writer.end())
    assert "".join(told) == writer.text
    return writer, told


def test_a_character_is_told_once_it_is_whole():
    writer, told = written("a汉😀".encode())
    assert told == ["a", "", "", "汉", "", "", "", "😀", ""]
    assert (writer.text, len(writer.tokens)) == ("a汉😀", 8)


def test_what_never_becomes_a_character_is_told_at_the_end():
    assert written("汉".encode()[:2])[0].text == "�"


@pytest.mark.parametrize(
    ("text", "stop", "wanted"),
    [
        ("one two three", ["two"], "one "),
        ("one tw", ["two"], "one tw"),
        ("aab", ["ab"], "a"),
        ("one two", ["o t", "twx"], "one two"),
        ("one two", ["e t", "n"], "o"),
        ("他说。完", ["。"], "他说"),
        ("stop", ["stop"], ""),
    ],
)
def test_stop_strings_end_the_text_and_are_not_in_it(text, stop, wanted):
    writer, _ = written(text.encode(), stop)
    assert writer.text == wanted
    assert writer.stopped == (wanted != text)


def test_the_beginning_of_a_stop_string_is_held_back():
    _, told = written(b"ab<en", ["<end>"])
    assert told == ["a", "b", "", "", "", "<en"]


def test_the_tokens_before_decide_how_a_word_begins():
    """A tokenizer that drops the space at the very beginning, as SentencePiece's do."""

    def decode(ids):
        return "".join(" " + "abc"[i] for i in ids)[1:]

    assert Writer(decode).add(1) == "b"
    assert Writer(decode, [0]).add(1) == " b"


@given(st.text(max_size=30), st.lists(st.text(min_size=1, max_size=3), max_size=3))
def test_any_text_is_cut_at_its_first_stop_string(text, stop):
    text = text.replace("�", "")
    ends = [place for each in stop if (place := text.find(each)) >= 0]
    found = written(text.encode(), stop)[0].text
    wanted = text[: min(ends)] if ends else text
    assert found == wanted or (ends and text.startswith(found) and any(text[len(found) :].startswith(each) for each in stop))

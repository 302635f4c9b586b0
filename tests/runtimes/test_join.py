"""Calls joined and parted again are what they were, up to padding."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from mainstem.contracts import Port
from mainstem.runtimes._join import common, join, lengths_of, pad, rows_of, split, trim

PORTS = {
    port.name: port
    for port in (
        Port("vector", "float32", ("row", "3")),
        Port("ids", "int64", ("row", "pad:tokens"), pad=7),
        Port("mask", "int64", ("row", "pad:tokens")),
        Port("cache", "float32", ("2", "row", "pad:past", "2")),
        Port("beam", "int64", ("row>row",)),
        Port("context", "float32", ("shared", "2")),
    )
}


@st.composite
def calls(draw):
    """Arrays of several calls: rows and lengths of their own, down to none."""
    context = np.arange(6, dtype=np.float32).reshape(3, 2)
    parts = []
    for _ in range(draw(st.integers(1, 5))):
        rows, tokens, past = (draw(st.integers(0, 4)) for _ in range(3))
        rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
        parts.append(
            {
                "vector": rng.normal(size=(rows, 3)).astype(np.float32),
                "ids": rng.integers(0, 100, (rows, tokens)),
                "mask": rng.integers(0, 2, (rows, tokens)),
                "cache": rng.normal(size=(2, rows, past, 2)).astype(np.float32),
                "beam": rng.integers(0, max(rows, 1), rows),
                "context": context,
            }
        )
    return parts


@settings(max_examples=60, deadline=None)
@given(calls())
def test_join_then_split_is_identity_up_to_padding(parts):
    counts = [rows_of(part, PORTS) for part in parts]
    joined = join(parts, PORTS)
    assert rows_of(joined, PORTS) == sum(counts)
    for part, again in zip(parts, split(joined, PORTS, counts), strict=True):
        for name, array in part.items():
            assert again[name].dtype == array.dtype
            own = again[name][tuple(slice(size) for size in array.shape)]
            np.testing.assert_array_equal(own, array)
            filled = np.full_like(again[name], PORTS[name].pad)
            filled[tuple(slice(size) for size in array.shape)] = array
            np.testing.assert_array_equal(again[name], filled)  # the rest is padding


@settings(max_examples=30, deadline=None)
@given(calls())
def test_row_numbers_point_at_the_same_rows_in_a_joined_call(parts):
    joined = join(parts, PORTS)
    picked = joined["vector"][joined["beam"]]
    np.testing.assert_array_equal(picked, np.concatenate([part["vector"][part["beam"]] for part in parts]))


def test_equal_names_grow_to_equal_lengths():
    """A part without tokens of its own still gets the length of the longest in every array of that axis."""
    ports = {"a": Port("a", "int64", ("row", "pad:t")), "b": Port("b", "int64", ("row", "pad:t"), pad=-1)}
    parts = [{"a": np.ones((1, 2), int), "b": np.ones((1, 2), int)}, {"a": np.ones((1, 3), int), "b": np.ones((1, 3), int)}]
    joined = join(parts, ports)
    assert joined["a"].tolist() == [[1, 1, 0], [1, 1, 1]]
    assert joined["b"].tolist() == [[1, 1, -1], [1, 1, 1]]


def test_items_go_back_to_their_owners():
    ports = {"box": Port("box", "float32", ("own", "4")), "owner": Port("owner", "int64", ("own",))}
    box, owner = np.arange(16, dtype=np.float32).reshape(4, 4), np.array([3, 0, 0, 4])  # as a graph may order them
    parts = split({"box": box, "owner": owner}, ports, [2, 0, 1, 2])
    assert [part["owner"].tolist() for part in parts] == [[0, 0], [], [], [0, 1]]
    assert parts[0]["box"].tolist() == box[1:3].tolist()
    assert parts[3]["box"].tolist() == box[[0, 3]].tolist()


def test_what_is_shared_is_handed_in_once():
    context = np.ones((5, 2), np.float32)
    parts = [{"vector": np.zeros((n, 3), np.float32), "context": context} for n in (1, 2)]
    assert join(parts, PORTS)["context"] is context
    assert common(PORTS) == ["context"]


def test_padding_uses_the_value_of_the_port():
    assert pad(np.array([[1]]), PORTS["ids"], {"pad:tokens": 3}).tolist() == [[1, 7, 7]]
    same = np.array([[1]])
    assert pad(same, PORTS["ids"], {"pad:other": 3}) is same


@settings(max_examples=60, deadline=None)
@given(calls())
def test_a_cache_that_has_grown_in_a_joined_call_is_what_it_would_be_alone(parts):
    """A graph that puts what is new behind what was there, as a decoder does."""
    axes = {"cache": ("2", "row", "pad:past+tokens", "2"), "ids": ("row", "pad:tokens"), "vector": ("row", "3")}
    given = {name: Port(name, "float32", axis) for name, axis in axes.items()}

    def grow(call):
        new = np.broadcast_to(call["ids"].astype(np.float32)[None, :, :, None], (2, *call["ids"].shape, 2))
        return {"cache": np.concatenate([call["cache"], new], 2), "ids": call["ids"], "vector": call["vector"]}

    joined = join(parts, PORTS)
    answers = split(grow(joined), given, [rows_of(part, PORTS) for part in parts])
    for part, answer in zip(parts, answers, strict=True):
        alone = trim(answer, given, lengths_of(part, PORTS), lengths_of(joined, PORTS))
        for name, array in grow(part).items():
            np.testing.assert_array_equal(alone[name], array)

"""Categories: one spelling whatever the source; codes that keep missing and unseen apart."""

import datetime as dt

import numpy as np
import pandas as pd
import pytest

from mainstem.errors import MainstemError
from mainstem.modalities import category

plugin = category.plugin


@pytest.mark.parametrize(
    ("raws", "value"),
    [
        ([3, 3.0, "3", "3.0", np.int64(3), np.float32(3), " 3 "], "3"),
        ([True, np.True_, "TRUE", "true", "True"], "true"),
        (["007"], "007"),
        ([2.5, "2.5"], "2.5"),
        ([0.1, np.float32(0.1), "0.1"], "0.1"),
        (["é", "e\u0301"], "é"),
        ([dt.date(2024, 1, 31), pd.Timestamp("2024-01-31"), np.datetime64("2024-01-31"), "2024-01-31"], "2024-01-31"),
        ([None, "", "NaN", np.nan, pd.NA, pd.NaT, np.datetime64("NaT")], None),
    ],
)
def test_one_spelling(raws, value):
    found = [plugin.parse(raw, {}) for raw in raws]
    assert found == [value] * len(raws)
    assert {type(v) for v in found} == {type(value)}


@pytest.mark.parametrize("raw", [[1], b"x", {"a": 1}, "\ud800", 10**400])
def test_refuses(raw):
    with pytest.raises(MainstemError):
        plugin.parse(raw, {})


def test_codes_of_an_input():
    values = ["b", "a", "b", None, "c", "a", "b"]
    state = plugin.fit({"max_values": 2}, values)
    assert state.json == {"values": ["b", "a"]}
    index = plugin.encode([*values, "new"], {}, state)[0]["index"]
    assert index.dtype == np.int64
    assert index.tolist() == [2, 3, 2, 0, 1, 3, 2, 1]
    assert plugin.decode({"index": index}, {}, {}, state) == ["b", "a", "b", None, None, "a", "b", None]


def test_codes_of_an_answer():
    settings = {"answer": True}
    state = plugin.fit(settings, ["10", "9", "9", "x", "-1"])
    assert state.json == {"values": ["-1", "9", "10", "x"]}
    index = plugin.encode(["10", "x"], settings, state)[0]["index"]
    assert index.tolist() == [2, 3]
    assert plugin.decode({"index": index}, {}, settings, state) == ["10", "x"]
    with pytest.raises(MainstemError, match="'11' was not among those learned"):
        plugin.encode(["11"], settings, state)


def test_answers_are_not_capped_and_inputs_are():
    values = [str(i) for i in range(300)]
    assert len(plugin.fit({"answer": True}, values).json["values"]) == 300
    assert len(plugin.fit({}, values).json["values"]) == 255

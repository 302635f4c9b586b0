"""Label sets: lists and separated cells are the same value."""

import numpy as np
import pandas as pd
import pytest

from mainstem.errors import MainstemError
from mainstem.modalities import labels

plugin = labels.plugin


@pytest.mark.parametrize(
    ("raw", "separator"),
    [("b|a", "|"), ("a; b;", ";"), ("a  b", " "), (["b", "a", "a"], ""), (np.array(["a", "b"]), ""), ('["b", "a"]', "|"), ({"a", "b"}, "")],
)
def test_one_value_for_all_forms(raw, separator):
    assert plugin.parse(raw, {"separator": separator}) == ("a", "b")


def test_numbers_missing_and_none():
    assert plugin.parse([3, 3.0, "10", True], {}) == ("3", "10", "true")
    assert plugin.parse([], {}) == ()
    assert plugin.parse(pd.NA, {}) is None
    assert plugin.parse("a b", {}) == ("a b",)
    with pytest.raises(MainstemError):
        plugin.parse([["a"]], {})


def test_encode_and_decode():
    values = [("a", "c"), (), ("b",)]
    state = plugin.fit({}, values)
    arrays, meta = plugin.encode(values, {}, state)
    assert arrays["hot"].dtype == np.float32
    assert arrays["hot"].tolist() == [[1, 0, 1], [0, 0, 0], [0, 1, 0]]
    assert plugin.decode(arrays, meta, {}, state) == values
    assert plugin.render(values[0]) == ["a", "c"]
    with pytest.raises(MainstemError, match="the label 'z' was not among"):
        plugin.encode([("z",)], {}, state)

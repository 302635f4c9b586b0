"""Numbers: one typed value whatever the source, and scaling that can be undone."""

from decimal import Decimal

import numpy as np
import pandas as pd
import pytest

from mainstem.errors import MainstemError
from mainstem.modalities import number

parse = number.plugin.parse


@pytest.mark.parametrize(
    ("raw", "value"),
    [("3", 3.0), (" 3.5 ", 3.5), ("-1e-3", -0.001), ("1,234.5", 1234.5), ("１２．５", 12.5), ("−3", -3.0), ("007", 7.0), (".5", 0.5)]
    + [(3, 3.0), (np.int64(3), 3.0), (np.float32(0.1), 0.1), (Decimal("2.5"), 2.5), ("-0", 0.0)]
    + [(raw, None) for raw in ("", " N/A ", "-", "--", "?", None, float("nan"), np.float32("nan"), pd.NA, pd.NaT, "缺失")],
)
def test_parses(raw, value):
    found = parse(raw, {})
    assert repr(found) == repr(value)  # the exact type too: a hash is made of it


@pytest.mark.parametrize(
    "raw", ["12,34", "1,2345", "12%", "inf", "1e999", "1_000", "10²", "abc", True, np.True_, np.inf, 10**400, [1], b"3"]
)
def test_refuses(raw):
    with pytest.raises(MainstemError, match="expected a number, found"):
        parse(raw, {})


def test_looks_like_only_beyond_doubt():
    assert all(number.looks_like(raw) for raw in ("3", "0", "0.5", "-2e5", "1,234", 3, 2.5, np.float32(1)))
    doubtful = ("007", "-", "", "12%", True, "1234567890123456789", 10**20, 10**5000, None, "inf", float("inf"), [3])
    assert not any(number.looks_like(raw) for raw in doubtful)


@pytest.mark.parametrize(
    ("scaling", "expected"), [("standard", (2.5, 5**0.5 / 2)), ("minmax", (1, 3)), ("robust", (2.5, 1.5)), ("none", (0, 1))]
)
def test_scaling_and_back(scaling, expected):
    values = [1.0, 2.0, None, 3.0, 4.0]
    state = number.plugin.fit({"scaling": scaling}, values)
    assert (state.json["center"], state.json["scale"]) == pytest.approx(expected)
    arrays, meta = number.plugin.encode(values, {}, state)
    assert arrays["value"].dtype == np.float64
    assert np.isnan(arrays["value"]).tolist() == [False, False, True, False, False]
    back = number.plugin.decode(arrays, meta, {}, state)
    assert back[2] is None
    assert [v for v in back if v is not None] == pytest.approx([1, 2, 3, 4])


@pytest.mark.parametrize("scaling", number.SCALINGS)
@pytest.mark.parametrize("values", [[0.1] * 10, [None], [], [1e308, -1e308, 1.0], [0.0, 0.0, 0.0, 0.0, 1e20, 1.0], [5e-324, 0.0]])
def test_scale_is_always_usable(scaling, values):
    state = number.plugin.fit({"scaling": scaling}, values)
    encoded = number.plugin.encode([*values, 1e308], {}, state)[0]["value"]
    assert state.json["scale"] > 0
    assert np.isfinite(encoded.astype(np.float32)[[i for i, v in enumerate([*values, 1e308]) if v is not None]]).all()


def test_constant_column_becomes_zero():
    state = number.plugin.fit({}, [0.1] * 10)
    assert state.json["scale"] == 1.0
    assert number.plugin.encode([0.1], {}, state)[0]["value"] == pytest.approx(0)


def test_robust_ignores_the_outlier():
    state = number.plugin.fit({"scaling": "robust"}, [1.0, 2.0, 3.0, 4.0, 1e20])
    assert state.json == {"center": 3.0, "scale": 2.0}


def test_unknown_scaling():
    with pytest.raises(MainstemError, match="no scaling 'log'"):
        number.plugin.fit({"scaling": "log"}, [1.0])

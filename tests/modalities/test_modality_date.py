"""Dates: every form of one moment is one number; only parts that vary are encoded."""

import datetime as dt

import numpy as np
import pandas as pd
import pytest

from mainstem.errors import MainstemError
from mainstem.modalities import date

plugin = date.plugin
DAY = dt.datetime(2024, 1, 31, tzinfo=dt.UTC).timestamp()
MOMENT = dt.datetime(2024, 1, 31, 7, 30, tzinfo=dt.UTC).timestamp()
CHINA = dt.timezone(dt.timedelta(hours=8))


@pytest.mark.parametrize(
    "raw",
    [
        "2024-01-31",
        "2024/1/31",
        "31.01.2024",
        "2024年1月31日",
        "２０２４－０１－３１",
        "1/31/2024",
        "31/1/2024",
        "20240131",
        20240131,
        "Jan 31, 2024",
        "31 January 2024",
        dt.date(2024, 1, 31),
        pd.Timestamp("2024-01-31"),
        np.datetime64("2024-01-31"),
    ],
)
def test_forms_of_a_day(raw):
    assert repr(plugin.parse(raw, {})) == repr(DAY)


@pytest.mark.parametrize(
    "raw",
    [
        "2024-01-31T15:30:00+08:00",
        "2024-01-31 07:30:00Z",
        "2024-01-31 07:30",
        "2024年1月31日7时30分",
        "2024/1/31 7:30 AM",
        "2024-01-31T15:30+0800",
        "Wed, 31 Jan 2024 07:30:00 +0000",
        dt.datetime(2024, 1, 31, 7, 30),
        "2024-01-31T07:30:00.000",
        dt.datetime(2024, 1, 31, 15, 30, tzinfo=CHINA),
        pd.Timestamp("2024-01-31T15:30:00+08:00"),
        np.datetime64("2024-01-31T07:30"),
    ],
)
def test_forms_of_a_moment(raw):
    assert repr(plugin.parse(raw, {})) == repr(MOMENT)


def test_fractions_agree_between_text_and_pandas():
    text = "2024-01-31 00:00:00.123456789"
    assert plugin.parse(text, {}) == plugin.parse(pd.Timestamp(text), {}) == DAY + 0.123456


@pytest.mark.parametrize("raw", ["2024-02-30", "2024-01-31T25:00", "foo 12, 2024", "5", 5, 1.7e9, "0001-01-01T00:00+14:00", [1], True])
def test_refuses(raw):
    with pytest.raises(MainstemError, match="expected a date, found"):
        plugin.parse(raw, {})


def test_day_and_month_must_be_told_apart():
    with pytest.raises(MainstemError, match="which is the day in '1/2/2024'"):
        plugin.parse("1/2/2024", {})
    assert date.settings_for(["1/2/2024", None, "13/2/2024"]) == {"day_first": True}
    assert date.settings_for(["1/2/2024", "2/13/2024"]) == {"day_first": False}
    assert date.settings_for(["1/2/2024"]) == {}
    assert plugin.render(plugin.parse("1/2/2024", {"day_first": True})) == "2024-02-01"
    assert plugin.render(plugin.parse("1/2/2024", {"day_first": False})) == "2024-01-02"


def test_looks_like_is_not_taken_in_by_numbers():
    assert all(date.looks_like(raw) for raw in ("2024-01-31", "1/2/2024", "2024年1月", pd.Timestamp("2024-01-31"), dt.date(2024, 1, 1)))
    assert not any(date.looks_like(raw) for raw in ("20240131", "2024.1", "2024", "", None, pd.NaT, 3, "tomorrow", "may 99, 2024"))


def test_only_what_varies_is_encoded():
    values = [plugin.parse(f"2024-01-0{day}", {}) for day in (1, 2, 3)]
    state = plugin.fit({}, values)
    assert state.json["names"] == ["days", "day", "weekday_sin", "weekday_cos"]
    encoded = plugin.encode([*values, None], {}, state)[0]["value"]
    assert encoded.shape == (4, 4)
    assert np.isnan(encoded[3]).all()
    assert encoded[:3, 0].mean() == pytest.approx(0)
    assert encoded[:3, 0].std() == pytest.approx(1)
    assert encoded[0, 2:] == pytest.approx([0, 1], abs=1e-8)  # the first of January 2024 was a Monday
    assert plugin.decode({"value": encoded}, {}, {}, state)[:3] == pytest.approx(values)


def test_every_part_can_appear_and_years_before_1970_work():
    values = [plugin.parse(text, {}) for text in ("1950-06-15T18:00", "2024-01-31T06:00", "1999-12-01")]
    state = plugin.fit({}, values)
    assert tuple(state.json["names"]) == date.NAMES
    encoded = plugin.encode(values, {}, state)[0]["value"]
    year = encoded[:, 1] * state.json["scale"][1] + state.json["center"][1]
    assert year == pytest.approx([1950, 2024, 1999])
    assert encoded[:, 7] == pytest.approx([-1, 1, 0])


def test_constant_and_missing_columns_keep_one_part():
    assert plugin.fit({}, [DAY, DAY]).json["names"] == ["days"]
    state = plugin.fit({}, [None])
    assert np.isnan(plugin.encode([None], {}, state)[0]["value"]).all()
    assert plugin.encode([], {}, state)[0]["value"].shape == (0, 1)

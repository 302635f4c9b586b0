import json

import numpy as np
import pytest

from mainstem import seal
from mainstem.contracts import ABSENT, Rows
from mainstem.errors import MainstemError
from mainstem.modalities import _lags
from mainstem.modalities._steps import Step
from mainstem.modalities.series import Channel, Layout, Outcome, gather, plugin, units
from mainstem.schema import Column, Schema

MONTHLY = Layout(
    "store", "date", dated=True, channels=(Channel("value"), Channel("rain")), future=(Channel("promo", "category", ("yes",)),),
    step=Step("month", 1.0), season=3, window=6, horizon=2,
)  # fmt: skip


def rows(stores=("a", "b"), months=12, known=10):
    cells = [(store, f"2024-{month:02d}", month) for store in stores for month in range(1, months + 1)]
    return Rows(
        {
            "store": [store for store, _, _ in cells],
            "date": [date for _, date, _ in cells],
            "value": ["" if m > known else f"{m * (1 if s == 'a' else 10)}" for s, _, m in cells],
            "rain": ["" if m > known else "0.5" for _, _, m in cells],
            "promo": ["yes" if m % 4 == 0 else "" for _, _, m in cells],
        },
        "sales.csv",
    )


def schema(layout=MONTHLY):
    return Schema((Column("history", "series", layout.json()),), (Column("value", "series", {"answer": True}),))


def test_layout_survives_json():
    assert Layout.of(json.loads(json.dumps(MONTHLY.json()))) == MONTHLY


def test_rows_become_one_window_a_series():
    table, errors = schema().parse(rows())
    assert not errors
    first, second = table.columns["history"]
    assert (first.name, second.name) == ("a", "b")
    assert first.values[:, 0].tolist() == [5, 6, 7, 8, 9, 10]
    assert second.values[-1, 0] == 100
    assert first.future[:, 0].tolist() == [0, 0, 0, 1, 0, 0, 0, 1]  # August and, known in advance, December
    assert plugin.render(first)["time"][-1] == "2024-10-01"
    assert plugin.encode([first], {}, plugin.fit({}, [first]))[1]["time"] == [["2024-11-01", "2024-12-01"]]


def test_rows_in_any_order_and_columns_nobody_needs():
    mixed = rows().take(np.random.default_rng(0).permutation(24))
    mixed = Rows({**mixed.columns, "more": ["x"] * 24}, "sales.csv")
    found = {w.name: w for w in schema().parse(mixed)[0].columns["history"]}
    assert found == {w.name: w for w in schema().parse(rows())[0].columns["history"]}


def test_rolling_origins_with_answers():
    table, _ = schema().parse(rows(), target=True)
    origins = [plugin.render(w)["time"][-1] for w in table.columns["history"] if w.name == "a"]
    assert origins == ["2024-04-01", "2024-06-01", "2024-08-01"]  # a season and a step before, two steps after
    outcome = table.target[2]
    assert isinstance(outcome, Outcome)
    assert outcome.values.tolist() == [9, 10]
    assert outcome.window.values[-1, 0] == 8
    assert np.isnan(table.target[0].window.values[:2]).all()  # before the series begins


def test_a_window_written_as_json_reads_alike():
    gathered = schema().gathered(rows(), target=True)
    packed = json.loads(json.dumps(seal.pack_columns(gathered.columns)))
    again = Rows(seal.unpack_columns(packed))
    first, _ = schema().parse(gathered, target=True)
    second, _ = schema().parse(again, target=True)
    assert first.hashes == second.hashes
    assert packed["history"][0]["value"][-2:] == [None, None]  # what came stands in the answer alone


def test_gaps_and_repeats():
    series = rows(("a",))
    held = [i for i in range(12) if i not in (5, 6)] + [9]
    twice = series.take(held)
    twice.columns["value"][-1] = "20"
    (window,) = schema().parse(twice)[0].columns["history"]
    assert np.array_equal(window.values[:, 0], [5, np.nan, np.nan, 8, 9, 15], equal_nan=True)


def test_a_covariate_that_is_not_known_ahead_is_asked_for():
    _, errors = schema().parse(rows(months=10))
    assert sorted(errors) == [0, 1]
    assert "'promo' is not known for the 2 steps to forecast" in str(errors[0])


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"value": ["1", "many", *["2"] * 22]}, "row 2 of column 'value': expected a number, found 'many'"),
        ({"date": ["2024-01", "", *["2024-03"] * 22]}, "row 2 of column 'date': a time is missing"),
        ({"date": ["1924-01", "soon", *["2024-03"] * 22]}, "row 2 of column 'date': expected a date, found 'soon'"),
    ],
)
def test_cells_that_do_not_parse_name_their_row(change, expected):
    with pytest.raises(MainstemError, match=r"sales\.csv") as raised:
        schema().parse(Rows({**rows().columns, **change}, "sales.csv"))
    assert expected in str(raised.value)


def test_columns_that_are_missing():
    with pytest.raises(MainstemError, match="the columns 'date', 'rain' are missing"):
        schema().parse(Rows({k: v for k, v in rows().columns.items() if k not in ("date", "rain")}))


def test_a_row_of_a_request_without_a_value():
    broken = Rows({**rows().columns, "rain": [ABSENT, *["1"] * 23], "history": [ABSENT] * 24})
    with pytest.raises(MainstemError, match="row 1: a row lacks one of the values"):
        schema().parse(broken)


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ("12", "expected a series, found '12'"),
        ({"date": [], "value": []}, "the series has no list 'rain'"),
        ({"date": ["2024-01"], "value": [1, 2], "rain": [1], "promo": [1]}, "differ in length"),
    ],
)
def test_cells_that_are_no_series(raw, expected):
    with pytest.raises(MainstemError, match=expected):
        plugin.parse(raw, MONTHLY.json())


def test_a_wrong_year_is_not_a_billion_steps():
    layout = Layout(time="t", dated=True, channels=(Channel("v"),), step=Step("second", 1.0), window=3, horizon=1)
    with pytest.raises(MainstemError, match="Is a year mistyped"):
        plugin.parse({"t": ["0024-01-01", "2024-01-01"], "v": [1, 2]}, layout.json())


def test_labels_of_whole_series():
    layout = Layout("id", channels=(Channel("x"), Channel("y")), window=4)
    found = Rows({"id": list("aabbb"), "x": [1, 2, 3, 4, 5], "y": [0] * 5, "label": ["up", "up", "down", None, "down"]})
    made = gather(found, "history", layout.json(), [Column("label", "category")], answered=True)
    assert made.columns["label"] == ["up", "down"]
    windows = [plugin.parse(cell, layout.json()) for cell in made.columns["history"]]
    assert np.array_equal(windows[0].values[:, 0], [np.nan, np.nan, 1, 2], equal_nan=True)
    changing = Rows({**found.columns, "label": ["up", "up", "down", "up", "down"]})
    with pytest.raises(MainstemError, match="'b' has several values of 'label': down, up"):
        gather(changing, "history", layout.json(), [Column("label", "category")], answered=True)


# --- arrays -----------------------------------------------------------------------------------------------------------


def test_units_are_those_of_each_window():
    values = np.array([[1.0, 2.0, 3.0], [np.nan, 1e9, 1e9 + 2], [5.0, 5.0, 5.0], [0.0, 0.0, 0.0], [np.nan] * 3])[:, :, None]
    center, scale = units(values)
    assert center[:, 0].tolist() == pytest.approx([2, 1e9, 5, 0, 0], rel=1e-6)
    assert scale[:4, 0].tolist() == pytest.approx([np.sqrt(2 / 3), 1, 5, 1], rel=1e-6)
    assert np.isnan(scale[4, 0])
    assert (center == center.astype(np.float32)).all()


def test_encoded_values_come_back():
    window = schema().parse(rows())[0].columns["history"][0]
    arrays, _ = plugin.encode([window, None], {"fill": "season", "calendar": "all", "steps": True}, plugin.fit({}, [window]))
    back = arrays["values"][0, :, 0] * arrays["units"][0, 1] + arrays["units"][0, 0]
    assert back == pytest.approx(window.values[:, 0])
    assert arrays["known"].sum(axis=(1, 2)).tolist() == [12, 0]
    assert arrays["calendar"].shape == (2, 8, 2)  # months run through the year
    assert arrays["future"].shape == (2, 8, 1)
    assert arrays["steps"].shape[:2] == (2, 2)
    assert all(np.isfinite(arrays[name]).all() for name in ("values", "calendar", "future", "steps", "naive", "spread"))
    assert np.isnan(arrays["units"][1, 1])


def test_answers_are_in_the_units_of_their_window():
    outcome = schema().parse(rows(), target=True)[0].target[2]
    arrays, _ = plugin.encode([Outcome(np.array([9.0, np.nan]), outcome.window)], {"answer": True}, plugin.fit({"answer": True}, [outcome]))
    center, scale = units(outcome.window.values[None, :, :1])
    assert arrays["values"][0, 0] * scale[0, 0] + center[0, 0] == pytest.approx(9)
    assert arrays["known"].tolist() == [[1, 0]]


def test_seasonal_naive_over_gaps():
    values = np.array([[1, 2, 3, 4, np.nan, 6], [np.nan, np.nan, np.nan, np.nan, np.nan, 7.0]])
    found = _lags.naive(values, 3, 5)
    assert found["naive"].tolist() == [[4, 2, 6, 4, 2], [7] * 5]
    assert found["spread"][:, 0].tolist() == [3, 1]  # of 4-1 and 6-3; nothing to measure by
    assert _lags.scale(values, 3).tolist() == pytest.approx([3, np.nan], nan_ok=True)


def test_filled_takes_the_season_before():
    values = np.array([[np.nan, 2, 3, 4, np.nan, np.nan], [np.nan] * 6])[:, :, None]
    assert _lags.filled(values, 3)[:, :, 0].tolist() == [[2, 2, 3, 4, 2, 3], [0] * 6]

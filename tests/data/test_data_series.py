import numpy as np
import pytest

from mainstem.contracts import Rows
from mainstem.data import series
from mainstem.data.series import Asked
from mainstem.errors import MainstemError
from mainstem.modalities.series import Layout


def shop(days=40, stores=("a", "b")):
    rng = np.random.default_rng(0)
    cells = [(s, str(np.datetime64("2024-01-01") + d)) for s in stores for d in range(days)]
    n = len(cells)
    return {
        "store": [s for s, _ in cells],
        "date": [d for _, d in cells],
        "value": [f"{v:.2f}" for v in rng.normal(size=n)],
        "price": [f"{v:.2f}" for v in rng.normal(size=n)],
        "weather": [("sun", "rain", "snow")[i % 3] for i in range(n)],
        "note": [f"a longer remark on day number {i}, not two alike" for i in range(n)],
        "town": ["here"] * n,
    }


ASKED = Asked("value", "store", "date", horizon=4)


def planned(columns=None, asked=ASKED):
    notes = []
    column, made = series.column(Rows(columns or shop(), "shop.csv"), asked, notes)
    return Layout.of(column.settings), made, notes


def test_columns_become_channels():
    layout, made, notes = planned()
    assert [c.name for c in layout.channels] == ["value", "price", "weather"]
    assert layout.channels[2].values == ("rain", "snow", "sun")
    assert layout.names == ["value", "price", "weather=rain", "weather=snow", "weather=sun"]
    assert (layout.dated, len(made)) == (True, 2)
    assert any("'note' is left out: it holds text" in note for note in notes)
    assert any("'town' is left out: it is the same in every row" in note for note in notes)
    assert any("2 series, a step every day" in note for note in notes)


def test_covariates_known_in_advance_are_no_channels():
    layout, _, notes = planned(asked=Asked("value", "store", "date", horizon=4, future=("price",), inputs=("weather",)))
    assert [c.name for c in layout.channels] == ["value", "weather"]
    assert [c.name for c in layout.future] == ["price"]
    assert "covariates known in advance: price" in notes


def test_many_values_of_a_category_are_limited_to_the_commonest():
    layout, _, notes = planned({**shop(), "weather": [f"kind {min(i % 30, 14)}" for i in range(80)]})
    assert len(layout.channels[2].values) == series.MOST_VALUES
    assert any("15 values: the 10 commonest" in note for note in notes)


def test_gaps_are_told_by_series():
    columns = {name: [c for i, c in enumerate(cells) if i not in (3, 4, 50)] for name, cells in shop().items()}
    columns["value"][10] = "n/a"
    _, _, notes = planned(columns)
    assert any(note.startswith("3 steps without a row count as missing in 2 of 2 series ('a' 2, 'b' 1)") for note in notes)
    assert any(note.startswith("1 steps without a value in 1 of 2 series ('a' 1)") for note in notes)


def test_times_off_the_step_are_told():
    hours = [f"2024-01-01T{h:02d}:{m:02d}" for h in range(24) for m in (0, 10, 20, 30, 40, 50)]
    hours[30] = "2024-01-01T05:03"
    layout, made, notes = planned({"date": hours, "value": [str(i) for i in range(144)]}, Asked("value", "", "date", 4))
    assert layout.snapped
    assert any("1 of 144 times lie between steps" in note for note in notes)
    assert made[0].grid.off_time == 1


@pytest.mark.parametrize(
    ("asked", "columns", "expected"),
    [
        (Asked("value", "stores", "date", 4), {}, "no column 'stores' (--series). Did you mean 'store'"),
        (Asked("value", "store", "date", 4, future=("prize",)), {}, "no column 'prize' (--future). Did you mean 'price'"),
        (Asked("value", "", "date", 4), {}, "Name the column that tells the series apart: --series COLUMN"),
        (Asked("weather", "store", "date", 4), {}, "the target 'weather' is no number"),
        (Asked("value", "store", "date", 4, future=("town",)), {}, "the covariate 'town' is the same in every row"),
        (Asked("value", "store", "date", 4, future=("value",)), {}, "'value' cannot be a covariate as well"),
        (Asked("value", "store", "store", 4), {}, "name different columns"),
        (ASKED, {"date": ["2024-01-01", ""] * 40}, "40 rows have no time"),
        (ASKED, {"date": ["2024-01-01", "later"] * 40}, "expected a date or a number, found 'later'"),
    ],
)
def test_mistakes(asked, columns, expected):
    with pytest.raises(MainstemError) as raised:
        planned({**shop(stores=("a", "b")), **columns}, asked)
    assert expected in str(raised.value)


def test_compact_dates_are_dates_and_years_are_numbers():
    compact = [f"202401{d:02d}" for d in range(1, 31)]
    years = [str(1900 + i) for i in range(30)]
    values = [str(i) for i in range(30)]
    assert planned({"date": compact, "value": values}, Asked("value", "", "date", 4))[0].dated
    layout, _, notes = planned({"date": years, "value": values}, Asked("value", "", "date", 4))
    assert not layout.dated
    assert "1 series, a step of 1" in notes


# --- parts ------------------------------------------------------------------------------------------------------------


def parted(steps=(200, 100), horizon=4, valid=0.15, test=0.15):
    columns = {"store": [], "t": [], "value": []}
    for i, n in enumerate(steps):
        columns["store"] += [str(i)] * n
        columns["t"] += [str(t) for t in range(n)]
        columns["value"] += [str(t % 7) for t in range(n)]
    layout, made, notes = planned(columns, Asked("value", "store", "t", horizon))
    found = series.spans(made, horizon, valid, test)
    layout = series.settled(layout, made, found, notes)
    made = [series.replaced(whole, layout) for whole in made]
    return layout, made, found, series.windows(made, layout, found, 0)


def test_parts_follow_each_other_in_time():
    layout, _, found, parts = parted()
    assert found.test.tolist() == [168, 84]  # 0.15 of 200 and of 100 steps, in whole horizons
    assert found.valid.tolist() == [136, 68]
    for index, (first_valid, first_test) in enumerate(zip(found.valid, found.test, strict=True)):
        origins = {part: [o for whole, o in pairs if whole.name == str(index)] for part, pairs in parts.items()}
        assert max(origins["train"]) + layout.horizon <= first_valid
        assert min(origins["valid"]) >= first_valid
        assert max(origins["valid"]) + layout.horizon <= first_test
        assert min(origins["test"]) >= first_test
        assert set(np.diff(origins["test"])) == {layout.horizon}  # answers of the test do not overlap


def test_season_is_chosen_without_the_parts_that_are_held_out():
    layout, *_ = parted()
    assert layout.season == 7
    held = {"t": [str(t) for t in range(100)], "value": [str((t if t < 65 else 3 * t) % 7) for t in range(100)]}
    plan, made, notes = planned(held, Asked("value", "", "t", 4))
    assert series.settled(plan, made, series.spans(made, 4, 0.15, 0.15), notes).season == 7


def test_a_series_too_short_for_the_parts_is_learned_from_alone():
    _, made, found, parts = parted(steps=(200, 14))
    assert found.valid.tolist()[1] == made[1].end == 14
    assert {whole.name for whole, _ in parts["test"]} == {"0"}
    assert {whole.name for whole, _ in parts["train"]} == {"0", "1"}


def test_windows_to_learn_from_are_limited(monkeypatch):
    monkeypatch.setattr(series, "MOST_WINDOWS", 20)
    first, second = parted()[3]["train"], parted()[3]["train"]
    assert len(first) == 20
    assert [o for _, o in first] == [o for _, o in second]

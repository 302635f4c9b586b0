import numpy as np
import pytest

from mainstem.modalities import _steps
from mainstem.modalities._steps import DAY, Step
from mainstem.modalities.date import plugin as date


def seconds(*texts):
    return np.array([date.parse(text, {}) for text in texts])


def dates(start, count, step, unit="D"):
    return (np.datetime64(start) + np.arange(count) * np.timedelta64(step, unit)).astype("datetime64[s]").astype(float)


@pytest.mark.parametrize(
    ("times", "expected", "said"),
    [
        (dates("2024-01-01", 50, 1, "h"), Step("second", 3600.0), "every hour"),
        (dates("2024-01-01", 50, 15, "m"), Step("second", 900.0), "every 15 minutes"),
        (dates("2024-01-01", 50, 1), Step("second", DAY), "every day"),
        (dates("2024-01-01", 50, 7), Step("second", 7 * DAY), "every week"),
        (seconds("2023-11-01", "2023-12-01", "2024-01-01", "2024-03-01"), Step("month", 1.0), "every month"),
        (seconds("2023-11-30", "2023-12-31", "2024-01-31", "2024-02-29"), Step("month", 1.0, True), "every month"),
        (seconds("2023Q1", "2023Q2", "2023Q3"), Step("month", 3.0), "every quarter"),
        (seconds("2021-01-01", "2022-01-01", "2023-01-01"), Step("month", 12.0), "every year"),
        (seconds("2024-01-04", "2024-01-05", "2024-01-08", "2024-01-09"), Step("weekday", 1.0), "every weekday"),
    ],
)
def test_step_of_dates(times, expected, said):
    found = _steps.infer([times], dates=True)
    assert found == expected
    assert str(found) == said
    assert Step(**found.json()) == found
    index = found.index(times, times[0])
    assert (index == np.round(index)).all()
    assert found.times(times[0], index.astype(int)).tolist() == times.tolist()


def test_step_of_numbers_and_of_nothing():
    assert _steps.infer([np.array([1821.0, 1822.0, 1824.0])], dates=False) == Step("number", 1.0)
    assert _steps.infer([np.array([5.0])], dates=False) == Step()
    assert _steps.infer([], dates=True) == Step("second", DAY)


def test_times_between_steps_are_counted():
    times = dates("2024-01-01", 10, 10, "m")
    times[4] += 130
    step = _steps.infer([times], dates=True)
    assert step == Step("second", 600.0)
    assert _steps.off_time(step.index(times, times[0])) == 1


def test_month_ends_stay_month_ends():
    ends = Step("month", 1.0, True).times(seconds("2024-01-31")[0], np.arange(4))
    assert [date.render(t) for t in ends] == ["2024-01-31", "2024-02-29", "2024-03-31", "2024-04-30"]
    days = Step("month", 1.0).times(seconds("2024-01-30")[0], np.arange(3))
    assert [date.render(t) for t in days] == ["2024-01-30", "2024-02-29", "2024-03-30"]


def test_season_by_the_calendar():
    rng = np.random.default_rng(0)
    hours = np.arange(24 * 40)
    daily = np.sin(2 * np.pi * hours / 24) + 0.1 * rng.normal(size=len(hours))
    weekly = daily + 2.0 * (hours // 24 % 7 >= 5)
    assert _steps.season(Step("second", 3600.0), [daily], 24) == 24
    assert _steps.season(Step("second", 3600.0), [weekly], 48) == 168
    assert _steps.season(Step("month", 1.0), [np.sin(np.arange(80) * 2 * np.pi / 12)], 12) == 12
    assert _steps.season(Step("month", 1.0), [np.cumsum(rng.normal(size=80))], 12) == 1


def test_season_by_the_values():
    rng = np.random.default_rng(0)
    wave = np.sin(2 * np.pi * np.arange(200) / 10) + 0.1 * rng.normal(size=200)
    wave[17] = np.nan
    assert _steps.season(Step(), [wave], 10) == 10
    assert _steps.season(Step(), [rng.normal(size=200)], 10) == 1
    assert _steps.season(Step(), [np.full(200, 3.0)], 10) == 1
    assert _steps.season(Step(), [np.full(5, np.nan)], 10) == 1


def test_calendar_has_the_turns_that_steps_run_through():
    assert _steps.phases(Step("second", 3600.0)) == ("day", "week", "year")
    assert _steps.phases(Step("second", DAY)) == ("week", "year")
    assert _steps.phases(Step("month", 3.0)) == ("year",)
    assert _steps.phases(Step("month", 12.0)) == ()
    monday = _steps.calendar(seconds("2024-01-01T06:00"), Step("second", 3600.0))
    assert monday[0, :2].tolist() == [1, 0]  # a quarter of a day
    assert monday[0, 4:].tolist() == pytest.approx([np.sin(2 * np.pi / 4 / 366), 1], abs=1e-4)

"""What the past of a series suggests: periods, candidates, and how they are read."""

import warnings

import numpy as np
import pytest

from mainstem.modalities import _continuations as made
from mainstem.modalities._continuations import CANDIDATES, PATCH, Reading

NAMES = (
    *("last", "smoothed", "mean", "trend"),
    *("cycle", "shape", "median", "means", "grown", "drifted", "low", "high"),
    *("short cycle", "short shape", "long cycle", "long shape", "long median"),
    *("values", "changes"),
)


def candidate(x, name, steps=24):
    x = np.atleast_2d(np.asarray(x, np.float64))
    found, _ = made.periods(x)
    return made.candidates(x, np.zeros(len(x), np.int64), found, steps)[:, NAMES.index(name)]


def daily(days, seed=0, noise=0.0):
    rng = np.random.default_rng(seed)
    return np.tile(rng.exponential(1.0, 24), days) + noise * rng.standard_normal(24 * days)


def test_there_is_a_name_for_each_candidate():
    assert len(NAMES) == CANDIDATES
    assert NAMES.index("low") == made.LOW
    assert NAMES.index("high") == made.HIGH


@pytest.mark.parametrize(("period", "noise"), [(7, 0.5), (12, 0.3), (24, 0.5), (11, 0.2), (52, 0.2)])
def test_the_period_of_a_noisy_cycle_under_a_trend_is_found(period, noise):
    rng = np.random.default_rng(period)
    x = np.stack(
        [
            np.tile(rng.standard_normal(period), 8)[: 8 * period] + 0.02 * np.arange(8 * period) + noise * rng.standard_normal(8 * period)
            for _ in range(20)
        ]
    )
    found, alike = made.periods(x)
    assert (found[:, 0] == period).mean() >= 0.8
    assert np.median(alike[:, 0]) > 0.4


def test_days_and_weeks_are_both_found():
    rng = np.random.default_rng(0)
    day = rng.exponential(1.0, 24)
    week = np.concatenate([day * height for height in (1, 1, 1, 1, 1, 0.3, 0.2)])
    found, _ = made.periods((np.tile(week, 6) + 0.05 * rng.standard_normal(6 * 168))[None])
    assert {24, 168} <= set(found[0].tolist())


def test_noise_has_periods_all_the_same_and_a_constant_none():
    assert made.periods(np.random.default_rng(0).standard_normal((3, 100)))[0].min() >= 1
    assert made.periods(np.full((1, 50), 3.0))[0].tolist() == [[1, 1, 1]]


def test_an_exact_cycle_is_continued_exactly():
    x = daily(20)
    for name in ("cycle", "shape", "median", "means", "drifted"):
        np.testing.assert_allclose(candidate(x, name)[0], x[:24], atol=1e-9)
    np.testing.assert_allclose(candidate(x, "changes")[0], x[:24], atol=0.02)


def test_growth_is_by_a_factor_and_drift_by_a_sum():
    years = np.arange(10.0)
    shape = np.random.default_rng(0).uniform(0.5, 1.5, 12)
    factor = (shape * 1.1 ** years[:, None]).ravel()
    np.testing.assert_allclose(candidate(factor, "grown", 12)[0], shape * 1.1**10, rtol=0.01)
    added = (shape + 0.2 * years[:, None]).ravel()
    np.testing.assert_allclose(candidate(added, "drifted", 12)[0], shape + 0.2 * 10, rtol=0.01)


def test_an_autoregression_is_recovered():
    rng = np.random.default_rng(0)
    x = np.zeros(800)
    for i in range(1, 800):
        x[i] = 0.9 * x[i - 1] + 0.1 * rng.standard_normal()
    away = 401 + int(np.abs(x[400:]).argmax())  # far off, from where it comes back
    told = candidate(x[:away], "values", 12)[0]
    np.testing.assert_allclose(told / x[away - 1], 0.9 ** np.arange(1, 13), atol=0.2)
    assert abs(candidate(x[:away], "last", 12)[0][-1]) > 2 * abs(told[-1])


def test_how_candidates_would_have_done_is_read_from_the_last_known_steps():
    x = np.stack([daily(20, noise=0.05), np.random.default_rng(0).standard_normal(480).cumsum()])
    reading = Reading.of(x, 24)
    best = reading.arrays["summary"][:, :CANDIDATES].argmax(axis=1)
    shifted = reading.arrays["summary"][0, NAMES.index("mean")], reading.arrays["summary"][0, NAMES.index("median")]
    assert shifted[1] > shifted[0] + 1.0
    assert NAMES[best[0]] not in ("last", "smoothed", "mean", "trend")
    assert NAMES[best[1]] not in ("mean", "median")
    assert reading.unit[0, 0] < 0.1


def test_answers_are_read_in_units_above_the_base_and_never_below_nothing():
    reading = Reading.of(daily(10)[None], 24)
    np.testing.assert_array_equal(reading.values(np.zeros((1, 32, 1)))[0, :, 0], reading.base[0])
    assert reading.values(np.full((1, 32, 1), -1e6)).min() == 0.0
    free = Reading.of(daily(10)[None] - 1.0, 24)
    np.testing.assert_allclose(free.values(np.ones((1, 32, 1))) - free.values(np.zeros((1, 32, 1))), free.unit[0, 0])
    assert free.values(np.full((1, 32, 1), -1e6)).min() < -1.0


def test_scale_and_level_of_a_series_change_its_units_alone():
    x = daily(10, noise=0.3)[None] + 5.0
    plain, large = Reading.of(x, 20), Reading.of(x * 1e6, 20)
    for name, array in plain.arrays.items():
        np.testing.assert_allclose(large.arrays[name], array, atol=1e-4)
    np.testing.assert_allclose(large.base, plain.base * 1e6, rtol=1e-6)


def test_a_series_is_read_alike_alone_among_others_and_after_missing_steps():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((4, 300)).cumsum(axis=1)
    x[1, :150] = np.nan
    x[2, 20:60] = np.nan
    whole = Reading.of(x, 20)
    for i in range(4):
        lone = Reading.of(x[i : i + 1][:, 150 if i == 1 else 0 :], 20)
        for name, array in lone.arrays.items():
            np.testing.assert_allclose(whole.arrays[name][i][-len(array[0]) :], array[0], atol=1e-4)
        np.testing.assert_allclose(whole.base[i], lone.base[0])
    assert not whole.arrays["context"][1][: 150 // PATCH].any()


@pytest.mark.parametrize(
    "values",
    [[1.0], [np.nan], [np.nan, np.nan, 3.0], [0.0] * 30, [5.0] * 50, [1.0, 2.0], [1e300, -1e300, np.nan, 1e299] * 8, [1e-300, 2e-300] * 9],
)
def test_any_series_is_read(values):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        reading = Reading.of(np.array([values]), 20)
    assert all(np.isfinite(array).all() for array in reading.arrays.values())
    assert np.isfinite(reading.values(np.zeros((1, 32, 3)))).all()
    assert reading.arrays["future"].shape == (1, CANDIDATES, 32)


def test_many_are_read_in_parts_and_none_too(monkeypatch):
    x = np.random.default_rng(0).standard_normal((7, 60))
    whole = Reading.of(x, 20)
    monkeypatch.setattr(made, "_AT_ONCE", 130)
    parts = Reading.of(x, 20)
    for name, array in whole.arrays.items():
        np.testing.assert_allclose(parts.arrays[name], array, atol=1e-5)
    np.testing.assert_allclose(parts.base, whole.base)
    assert Reading.of(x[:0], 20).arrays["future"].shape == (0, CANDIDATES, 32)


def test_only_the_last_steps_are_read():
    x = np.random.default_rng(0).standard_normal((1, made.CONTEXT + 500))
    long, cut = Reading.of(x, 16), Reading.of(x[:, 500:], 16)
    for name, array in cut.arrays.items():
        np.testing.assert_array_equal(long.arrays[name], array)


def test_widths_are_small_where_cycles_do_not_differ():
    x = daily(12)
    x[12::24] += 3.0 * np.random.default_rng(0).standard_normal(12)
    width = Reading.of(x[None], 24).arrays["width"][0, :24]
    assert width[12] == width.max()
    assert np.delete(width, 12).max() < 0.2 * width[12]

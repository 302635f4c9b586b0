"""The pretrained network of series as it lies in the package."""

import numpy as np
import pytest

from mainstem import pretrained
from mainstem.backbones import _zeroshot
from mainstem.modalities._continuations import CONTEXT

LEVELS = (0.1, 0.5, 0.9)


def days(many, noise, seed=0):
    rng = np.random.default_rng(seed)
    return np.tile(rng.exponential(1.0, 24), many) + noise * rng.standard_normal(24 * many)


def test_it_is_small_and_says_what_it_answers():
    network = pretrained.shipped("series")
    assert len(network.graph) < 6e6
    assert 0.5 in network.shape["quantiles"]


def test_a_cycle_is_copied():
    x = days(12, 0.0)
    told = _zeroshot.forecast(x[None, :-48], 48, LEVELS)[0]
    assert np.abs(told[:, 1] - x[-48:]).max() < 0.1 * x.std()
    assert (told[:, 2] - told[:, 0]).mean() < 0.1 * x.std()


def test_a_trend_and_a_cycle_are_told_better_than_by_the_last_cycle():
    errors = []
    for seed in range(5):
        x = days(14, 0.2, seed) + 0.01 * np.arange(14 * 24)
        told = _zeroshot.forecast(x[None, :-24], 24, [0.5])[0, :, 0]
        errors.append(np.abs(told - x[-24:]).mean() / np.abs(x[-48:-24] - x[-24:]).mean())
    assert np.mean(errors) < 0.85


def test_intervals_of_noise_hold_what_they_say():
    x = np.random.default_rng(0).standard_normal((40, 248))
    told = _zeroshot.forecast(x[:, :200], 48, LEVELS)
    assert 0.7 < ((x[:, 200:] >= told[..., 0]) & (x[:, 200:] <= told[..., 2])).mean() < 0.9
    assert np.abs(told[..., 1]).mean() < 0.4


def test_intervals_of_a_walk_grow():
    x = np.random.default_rng(0).standard_normal((20, 300)).cumsum(axis=1)
    width = np.diff(_zeroshot.forecast(x, 64, LEVELS)[..., [0, 2]], axis=2).mean(axis=0)[:, 0]
    assert width[-8:].mean() > 2 * width[:4].mean()


def test_answers_are_in_the_units_of_the_series_and_do_not_depend_on_others():
    x = np.stack([days(6, 0.3), 1000.0 + 1e4 * days(6, 0.3, 1), np.full(144, 7.0)])
    x[0, :60] = np.nan
    told = _zeroshot.forecast(x, 20, LEVELS)
    np.testing.assert_allclose(_zeroshot.forecast(x[1:2], 20, LEVELS)[0], told[1], rtol=1e-4)
    np.testing.assert_allclose(_zeroshot.forecast(x[:1, 60:], 20, LEVELS)[0], told[0], atol=1e-3)
    np.testing.assert_allclose(told[2], 7.0, rtol=0.01)
    assert 1000.0 < told[1].mean() < 1000.0 + 1e4 * x[1].max()


def test_what_was_never_negative_is_not_told_to_be():
    x = np.maximum(days(10, 0.5) - 1.5, 0.0)
    assert _zeroshot.forecast(x[None], 48, (0.01, 0.5)).min() == 0.0


@pytest.mark.parametrize("levels", [(0.01, 0.05, 0.25, 0.5, 0.77, 0.95, 0.999), (0.5,)])
def test_any_levels_are_told_in_order(levels):
    told = _zeroshot.forecast(np.random.default_rng(0).standard_normal((5, 90)), 16, levels)
    assert told.shape == (5, 16, len(levels))
    assert (np.diff(told, axis=2) > 0).all()
    network = pretrained.shipped("series")
    own = network.shape["quantiles"]
    np.testing.assert_allclose(_zeroshot.mixing(network, own), np.eye(len(own)), atol=1e-12)


def test_far_steps_and_long_series_are_told():
    x = days(80, 0.1)
    assert len(x) > CONTEXT
    told = _zeroshot.forecast(x[None, :1300], 400, LEVELS)[0]
    assert np.abs(told[:, 1] - x[1300:1700]).mean() < 0.3 * x.std()

"""A table as the in-context network reads it."""

import numpy as np

from mainstem.backbones._cells import REACH, Scale


def test_channels_are_standardised_value_rank_and_gap():
    x = np.random.default_rng(0).normal(10.0, 2.0, (400, 1))
    cells = Scale.of(x).channels(x)[:, 0]
    np.testing.assert_allclose(cells[:, 0], (x[:, 0] - x.mean()) / x.std(), rtol=1e-5, atol=1e-6)
    share = np.argsort(np.argsort(x[:, 0])) / 399
    np.testing.assert_allclose(cells[:, 1], 2 * share - 1, atol=0.08)
    assert not cells[:, 2].any()


def test_gaps_constants_and_extremes():
    x = np.array([[1.0, np.nan, 3.0], [2.0, np.nan, 3.0], [np.nan, np.nan, 3.0]])
    scale = Scale.of(x)
    cells = scale.channels(np.array([[np.nan, 5.0, 3.0], [1e300, np.nan, 3.1]]))
    assert np.isfinite(cells).all()
    assert cells[0, 0].tolist() == [0.0, 0.0, 1.0]
    assert cells[1, 0].tolist() == [REACH, 1.0, 0.0]
    assert cells[:, 1, 2].tolist() == [0.0, 1.0]
    assert cells[0, 2, 0] == 0.0


def test_ranks_do_not_depend_on_the_scale_of_a_number():
    x = np.random.default_rng(1).normal(size=(50, 2)) ** 3
    a, b = Scale.of(x).channels(x), Scale.of(1e6 * x + 7.0).channels(1e6 * x + 7.0)
    np.testing.assert_allclose(a, b, atol=1e-4)

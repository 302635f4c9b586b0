import numpy as np
import pytest

from mainstem.compress import _windows


@pytest.fixture
def x_TK():
    """Values with a channel that reaches thirty times as far as the others, and one that reaches far below."""
    x = np.random.default_rng(0).normal(size=(400, 96)).astype(np.float32)
    x[:, 5] = np.abs(x[:, 5]) * 30
    x[:, 60] = -np.abs(x[:, 60]) * 12
    return x


def fitted(x_TK):
    return _windows.fit(x_TK.min(0), x_TK.max(0))


def test_far_channels_get_further_columns_and_the_others_a_fine_scale(x_TK):
    window = fitted(x_TK)
    assert {k for k, _ in window.further} >= {5, 60}
    assert len(window.further) <= _windows.FURTHER * 96
    alone = _windows.fit(x_TK.min(0), x_TK.max(0), further=0)
    assert not alone.further
    assert window.scale < alone.scale / 4


def test_the_columns_of_a_channel_add_up_to_its_value(x_TK):
    window = fitted(x_TK)
    found = window.quantise(x_TK) @ window.expand(np.eye(96)) * window.scale
    assert np.abs(found - x_TK).max() <= window.scale * 0.501


def test_a_value_beyond_the_window_is_cut_off_at_its_end(x_TK):
    window = fitted(x_TK)
    far = x_TK[:1].copy()
    far[0, 0] = 1e6
    assert window.quantise(far)[0, 0] == _windows.STEPS - window.zero


def test_a_product_of_integers_and_its_constant_give_the_product_of_values(x_TK):
    window, weights = fitted(x_TK), np.random.default_rng(1).normal(size=(96, 8))
    integers = window.quantise(x_TK)
    stored = integers + np.array([window.zero] * 96 + [window.rest(piece) for _, piece in window.further])
    assert stored.min() >= 0
    assert stored.max() <= _windows.STEPS
    wide = window.expand(weights)
    computed = (stored - window.zero) @ wide * window.scale + window.constant(wide)
    assert np.allclose(computed, integers @ wide * window.scale)


def test_no_pair_of_products_overflows_16_bits():
    assert np.iinfo(np.int16).max >= 2 * _windows.STEPS * _windows.WEIGHT
    integers, scales = _windows.rounded(np.random.default_rng(2).normal(size=(64, 8)), 0)
    assert np.abs(integers).max() == _windows.WEIGHT
    assert scales.shape == (1, 8)


def test_rounding_for_inputs_loses_less_than_rounding_alone(x_TK):
    weights = np.random.default_rng(3).normal(size=(96, 32))
    mixed = x_TK @ np.random.default_rng(4).normal(size=(96, 96)) * 0.2 + x_TK
    plain, for_inputs = (q * s for q, s in (_windows.rounded(weights, 0), _windows.rounded_for(mixed, weights)))
    lost = [np.linalg.norm(mixed @ (weights - w)) for w in (plain, for_inputs)]
    assert lost[1] < 0.8 * lost[0]


@pytest.mark.parametrize("x", [np.zeros((3, 4), np.float32), np.full((3, 4), 7, np.float32), np.full((3, 4), -1e-9, np.float32)])
def test_values_that_do_not_vary(x):
    window = fitted(x)
    assert np.isfinite(window.scale)
    assert np.abs(window.quantise(x)[:, :4] @ np.eye(4) * window.scale - x).max() <= 0.51 * window.scale + 1e-9 or window.further
    assert np.isfinite(_windows.rounded_for(x, np.ones((4, 2)))[1]).all()

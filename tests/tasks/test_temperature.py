import numpy as np
import pytest
import torch

from mainstem.tasks import _temperature as temperature


def drawn(n, k, seed=0):
    """Logits, and labels drawn from the probabilities that they state."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(n, k)) * 2
    p = temperature.softmax(logits)
    return logits, (p.cumsum(1) > rng.random((n, 1))).argmax(1)


@pytest.mark.parametrize("scale", [0.3, 1.0, 4.0])
@pytest.mark.parametrize("classes", [2, 10])
def test_softmax_recovers_a_known_scale(scale, classes):
    logits, index = drawn(20_000, classes)
    assert temperature.fit_softmax(logits * scale, index) == pytest.approx(scale, rel=0.06)


@pytest.mark.parametrize("scale", [0.3, 4.0])
def test_sigmoid_recovers_a_known_scale(scale):
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(5000, 6)) * 2
    hot = rng.random(logits.shape) < temperature.sigmoid(logits)
    assert temperature.fit_sigmoid(logits * scale, hot) == pytest.approx(scale, rel=0.06)


def cross_entropy(logits, index, t):
    return -np.log(temperature.softmax(logits, t)[np.arange(len(index)), index]).mean()


def test_never_worse_than_one_and_in_bounds():
    for seed in range(50):
        rng = np.random.default_rng(seed)
        logits, index = rng.normal(size=(8, 3)) * 3, rng.integers(0, 3, 8)
        t = temperature.fit_softmax(logits, index)
        assert 0.05 <= t <= 20
        assert cross_entropy(logits, index, t) <= cross_entropy(logits, index, 1.0)


def test_few_rows_without_an_error_do_not_ask_for_certainty():
    index = np.arange(20) % 2
    logits = np.where(np.arange(2) == index[:, None], 1.0, -1.0)
    p = temperature.softmax(logits, temperature.fit_softmax(logits, index))
    assert 0.9 < p.max() < 0.99


def test_degenerate_rows_leave_it_at_one():
    assert temperature.fit_softmax(np.zeros((0, 3)), np.zeros(0, int)) == 1.0
    assert temperature.fit_softmax(np.ones((4, 1)), np.zeros(4, int)) == 1.0
    assert temperature.fit_softmax(np.full((2, 3), np.nan), np.zeros(2, int)) == 1.0
    assert temperature.fit_softmax(np.ones((2, 3)), np.full(2, -1)) == 1.0
    assert temperature.fit_sigmoid(np.zeros((0, 3)), np.zeros((0, 3))) == 1.0


def test_probabilities_are_torchs_and_do_not_overflow():
    logits = np.array([[1000.0, -1000.0, 0.0], [1.0, 2.0, -np.inf], [-5e4, -5e4, -5e4]])
    expected = torch.softmax(torch.from_numpy(logits) / 2, 1).numpy()
    np.testing.assert_allclose(temperature.softmax(logits, 2.0), expected, atol=1e-15)
    np.testing.assert_allclose(temperature.sigmoid(logits, 2.0), torch.sigmoid(torch.from_numpy(logits) / 2).numpy(), atol=1e-15)


def test_where_one_is_best_it_stays_exactly_one():
    logits = np.tile([np.log(3.0), 0.0], (4, 1))  # states 3 of 4, and 3 of 4 are right
    assert temperature.fit_softmax(logits, np.array([0, 0, 0, 1])) == 1.0

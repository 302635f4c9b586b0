import numpy as np
import pytest

from mainstem.evaluation import intervals
from mainstem.evaluation.metrics import FAMILIES, Answers


def accuracy(correct, groups=None, **more):
    true = np.zeros(len(correct), int)
    answers = Answers(true, np.where(correct, 0, 1), np.zeros((len(correct), 2)), ("a", "b"))
    value, low, high, used = intervals.bootstrap(FAMILIES["category"][:1], answers, groups, **more)["accuracy"]
    return float(value), float(low), float(high), used


def test_nineteen_of_twenty_intervals_hold_the_truth():
    held = 0
    for seed in range(400):
        _, low, high, _ = accuracy(np.random.default_rng(seed).random(150) < 0.7, resamples=400, seed=seed)
        held += low <= 0.7 <= high
    assert 0.92 <= held / 400 <= 0.975


def test_width_is_that_of_the_normal_approximation():
    correct = np.random.default_rng(0).random(2000) < 0.8
    value, low, high, used = accuracy(correct)
    assert used == 1000
    assert high - low == pytest.approx(2 * 1.96 * np.sqrt(value * (1 - value) / 2000), rel=0.1)


def test_rows_of_a_group_are_drawn_together():
    correct = np.repeat(np.random.default_rng(0).random(50) < 0.5, 40)
    groups = [f"g{i // 40}" for i in range(2000)]
    _, low, high, _ = accuracy(correct)
    _, wide_low, wide_high, _ = accuracy(correct, groups)
    assert (wide_high - wide_low) / (high - low) == pytest.approx(np.sqrt(40), rel=0.2)
    for counts in intervals.draw(2000, groups, 5, 0):
        assert (counts.reshape(-1, 50, 40) == counts.reshape(-1, 50, 40)[:, :, :1]).all()


def test_same_seed_same_interval():
    correct = np.random.default_rng(0).random(100) < 0.6
    assert accuracy(correct, seed=3) == accuracy(correct, seed=3)
    assert accuracy(correct, seed=3) != accuracy(correct, seed=4)


def test_each_resample_has_as_many_units_as_there_are():
    blocks = list(intervals.draw(1000, None, 700, 0))
    counts = np.concatenate(blocks)
    assert counts.shape == (700, 1000)
    assert (counts.sum(1) == 1000).all()
    assert counts.var() == pytest.approx(1.0, rel=0.02)


@pytest.mark.parametrize("groups", [None, ["a"]])
def test_one_row_has_no_interval(groups):
    value, low, high, _ = accuracy(np.array([True]), groups)
    assert value == 1.0
    assert np.isnan([low, high]).all()


def test_one_group_has_no_interval():
    assert np.isnan(accuracy(np.array([True, False]), ["a", "a"])[1])


def test_large_data_take_fewer_resamples_and_at_least_a_hundred():
    assert intervals.resamples_for(np.zeros((10_000, 40)), 1000) == 1000
    assert intervals.resamples_for(np.zeros((100_000, 20)), 1000) == 200
    assert intervals.resamples_for(np.broadcast_to(0.0, (10_000_000, 100)), 1000) == 100


def test_a_rare_class_that_is_often_not_drawn_still_has_an_interval():
    rng = np.random.default_rng(0)
    true = np.array([1] + [0] * 49)
    scores = rng.random(50)
    answers = Answers(true, np.zeros(50, int), np.column_stack([1 - scores, scores]), ("a", "b"))
    value, low, high, _ = intervals.bootstrap(FAMILIES["category"], answers)["roc_auc"]
    assert 0 <= low <= value <= high <= 1


def test_an_interval_holds_its_own_figure():
    chosen = np.tile([0, 0, 0, 1], 1000)
    scores = np.where(chosen[:, None] == [0, 1], 0.75, 0.25)
    answers = Answers(np.where(np.arange(4000) % 4 == 3, 0, chosen), chosen, scores, ("a", "b"))
    value, low, high, _ = intervals.bootstrap(FAMILIES["category"], answers)["ece"]
    assert low == value == 0 < high  # chance only adds to the error

import numpy as np
import pytest

from mainstem.contracts import Prediction
from mainstem.evaluation import report
from mainstem.evaluation.forecasts import LEVELS, seasonal_naive, statistics
from mainstem.modalities.series import Channel, Layout, Outcome, Window

LAYOUT = Layout(channels=(Channel("v"),), season=2, window=6, horizon=2)


def outcome(history, values):
    return Outcome(np.array(values, float), Window(LAYOUT, np.array(history, float)[:, None], np.zeros((8, 0)), 6.0))


def forecast(point, spread):
    quantiles = {f"{level:g}": [p + spread * (level - 0.5) * 10 / 4 for p in point] for level in LEVELS}
    return Prediction(point, more={"quantiles": quantiles})


HISTORY = [1, 2, 2, 4, 3, 6]  # seasonal differences 1, 2, 1, 2


def test_mase_is_in_units_of_the_seasonal_naive():
    figures = report.point_metrics("forecasting", [forecast([3.0, 5.0], 1)], [outcome(HISTORY, [6, 8])], [])
    assert figures["mase"] == pytest.approx(3 / 1.5)


def test_quantile_loss_by_hand():
    answer = forecast([3.0, 5.0], 0)
    figures = report.point_metrics("forecasting", [answer], [outcome(HISTORY, [4, 3])], [])
    expected = np.mean([2 * level * 1 + 2 * (1 - level) * 2 for level in LEVELS]) / 7
    assert figures["weighted_quantile_loss"] == pytest.approx(expected)


def test_coverage_counts_steps():
    answers = [forecast([0.0, 0.0], 1), forecast([0.0, 0.0], 1)]  # from -1 to 1
    figures = report.point_metrics("forecasting", answers, [outcome(HISTORY, [0.9, 1.1]), outcome(HISTORY, [-0.9, np.nan])], [])
    assert figures["coverage"] == pytest.approx(2 / 3)


def test_a_constant_history_has_no_scale_and_counts_in_no_mase():
    answers = [forecast([1.0, 1.0], 1)] * 2
    figures = report.point_metrics("forecasting", answers, [outcome([5] * 6, [9, 9]), outcome(HISTORY, [2.5, 2.5])], [])
    assert figures["mase"] == pytest.approx(1)
    assert report.point_metrics("forecasting", answers[:1], [outcome([5] * 6, [9, 9])], [])["mase"] is None


def test_missing_steps_count_nowhere():
    full, half = outcome(HISTORY, [4, 3]), outcome(HISTORY, [4, np.nan])
    one = statistics([forecast([3.0, 5.0], 1)], [half])
    assert one[0, 5] == 1
    assert one[0, 3] == 4
    assert statistics([forecast([3.0, 5.0], 1)], [full])[0, 5] == 2


def test_the_baseline_is_the_seasonal_naive():
    answer = seasonal_naive(outcome(HISTORY, [0, 0]))
    assert answer.value == [3, 6]
    deviation = np.sqrt((1 + 4 + 1 + 4) / 4)
    assert answer.more["quantiles"]["0.9"][0] == pytest.approx(3 + 1.2815515655 * deviation, rel=1e-6)
    found = report.evaluate("forecasting", [forecast([4.0, 5.0], 1)] * 4, [outcome(HISTORY, [4, 5])] * 4, [], resamples=100)
    assert found["metrics"]["mase"]["value"] == 0
    assert found["baseline"]["mase"]["value"] == pytest.approx(1 / 1.5)

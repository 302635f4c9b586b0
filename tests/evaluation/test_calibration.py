import numpy as np
import pytest

from mainstem.evaluation import calibration


def test_bins_hold_their_upper_edge():
    assert calibration.bin_of(np.array([0.0, 1 / 15, 0.0667, 0.5, 1.0])).tolist() == [0, 0, 1, 7, 14]


def test_calibrated_confidences_have_a_small_error_and_others_theirs():
    rng = np.random.default_rng(0)
    confidence = rng.uniform(0.5, 1, 50_000)
    assert calibration.ece(confidence, rng.random(50_000) < confidence) < 0.01
    assert calibration.ece(confidence, rng.random(50_000) < confidence - 0.2) == pytest.approx(0.2, abs=0.01)


def test_reliability_bins_add_up():
    confidence, correct = np.array([0.95, 0.99, 0.4]), np.array([True, False, True])
    low, high = calibration.reliability(confidence, correct)
    assert (low["rows"], high["rows"]) == (1, 2)
    assert low["low"] < 0.4 <= low["high"]
    assert (high["confidence"], high["accuracy"]) == (pytest.approx(0.97), 0.5)
    assert calibration.ece(confidence, correct) == pytest.approx((0.6 + 2 * 0.47) / 3)
    assert calibration.ece(np.zeros(0), np.zeros(0, bool)) == 0.0

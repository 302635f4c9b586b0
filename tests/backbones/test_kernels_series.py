import numpy as np
import pytest

from mainstem.backbones import kernels_series
from mainstem.backbones.kernels_series import KERNELS, predictor
from mainstem.errors import MainstemError

RNG = np.random.default_rng(0)
KINDS = {"task": "classification", "outputs": 2}


def waves(n, length=60, channels=1):
    index = np.arange(n) % 2
    phase = RNG.uniform(0, 6, (n, 1))
    wave = np.sin(np.arange(length) * np.where(index, 0.9, 0.5)[:, None] + phase) + 0.3 * RNG.normal(size=(n, length))
    noise = RNG.normal(size=(n, length, channels - 1))
    return {"values": np.concatenate([wave[:, :, None], noise], axis=2)}, {"index": index}


def test_the_kernels_are_those_of_the_paper():
    assert KERNELS.shape == (84, 9)
    assert (KERNELS.sum(axis=1) == 0).all()
    assert len({tuple(k) for k in KERNELS.tolist()}) == 84


@pytest.mark.parametrize("channels", [1, 3])
def test_frequencies_are_told_apart(channels):
    arrays, target = waves(40, channels=channels)
    state = predictor.fit(arrays, target, KINDS, None, {"features": 1008}, 0)
    fresh, truth = waves(40, channels=channels)
    assert (predictor.run(state, fresh)["logits"].argmax(axis=1) == truth["index"]).mean() > 0.9


def test_a_feature_is_the_share_of_steps_above_a_bias():
    x = RNG.normal(size=(1, 1, 50))
    (part, *_) = kernels_series._bank(x, 84, np.random.default_rng(0))
    convolved = np.convolve(x[0, 0], KERNELS[0][::-1], "same")
    steps = convolved if part.padded[0] else convolved[4:-4]
    assert kernels_series._features(x, [part])[0, 0] == pytest.approx((steps > part.biases[0, 0]).mean())


def test_windows_shorter_than_a_kernel():
    arrays, target = waves(12, length=5)
    state = predictor.fit(arrays, target, KINDS, None, {"features": 84}, 0)
    assert np.isfinite(predictor.run(state, arrays)["logits"]).all()


def test_left_out_errors_of_the_ridge_are_those_of_fits_without_the_row():
    x, y = RNG.normal(size=(12, 30)), RNG.normal(size=(12, 1))
    weight, bias, strength = kernels_series._ridge(x - x.mean(0), y, np.ones(12))
    assert strength in kernels_series._STRENGTHS
    centred = x - x.mean(0)
    expected = np.linalg.solve(centred.T @ centred + strength * np.eye(30), centred.T @ (y - y.mean()))
    assert weight == pytest.approx(expected)
    assert bias == pytest.approx(y.mean())


def test_settings_and_tasks_that_make_no_sense():
    arrays, target = waves(12)
    with pytest.raises(MainstemError, match="from 84 to 100000"):
        predictor.fit(arrays, target, KINDS, None, {"features": 5}, 0)
    with pytest.raises(MainstemError, match="has no setting 'kernels'"):
        predictor.fit(arrays, target, KINDS, None, {"kernels": 84}, 0)
    with pytest.raises(MainstemError, match="classifies"):
        predictor.fit(arrays, target, {"task": "regression"}, None, {}, 0)

import json
import math

import pytest

from mainstem.config import Training
from mainstem.training.stops import Stops


def run(settings, losses, figures=None, stops=None, start=0):
    """(epochs done when it stopped, the reason); 10 steps and 2 seconds an epoch."""
    stops = stops or Stops(Training(**settings))
    for i in range(start, len(losses)):
        reason = stops.epoch_end(i + 1, 10 * (i + 1), 2.0 * (i + 1), losses[i], figures[i] if figures else None)
        if reason:
            return i + 1, reason
    return None, ""


FALLING = [1 / (i + 1) for i in range(50)]


@pytest.mark.parametrize(
    ("settings", "epochs", "says"),
    [
        ({"epochs": 7}, 7, "7 epochs"),
        ({"steps": 35}, 4, "40 steps"),
        ({"time_limit": 9.0}, 5, "time limit of 9 s"),
        ({}, None, ""),
    ],
)
def test_counted_stops(settings, epochs, says):
    stopped, reason = run(settings, FALLING)
    assert stopped == epochs
    assert says in reason


def test_steps_and_time_stop_within_an_epoch():
    stops = Stops(Training(steps=35, time_limit=9.0))
    assert stops.step_end(34, 8.9) == ""
    assert "35 steps" in stops.step_end(35, 1.0)
    assert "time limit" in stops.step_end(3, 9.0)


def test_a_converged_loss_stops():
    losses = [1.0, 0.5, 0.4999, 0.25]
    assert run({"tol": 1e-3}, losses)[0] == 3
    assert "converged" in run({"tol": 1e-3}, losses)[1]
    assert run({"tol": 1e-5}, losses)[0] is None
    assert run({"tol": 0.0}, [1.0, 0.5, 0.5])[0] == 3
    assert run({"tol": 1e-3}, [1.0, 0.0, 0.0])[0] == 3


def test_patience_counts_epochs_without_improvement():
    figures = [3.0, 2.0, 2.5, math.nan, 1.0, 1.0, 1.1, 1.2, 0.5]
    stops = Stops(Training(patience=3))
    stopped, reason = run({}, FALLING[:9], figures, stops)
    assert stopped == 8
    assert "epoch 5 was the best" in reason
    assert (stops.best, stops.best_epoch, stops.improved) == (1.0, 5, False)


def test_patience_without_a_validation_figure_watches_the_training_loss():
    assert run({"patience": 2}, [1.0, 2.0, 2.0, 2.0])[0] == 3


@pytest.mark.parametrize("cut", range(8))
def test_stops_resume(cut):
    figures = [3.0, 2.0, 2.5, 2.4, 1.0, 1.0, 1.1, 1.2, 0.5]
    first, second = Stops(Training(patience=3)), Stops(Training(patience=3))
    run({}, FALLING[:cut], figures, first)
    second.load(json.loads(json.dumps(first.state(), allow_nan=False)))
    assert run({}, FALLING[:9], figures, second, start=cut)[0] == 8

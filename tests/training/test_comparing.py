"""Which candidate is taken: the simplest model within a standard error of the best, with the best of its trainings."""

import numpy as np

from mainstem.config import InputSettings
from mainstem.tasks.classification import plugin as Classification
from mainstem.training.comparing import Score, best, explain

NOISE = np.tile([-1.0, 1.0], 50)


def score(name, mean, backbone):
    losses = mean + NOISE * (0.5 if backbone == "linear" else 0.1)
    inputs = (InputSettings(name="table", columns=("a",), backbone=backbone),)
    figures = {"cross_entropy": float(losses.mean())}
    return Score(name, figures, 1, {}, np.arange(100), losses=losses, inputs=inputs)


def test_of_two_models_the_simpler_within_a_standard_error_is_taken():
    task = Classification({})
    near, far = [score("simple", 0.53, "linear"), score("large", 0.5, "mlp")], [score("simple", 0.8, "linear"), score("large", 0.5, "mlp")]
    assert (best(task, near).name, best(task, far).name) == ("simple", "large")
    assert "the simplest model whose cross entropy" in explain(task, near, 5)
    assert "with the lowest cross entropy on 5 folds" in explain(task, far, 5)


def test_of_two_trainings_of_one_model_the_better_is_taken():
    scores = [score("strong", 0.51, "linear"), score("weak", 0.5, "linear"), score("large", 0.499, "mlp")]
    assert best(Classification({}), scores).name == "weak"

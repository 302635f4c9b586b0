import numpy as np
import pytest

from mainstem.contracts import Prediction
from mainstem.errors import MainstemError
from mainstem.evaluation import comparison


def test_losses_of_labels_and_numbers():
    labels = [Prediction("a", 0.8, {"a": 0.8, "b": 0.2}), Prediction("a", 0.9, {"a": 0.9, "b": 0.1})]
    assert comparison.losses(labels, ["a", "b"]) == pytest.approx([-np.log(0.8), -np.log(0.1)])
    assert comparison.losses([Prediction(2.0), Prediction(5.0)], [1.0, 5.0]) == pytest.approx([1.0, 0.0])
    assert comparison.losses([Prediction(["a"])], [("a",)]) is None
    assert comparison.losses([MainstemError("no")], ["a"]) is None


def test_a_label_unknown_to_the_model_costs_much_but_not_everything():
    assert comparison.losses([Prediction("a", 1.0, {"a": 1.0})], ["c"])[0] == pytest.approx(-np.log(1e-12))


def test_the_simplest_within_one_standard_error_is_taken():
    rng = np.random.default_rng(0)
    best = rng.gamma(2, 1, 400)
    alike, worse = best + rng.normal(0.01, 1, 400), best + rng.normal(0.5, 1, 400)
    assert comparison.simplest([alike, best], 1) == 0
    assert comparison.simplest([worse, best], 1) == 1
    assert comparison.simplest([worse, alike, best], 2) == 1
    assert comparison.simplest([best, alike], 0) == 0


def test_without_losses_by_row_the_best_is_taken():
    assert comparison.simplest([None, np.ones(3)], 1) == 1
    assert comparison.simplest([np.ones(4), np.ones(3)], 1) == 1
    assert comparison.simplest([None, None], 1) == 1

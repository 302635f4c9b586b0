import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score

from mainstem.contracts import Batch, Feature, State
from mainstem.errors import MainstemError
from mainstem.tasks import labels
from mainstem.tasks.labels import Labels

TARGET = State({"values": ["a", "b", "c"]})
BATCH = Batch({}, np.arange(2), 2)


def state(**more):
    return State({**Labels().fit_state(iter(()), TARGET, None).json, **more})


def test_decode_chooses_what_reaches_its_threshold():
    logits = np.array([[0.0, 2.0, -2.0], [-1.0, -1.0, -3.0]], np.float32)
    plain = Labels().decode({"logits": logits}, BATCH, state())
    assert [p.value for p in plain] == [["a", "b"], []]
    moved = Labels().decode({"logits": logits}, BATCH, state(thresholds=[0.6, 0.9, 0.01], temperature=2.0))
    assert [p.value for p in moved] == [["c"], ["c"]]
    np.testing.assert_allclose(list(moved[0].scores.values()), torch.sigmoid(torch.from_numpy(logits[0]).double() / 2).numpy())


def test_a_row_of_nan_is_an_error_of_that_row_alone():
    answers = Labels().decode({"logits": np.array([[np.nan, 0, 0], [np.inf, 0, -np.inf]])}, BATCH, state())
    assert isinstance(answers[0], MainstemError)
    assert answers[1].scores == {"a": 1.0, "b": 0.5, "c": 0.0}


def made(n, seed):
    """Rare labels with logits that are too low, as an imbalanced training part gives them."""
    rng = np.random.default_rng(seed)
    hot = rng.random((n, 3)) < [0.05, 0.1, 0.3]
    return rng.normal(size=(n, 3)) + 2.5 * hot - 3.0, hot


def f1(logits, hot, fitted):
    chosen = [p.value for p in Labels().decode({"logits": logits}, BATCH, fitted)]
    return f1_score(hot, [[label in row for label in "abc"] for row in chosen], average="macro", zero_division=0)


def test_thresholds_raise_f1_on_new_rows():
    fitted = Labels().calibrate(*({"logits": made(2000, 0)[0]}, {"hot": made(2000, 0)[1]}), state())
    new = made(2000, 1)
    assert f1(*new, fitted) > f1(*new, state()) + 0.2
    assert f1(*new, fitted) > f1(*new, State({**fitted.json, "thresholds": [0.5] * 3}))


def test_threshold_is_the_best_of_all_while_shrinkage_is_small():
    rng = np.random.default_rng(0)
    hot = rng.random(5000) < 0.3
    scores = np.round(1 / (1 + np.exp(-(rng.normal(size=5000) + 1.5 * hot))), 2)  # with ties
    fitted = labels._threshold(scores, hot, 0.5)
    best = max(f1_score(hot, scores >= t) for t in np.unique(scores))
    assert f1_score(hot, scores >= fitted) == pytest.approx(best, abs=0.003)


def test_few_positives_stay_near_the_prior():
    scores, hot = np.array([0.9, 0.01, 0.02]), np.array([True, False, False])
    assert labels._threshold(scores, hot, 0.3) == pytest.approx(0.3, abs=0.05)
    assert labels._threshold(scores, np.zeros(3, bool), 0.3) == 0.3


def test_head_and_loss_learn():
    torch.manual_seed(0)
    task = Labels()
    head = task.head({"table.hidden": Feature(3)}, TARGET)
    x = torch.randn(200, 3)
    batch = Batch({}, np.arange(200), 200, target={"hot": (x > 0).float()})
    optimiser = torch.optim.Adam(head.parameters(), 0.1)
    for _ in range(100):
        optimiser.zero_grad()
        task.loss(head({"table.hidden": x}), batch).backward()
        optimiser.step()
    assert ((head({"table.hidden": x})["logits"] > 0) == (x > 0)).float().mean() > 0.95


def test_differ():
    task = Labels()
    a, b = task.decode({"logits": np.array([[1.0, 0.5, -1.0], [1.0, 0.5001, -1.0]])}, BATCH, state())
    assert 0 < task.differ(a, b) < task.tolerance
    (c,) = task.decode({"logits": np.array([[1.0, 0.5, -1.0]])}, BATCH, state(thresholds=[0.5, 0.9, 0.5]))
    assert task.differ(a, c) == 1


def test_a_rare_label_borrows_the_threshold_of_the_others():
    logits, hot = made(2000, 0)
    logits, hot = np.hstack([logits, logits[:, :1] - 3]), np.hstack([hot, np.zeros((2000, 1), bool)])
    thresholds = Labels().calibrate({"logits": logits}, {"hot": hot}, state()).json["thresholds"]
    assert thresholds[3] == pytest.approx(np.mean(thresholds[:3]), abs=0.1)  # not 0.5

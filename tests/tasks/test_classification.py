import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from mainstem.contracts import Batch, Call, Feature, Prediction, State
from mainstem.errors import MainstemError
from mainstem.tasks.classification import Classification, abstained

TARGET = State({"values": ["cat", "dog", "鸟"]})
BATCH = Batch({}, np.arange(3), 3)


def state(**more):
    fitted = Classification().fit_state(iter(()), TARGET, None)
    return State({**fitted.json, **more})


def test_decode_names_the_likeliest_label():
    logits = np.array([[2.0, 1.0, 0.0], [0.0, 0.0, 3.0]], np.float32)
    first, second = Classification().decode({"logits": logits}, BATCH, state(temperature=2.0))
    assert (first.value, second.value) == ("cat", "鸟")
    expected = torch.softmax(torch.from_numpy(logits).double() / 2, 1).numpy()
    assert list(first.scores) == ["cat", "dog", "鸟"]
    np.testing.assert_allclose(list(second.scores.values()), expected[1], rtol=1e-12)
    assert first.score == first.scores["cat"]
    assert type(first.score) is float


def test_a_row_of_nan_is_an_error_of_that_row_alone():
    logits = np.array([[np.nan, 0, 0], [0, 1, -np.inf], [np.inf, 0, 0], [-np.inf] * 3], np.float32)
    answers = Classification().decode({"logits": logits}, BATCH, state())
    assert [isinstance(a, MainstemError) for a in answers] == [True, False, True, True]
    assert answers[1].scores["鸟"] == 0.0


def test_calibrate_stores_the_temperature():
    rng = np.random.default_rng(0)
    index = rng.integers(0, 3, 2000)
    logits = rng.normal(size=(2000, 3)) + 10.0 * (np.arange(3) == index[:, None]) * (rng.random((2000, 1)) < 0.6)
    fitted = Classification().calibrate({"logits": logits}, {"index": index}, state())
    assert fitted.json["labels"] == ["cat", "dog", "鸟"]
    assert fitted.json["temperature"] > 2  # sure, and often wrong

    def cost(json):
        answers = Classification().decode({"logits": logits}, BATCH, State(json))
        return -np.mean([np.log(a.scores[TARGET.json["values"][i]]) for a, i in zip(answers, index, strict=True)])

    assert cost(fitted.json) < cost(state().json)


def test_head_and_loss_learn():
    torch.manual_seed(0)
    task = Classification({"label_smoothing": 0.05})
    head = task.networks({"table.hidden": Feature(2)}, TARGET, {"hidden": [16]})["head"]
    x = torch.randn(300, 2)
    index = torch.where(x[:, 0] > 0, 0, torch.where(x[:, 1] > 0, 1, 2))
    batch = Batch({}, np.arange(300), 300, target={"index": index})
    optimiser = torch.optim.Adam(head.parameters(), 0.05)
    for _ in range(100):
        optimiser.zero_grad()
        loss = task.loss(head({"table.hidden": x}), batch)
        loss.backward()
        optimiser.step()
    assert len([m for m in head.modules() if isinstance(m, torch.nn.Linear)]) == 2
    assert (head({"table.hidden": x})["logits"].argmax(1) == index).float().mean() > 0.95


def test_predict_asks_backbone_then_head():
    batch = Batch({"table": {"numbers": np.ones((2, 1), np.float32)}}, np.arange(2), 2, ("table",))
    steps = Classification().predict(batch, state(), {}, [])
    (first,) = steps.send(None)
    assert first == Call("backbone.table", batch.inputs["table"])
    call = steps.send(({"hidden": np.ones((2, 4))},))
    assert call.graph == "head"
    assert list(call.inputs) == ["table.hidden"]
    with pytest.raises(StopIteration) as done:
        steps.send({"logits": np.eye(3)[:2]})
    assert [p.value for p in done.value.value] == ["cat", "dog"]


def test_differ():
    task = Classification()

    def of(*logits):
        return task.decode({"logits": np.array([logits])}, BATCH, state())[0]

    assert task.differ(of(1, 0, 0), of(1, 0, 0)) == 0
    assert task.differ(of(1, 0, 0), of(1.0001, 0, 0)) < task.tolerance < task.differ(of(1, 0, 0), of(1.1, 0, 0))
    assert task.differ(of(1, 0, 0), of(0, 1, 0)) == 1
    assert task.differ(of(1, 1.0001, 0), of(1.0001, 1, 0)) < task.tolerance  # so close that they may swap


def test_settings_are_checked_all_at_once():
    with pytest.raises(MainstemError) as error:
        Classification({"label_smothing": 0.1, "dropout": 1.0, "hidden": [0], "activation": "relo", "loss": "mse"})
    for part in ("Did you mean 'label_smoothing'", "'dropout'", "'hidden'", "Did you mean 'relu'", "'loss' cannot be 'mse'"):
        assert part in str(error.value)


def test_ten_thousand_rows_decode_quickly():
    logits = np.random.default_rng(0).normal(size=(10_000, 20)).astype(np.float32)
    names = State({"labels": [str(i) for i in range(20)]})
    start = time.process_time()
    assert len(Classification().decode({"logits": logits}, BATCH, names)) == 10_000
    assert time.process_time() - start < 1


def test_decoding_imports_no_torch():
    code = (
        "import sys, numpy as np; from mainstem import registry; from mainstem.contracts import Batch, State\n"
        "for name, key in (('classification', 'logits'), ('regression', 'value'), ('labels', 'logits')):\n"
        "    state = State({'labels': ['a'], 'center': 0.0, 'scale': 1.0})\n"
        "    registry.load('tasks', name).plugin().decode({key: np.ones((1, 1))}, Batch({}, np.arange(1), 1), state)\n"
        "assert not {'torch', 'pandas', 'sklearn', 'scipy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_below_the_threshold_it_says_that_it_abstains(table_run):
    rows = [{"area": 20.0 + 2 * i, "rooms": i % 5 + 1, "城区": "海淀"} for i in range(40)]
    plain = table_run.model.predict(rows)
    assert not [answer for answer in plain if "abstained" in answer]
    careful = table_run.model.predict(rows, options={"abstain": 0.8})
    assert [answer.pop("abstained", False) for answer in careful] == [answer["score"] < 0.8 for answer in plain]
    assert careful == plain  # labels and calibrated scores stay
    assert 0 < sum(answer["score"] < 0.8 for answer in plain) < 40
    with pytest.raises(MainstemError, match="a score from 0 to 1"):
        table_run.model.predict(rows, options={"abstain": 1.5})


def test_a_model_may_have_a_threshold_of_its_own():
    task = Classification({"abstain": 0.9})
    sure, unsure = Prediction("a", 0.95), Prediction("a", 0.85)
    assert [abstained(each, task.settings["abstain"]).more for each in (sure, unsure)] == [{}, {"abstained": True}]
    with pytest.raises(MainstemError, match="'abstain' is a number from 0 to below 1"):
        Classification({"abstain": 1})

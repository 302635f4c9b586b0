import numpy as np
import pytest
import torch

from mainstem.contracts import Batch, Feature, State
from mainstem.errors import MainstemError
from mainstem.modalities.number import plugin as number
from mainstem.tasks.regression import Regression

BATCH = Batch({}, np.arange(2), 2)


def test_decode_gives_the_units_of_the_data():
    values = [10.0, 20.0, 30.0, 100.0]
    scale = number.fit({"answer": True}, values)
    state = Regression().fit_state(iter(()), scale, None)
    encoded = number.encode(values, {"answer": True}, scale)[0]["value"].astype(np.float32)
    answers = Regression().decode({"value": encoded[:, None]}, BATCH, state)
    np.testing.assert_allclose([a.value for a in answers], values, rtol=1e-6)
    assert answers[0].low is None
    half = 0.5
    answers = Regression().decode({"value": encoded[:, None]}, BATCH, State({**state.json, "interval": half}))
    np.testing.assert_allclose([a.high - a.value for a in answers], half * np.std(values), rtol=1e-6)
    np.testing.assert_allclose([a.value - a.low for a in answers], half * np.std(values), rtol=1e-6)


def test_intervals_cover_nine_of_ten_new_rows():
    covered = []
    for seed in range(300):
        rng = np.random.default_rng(seed)
        residual = rng.standard_t(3, size=40)
        state = Regression().calibrate({"value": np.zeros((40, 1))}, {"value": residual}, State({"center": 0.0, "scale": 1.0}))
        (answer,) = Regression().decode({"value": np.zeros((1, 1))}, BATCH, state)
        new = rng.standard_t(3, size=200)
        covered.append(((new >= answer.low) & (new <= answer.high)).mean())
    assert np.mean(covered) == pytest.approx(37 / 41, abs=0.01)  # ⌈41 · 0.9⌉ / 41, for any distribution


def test_too_few_rows_have_no_interval():
    scale = State({"center": 0.0, "scale": 1.0})
    for n in (0, 1, 8):
        assert Regression().calibrate({"value": np.zeros((n, 1))}, {"value": np.ones(n)}, scale) == scale
    assert "interval" in Regression().calibrate({"value": np.zeros((9, 1))}, {"value": np.ones(9)}, scale).json


def test_a_value_that_is_no_number_is_an_error_of_that_row_alone():
    state = State({"center": 0.0, "scale": 1.0, "interval": 1.0})
    answers = Regression().decode({"value": np.array([[np.nan], [1.0], [np.inf]])}, BATCH, state)
    assert [isinstance(a, MainstemError) for a in answers] == [True, False, True]


@pytest.mark.parametrize("settings", [{}, {"loss": "mae"}, {"loss": "huber", "delta": 0.5}])
def test_head_and_loss_learn_a_line(settings):
    torch.manual_seed(0)
    task = Regression(settings)
    head = task.head({"table.values": Feature(1)}, State({"center": 0.0, "scale": 1.0}))
    x = torch.linspace(-1, 1, 50)[:, None]
    batch = Batch({}, np.arange(50), 50, target={"value": 0.7 * x[:, 0] - 0.2})
    optimiser = torch.optim.Adam(head.parameters(), 0.02)
    for _ in range(300):
        optimiser.zero_grad()
        task.loss(head({"table.values": x}), batch).backward()
        optimiser.step()
    np.testing.assert_allclose([p.item() for p in head.parameters()], [0.7, -0.2], atol=0.03)


def test_the_loss_named_is_the_loss_used():
    output, batch = {"value": torch.tensor([[3.0]])}, Batch({}, np.arange(1), 1, target={"value": torch.tensor([0.0])})
    found = [Regression({"loss": name, "delta": 2.0}).loss(output, batch).item() for name in ("mse", "mae", "huber")]
    assert found == [4.5, 3.0, 4.0]


@pytest.mark.parametrize("unit", [1e-6, 1.0, 1e9])
def test_differ_is_measured_in_the_unit_of_the_data(unit):
    task, state = Regression(), State({"center": 5 * unit, "scale": unit, "interval": 0.3})

    def of(value, fitted=state):
        return task.decode({"value": np.array([[value]])}, BATCH, fitted)[0]

    assert task.differ(of(-5.0), of(-5.0)) == 0
    assert task.differ(of(-5.0), of(-5.0 + 1e-6)) < task.tolerance < task.differ(of(-5.0), of(-4.9))
    assert task.differ(of(-5.0), of(-5.0, State({**state.json, "interval": 0.4}))) > task.tolerance

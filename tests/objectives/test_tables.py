"""Made tables, and the objective that learns from them."""

import numpy as np
import pytest
import torch

from mainstem.errors import MainstemError
from mainstem.objectives import _tables
from mainstem.objectives.tables import Tables
from mainstem.training.loop import tensors

SMALL = {"width": 32, "heads": 1, "layers": 2, "cells": 2000, "context": (10, 30), "asked": 8, "columns": (1, 5)}


@pytest.mark.parametrize("regression", [True, False])
def test_tables_can_be_learned_from(regression):
    for seed in range(60):
        made = _tables.table(np.random.default_rng(seed), 40, 1 + seed % 9, regression, 25)
        assert not np.isinf(made.numbers).any()
        assert np.isfinite(made.answer).all()
        assert np.isnan(made.numbers[:, made.categories]).all()
        assert not made.codes[:, ~made.categories].any()
        assert made.codes.max(initial=0) <= _tables.MOST_CODES
        if regression:
            assert made.classes == 0
            assert np.ptp(made.answer[:25]) > 0
        else:
            assert set(made.answer[25:]) <= set(made.answer[:25]) <= set(range(made.classes))
            assert 2 <= made.classes <= _tables.MOST_CLASSES


def test_the_same_seed_makes_the_same_tables():
    a, b = (Tables(SMALL).make(np.random.default_rng(3)) for _ in range(2))
    for name, array in a.inputs["table"].items():
        np.testing.assert_array_equal(array, b.inputs["table"][name])


def test_every_kind_of_function_is_more_than_noise():
    """A forest answers better than the share of each class on most tables of each kind."""
    from sklearn.ensemble import RandomForestRegressor

    for kind in _tables._KINDS:
        gains = []
        for seed in range(6):
            rng = np.random.default_rng(seed)
            x, scores = kind(rng, 300, 6)
            y = _tables._scaled(scores)[:, 0]
            forest = RandomForestRegressor(20, min_samples_leaf=3, random_state=0, n_jobs=1).fit(x[:200], y[:200])
            gains.append(forest.score(x[200:], y[200:]))
        assert np.median(gains) > 0.2, kind.__name__


def test_loss_falls_on_tables_that_it_is_trained_on():
    torch.manual_seed(0)
    objective = Tables(SMALL)
    networks = objective.networks({}, None, {})
    batch = tensors(objective.make(np.random.default_rng(0), (16, 24, 8, 4)))
    optimiser = torch.optim.Adam(networks["backbone"].parameters(), 3e-3)
    losses = []
    for _ in range(60):
        loss = objective.loss(objective.forward(networks, batch), batch)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert np.mean(losses[-5:]) < losses[0] - 0.3


def test_an_unknown_setting_names_the_nearest():
    with pytest.raises(MainstemError, match=r"Did you mean 'width'"):
        Tables({"widht": 3})


def test_ranges_that_are_none_are_told():
    with pytest.raises(MainstemError, match=r"\[9, 3\] is no pair of whole numbers"):
        Tables({"context": [9, 3]})
    with pytest.raises(MainstemError, match="no setting 'contexts'"):
        Tables({"contexts": [3, 9]})

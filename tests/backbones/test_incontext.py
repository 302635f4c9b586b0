"""The in-context network as a predictor: what an answer depends on, and tables larger than the network takes at once."""

import numpy as np
import pytest

from mainstem.backbones import _context, incontext
from mainstem.backbones._context import Context, Reader
from mainstem.backbones._problem import Problem
from mainstem.backbones.incontext import predictor
from mainstem.choices import QUANTILES
from mainstem.contracts import Ref
from mainstem.errors import MainstemError
from mainstem.nn.twoway import nodes
from mainstem.runtimes import onnx
from mainstem.runtimes.onnx import halved


def spots(n, classes, seed=0):
    """Rows around as many centres on a circle as there are classes."""
    rng = np.random.default_rng(seed)
    y = rng.permutation(np.arange(n) % classes)
    angle = 2 * np.pi * y / classes
    return {"numbers": np.column_stack([np.cos(angle), np.sin(angle)]) + 0.05 * rng.normal(size=(n, 2))}, {"index": y}


def fitted(arrays, target, weights=None, outputs=1, task="classification", **settings):
    kinds = {"task": task, "outputs": outputs, "categories": []}
    return predictor.fit(arrays, target, kinds, weights, {"members": 4, **settings}, 0)


def graph(state):
    specs = predictor.graphs(state)
    return onnx.functions({name: spec.proto for name, spec in specs.items()})["head"]


def test_an_answer_does_not_depend_on_what_else_is_asked():
    arrays, target = spots(60, 3)
    state = fitted(arrays, target, outputs=3)
    whole = predictor.run(state, arrays)["logits"]
    for rows in ([5], [5, 9], [40, 5]):
        part = predictor.run(state, {"numbers": arrays["numbers"][rows]})["logits"]
        np.testing.assert_allclose(part[rows.index(5)], whole[5], rtol=1e-5, atol=1e-5)


def test_members_answer_one_after_the_other_as_they_do_together(monkeypatch):
    arrays, target = spots(60, 3)
    state = fitted(arrays, target, outputs=3)
    together = predictor.run(state, arrays)["logits"]
    monkeypatch.setattr(incontext, "_TOKENS", 1)
    np.testing.assert_allclose(predictor.run(state, arrays)["logits"], together, rtol=1e-5, atol=1e-5)


def test_more_classes_than_the_network_tells_apart():
    arrays, target = spots(240, 15)
    state = fitted(arrays, target, outputs=15, members=8)
    fresh, truth = spots(150, 15, 1)
    logits = predictor.run(state, fresh)["logits"]
    assert logits.shape == (150, 15)
    assert (logits.argmax(axis=1) == truth["index"]).mean() > 0.6
    np.testing.assert_allclose(graph(state)({"table.numbers": fresh["numbers"]}, ("logits",))["logits"], logits, rtol=1e-5, atol=1e-5)


def test_more_columns_than_the_network_takes():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(80, 130))
    x[:, 3] = np.nan
    y = (x[:, 120] + x[:, 70] > 0).astype(int)
    state = fitted({"numbers": x}, {"index": y}, outputs=2)
    chosen = state.arrays["chosen"]
    assert len(chosen) == _context.MOST_COLUMNS
    assert {120, 70} <= set(chosen.tolist())
    assert state.json["note"] == "In-context: the 100 columns that tell most by themselves are read, of 130."
    answer = graph(state)({"table.numbers": x}, ("logits",))["logits"]
    np.testing.assert_allclose(answer, predictor.run(state, {"numbers": x})["logits"], rtol=1e-5, atol=1e-5)


def test_of_many_rows_each_member_sees_some_and_together_they_see_most():
    arrays, target = spots(900, 3)
    state = fitted(arrays, target, outputs=3, context=300)
    assert state.arrays["rows"].shape == (4, 300)
    assert len(state.arrays["cells"]) > 600
    assert state.json["note"] == "In-context: 4 passes see 300 of 900 rows each, and their answers are averaged."
    for seen in state.arrays["index"]:
        assert np.ptp(np.bincount(seen)) <= 2  # every class as often as in the whole


def test_members_and_rows_are_as_many_as_memory_holds():
    for rows, tokens, labels in ((500, 6, 1), (100_000, 51, 1), (2000, 20, 10), (3, 2, 1)):
        members, size = _context._sizes(rows, tokens, labels, 8, 1000)
        assert members * size * tokens <= _context._MEMORY or (members, size) == (2 * labels, 32)
        assert members % labels == 0
        assert size <= min(rows, 1000)


def test_all_rows_are_seen_where_there_is_room_for_them():
    arrays, target = spots(50, 5)
    kinds = {"task": "classification", "outputs": 5}
    context = Context.of(Problem.of(arrays, target, kinds, None), 8, 1000, 0)
    assert all(sorted(rows) == list(range(50)) for rows in context.rows)
    assert fitted(arrays, target, outputs=5).json["note"] == ""


def test_heavy_rows_are_seen_more_often():
    arrays, target = spots(200, 2)
    weights = np.where(target["index"] == 1, 9.0, 1.0)
    state = fitted(arrays, target, weights, outputs=2)
    back = state.arrays["groups"][:, 1:]
    assert np.mean(state.arrays["index"] == back) == pytest.approx(0.9, abs=0.02)


def test_quantiles_surround_the_value_and_cover():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 2))
    y = x[:, 0] + 0.5 * rng.normal(size=400)
    state = fitted({"numbers": x[:200]}, {"value": y[:200]}, task="regression")
    answer = predictor.run(state, {"numbers": x[200:]})
    quantiles = answer["quantiles"]
    assert quantiles.shape == (200, len(QUANTILES))
    assert (np.diff(quantiles, axis=1) >= 0).all()
    inside = (quantiles[:, 0] <= y[200:]) & (y[200:] <= quantiles[:, -1])
    assert 0.8 < inside.mean() < 0.98
    np.testing.assert_allclose(graph(state)({"table.numbers": x[200:]}, ("quantiles",))["quantiles"], quantiles, rtol=1e-4, atol=1e-4)


def test_the_distribution_lies_on_the_nodes_of_the_network():
    from mainstem.backbones.incontext import places

    np.testing.assert_array_equal(places(), nodes().double().numpy())


def test_what_is_read_is_what_is_read_when_it_is_pretrained():
    """Codes: 0 missing, the frequent ones from 1, the last for all that are rarer or unseen."""
    categories = np.array([2] * 5 + [3] * 9 + [0])[:, None]
    problem = Problem.of(
        {"categories": categories}, {"index": np.arange(15) % 2}, {"task": "classification", "outputs": 2, "categories": [5]}, None
    )
    reader = Reader.of(problem)
    cells, codes = reader.read({"categories": np.array([[0], [1], [2], [3], [4]])})
    assert codes[:, 0].tolist() == [0, 31, 2, 1, 3]
    assert cells[:, 0].tolist() == [[0, 0, 1]] + [[0, 0, 0]] * 4
    assert not cells[:, 1].any()


def test_settings_that_make_no_sense():
    with pytest.raises(MainstemError, match=r"setting 'members': expected a whole number from 1 to 64, found 0"):
        predictor.describe(Ref("incontext", "incontext", settings={"members": 0}))
    with pytest.raises(MainstemError, match="no setting 'member'"):
        predictor.describe(Ref("incontext", "incontext", settings={"member": 1}))


def test_halved_graphs_are_smaller_and_answer_nearly_alike():
    arrays, target = spots(40, 3)
    whole = predictor.graphs(fitted(arrays, target, outputs=3))["head.shared"].proto
    small = halved(whole)
    assert len(small) <= len(whole)
    answer, near = (onnx.session(data, once=True).run(None, {}) for data in (whole, small))
    for a, b in zip(answer, near, strict=True):
        np.testing.assert_allclose(a, b, rtol=0.05, atol=0.05)

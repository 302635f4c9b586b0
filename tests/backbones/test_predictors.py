"""The predictors: what they learn, and that the graph answers as they do."""

import numpy as np
import onnx
import pytest
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor, RandomForestRegressor
from sklearn.linear_model import LogisticRegression, Ridge

from mainstem import registry
from mainstem.backbones import _design, _forest
from mainstem.backbones._problem import Problem
from mainstem.contracts import Ref
from mainstem.errors import MainstemError
from mainstem.runtimes import onnx as onnx_runtime

NAMES = ("linear", "trees", "blend", "incontext")

VALUES = ("green", "red", "blue", "black", "white")


def predictor(name):
    return registry.load("backbones", name).predictor


def rows(n, seed):
    """Three numbers with gaps, a category of five values and one of two; codes 0 (missing) and 1 (unseen) occur."""
    rng = np.random.default_rng(seed)
    numbers = rng.normal(size=(n, 3)) * [1.0, 100.0, 1e-3] + [0.0, 1000.0, 0.0]
    numbers[rng.random((n, 3)) < [0.1, 0.0, 0.05]] = np.nan
    categories = np.column_stack([rng.integers(2, 7, n), rng.integers(2, 4, n)])
    categories[rng.random(n) < 0.05, 0] = 0
    return {"numbers": numbers, "categories": categories}


def signal(arrays):
    effect = np.array([0.0, 0.0, -1.0, 2.0, 0.5, -2.0, 1.0])
    numbers = np.nan_to_num(arrays["numbers"])
    return numbers[:, 0] + (numbers[:, 1] - 1000) / 100 * (arrays["categories"][:, 1] == 2) + effect[arrays["categories"][:, 0]]


def problem(task, n=300, seed=0):
    """(arrays, target, kinds) of a task that the rows answer with some noise."""
    arrays = rows(n, seed)
    noisy = signal(arrays) + np.random.default_rng(seed + 1).normal(size=n) * 0.5
    kinds = {"task": task.rstrip("0123456789"), "categories": [7, 4], "outputs": 1}
    if task == "regression":
        return arrays, {"value": noisy / 3}, kinds
    if task == "labels":
        return arrays, {"hot": np.column_stack([noisy > 0, noisy > 1, arrays["categories"][:, 1] == 3]).astype(int)}, kinds | {"outputs": 3}
    many = int(task[-1])
    return arrays, {"index": np.digitize(noisy, np.quantile(noisy, np.arange(1, many) / many))}, kinds | {"outputs": many}


def quick(name, trees=15):
    """Settings that fit in a moment."""
    return {"linear": {}, "incontext": {"members": 2}}.get(name, {"trees": trees, "iterations": trees})


TASKS = ("regression", "classification2", "classification3", "labels")


@pytest.fixture(scope="module")
def fitted():
    """(predictor, task) → state, fitted once."""
    states = {}

    def get(name, task):
        if (name, task) not in states:
            arrays, target, kinds = problem(task)
            states[name, task] = predictor(name).fit(arrays, target, kinds, None, quick(name), 0)
        return states[name, task]

    return get


def session(state, name):
    specs = predictor(name).graphs(state)
    return specs["head"], onnx_runtime.functions({name: spec.proto for name, spec in specs.items()})["head"]


def probe(state):
    """3,000 rows as nobody saw them in training: gaps, unseen categories, values exactly at thresholds."""
    arrays = rows(3000, 7)
    rng = np.random.default_rng(8)
    arrays["numbers"][:200] = np.nan
    arrays["categories"][200:400] = 1
    for part in ("boosting", "forest"):
        if f"{part}.threshold" in state.arrays:
            inner = state.arrays[f"{part}.left"] != np.arange(len(state.arrays[f"{part}.left"]))
            inner &= np.isfinite(state.arrays[f"{part}.threshold"])
            for column in range(3):
                at = state.arrays[f"{part}.threshold"][inner & (state.arrays[f"{part}.feature"] == column)]
                chosen = rng.random(3000) < 0.4
                arrays["numbers"][chosen, column] = rng.choice(at, chosen.sum())
    return arrays


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("name", NAMES)
def test_the_graph_answers_like_the_predictor(fitted, name, task):
    state = fitted(name, task)
    spec, graph = session(state, name)
    arrays = probe(state)
    output = spec.outputs[0]
    own = predictor(name).run(state, arrays)[output.name]
    assert own.dtype == np.float64
    assert output.name == ("value" if task == "regression" else "logits")
    assert own.shape == (3000, int(output.axes[1]))
    assert [(p.name, p.dtype, p.axes) for p in spec.inputs] == [
        ("table.numbers", "float64", ("row", "3")),
        ("table.categories", "int64", ("row", "2")),
    ]
    feed = {f"table.{key}": array for key, array in arrays.items()}
    answer = graph(feed, (output.name,))[output.name]
    np.testing.assert_allclose(answer, own, rtol=1e-6, atol=1e-6)
    alone = graph({key: array[:1] for key, array in feed.items()}, (output.name,))[output.name]
    np.testing.assert_allclose(alone, own[:1], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("name", NAMES)
def test_it_learns(fitted, name, task):
    state = fitted(name, task)
    arrays, target, _ = problem(task, 1000, 20)
    output = predictor(name).run(state, arrays)
    if task == "regression":
        error = np.mean((output["value"][:, 0] - target["value"]) ** 2) / target["value"].var()
        assert error < 0.55
    elif task == "labels":
        assert ((output["logits"] > 0) == target["hot"]).mean() > 0.8
    else:
        assert (output["logits"].argmax(axis=1) == target["index"]).mean() > (0.75 if task[-1] == "2" else 0.6)


@pytest.mark.parametrize("name", NAMES)
def test_state_is_json_and_arrays_and_repeats(fitted, name):
    arrays, target, kinds = problem("classification3")
    again = predictor(name).fit(arrays, target, kinds, None, quick(name), 0)
    state = fitted(name, "classification3")
    assert again.json == state.json
    assert all(isinstance(a, np.ndarray) and a.dtype != object for a in state.arrays.values())
    assert all(np.array_equal(a, state.arrays[key]) for key, a in again.arrays.items())
    assert predictor(name).graphs(again)["head"].proto == predictor(name).graphs(state)["head"].proto
    assert not onnx.load_from_string(predictor(name).graphs(state)["head"].proto).metadata_props


@pytest.mark.parametrize("lacking", ["numbers", "categories"])
@pytest.mark.parametrize("name", NAMES)
def test_one_kind_of_column_is_enough(name, lacking):
    arrays, target, kinds = problem("classification2", 80)
    del arrays[lacking]
    kinds["categories"] = [] if lacking == "categories" else kinds["categories"]
    state = predictor(name).fit(arrays, target, kinds, None, quick(name, 5), 0)
    _, graph = session(state, name)
    answer = graph({f"table.{key}": array for key, array in arrays.items()}, ("logits",))["logits"]
    np.testing.assert_allclose(answer, predictor(name).run(state, arrays)["logits"], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_hardly_any_rows_and_a_class_that_does_not_occur(name):
    arrays, _, kinds = problem("classification3", 4)
    target = {"index": np.array([0, 0, 2, 0])}
    state = predictor(name).fit(arrays, target, kinds, None, quick(name, 5), 0)
    logits = predictor(name).run(state, arrays)["logits"]
    assert np.isfinite(logits).all()
    assert (logits[:, 0] > logits[:, 1]).all()


@pytest.mark.parametrize("name", NAMES)
def test_weights_are_honoured(name):
    arrays, target, kinds = problem("classification2")
    other = {"index": np.concatenate([target["index"], 1 - target["index"]])}
    twice = {key: np.concatenate([array, array]) for key, array in arrays.items()}
    weights = np.repeat([1.0, 1e-3], len(target["index"]))
    state = predictor(name).fit(twice, other, kinds, weights, quick(name), 0)
    answer = predictor(name).run(state, arrays)["logits"].argmax(axis=1)
    assert (answer == target["index"]).mean() > 0.75


def test_settings_that_do_not_exist_or_make_no_sense():
    arrays, target, kinds = problem("regression", 20)
    with pytest.raises(MainstemError, match=r"no setting 'learning_rte'\. Did you mean 'learning_rate'"):
        predictor("trees").fit(arrays, target, kinds, None, {"learning_rte": 0.1}, 0)
    with pytest.raises(MainstemError, match=r"setting 'l2': expected a number from 0 to .*found -1"):
        predictor("linear").describe(Ref("linear", "linear", settings={"l2": -1}))
    with pytest.raises(MainstemError, match=r"setting 'trees': expected a whole number from 1 .*found 0"):
        predictor("blend").describe(Ref("blend", "blend", settings={"trees": 0}))
    assert predictor("trees").describe(Ref("trees", "trees")).processor == {"scaling": "none"}


def test_linear_is_ridge_regression():
    numbers = np.random.default_rng(0).normal(size=(100, 3)) * [1, 10, 0.1] + 5
    y = numbers @ [1.0, -0.2, 3.0] + np.random.default_rng(1).normal(size=100)
    state = predictor("linear").fit({"numbers": numbers}, {"value": y}, {"task": "regression", "outputs": 1}, None, {"l2": 0.3}, 0)
    scaled = (numbers - numbers.mean(axis=0)) / numbers.std(axis=0)
    expected = Ridge(alpha=0.3 * 100).fit(scaled, y).predict(scaled)
    np.testing.assert_allclose(predictor("linear").run(state, {"numbers": numbers})["value"][:, 0], expected, rtol=1e-12)


@pytest.mark.parametrize("classes", [2, 3])
def test_linear_is_logistic_regression(classes):
    arrays, target, kinds = problem(f"classification{classes}")
    numbers = np.nan_to_num(arrays["numbers"])
    state = predictor("linear").fit({"numbers": numbers}, target, kinds, None, {"l2": 0.01}, 0)
    scaled = (numbers - numbers.mean(axis=0)) / numbers.std(axis=0)
    expected = LogisticRegression(C=1 / (0.01 * 300), tol=1e-8, max_iter=1000).fit(scaled, target["index"]).predict_proba(scaled)
    logits = predictor("linear").run(state, {"numbers": numbers})["logits"]
    found = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(found, expected, atol=2e-3)


def test_least_squares_when_columns_repeat():
    numbers = np.random.default_rng(0).normal(size=(50, 1)) @ np.ones((1, 2))
    state = predictor("linear").fit(
        {"numbers": numbers}, {"value": 2 * numbers[:, 0]}, {"task": "regression", "outputs": 1}, None, {"l2": 0}, 0
    )
    np.testing.assert_allclose(predictor("linear").run(state, {"numbers": numbers})["value"][:, 0], 2 * numbers[:, 0], atol=1e-9)


@pytest.mark.parametrize("name", ["trees", "blend"])
def test_more_rows_help_and_iterations_are_chosen(name):
    arrays, target, kinds = problem("regression", 200)
    state = predictor(name).fit(arrays, target, kinds, None, {"trees": 10}, 0)
    assert state.json["members"]["boosting"]["iterations"] in (10, 14, 20, 28, 40, 56, 80, 112, 160, 224, 320, 448)
    assert sum(member["share"] for member in state.json["members"].values()) == pytest.approx(1)


def test_groups_stay_together():
    arrays, target, kinds = problem("regression", 60)
    groups = np.repeat(np.arange(12), 5)
    for train, held in Problem.of(arrays, target, kinds | {"groups": groups}, None).folds(0):
        assert not set(groups[train]) & set(groups[held])


def test_folds_are_stratified_and_cover_small_tables():
    arrays, target, kinds = problem("classification3", 90)
    folds = Problem.of(arrays, target, kinds, None).folds(0)
    assert sorted(np.concatenate([held for _, held in folds])) == list(range(90))
    assert all(np.ptp(np.bincount(target["index"][held])) <= 2 for _, held in folds)


def scored(rng, n):
    x = rng.normal(size=(n, 4))
    x[rng.random(x.shape) < 0.1] = np.nan
    return x, np.nan_to_num(x[:, 0]) + np.nan_to_num(x[:, 1]) ** 2 + rng.normal(size=n) * 0.3


@pytest.mark.parametrize("missing", [False, True])
def test_trees_as_arrays_equal_scikit_learn(missing):
    rng = np.random.default_rng(3)
    x, y = scored(rng, 500)
    x = x if missing else np.nan_to_num(x)
    fresh = x + rng.normal(size=x.shape) * 0.01
    model = HistGradientBoostingRegressor(max_iter=30, early_stopping=False).fit(x, y)
    trees = _forest.boosted(model)
    for rows_ in (x, fresh):
        np.testing.assert_allclose(trees.run(rows_, 1)[:, 0] + model._baseline_prediction.item(), model.predict(rows_), rtol=0, atol=1e-12)
    classes = HistGradientBoostingClassifier(max_iter=10, early_stopping=False).fit(x, np.digitize(y, [0, 1]))
    np.testing.assert_allclose(
        _forest.boosted(classes).run(fresh, 3) + classes._baseline_prediction, classes.decision_function(fresh), rtol=0, atol=1e-12
    )


def test_forest_as_arrays_equals_scikit_learn_at_every_threshold():
    rng = np.random.default_rng(4)
    x, y = scored(rng, 300)
    model = RandomForestRegressor(10, random_state=0).fit(x, y)
    trees = _forest.averaged(model)
    plain = np.concatenate([tree.tree_.threshold[tree.tree_.children_left >= 0] for tree in model.estimators_])
    plain = plain[np.isfinite(plain)]
    near = np.concatenate(
        [plain, np.nextafter(plain, np.inf), plain.astype(np.float32), np.nextafter(plain.astype(np.float32), np.float32(9))]
    )
    fresh = rng.choice(near, (3000, 4))
    np.testing.assert_allclose(trees.run(fresh, 1)[:, 0], model.predict(fresh), rtol=0, atol=1e-12)


def test_categories_are_ordered_by_the_answer():
    codes = np.repeat([2, 3, 4, 0], 50)[:, None]
    y = np.repeat([1.0, 5.0, 3.0, 4.0], 50)[:, None]
    (table,) = _design.ordered({"categories": codes}, [5], y, np.ones(200)).tables
    order = table[[2, 4, 0, 3], 0]
    assert (np.diff(order) > 0).all() or (np.diff(order) < 0).all()
    assert table[1, 0] == 0


def test_a_category_of_nearly_distinct_values_does_not_give_answers_away():
    rng = np.random.default_rng(0)
    rows = 400
    numbers = rng.normal(size=(rows, 3))
    value = np.sin(2 * numbers[:, 0]) * numbers[:, 1] + 0.2 * rng.normal(size=rows)
    codes = 2 + rng.permutation(rows)[:, None]
    kinds = {"task": "regression", "outputs": 1, "categories": [rows + 2]}
    known, new = np.arange(300), np.arange(300, rows)
    trees = registry.load("backbones", "trees").predictor
    state = trees.fit({"numbers": numbers[known], "categories": codes[known]}, {"value": value[known]}, kinds, None, {}, 0)
    found = trees.run(state, {"numbers": numbers[new], "categories": codes[new]})["value"][:, 0]
    assert 1 - np.mean((found - value[new]) ** 2) / np.var(value[new]) > 0.5
